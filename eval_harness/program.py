"""The program `lm_eval` around our tasks: where it will write, and how it tells errors.

It scores for hours, and where it cannot write what came of it, it logs a warning and ends as if all
were well. Tasks ask here, before anything is scored.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from usermirrorer.builders.common.disks import try_writing
from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import lm_eval_internals


@functools.cache
def prepare() -> None:
    """Try the output folder of the `lm_eval` that runs, if one does; let it tell errors in a line.

    Raises:
        UserError: if the folder cannot be written.
    """
    if not _is_lm_eval(sys.argv[0]):
        return
    lm_eval_internals.tell_in_a_line(UserError)
    if output := output_path(sys.argv[1:]):
        try_writing(output.parent if output.suffix == ".json" else output)


def output_path(words: Sequence[str]) -> Path | None:
    """Return where `lm_eval` writes: `--output_path`, or else `output_path` of `--config`.

    Args:
        words: Its command line.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--output_path", "-o", default="")
    parser.add_argument("--config", "-C", default="")
    try:
        given, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError:  # its own parser tells that
        return None
    if not given.output_path and given.config:
        with Path(given.config).open(encoding="utf-8") as file:
            read = yaml.safe_load(file)
        given.output_path = str(read.get("output_path") or "") if isinstance(read, dict) else ""
    return Path(given.output_path) if given.output_path else None


def _is_lm_eval(program: str) -> bool:
    path = Path(program)
    return path.stem in ("lm_eval", "lm-eval") or path.parts[-2:] == ("lm_eval", "__main__.py")
