"""Raw feedback to preference pairs. The flow, one module a step:

    fetch.py         real raw files and models from the package registry or a Hub
    download.py      `usermirrorer fetch`: raw files from their publisher, resumed and hash-checked
    raw.py           plain, gz and zip files in blocks, bad rows counted
    sources/         raw files of one source -> canonical tables (users, items, interactions)
    tables.py        canonical tables as Parquet, checked and reused
    as_of.py         values of users and items as of a moment
    embed.py         item text -> sentence embeddings
    draws.py         random numbers of each scene's own
    exposure.py      canonical tables -> candidate lists -> exposure (Algorithm 1)
    gfcf.py          collaborative scores, as of a time
    render.py        rows -> text, by templates/<domain>/
    scenes.py        all of that -> scenes (train, test)
    spread.py        the same over processes or a Ray cluster
    flow.py          raw files to scenes in one call, by presets.py's counts
    dataset.py       the same as a `datasets` builder
    prompts.py       scene -> chat messages, generation -> parsed decision
    engines/         language models: sample decisions, score options
    decisions.py     scenes -> decision processes with option probabilities
    throughput.py    what decisions cost: tokens, seconds, money
    uncertainty.py   option probabilities -> total, epistemic, mutual information (equation 2)
    distill.py       decisions of a weak and a strong model -> preference pairs (appendix B.2)
    ifd.py           perplexities for the selection strategy of that name
    validate.py      proves the guarantees on any built dataset

`text.py` makes raw text safe, `errors.py` is the error that users see, `schema.py` holds the Arrow
schemas between the steps, `shards.py` how they are written so that a kill loses nothing,
`progress.py` the bars, `commands.py` the command line.
"""
