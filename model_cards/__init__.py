"""Cards made from records, never typed by hand.

dataset_card.py   manifest of a release -> the prose of its README
model_card.py     record of a run, scores -> README, metadata, `.eval_results`
distil_report.py  scenes, decisions and pairs -> report.md with Figure 3, Tables 5 and 6
plots.py          figures as PNG, each with its alt text
commands.py       the command line
"""
