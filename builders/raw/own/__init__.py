"""Your own logs: a domain written in YAML, read by one reader.

yaml_text.py   bounded YAML to plain values that know their lines
check.py       values against domain.schema.json, which editors use too
expressions.py `watch_ratio >= 0.5 and device != 'bot'`: conditions, never evaluated as code
templates.py   a user's templates in Jinja's sandbox, with limits
definition.py  a YAML file to the `Source` that everything else takes
text_columns.py  CSV, JSON lines and Parquet to columns of text
values.py      text to typed values and times
shown.py       what was on the screen, and what was clicked
reader.py      the files of a definition to canonical tables
running.py     counts and means as of a moment
detect.py      what a file is: format, delimiter, encoding, times
propose.py     which column is what
write.py       the commented YAML
"""
