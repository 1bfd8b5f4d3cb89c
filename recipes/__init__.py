"""What people run: the command line, the main job, and training.

cli.py                    `usermirrorer`, a table of commands imported on use
quickstart/, job.py       the main job, step by step, and how steps are done once
sft.py, dpo.py, grpo.py   TRL scripts, with <model>/<stage>/config.yaml
data.py                   training views of a release
arguments.py              the command line of the three
training.py, record.py    what the scripts share; the record of a run
trl_internals.py          all that depends on the inside of TRL
energy.py                 meters of the machine, for the record
export.py                 `usermirrorer export`: a model as a GGUF file
attention.py              attention without masks, for training on a CPU
rewards.py                rewards of GRPO
sweep.py                  `usermirrorer sweep`
simulator/                a model asked what a person would choose
service/                  the same as an API, a page for people and a static Space
environment/              the same as a Gymnasium environment, and a policy that learns from it
accelerate/, slurm/       configurations for one GPU, many GPUs, many nodes, two CPU cores
"""
