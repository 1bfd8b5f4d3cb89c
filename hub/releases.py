"""Publish, fetch, prove and compare versions on a Hub: public, or the one HF_ENDPOINT names.

A version is a git tag (`v1.2.0`). A push is one commit that replaces everything, then the tag; what
fails before the tag leaves no version behind and can simply be run again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging

from usermirrorer.builders.common import network, storage
from usermirrorer.builders.common.disks import unwritable, writing
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.versions import parse_version, tag_of
from usermirrorer.hub import client_internals, differences
from usermirrorer.hub.build import write_release
from usermirrorer.hub.layout import check

__all__ = [
    "collect",
    "diff",
    "pull",
    "push",
    "push_model",
    "tag_of",
    "verify",
    "versions",
    "write_release",
]

Kind = Literal["dataset", "model"]
_ItemKind = Literal["dataset", "model", "space"]
#: Left alone on the Hub, and never sent: what the Hub and download tools keep for themselves.
_KEPT = (".gitattributes",)
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".msgpack", ".h5")


def push(folder: Path, repo_id: str, *, private: bool = False, gated: bool = False) -> str:
    """Publish a release folder as its version and return the commit's address.

    Args:
        folder: A folder that `write_release` made; every hash in it is proved first.
        repo_id: `namespace/name`; made if missing.
        private: Make a new repository private.
        gated: Ask readers to sign in and accept before they get files.

    Raises:
        UserError: if the version exists, does not fit the one before, or its sources may not be
            passed on in public; or if the Hub refuses.
    """
    manifest = check(folder)
    api = HfApi(headers=network.path_headers())
    if not manifest["redistributable"] and not private and not is_loopback(api.endpoint):
        _refuse_public(manifest, repo_id)
    with _one_line_errors(repo_id):
        _check_version(api, repo_id, manifest)
        return _publish(
            api,
            Path(folder),
            repo_id,
            "dataset",
            tag_of(manifest["version"]),
            private=private,
            gated=gated,
            must_be_private=not manifest["redistributable"] and not is_loopback(api.endpoint),
            hashes={name: described["sha256"] for name, described in manifest["files"].items()},
        )


def push_model(folder: Path, repo_id: str, *, version: str, private: bool = False) -> str:
    """Publish a model folder (whole weights or an adapter) as a version; return its address.

    Raises:
        UserError: if weights are not safetensors, the card or the tokenizer is missing, or the
            version exists.
    """
    folder = Path(folder)
    check_model(folder)
    with _one_line_errors(repo_id):
        return _publish(
            HfApi(headers=network.path_headers()),
            folder,
            repo_id,
            "model",
            tag_of(version),
            private=private,
        )


def pull(repo_id: str, version: str, folder: Path) -> Path:
    """Download a version of a dataset into `folder` and prove every hash.

    An interrupted download goes on where it stopped.

    Raises:
        UserError: if there is no such version, the folder holds something else, or a hash is wrong.
    """
    folder = Path(folder)
    mark = folder / ".cache" / "huggingface"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise UserError("is not empty", where=folder, fix="Choose another folder.")
    _download(repo_id, version, folder)
    _check_is(version, check(folder), folder)
    shutil.rmtree(folder / ".cache")
    return folder


def verify(target: str | Path, version: str | None = None) -> dict[str, Any]:
    """Prove every hash of a release folder, or of a version that is downloaded anew.

    Returns:
        Its manifest.

    Raises:
        UserError: naming the first file that is not as the manifest says.
    """
    if version is None:
        if not Path(target).is_dir():
            raise UserError("is not a folder", where=target, fix="For a repository give a version.")
        return check(Path(target))
    with fetched(str(target), version) as folder:
        return _check_is(version, check(folder), target)


def diff(old: str | Path, new: str | Path) -> list[dict[str, Any]]:
    """Compare two releases, each a folder or `namespace/name@1.2.0`: see `differences.diff`."""
    with contextlib.ExitStack() as stack:
        folders = []
        for release in (old, new):
            repo_id, mark, version = str(release).rpartition("@")
            here = Path(release).is_dir() or not mark
            folders.append(
                Path(release) if here else stack.enter_context(fetched(repo_id, version))
            )
        for folder in folders:
            storage.read_json(folder / "manifest.json")
        return differences.diff(*folders)


def _check_is(version: str, manifest: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """Return the manifest of the version that was asked for, and refuse any other's.

    Where the Hub cannot be asked, the client takes a folder that is there for what was wanted.
    """
    if parse_version(manifest["version"]) != parse_version(version):
        raise UserError(
            f"holds version {manifest['version']}, not {version}",
            where=where,
            fix="Check HF_ENDPOINT and that HF_HUB_OFFLINE is not set, or choose another folder.",
        )
    return manifest


@contextlib.contextmanager
def fetched(repo_id: str, version: str) -> Iterator[Path]:
    """Download a version into a temporary folder, past every cache."""
    with tempfile.TemporaryDirectory(prefix="usermirrorer-") as temporary:
        folder, empty = Path(temporary) / "release", Path(temporary) / "cache"
        _download(repo_id, version, folder, empty)
        yield folder


def _download(repo_id: str, version: str, folder: Path, cache: Path | None = None) -> None:
    """Download; the client copies what is in `cache` (default: the user's own) from there."""
    with _one_line_errors(repo_id), writing(folder), client_internals.even_reads():
        HfApi(headers=network.path_headers()).snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=tag_of(version),
            local_dir=folder,
            cache_dir=cache,
            max_workers=4,
        )


