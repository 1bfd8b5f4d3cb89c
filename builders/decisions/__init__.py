"""Scenes to decision processes with option probabilities (sections 3.2 and A.2).

prompts.py      scene -> chat messages, generation -> parsed decision
chat.py         messages -> the text that a model reads
engines/        language models: sample decisions, score options
stage.py        the stage itself: sampled, judged, written in parts
cost.py         what decisions cost: tokens, seconds, money
uncertainty.py  option probabilities -> total, epistemic, mutual information (equation 2)
"""
