"""Every table and figure of the paper by one command, at any scale, beside the published numbers.

    plan.py       plans in YAML, for one scale, to a graph of steps
    parts.py      models and raw data from outside
    mix.py        the one command of its own: scenes of several sources in one file
    store.py      the folder of a run: which steps are done, and from what
    engines.py    where commands run: here, Slurm, Ray
    runner.py     runs what is not done, in order
    cells.py      results of steps to numbers with intervals
    published.py  the paper's numbers: published/*.yaml
    pages.py      numbers to pages, tables, plots, and the index, a static Space
    estimates.py  --list and --dry-run
    commands.py   `usermirrorer reproduce`

`plans/` holds the plans. A step's key is a hash of its command, its inputs' keys and the code's
version; what has the same key is made once, whichever item asks for it.
"""
