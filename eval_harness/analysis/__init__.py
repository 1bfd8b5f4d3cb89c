"""The paper's analyses over files that users have: `usermirrorer analyse NAME RESULTS...`.

table.py           every analysis, once: name, title, what of the paper it is
answers.py         samples of lm_eval, or a file of decisions -> answers of one model
result.py          what an analysis returns: tables of plain numbers with their columns explained
inference.py       what several of them need: clustered means, paired and association tests
labels.py          factors and styles of decisions, merged by stated rules (factor_labels.yaml)
factors.py         Figures 6 and 7: factors and styles, how often, how right
ablation.py        Tables 10 and 11: each feature kept alone, or removed
calibration.py     Table 12: entropies, calibration curves, ECE
style.py           Table 13: ROUGE and BLEU against a teacher's texts, length
learning_curve.py  Figure 5: accuracy against the number of training pairs
transfer.py        Table 14: trained on one group of domains, tested on the other

Each analysis is a pure function of `answers.Run`s that returns a `result.Result`; pages and plots
are made of that in `model_cards`. `DIR/analysis.json` has these fields:

    analysis     name, as in `table.ANALYSES`
    title        in words
    paper        the figures, tables and sections of the paper that it is
    settings     what was asked for
    results      one object per RESULTS, in order: name, model, kind (`lm_eval` or `decisions`),
                 mode (`decision` or `direct`), scenes, users, decisions, malformed, sources (list),
                 files (file name -> SHA-256)
    tables       name -> {title, text, columns, rows}; `columns` is a list of {name, text, form},
                 `rows` a list of objects by column name. Numbers are not rounded; what is not known
                 is null. A column with `"interval": true` has two more keys in each row, its name
                 with `_low` and `_high` (95 %, clustered by user). Shares are 0 to 1
    notes        what a reader has to know, one sentence each
    plots        file name -> what it shows, in words
    published    name -> {title, text, columns, rows} like `tables`: numbers printed in the paper

Beside it stand `analysis.md`, `index.html`, one `TABLE.csv` per table and the plots. The tables of
each analysis and their columns are documented in its module.
"""
