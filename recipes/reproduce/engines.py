"""Where the command of a step runs: here, in a Slurm job, or on a Ray cluster.

To add one, write a function like `local` and name it in `ENGINES`. It returns when the command has
ended; files lie on storage that all machines share.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usermirrorer.builders.common.errors import UserError


@dataclass(frozen=True)
class Command:
    """A command line, where its output goes, and what it needs."""

    name: str
    words: Sequence[str]
    log: Path
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    #: Descriptor of the step's lock, which the command holds as long as it runs.
    lock: int | None = None


#: Runs a command and returns its exit status; asked to stop, it ends the command.
Engine = Callable[[Command, Callable[[], bool]], int]


def local(command: Command, stopping: Callable[[], bool]) -> int:
    """Run in a process of this machine."""
    return _process(command.words, command, stopping)


def slurm(command: Command, stopping: Callable[[], bool]) -> int:
    """Run in a job of its own: `sbatch --wait`, which other settings reach by its environment.

    SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_ACCOUNT and the like are read by sbatch itself.
    """
    words = ["sbatch", "--wait", f"--job-name=usermirrorer-{command.name}"]
    words += [f"--output={command.log}", "--open-mode=append", f"--chdir={command.cwd}"]
    if command.gpus:
        words += ["--nodes=1", f"--gpus={command.gpus}"]
    return _process([*words, f"--wrap={shlex.join(command.words)}"], command, stopping)


_starting = threading.Lock()


def ray(command: Command, stopping: Callable[[], bool]) -> int:
    """Run as a task of the cluster that RAY_ADDRESS names, or of one on this machine."""
    try:
        import ray as cluster
    except ImportError:
        raise UserError("needs Ray", where="--engine ray", fix="pip install 'ray[data]'") from None
    with _starting:
        if not cluster.is_initialized():
            cluster.init(log_to_driver=False, include_dashboard=False)
    task = cluster.remote(num_cpus=1, num_gpus=command.gpus, max_retries=0)(_here)
    environment = {**_environment(command), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    running = task.remote(list(command.words), str(command.log), str(command.cwd), environment)
    while not cluster.wait([running], timeout=1.0)[0]:
        if stopping():
            cluster.cancel(running, force=True)
            return -1
    return int(cluster.get(running))


ENGINES: dict[str, Engine] = {"local": local, "slurm": slurm, "ray": ray}


def _here(words: list[str], log: str, cwd: str, environment: dict[str, str]) -> int:
    with Path(log).open("ab") as output:
        return subprocess.run(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env={**os.environ, **environment},
            check=False,
        ).returncode


def _environment(command: Command) -> dict[str, str]:
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**quiet, **command.environment}


def _process(words: Sequence[str], command: Command, stopping: Callable[[], bool]) -> int:
    with command.log.open("ab") as output:
        try:
            process = subprocess.Popen(
                list(words),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_environment(command)},
                cwd=command.cwd,
                pass_fds=() if command.lock is None else (command.lock,),
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except FileNotFoundError:
            raise UserError("is not installed here", where=words[0]) from None
        while process.poll() is None:
            if stopping():
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            time.sleep(0.2)
    return int(process.returncode)
