"""Whether anything but the person tells the target of a scene from the other options.

estimates.py  accuracies and differences with intervals clustered by user and item
lists.py      scenes as flat arrays of options, what is compared within a list
marks.py      the fields that an option's text has or lacks
cues.py       guesses that read one thing, and right answers that are counted as wrong
neighbours.py item-item neighbours, learned from the scenes themselves
learned.py    gradient boosting over all of it, with and without the history
report.py     the audit of all sources and its verdict
load.py       scenes and placebo scenes of a file, folder, release or Hub repository

A *placebo* scene is made as a scene is, for a target that another user took: nothing of this
person is in it. Whatever finds that target reads how the list was made, not whom it was made for.
"""
