"""Scoring simulators with lm_eval, and comparing the scores.

tasks/              task files that lm_eval finds; their README says what each metric means
task.py             the task classes: scene -> prompt, model outputs -> metrics
data.py             test scenes from a Hub or a file, with their provenance
scoring.py          the two requests lm_eval lacks, for every model class
hf.py, vllm.py      the same for those models: one forward for all labels, shared prompts
requests.py         what is asked of a model and what comes back
metrics.py          metrics with standard errors and paired tests (pure numpy)
user_simulation.py  the metrics as a module of the `evaluate` library
results.py          lm_eval's files -> scores
leaderboard.py      scores of several models -> table and page
published.py        numbers printed in the paper, for reference
hub_files.py        `.eval_results/*.yaml` and `eval.yaml`
commands.py         the command line
"""
