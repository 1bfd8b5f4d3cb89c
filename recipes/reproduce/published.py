"""The paper's numbers: those of `published/*.yaml`, and those that other modules hold already.

Tables 1 and 12 lie in `eval_harness/published.py`, Tables 3 and 9 in `interact/published.py`,
counts of Table 6 in `builders/scenes/presets.py`, and what the analyses compare with in
`eval_harness/analysis`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "published"


@cache
def printed(name: str) -> dict[str, Any]:
    """Return a file of `published/`: `columns`, and `rows`, name -> values in their order."""
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded
