"""`python -m usermirrorer.hub.server.preview ROWS CELL FILE...`: the first rows of Parquet files.

Files of users are opened in a process of their own with bounded memory and time: one that unpacks
without end, or that crashes its reader, costs a table on a page and not the server. Prints a line
of JSON for each file: `columns` and `rows` (texts), or null if it cannot be read.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Bytes and seconds that one reading of a page's files may take.
_MEMORY, _SECONDS = 1 << 30, 60


def first_rows(paths: tuple[Path, ...], rows: int, cell: int) -> list[dict[str, Any] | None]:
    """Return the first `rows` of each file, cells cut to `cell` characters; None if unreadable."""
    try:
        tables = _read(paths, rows, cell) if paths else []
    except subprocess.TimeoutExpired:
        tables = []
    return [*tables, *[None] * (len(paths) - len(tables))]


@lru_cache(256)
def _read(paths: tuple[Path, ...], rows: int, cell: int) -> list[dict[str, Any] | None]:
    """Read in another process; files are named by their content, so once is enough."""
    command = [sys.executable, "-m", "usermirrorer.hub.server.preview", str(rows), str(cell)]
    done = subprocess.run(
        [*command, *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=_SECONDS,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    whole = done.stdout.rpartition(b"\n")[0]  # a crash may leave half a line
    return [json.loads(line) for line in whole.splitlines()]


def _head(path: str, rows: int, cell: int) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            batch = next(file.iter_batches(rows, use_threads=False), None)
            columns = list(file.schema_arrow.names)
        table = batch.to_pylist() if batch is not None else []
    except (pa.ArrowException, OSError, MemoryError, ValueError):
        return None
    return {"columns": columns, "rows": [[_text(row[c], cell) for c in columns] for row in table]}


def _text(value: Any, longest: int) -> str:
    if isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value):
        value = "\n".join(f"{m['role']}: {m.get('content')}" for m in value)  # chat messages
    text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for name in sys.argv[3:]:
        print(json.dumps(_head(name, int(sys.argv[1]), int(sys.argv[2]))), flush=True)
