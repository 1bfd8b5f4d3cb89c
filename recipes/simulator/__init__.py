"""A simulator in use: what somebody with this profile and history does with these options.

questions.py  who is asked and what they are shown: cleaned and checked
choices.py    what comes back: behavior, probabilities, decision processes
form.py       where a model lies, and how it was taught to be asked
calibration.py  probabilities that mean what they say, sets that hold the real choice
core.py       `Simulator`: asks a model by its engine
scenes.py     reads scenes from wherever they lie
stored.py     choices of many scenes, in parts
demo.py       one scene on a terminal
commands.py   `usermirrorer simulate` and `usermirrorer calibrate`
"""

from usermirrorer.recipes.simulator.choices import Choice, Decision
from usermirrorer.recipes.simulator.core import Asking, Simulator
from usermirrorer.recipes.simulator.questions import Question, question

__all__ = ["Asking", "Choice", "Decision", "Question", "Simulator", "question"]
