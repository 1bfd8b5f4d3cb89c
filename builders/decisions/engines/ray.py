"""Ray Data: the parts of a stage spread over actors, each with an engine of its own.

On GPUs an actor holds a vLLM or transformers engine and as many GPUs as it needs, on CPUs a
transformers engine. `RAY_ADDRESS` names a cluster; without it a local Ray starts and ends here.

Not by `ray.data.llm`: of a request's n outputs its vLLM stage keeps the first (Ray 2.60), so that
ten decisions would be ten rows, and scoring them a second pipeline whose engines know none of the
prompts. An actor here samples and scores a scene on one cache, with the code of a single process,
whatever the engine, and its parts resume in the same way.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import Spread, Work


def spread_over(workers: int, gpus: int = 1) -> Spread:
    """Return a way to work on parts: by `workers` actors, with `gpus` GPUs each where Ray has any.

    Parts come back as they are finished; where an actor dies, Ray starts another one. What a part
    holds depends on the part alone, so the rows are those of a single process.

    Raises:
        UserError: if Ray is not installed; while iterating, if no node has that many GPUs or the
            work raises one.
    """
    try:
        import ray.data
    except ImportError as error:
        raise UserError(
            "Ray is not installed", where="--workers", fix='pip install "usermirrorer[ray]"'
        ) from error

    def spread(
        work: Work, missing: Sequence[tuple[int, Sequence[Any]]]
    ) -> Iterator[tuple[int, pa.Table]]:
        if not missing:
            return
        with running(workers):
            slices, taken = ray.put(dict(missing)), _gpus_of_an_actor(gpus)
            parts = ray.data.from_items(
                [{"number": number} for number, _ in missing], override_num_blocks=len(missing)
            ).map(
                _Actor,  # type: ignore[arg-type]  # a class is called once an actor
                fn_constructor_args=(work, [slices]),
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing))),
                num_cpus=1,
                num_gpus=taken,
            )
            for row in parts.iter_rows():
                if row["error"]:
                    what, where, fix = row["error"]
                    raise UserError(what, where=where, fix=fix)
                yield row["number"], pa.ipc.open_stream(row["table"]).read_all()

    return spread


def _gpus_of_an_actor(wanted: int) -> int:
    """Return `wanted`, or 0 on a cluster without GPUs: an actor that fits nowhere never starts."""
    import ray

    most = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    if 0 < most < wanted:
        raise UserError(
            f"asks for {wanted} GPUs per engine, and no node of Ray has more than {most}",
            where="--tensor-parallel",
            fix="Lower it, or serve the model on several nodes and use --engine openai.",
        )
    return wanted if most else 0


class _Actor:
    """Works on one part at a time; what `work` loads it loads once."""

    def __init__(self, work: Work, slices: list[Any]) -> None:
        import ray

        self.work, self.slices = work, ray.get(slices[0])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the part as an Arrow stream, or what the user can mend: Ray would wrap it."""
        sink = pa.BufferOutputStream()
        error: list[str] = []
        try:
            table = self.work(self.slices[row["number"]])
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        except UserError as failure:
            error = [failure.what, failure.where, failure.fix]
        return {"number": row["number"], "table": sink.getvalue().to_pybytes(), "error": error}


@contextlib.contextmanager
def running(workers: int) -> Iterator[None]:
    """Connect to the cluster of `RAY_ADDRESS`, or start a Ray here and end it."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        cores = max(workers, os.cpu_count() or 1)
        settings |= {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(**settings)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
