"""`python -m usermirrorer.hub.server.preview ROWS CELL FILE...`: the first rows of Parquet files.

Files of users are opened in a process of their own with bounded memory and time: one that unpacks
without end, or that crashes its reader, costs a table on a page and not the server. Prints a line
of JSON for each file: `columns` and `rows` (texts), or null if it cannot be read.

At most two of these processes run at a time, at the lowest priority. What they could not read is
remembered as well: files are named by their content, so that nothing would come of a second try.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Bytes and seconds that one reading of a page's files may take; seconds that a page waits for it.
_MEMORY, _SECONDS, _PATIENCE = 1 << 30, 20, 6
#: Processes at the same time, readings that wait for one, results kept in mind, columns shown.
_PROCESSES, _WAITING, _KEPT, _COLUMNS = 2, 16, 256, 50

_Tables = list[dict[str, Any] | None]
_readings: OrderedDict[tuple[Any, ...], Future[_Tables]] = OrderedDict()
_lock = threading.Lock()
_readers = ThreadPoolExecutor(_PROCESSES, "preview")


def first_rows(paths: tuple[Path, ...], rows: int, cell: int) -> _Tables:
    """Return the first `rows` of each file, cells cut to `cell` characters; None if unreadable.

    Also None where it takes longer than a page waits; the reading goes on for the next page.
    """
    tables: _Tables = []
    if paths and (reading := _reading(paths, rows, cell)) is not None:
        try:
            tables = reading.result(_PATIENCE)
        except TimeoutError:
            tables = []
    return [*tables, *[None] * (len(paths) - len(tables))]


def _reading(paths: tuple[Path, ...], rows: int, cell: int) -> Future[_Tables] | None:
    """Return the one reading of these files; None if too many others wait."""
    key = (paths, rows, cell)
    with _lock:
        if key in _readings:
            _readings.move_to_end(key)
        elif sum(not reading.done() for reading in _readings.values()) >= _WAITING:
            return None
        else:
            _readings[key] = _readers.submit(_read, paths, rows, cell)
            while len(_readings) > _KEPT:
                _readings.popitem(last=False)
        return _readings[key]


def _read(paths: tuple[Path, ...], rows: int, cell: int) -> _Tables:
    """Read in another process."""
    command = [sys.executable, "-m", "usermirrorer.hub.server.preview", str(rows), str(cell)]
    try:
        done = subprocess.run(
            [*command, *map(str, paths)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
            check=False,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    whole = output.rpartition(b"\n")[0]  # a crash may leave half a line
    return [json.loads(line) for line in whole.splitlines()]


def _head(path: str, rows: int, cell: int) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            columns = list(file.schema_arrow.names)[:_COLUMNS]
            batches = file.iter_batches(rows, columns=columns, use_threads=False)
            batch = next(batches, None)
        table = batch.to_pylist() if batch is not None else []
    except (pa.ArrowException, OSError, MemoryError, ValueError):
        return None
    shown = [[_text(row.get(column), cell) for column in columns] for row in table]
    return {"columns": [_text(column, cell) for column in columns], "rows": shown}


def _text(value: Any, longest: int) -> str:
    if isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value):
        value = "\n".join(f"{m['role']}: {m.get('content')}" for m in value)  # chat messages
    text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


if __name__ == "__main__":
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for name in sys.argv[3:]:
        print(json.dumps(_head(name, int(sys.argv[1]), int(sys.argv[2]))), flush=True)
