"""Decisions of a weak and a strong model to preference pairs (section 3.2, appendix B.2).

candidates.py  scenes with both models' decisions, and what allows a pair
strategies.py  how scenes are ranked (Table 2)
ifd.py         perplexities for the strategy of that name
pairs.py       the best-ranked candidates -> preference pairs, training views
"""