def versions(repo_id: str, kind: Kind = "dataset") -> list[dict[str, str]]:
    """Return `version`, `tag` and `commit` of every version, newest first."""
    with _one_line_errors(repo_id):
        refs = HfApi(headers=network.path_headers()).list_repo_refs(repo_id, repo_type=kind)
    tagged = []
    for tag in refs.tags:
        with contextlib.suppress(UserError):  # other tags are not versions
            tagged.append((parse_version(tag.name), tag))
    return [
        {"version": tag.name.removeprefix("v"), "tag": tag.name, "commit": tag.target_commit}
        for _, tag in sorted(tagged, key=lambda pair: pair[0], reverse=True)
    ]


def push_space(folder: Path, repo_id: str) -> str:
    """Upload a folder to a static Space, made if missing, in one commit; return its address.

    Raises:
        UserError: if the Hub refuses.
    """
    api = HfApi()
    with _one_line_errors(repo_id):
        api.create_repo(repo_id, repo_type="space", space_sdk="static", exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Pages",
            delete_patterns="*",
        )
    return str(done.commit_url)


def collect(
    repo_id: str,
    version: str,
    models: Sequence[str],
    *,
    leaderboard: str = "",
    pages: str = "",
    title: str = "",
) -> str:
    """List what belongs to a release of a dataset on one page of the Hub; return its address.

    Running it again adds what is new. The page is private if the dataset is.

    Args:
        repo_id: The dataset, `namespace/name`; the page is its namespace's.
        version: Of the dataset. Where the Hub knows of results, its page holds the leaderboard.
        models: `namespace/name`, in its newest version, or `namespace/name@1.0.0`.
        leaderboard: A Space with a leaderboard of its own.
        pages: A Space with the paper's tables and figures made again.
        title: Of the page, at most 60 characters (default: repository and version).

    Raises:
        UserError: if a repository or a version is not there, or the Hub refuses.
    """
    api = HfApi(headers=network.path_headers())
    items: list[tuple[str, _ItemKind, str]] = [_item(repo_id, version, "dataset")]
    for model in models:
        name, _, wanted = model.partition("@")
        items.append(_item(name, wanted, "model"))
    if leaderboard:
        items.append((leaderboard, "space", "Leaderboard"))
    if pages:
        items.append((pages, "space", "The paper's tables and figures, made again"))
    with _one_line_errors(repo_id):
        collection = api.create_collection(
            title or f"{repo_id} {tag_of(version)}"[-60:],
            namespace=repo_id.partition("/")[0],
            description=f"Dataset, models and leaderboard of release {tag_of(version)}",
            private=bool(api.dataset_info(repo_id).private),
            exists_ok=True,
        )
    for name, kind, note in items:
        with _one_line_errors(name):
            api.add_collection_item(collection.slug, name, kind, note=note, exists_ok=True)
    return collection.url


def _item(name: str, version: str, kind: Kind) -> tuple[str, _ItemKind, str]:
    """Return id, kind and note of a repository in a collection."""
    tags = [row["tag"] for row in versions(name, kind)]
    tag = tag_of(version) if version else next(iter(tags), "")
    if tag not in tags:
        raise UserError("has no such version", where=name, fix="See `usermirrorer release list`.")
    return name, kind, f"Version {tag}"


def is_loopback(endpoint: str) -> bool:
    """Say whether an address is this machine's own."""
    return network.is_loopback(urlsplit(endpoint).hostname or "")


def _refuse_public(manifest: dict[str, Any], repo_id: str) -> None:
    from usermirrorer.builders.raw.sources import all_sources

    known = all_sources()
    bound = [
        f"{known[name].title} ({known[name].licence})"
        for name in manifest["sources"]
        if name in known and not known[name].redistributable
    ]
    whose = "; ".join(bound) or "a source"
    raise UserError(
        f"the terms of {whose} do not allow its texts in a public repository",
        where=repo_id,
        fix="Push with --private, or to a local Hub.",
    )


def _check_version(api: HfApi, repo_id: str, manifest: dict[str, Any]) -> None:
    """Refuse a version whose schema differs from the newest smaller one of its major version."""
    if not api.repo_exists(repo_id, repo_type="dataset"):
        return
    own = parse_version(manifest["version"])
    smaller = [row for row in versions(repo_id) if parse_version(row["version"]) < own]
    if not smaller:
        return
    path = api.hf_hub_download(
        repo_id, "manifest.json", repo_type="dataset", revision=smaller[0]["commit"]
    )
    differences.check_order(storage.read_json(Path(path)), manifest)


