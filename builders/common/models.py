"""Load language models and tokenizers, or say in one line why one cannot be loaded."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.assets import KNOWN, resolve_model
from usermirrorer.builders.common.disks import hub_cache, unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json

_ADAPTER = "adapter_config.json"


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn the library's errors about a model id or folder into one `UserError`, bars off."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; the bars of our stages stay readable
    try:
        yield
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise unwritable(error, hub_cache()) or UserError(
            f"model cannot be loaded: {first.rstrip('.')}",
            where=model,
            fix=f"Give a local folder, a Hub id, or the name of a part. {KNOWN}",
        ) from error


def load_causal_lm(model: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Return `(model, tokenizer)` in evaluation mode on the GPU if there is one.

    Args:
        model: Local folder, GGUF file, LoRA adapter or Hub id. Weights must be safetensors or GGUF;
            remote code is never run. An adapter is merged into its base model.
        dtype: `float32`, `bfloat16`, or `auto` for the one that is fast here, see `fast_dtype`.

    Raises:
        UserError: if it cannot be loaded or has no chat template.
    """
    import torch

    cuda = torch.cuda.is_available()
    kind = fast_dtype() if dtype == "auto" else dtype
    tokenizer = load_tokenizer(model)
    with explained(model):
        network = _network(model, getattr(torch, kind))
    return network.to("cuda" if cuda else "cpu").eval(), tokenizer


def _network(model: str, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    if base := base_of_adapter(model):
        return _merged(_network(base, dtype), model)
    folder, file = gguf_parts(model)
    if not file:
        return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True)
    with _quiet():
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)


def _merged(base: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(
            "is a LoRA adapter, which peft loads", where=adapter, fix="pip install peft"
        ) from None
    return PeftModel.from_pretrained(base, adapter).merge_and_unload()


def base_of_adapter(model: str) -> str:
    """Return where the base model of a LoRA adapter's folder lies; "" if it is no adapter.

    Raises:
        UserError: if the adapter names no base model, its base cannot be fetched, or its weights
            are no safetensors.
    """
    folder = Path(model)
    settings = folder / _ADAPTER
    if not settings.is_file() or (folder / "config.json").is_file():
        return ""
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError("has no adapter_model.safetensors", where=model, fix="Save it as that.")
    named = read_json(settings)
    base = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError("names no base model", where=settings)
    place = resolve_model(base, named.get("revision"))
    if (Path(place) / _ADAPTER).is_file() and not (Path(place) / "config.json").is_file():
        raise UserError("names another adapter as its base model", where=settings)
    return place


def gguf_parts(model: str) -> tuple[str, str]:
    """Return folder and name of a GGUF file, or of a folder's only one; the name is "" elsewhere.

    Raises:
        UserError: if the folder holds several and no other weights.
    """
    path = Path(model)
    if path.is_file():
        return str(path.parent), path.name
    files = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if not files or (path / "config.json").is_file():
        return model, ""
    if len(files) > 1:
        raise UserError(f"holds {len(files)} GGUF files", where=model, fix=f"Name one: {files[0]}.")
    return model, files[0].name


def load_tokenizer(model: str, revision: str | None = None, *, chat: bool = True) -> Any:
    """Return a tokenizer.

    Args:
        model: Local folder, GGUF file, LoRA adapter or Hub id. An adapter without a tokenizer has
            that of its base model.
        revision: Tag, branch or commit of a Hub id.
        chat: It must have a chat template.

    Raises:
        UserError: if it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    folder, file = gguf_parts(model)
    if not (Path(model) / "tokenizer_config.json").is_file():
        folder = base_of_adapter(model) or folder
    given = {"gguf_file": file} if file else {}
    with explained(model), _quiet(bool(file)):
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, **given)
    if chat and not tokenizer.chat_template:
        raise UserError(
            "has no chat template", where=model, fix="Use an instruct model, or add a template."
        )
    return tokenizer


def _quiet(really: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Hide the bar of a conversion, which heeds no setting."""
    return contextlib.redirect_stderr(io.StringIO()) if really else contextlib.nullcontext()


def fast_dtype() -> str:
    """Return `bfloat16` where the hardware multiplies in it, otherwise `float32`.

    A CPU without AVX512-BF16 or AMX emulates bfloat16: 9 times slower than float32 in a product of
    [2048, 576] by [576, 1536] on such a CPU. `ATEN_CPU_CAPABILITY=avx2` makes a CPU one of these.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    here = torch.cpu.get_capabilities()
    native = here.get("avx512_bf16") or here.get("amx_bf16")
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # the widest that torch may use
    return "bfloat16" if native and used else "float32"
