"""Requests and files that are small to send and meant to be costly to read."""

from __future__ import annotations

import io
import json
import struct

#: A question about so many paths; the last ones are the answers that were asked for.
Body = tuple[bytes, str]


def many_paths(number: int, *, as_json: bool = True, expand: bool = False) -> Body:
    """Return a body of `paths-info`, and its type."""
    if as_json:
        paths = [f"p{n}" for n in range(number)]
        return json.dumps({"paths": paths, "expand": expand}).encode(), "application/json"
    form = "&".join(["paths=x"] * number) + "&expand=true" * expand
    return form.encode(), "application/x-www-form-urlencoded"


def many_objects(number: int) -> Body:
    """Return a question of git-lfs about so many large files."""
    objects = [{"oid": f"{n:064x}", "size": 1} for n in range(number)]
    return json.dumps({"operation": "download", "objects": objects}).encode(), "application/json"


def shard(*parts: tuple[int, int, int], count: int | None = None) -> bytes:
    """Return a shard of one file; each part is a size, a first chunk and the chunk after the last.

    `count`: how many parts it says it has.
    """
    head = b"f" * 32 + struct.pack("<IIQ", 1 << 30, len(parts) if count is None else count, 0)
    rows = b"".join(b"x" * 32 + struct.pack("<IIII", 0, *part) for part in parts)
    return bytes(48) + head + rows + b"s" * 48 + b"\xff" * 32


#: Shards that ask for a walk over much, or for nothing very often.
SHARDS = {
    "empty segments": shard(*[(0, 0, 0)] * 9000),
    "more segments than bytes": shard((3, 0, 1), count=1 << 31),
    "an end before the start": shard((3, 5, 4)),
    "a size that cannot be": shard((1 << 31, 0, 1)),
    "four billion chunks": shard((3, 0, (1 << 32) - 1)),
    "the last chunk of many": shard(*[(3, 9000, 9001)] * 9000),
}


def wide_table(columns: int, rows: int = 5) -> bytes:
    """Return a Parquet file of so many columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({f"column-{n}": [n] * rows for n in range(columns)}), file)
    return file.getvalue()


#: Markdown that a renderer may take long for.
MARKDOWN = {
    "brackets": "[" * 50_000,
    "links in links": "[a](" * 20_000,
    "emphasis": "*a **a " * 30_000,
    "quotes": ">" * 50_000 + "a",
    "lists in lists": "".join(" " * n + "- a\n" for n in range(500)),
    "ticks": "".join("e" + "`" * n for n in range(600)),
    "a wide table": "|a" * 5000 + "|\n" + "|-" * 5000 + "|\n" + ("|b" * 5000 + "|\n") * 8,
    "references": "".join(f"[{n}]: /a\n" for n in range(15_000)),
    "autolinks": "<a@" * 40_000,
    "entities": "&#x1f600;" * 20_000,
}