def _publish(
    api: HfApi,
    folder: Path,
    repo_id: str,
    kind: Kind,
    tag: str,
    *,
    private: bool,
    gated: bool = False,
    must_be_private: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> str:
    api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
    if tag in {row["tag"] for row in versions(repo_id, kind)}:
        raise UserError(f"version {tag} exists", where=repo_id, fix="Choose a greater one.")
    if gated:
        api.update_repo_settings(repo_id, repo_type=kind, gated="auto")
    info = api.repo_info(repo_id, repo_type=kind, revision="main")
    if must_be_private and not info.private:
        raise UserError("is public, and a source may not be passed on", where=repo_id)
    files = sent_files(folder)
    there = set(api.list_repo_files(repo_id, repo_type=kind, revision=info.sha))
    stale = there - set(files) - set(_KEPT)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_xet_warning())
        operations = [
            _add(stack, name, path, api.endpoint, (hashes or {}).get(name))
            for name, path in files.items()
        ]
        commit = api.create_commit(
            repo_id,
            [*operations, *(CommitOperationDelete(name) for name in sorted(stale))],
            commit_message=f"Release {tag}",
            repo_type=kind,
            parent_commit=info.sha,
        )
    api.create_tag(
        repo_id, tag=tag, revision=commit.oid, repo_type=kind, tag_message=f"Release {tag}"
    )
    return commit.commit_url


def _add(
    stack: contextlib.ExitStack, name: str, path: Path, endpoint: str, known: str | None
) -> CommitOperationAdd:
    """Return the upload of a file; `known` is its SHA-256 where that was proved just before.

    What the client has as a path it sends by the chunked Xet protocol, which spares bytes on a
    network; what it has as an open file by the plain one, which is faster on loopback.
    """
    add = client_internals.upload_of(name, path, known)
    if is_loopback(endpoint):
        add.path_or_fileobj = stack.enter_context(path.open("rb"))
    return add


@contextlib.contextmanager
def _without_xet_warning() -> Iterator[None]:
    """Keep the client from warning of the plain protocol, which `_add` chose on purpose."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def sent_files(folder: Path) -> dict[str, Path]:
    """Return path in the repository -> file, in order.

    Raises:
        UserError: if a symbolic link leads out of the folder.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        skipped = name.parts[0] in (".cache", ".git") or name.parts[0].startswith("checkpoint-")
        if skipped or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError("is a link that leads out of the folder", where=path)
        files[name.as_posix()] = path
    return files


def check_model(folder: Path) -> None:
    """Refuse a model folder that is not safe and complete.

    Raises:
        UserError: if a file is a pickle (by name or content), weights are not whole safetensors,
            or card, configuration or tokenizer is missing.
    """
    if not folder.is_dir():
        raise UserError("is not a folder", where=folder)
    files = sent_files(folder)
    for name, path in files.items():
        if path.suffix.lower() in _PICKLE_ENDINGS or _is_pickle(path):
            raise UserError(
                "can run code when it is loaded",
                where=path,
                fix="Save weights as safetensors and arguments as JSON, then remove it.",
            )
        if name.endswith(".safetensors"):
            _check_safetensors(path)
    for what, choices in {
        "weights": (
            "model.safetensors",
            "model.safetensors.index.json",
            "adapter_model.safetensors",
        ),
        "configuration": ("config.json", "adapter_config.json"),
        "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
        "card": ("README.md",),
    }.items():
        if not any(choice in files for choice in choices):
            raise UserError(f"has no {what}", where=folder, fix=f"Add {' or '.join(choices)}.")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return False


def _check_safetensors(path: Path) -> None:
    """Read the header alone: eight bytes of length, JSON, then exactly the bytes it tells of."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise ValueError
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            if max(ends, default=0) != size - 8 - length:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError("is not a whole safetensors file", where=path) from None


@contextlib.contextmanager
def _one_line_errors(repo_id: str) -> Iterator[None]:
    """Turn what the client raises into errors that say what to do."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise UserError(
            "has no such version", where=repo_id, fix="See `usermirrorer release list`."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            "is not there, or you may not see it", where=repo_id, fix=_FIXES[401]
        ) from error
    except HFValidationError as error:
        raise UserError(f"not a repository name: {error}", where=repo_id) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        what = (error.server_message or _first_line(error)).rstrip(".")
        raise UserError(what, where=repo_id, fix=_FIXES.get(status, "")) from error
    except (LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise _unreachable(error, repo_id) from error
    except RuntimeError as error:  # what the client makes of any failure while it sends a file
        if not isinstance(error.__cause__, OSError | httpx2.TransportError):
            raise
        raise _unreachable(error.__cause__, repo_id) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise _unreachable(error, repo_id) from error


def _unreachable(error: BaseException, repo_id: str) -> UserError:
    """Return what to tell; the client says so of full disks as well."""
    return unwritable(error) or UserError(
        f"the Hub cannot be reached: {_first_line(error)}",
        where=repo_id,
        fix="Check HF_ENDPOINT and run it again: what arrived whole is not sent again.",
    )


_FIXES = {
    401: "Sign in with `hf auth login`, or set HF_TOKEN; and check the name.",
    403: "Use a token that may write to this namespace.",
    404: "Check the name.",
    412: "Somebody else pushed meanwhile; run it again.",
}


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
