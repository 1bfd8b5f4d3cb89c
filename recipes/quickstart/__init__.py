"""The main job, small but real: raw feedback to a released dataset, a trained simulator and scores.

    plan.py      what a run is to make; with the code's version it decides every byte
    dataset.py   parts -> scenes -> audit -> simulator -> decisions -> pairs -> release
    models.py    release on a local Hub -> SFT -> DPO -> lm_eval -> cards -> models on the Hub
    summary.py   one table and one picture of what was learnt
    commands.py  `usermirrorer quickstart`

Each step leaves its files under `--out` and a record of what they were made from; a run that was
killed goes on with the first step that is not done, and a finished one does nothing twice. From
the release on, everything is read back from the Hub by the clients that everybody uses.
"""
