"""Steps that are done once: records, progress bars, and commands with their output in log files."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.progress import bar

Row = dict[str, Any]
#: Scripts and configurations of this package.
RECIPES = Path(__file__).parent
#: glibc keeps the memory that PyTorch frees: each step asks for the same sizes again, and fetching
#: them anew from the kernel took a tenth of the time that scoring on a CPU takes.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


class Job:
    """The folder of a job, its console, and which steps are done.

    Args:
        out: Everything the job makes lies here: `steps/` holds a record of each finished step,
            `logs/` what commands printed.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.console = Path(out).absolute(), Console(stderr=True)
        self.seconds: dict[str, float] = {}
        (self.out / "logs").mkdir(parents=True, exist_ok=True)

    def step(self, name: str, made_from: Any, work: Callable[[], Row]) -> Row:
        """Run `work` unless a record says it is done for the same inputs; return its facts."""
        record = self.out / "steps" / f"{name}.json"
        key = storage.fingerprint({"made_from": made_from, "code": package_version("usermirrorer")})
        if record.exists() and (kept := storage.read_json(record))["key"] == key:
            self.console.print(f"[green]✓[/] {name} [dim]done before[/]")
            self.seconds[name] = kept["seconds"]
            return kept["facts"]
        start = time.monotonic()
        self.console.print(f"[bold]{name}[/]")
        facts = work()
        self.seconds[name] = round(time.monotonic() - start, 1)
        storage.write_json(record, {"key": key, "facts": facts, "seconds": self.seconds[name]})
        self.console.print(f"[green]✓[/] {name} [dim]{self.seconds[name]:.0f} s[/]")
        return facts

    def bar(self, text: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """Show a progress bar on the job's console; see `bar`."""
        return bar(text, total, self.console)

    def call(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        """Run a command with its output in a log file, showing its last line as it goes.

        Raises:
            UserError: with the command's own last words, if it fails.
        """
        log = self.out / "logs" / f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower())}.log"
        quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with log.open("wb") as output, self.console.status(name) as status:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**_MEMORY, **os.environ, **quiet, **(environment or {})},
                cwd=self.out,
            )
            try:
                while process.poll() is None:
                    time.sleep(0.5)
                    status.update(f"{name}  [dim]{escape(last_line(log))}[/]")
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            said = [line for line in lines(log) if line.startswith("error:")]
            reason = said[-1].removeprefix("error: ") if said else last_line(log)
            raise UserError(f"failed: {reason}", where=name, fix=f"Its output is in {log}.")


def lines(log: Path) -> list[str]:
    """Return the non-empty last lines of a log; a progress bar's every state is a line."""
    text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()]


def last_line(log: Path) -> str:
    """Return the last non-empty line of a log, cut to 100 characters."""
    return (lines(log) or [""])[-1].strip()[:100]
