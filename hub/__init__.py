"""Versions of datasets and models on a Hub, public or local.

layout.py       where the files of a release lie, and the proof that a folder is one
build.py        build a release folder: Parquet, card, manifest; the same bytes every time
croissant.py    its croissant.json
releases.py     push, pull, verify, compare, list versions
differences.py  rows added, removed and changed between two releases; the changelog
server/         the local Hub that the ordinary clients talk to
local.py        run it beside a job
client_internals.py  all that depends on the inside of the Hub's client
commands.py     `usermirrorer release` and `usermirrorer hub`
"""
