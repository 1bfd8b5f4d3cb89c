"""Raw feedback to preference pairs: one package per stage, in the order in which the data flows.

    raw/         raw files of a source -> canonical tables (users, items, interactions)
    scenes/      canonical tables -> scenes of train and test users
    decisions/   scenes -> decision processes of a language model, with option probabilities
    distil/      decisions of a weak and a strong model -> preference pairs
    common/      what all of them use: contracts (schema.py), storage, errors, safe text, models
    validate.py  proves the guarantees on any built or downloaded dataset
    validate_decided.py  the same of files of decisions and of pairs
    commands.py  the command line of the stages
    new.py       the command line of your own logs
    renamed.py   the names that modules had before, deprecated

A stage imports those above it and `common`, never one below: tests/test_imports.py says so.
"""

from usermirrorer.builders import renamed

renamed.install()
