"""Versions of datasets and models on a Hub, public or local.

folder.py       build a release folder: Parquet, card, manifest; the same bytes every time
releases.py     push, pull, verify, compare, list versions
differences.py  rows added, removed and changed between two releases; the changelog
server/         the local Hub that the ordinary clients talk to
local.py        run it beside a job
commands.py     `usermirrorer release` and `usermirrorer hub`
"""
