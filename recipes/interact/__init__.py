"""Interactive simulation with recommenders (section 4.3, appendix C.3, Tables 3 and 9).

hyperparameters.py   the ten recommenders, by Table 8
trained.py     whose feedback trained a simulator: those people are left out
splits.py      the log of the others in three parts, oldest first
environment.py the second environment, and tasks for the worker in it
worker.py      trains recommenders; a script that imports nothing of ours
exposures.py   lists of recommenders to scenes
arms.py        what is added to the log: by simulators, and by the controls
measures.py    Recall, NDCG, MRR; intervals; order of recommenders; popularity
pipeline.py    all steps, each done once
published.py   the numbers of Tables 3 and 9 as printed
report.py      Markdown, a page, plots
commands.py    `usermirrorer interact`
"""
