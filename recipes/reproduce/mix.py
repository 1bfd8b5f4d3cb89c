"""Scenes of several sources in one file a split, and `from.json`: where they came from.

    python -m usermirrorer.recipes.reproduce.mix OUT SCENES SCENES ...

SCENES are folders that `usermirrorer scenes` made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError

SPLITS = ("train", "test", "placebo_train", "placebo_test")


def mix(out: Path, folders: Sequence[Path]) -> dict[str, int]:
    """Write the files of every split that a folder has; return their rows.

    A split is left out if no folder has it: of a single scene there is no placebo.

    Raises:
        UserError: if there are no test scenes.
    """
    import pyarrow as pa

    counts = {}
    for split in SPLITS:
        files = [folder / f"{split}.parquet" for folder in folders]
        parts = [storage.read_table(file) for file in files if file.exists()]
        if parts:
            table = pa.concat_tables(parts)
            storage.write_table(out / f"{split}.parquet", table)
            counts[split] = table.num_rows
    if not counts.get("test"):
        raise UserError("holds no test scenes", where=out)
    made = {folder: storage.read_json(folder / "scenes.json") for folder in folders}
    sources = {str(row["source"]): row["inputs"] for row in made.values()}
    storage.write_json(out / "from.json", {"inputs": sources, "rows": counts})
    return counts


if __name__ == "__main__":
    mix(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
