"""The second environment, in which the library of recommenders lives, and tasks for its worker."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError

WORKER = Path(__file__).parent / "worker.py"
#: Another place of the environment.
VARIABLE = "USERMIRRORER_RECSYS"
SETUP = "./quickstart --setup-recsys"
Task = dict[str, Any]


def python() -> Path:
    """Return the second environment's Python.

    Raises:
        UserError: if it is not there, with the one command that makes it.
    """
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get(VARIABLE) or root / ".venv-recsys")
    program = folder / "bin" / "python"
    if not program.exists():
        raise UserError(
            "the environment of the recommenders is missing",
            where=folder,
            fix=f"Make it: {SETUP} (one minute; {VARIABLE} names another place).",
        )
    return program


def train(
    tasks: Sequence[Task],
    folder: Path,
    name: str,
    done: Callable[[int], None] = lambda number: None,
    *,
    ray: bool = False,
) -> None:
    """Do tasks of the worker that are not done yet, on all cores of this machine or on a cluster.

    Args:
        tasks: See `worker.py`.
        folder: Where the list of tasks and the worker's log go.
        name: Of those files.
        done: Told how many tasks have been done.
        ray: Spread the recommenders over a Ray cluster that shares this file system.

    Raises:
        UserError: if the environment is missing, or the worker stopped: with its own last words.
    """
    missing = [task for task in tasks if not Path(task["out"]).exists()]
    done(len(tasks) - len(missing))
    groups = _groups(missing, ray=ray)
    if not groups:
        return
    program = str(python())
    calls = []
    for group, own in groups.items():
        stem = folder / f"{name}-{group}"
        storage.write_json(stem.with_suffix(".json"), own)
        calls.append((program, str(stem.with_suffix(".json")), str(stem.with_suffix(".log"))))
    if ray:
        _on_ray(calls, groups.values(), done)
    else:
        _on_cores(calls, done)


def _groups(tasks: Sequence[Task], *, ray: bool) -> dict[str, list[Task]]:
    """Return what each worker does: a recommender on a cluster, else a share for each core."""
    groups: dict[str, list[Task]] = {}
    workers = 1 if ray else max(1, (os.cpu_count() or 1) // _threads())
    for number, task in enumerate(tasks):
        groups.setdefault(task["model"] if ray else str(number % workers), []).append(task)
    return groups


def _threads() -> int:
    """Return the threads of one worker; models so small gain nothing from more."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else 1


def _on_cores(calls: Sequence[tuple[str, str, str]], done: Callable[[int], None]) -> None:
    """Run workers beside each other; the first that fails stops the others."""
    turn, processes = threading.Lock(), list[subprocess.Popen[str]]()

    def told(number: int) -> None:
        with turn:
            done(number)

    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(_call, *call, told, processes.append) for call in calls]
        try:
            for one in as_completed(running):
                one.result()
        except BaseException:
            for process in processes:
                process.terminate()
            raise


def _on_ray(
    calls: Sequence[tuple[str, str, str]],
    groups: Iterable[Sequence[Task]],
    done: Callable[[int], None],
) -> None:
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed",
            where="--ray",
            fix='Install it: pip install "usermirrorer[ray]".',
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    remote = ray.remote(num_cpus=1)(_call)
    waiting = {remote.remote(*call): len(own) for call, own in zip(calls, groups, strict=True)}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        try:
            ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # our own line, not the far traceback around it
        done(waiting.pop(ready[0]))


def _call(
    program: str,
    tasks: str,
    log: str,
    done: Callable[[int], None] = lambda number: None,
    started: Callable[[subprocess.Popen[str]], None] = lambda process: None,
) -> None:
    threads = {"OMP_NUM_THREADS": str(_threads())}
    with Path(log).open("w", encoding="utf-8") as errors, Path(tasks).open("rb") as given:
        process = subprocess.Popen(
            [program, str(WORKER)],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=given,
            text=True,
            env={**_plain_environment(), **threads},
        )
        assert process.stdout is not None
        started(process)
        try:
            for line in process.stdout:
                if line.startswith("{") and "done" in json.loads(line):
                    done(1)
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        said = Path(log).read_text(encoding="utf-8", errors="replace")[-4000:].strip()
        last = said.splitlines()[-1][:300] if said else f"exit code {process.returncode}"
        raise UserError(f"training stopped: {last}", where=log)


def _plain_environment() -> dict[str, str]:
    """Return the environment without what would lead the other Python into ours, or secrets."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {
        key: value
        for key, value in os.environ.items()
        if key not in hidden and "TOKEN" not in key and not key.endswith("_KEY")
    }
