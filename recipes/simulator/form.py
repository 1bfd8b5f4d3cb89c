"""Where a model lies, and how it was taught to be asked.

A checkpoint of the recipes carries both beside its weights: `prompts/` holds the templates that it
was trained on, and `train_run.json` says whether it answers directly or after a decision process,
and what its chat template was given (thinking, a date and the like). A simulator that asks in
another form measures something else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import base_of_adapter, gguf_parts
from usermirrorer.builders.common.storage import read_json
from usermirrorer.builders.decisions.engines.registry import DEFAULT, EngineSpec
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, Mode, of_model

_RUN = "train_run.json"
_MODES: tuple[Mode, ...] = ("decision", "direct")
_LONGEST_LIST = 1 << 20  # bytes of a server's list of models


@dataclass(frozen=True)
class Form:
    """How a model is asked: templates, and whether it writes a decision process first.

    `chat_template_kwargs` is a JSON object, "" for none; see `EngineSettings`.
    """

    prompts: Path = DEFAULT_PROMPTS
    mode: Mode = "decision"
    chat_template_kwargs: str = ""


def is_address(model: str) -> bool:
    """Say whether a model is named by the address of a server."""
    return urlsplit(model).scheme in ("http", "https")


def form_of(place: str) -> Form:
    """Return how the model in a folder (or the GGUF file in it) was taught to be asked.

    Raises:
        UserError: if the record of its training cannot be read.
    """
    folder = Path(place).parent if Path(place).is_file() else Path(place)
    record = folder / _RUN
    run = read_json(record) if record.is_file() else {}
    mode = run.get("mode", "decision") if isinstance(run, dict) else None
    if mode not in _MODES:
        raise UserError("says of no mode that is known", where=record, fix="Name it by --mode.")
    trained_on = run.get("data")
    given = trained_on.get("chat_template_kwargs") if isinstance(trained_on, dict) else None
    return Form(of_model(folder), mode, json.dumps(given) if given else "")


def folder_of(model: str, revision: str | None = None) -> Path:
    """Return the folder in which a model's weights lie.

    Raises:
        UserError: if it is a server's, or is not to be had.
    """
    if is_address(model):
        raise UserError("lies on a server", where=model, fix="Name a file by --out.")
    place = Path(assets.resolve_model(model, revision))
    return place.parent if place.is_file() else place


def dataset_of(model: str, revision: str | None = None) -> str:
    """Return the published dataset that a model was trained on, as its record says.

    Raises:
        UserError: if there is no record, or no published dataset.
    """
    record = folder_of(model, revision) / _RUN
    run = read_json(record)
    trained_on = run.get("data") if isinstance(run, dict) else None
    if not isinstance(trained_on, dict) or trained_on.get("local") or not trained_on.get("name"):
        raise UserError("names no published dataset", where=record)
    return str(trained_on["name"])


def spec_of(
    model: str, *, revision: str | None = None, engine: str | None = None, **options: Any
) -> tuple[EngineSpec, str]:
    """Return which engine runs a model, and the folder or file that it lies in ("" of a server's).

    Args:
        model: Part, folder, GGUF file, LoRA adapter, Hub id, or the address of a server that
            speaks OpenAI's protocol, such as `http://localhost:8000/v1`.
        revision: Tag, branch or commit of a Hub id.
        engine: Name of an engine; by default the embedded one, or that for servers.
        options: Further fields of `EngineSettings`; `name` is what a server calls the model.

    Raises:
        UserError: if the model is not to be had, or the engine cannot run it.
    """
    if revision and (is_address(model) or model in assets.ASSETS or Path(model).exists()):
        raise UserError("has no revisions", where=model, fix="Only what lies on a Hub has some.")
    if is_address(model):
        if engine not in (None, "openai"):
            raise UserError("runs no server's model", where=f"--engine {engine}")
        served = options.pop("name", "") or _served(model)
        return EngineSpec("openai", served, base_url=model, **options), ""
    if options.get("base_url"):
        return EngineSpec(engine or "openai", model, **options), ""
    place = assets.resolve_model(model, revision)
    kind = engine or DEFAULT
    if kind == "vllm" and (gguf_parts(place)[1] or base_of_adapter(place)):
        raise UserError(
            "vLLM runs safetensors of a whole model here, no adapter and no GGUF",
            where=model,
            fix="Merge the adapter, or use --engine transformers.",
        )
    options["name"] = options.get("name") or model
    return EngineSpec(kind, place, **options), place


def _served(address: str) -> str:
    """Return what a server calls its only model.

    Raises:
        UserError: if it does not answer, or has several.
    """
    import os

    import httpx2

    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.stream("GET", f"{address.rstrip('/')}/models", headers=headers) as answer:
            answer.raise_for_status()
            body = b""
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > _LONGEST_LIST:
                    raise ValueError("a list of models without an end")
        names = [str(entry["id"]) for entry in _json(body)["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"does not list its models ({type(error).__name__})",
            where=address,
            fix="Give an address such as http://localhost:8000/v1; a key by OPENAI_API_KEY.",
        ) from None
    if len(names) != 1:
        raise UserError(
            f"serves {len(names)} models", where=address, fix="Name one by --served-name."
        )
    return names[0]


def _json(body: bytes) -> Any:
    import json

    return json.loads(body)
