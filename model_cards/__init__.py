"""Cards made from records, never typed by hand.

dataset_card.py   manifest of a release -> the prose of its README
datasheet.py      what card and croissant.json say of people, origin and use
paper.py          the paper, as cards cite it
model_card.py     record of a run, scores -> README, metadata, `.eval_results`
chat_inputs.py    what the code of a model card gives the chat template
distil_report.py  scenes, decisions and pairs -> report.md with Figure 3, Tables 5 and 6
plots.py          figures as PNG, each with its alt text
analysis_page.py  an analysis of `eval_harness/analysis` -> page, Markdown, CSV, JSON
analysis_plots.py its plots
commands.py       the command line
analyse_commands.py  and that of the analyses
"""
