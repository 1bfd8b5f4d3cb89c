"""The paper whose method this is, as cards cite it: its one home beside `CITATION.cff`."""

from __future__ import annotations

TITLE = (
    "Mirroring Users: Towards Building Preference-aligned User Simulator with User Feedback in "
    "Recommendation"
)
#: Family and given name, in the order of the paper.
AUTHORS = (
    ("Wei", "Tianjun"),
    ("Guo", "Huizhong"),
    ("Du", "Yingpeng"),
    ("Sun", "Zhu"),
    ("Chen", "Huang"),
    ("Wang", "Dongxia"),
    ("Zhang", "Jie"),
)
#: A card that names it links, on the public Hub, to the page of the paper.
ARXIV = "2508.18142"
LINK = f"https://arxiv.org/abs/{ARXIV}"
_BOOK = (
    "Proceedings of the 64th Annual Meeting of the Association for Computational Linguistics "
    "(Volume 1: Long Papers)"
)
BIBTEX = f"""\
@inproceedings{{wei-etal-2026-mirroring,
  title = {{{TITLE}}},
  author = {{{" and ".join(", ".join(name) for name in AUTHORS)}}},
  booktitle = {{{_BOOK}}},
  pages = {{6046--6071}},
  year = {{2026}},
  url = {{https://aclanthology.org/2026.acl-long.273/}},
  eprint = {{{ARXIV}}},
  archiveprefix = {{arXiv}},
}}"""
