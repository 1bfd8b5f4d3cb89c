"""Cards made from records, never typed by hand.

dataset_card.py   manifest of a release -> the prose of its README
model_card.py     record of a run, scores -> README, metadata, `.eval_results`
plots.py          figures as PNG, each with its alt text
"""
