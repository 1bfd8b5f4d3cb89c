"""Raw files of a source to canonical tables.

files.py       plain, gz and zip files in blocks of whole lines
delimited.py, json_lines.py   blocks to frames; rows that do not fit are counted
columns.py     conversions and checks of columns
report.py      the counts of bad rows
source.py      what a source is: its tables, terms and reader
own/           your own logs: a domain written in YAML
sources/       one file per domain
tables.py      canonical tables as Parquet, checked and reused
as_of.py       values of users and items as of a moment
made_up.py     raw files of nobody, in the publishers' layouts, for runs at small scales and tests
download.py    raw files from their publisher, resumed and hash-checked
commands.py    `usermirrorer sources`, `fetch`, `tables`
"""
