"""Choices of many scenes, in parts that a kill does not lose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import prompts_hash
from usermirrorer.builders.decisions.stage import scenes_hash
from usermirrorer.recipes.simulator.choices import Choice
from usermirrorer.recipes.simulator.core import Asking, Simulator
from usermirrorer.recipes.simulator.questions import Question

_NUMBERS = pa.list_(pa.float64())
_DECISION = pa.struct(
    [
        ("thought", pa.string()),
        ("behavior", pa.int16()),
        ("malformed", pa.string()),
        ("probabilities", _NUMBERS),
        ("entropy", pa.float64()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
    ]
)
CHOICES = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("behavior", pa.int16(), nullable=False),  # index of the likeliest option
        pa.field("label", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # of that option
        pa.field("probabilities", _NUMBERS, nullable=False),
        pa.field("entropy", pa.float64(), nullable=False),  # bits
        pa.field("thought", pa.string(), nullable=False),
        pa.field("temperature", pa.float64()),  # null: not calibrated
        pa.field("likely", pa.list_(pa.int16())),
        pa.field("coverage", pa.float64()),
        pa.field("decisions", pa.list_(_DECISION), nullable=False),
    ]
)


def write_choices(
    questions: Sequence[Question],
    simulator: Simulator,
    how: Asking,
    output: Path,
    *,
    part_scenes: int,
    progress: Callable[[int, bool], None] = lambda scenes, resumed: None,
) -> int:
    """Write the choice of each question to a Parquet or JSON-lines file, in their order.

    Args:
        questions: Cleaned.
        simulator: Its engine is loaded only if there is work to do.
        how: How it is asked.
        output: `.parquet`, or anything else for JSON lines; parts lie beside it until it is whole.
        part_scenes: What a kill can cost.
        progress: Called with the scenes of each part, and whether an earlier run had done it.

    Returns:
        The number of scenes that an earlier run had already done.
    """

    def work(part: Sequence[Question]) -> pa.Table:
        rows = [choice.row() for choice in _batches(simulator, part, how)]
        return pa.Table.from_pylist(rows, schema=CHOICES)

    config = key_of(questions, simulator, how)
    if output.suffix == ".parquet":
        return storage.in_parts(
            output, questions, work, config=config, part_rows=part_scenes, on_progress=progress
        )[1]
    key = storage.fingerprint(config)
    if storage.done(output, key):
        progress(len(questions), True)
        return len(questions)
    table = output.with_name(f".{output.name}.choices.parquet")
    _, resumed = storage.in_parts(
        table, questions, work, config=config, part_rows=part_scenes, on_progress=progress
    )
    with storage.atomic(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for batch in pq.ParquetFile(table).iter_batches(1024):
            file.writelines(f"{line(row)}\n" for row in batch.to_pylist())
    storage.mark_done(output, key)
    for left in (table, table.with_name(f".{table.name}.done.json")):
        left.unlink(missing_ok=True)
    return resumed


def key_of(questions: Sequence[Question], simulator: Simulator, how: Asking) -> dict[str, Any]:
    """Return all that choices depend on."""
    return {
        "stage": "choices",
        "model": simulator.name,
        "engine": simulator.identity,
        "scenes": scenes_hash([one.scene() for one in questions]),
        "asking": asdict(how),
        "prompts": prompts_hash(simulator.form.prompts),
        "calibration": simulator.calibration.row() if simulator.calibration else None,
    }


def _batches(simulator: Simulator, questions: Sequence[Question], how: Asking) -> Iterator[Choice]:
    start = 0
    while start < len(questions):
        size = simulator.batch_size(how)
        for choice in simulator.answer(questions[start : start + size], how):
            if isinstance(choice, UserError):
                raise choice
            yield choice
        start += size


def line(row: Mapping[str, Any]) -> str:
    """Return a choice as one line of JSON, what is not known left out."""
    return json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False)
