"""Scoring simulators with lm_eval, and comparing the scores.

tasks/              task files that lm_eval finds; their README says what each metric means
task_names.py       what the name of a task says: family, source, configuration of its scenes
metric_table.py     every metric, once: name, title, unit, direction, meaning
task_files.py       sources and metrics -> the files of `tasks/`
task.py             the task classes: scene -> prompts, model outputs -> metrics
program.py          the program lm_eval around the tasks: where it writes, how it tells errors
data.py             test scenes and placebos from a Hub or a file, with their provenance
ablations.py        the history taken away or swapped, and the placebo
scoring.py          the two requests lm_eval lacks, for every model class
lm_eval_internals.py  all that is known of lm_eval's inside
hf.py, vllm.py      the same for those models: one forward for all labels, shared prompts
requests.py         what is asked of a model and what comes back
scene_metrics.py    metrics of one scene, and of all
metrics.py          metrics with intervals and paired tests, clustered by user (pure numpy)
added.py            what a simulator knows that a baseline does not
verdict.py          whether a score shows taste, in words
inspect_tasks.py    the tasks as inspect-ai runs them from a release
user_simulation.py  the metrics as a module of the `evaluate` library
results.py          lm_eval's files -> scores
leaderboard.py      scores of several models -> ranked rows
leaderboard_forms.py  those as tables, page, Markdown, CSV, JSON
published.py        numbers printed in the paper, for reference
hub_files.py        `.eval_results/*.yaml` and `eval.yaml`
analysis/           the paper's analyses: factors, ablation, calibration, style and others
commands.py         the command line
"""
