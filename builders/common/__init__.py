"""What every stage uses.

schema.py    the Arrow schemas between the stages: the contract
storage.py   files and tables written so that a kill at any moment loses nothing
arrow.py     tables as other programs write them, cast without a change
scene_rows.py  scenes from anywhere, checked where they are read
disks.py     full and read-only disks, told from other errors
errors.py    the error that users see as one line
text.py      raw text made safe and short
progress.py  progress bars
tables.py    tables on the screen, or one row a line
assets.py    real raw files and models from the package registry
models.py    language models and tokenizers, loaded or explained
transformers_internals.py   what depends on the inside of transformers
choice.py    the one rule for ties when the best option is chosen
network.py   the Hub's address, and past proxies to this machine
published.py published datasets, read at one commit
intervals.py intervals of a mean, clustered by user and by item
versions.py  semantic versions and their tags
"""
