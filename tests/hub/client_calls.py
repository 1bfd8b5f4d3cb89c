"""Call every public method of `huggingface_hub.HfApi` on a Hub and say what comes of each.

And what is done with `hf://` paths, on repositories of every type.

`python -m tests.hub.client_calls` starts a Hub and writes the table of hub/README.md, which
`test_client_calls.py` holds to it; with `ask FOLDER` it asks the Hub of the environment. A method
that the client gains and that has no call here fails the test.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hub.path_calls import path_calls

README = Path(__file__).parents[2] / "hub" / "README.md"
BEGIN, END = "<!-- calls: begin -->\n", "<!-- calls: end -->\n"
WORKS, ELSEWHERE = "works", "asks another server"
ME, DATASET, MODEL, SPACE = "usermirrorer", "usermirrorer/d", "usermirrorer/m", "usermirrorer/s"
OTHER = "ann"
#: Of a repository of each type that paths are about: type, and how the path begins.
PATHS = (("model", f"{ME}/p"), ("dataset", f"datasets/{ME}/p"), ("space", f"spaces/{ME}/p"))
_PATH = "hf://"
#: What a call gets for a parameter, by its name, if `own_calls` has nothing else.
VALUES: dict[str, Any] = {
    "accelerator": "cpu",
    "args": (),
    "bucket_id": f"{ME}/bucket",
    "collection_slug": "",
    "command": ["true"],
    "comment": "text",
    "comment_id": "1",
    "discussion_num": 1,
    "files": [("a", "b")],
    "framework": "pytorch",
    "from_id": f"{ME}/one",
    "hardware": "cpu-basic",
    "id": "2307.09288",
    "image": "python",
    "instance_size": "x1",
    "instance_type": "c",
    "item_object_id": "0" * 24,
    "job_id": "1" * 24,
    "key": "KEY",
    "kwargs": {},
    "labels": {"a": "b"},
    "mount_path": "/data",
    "name": "one",
    "new_content": "text",
    "new_status": "closed",
    "new_title": "text",
    "organization": "lab",
    "paths": ["a"],
    "private": True,
    "query": "words",
    "region": "here",
    "remote_path": "a",
    "repo_id": SPACE,
    "repository": MODEL,
    "resource_group_id": "1",
    "schedule": "@daily",
    "scheduled_job_id": "1" * 24,
    "sleep_time": 60,
    "title": "text",
    "to_id": f"{ME}/two",
    "username": OTHER,
    "value": "value",
    "vendor": "aws",
    "volumes": [],
    "watched": [ME],
    "webhook_id": "1" * 24,
}


def prepare(api: Any, folder: Path) -> dict[str, Any]:
    """Make what the calls need; return what they refer to."""
    import numpy as np
    from safetensors.numpy import save

    api.create_repo(DATASET, repo_type="dataset")
    api.create_repo(MODEL)
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    weights = save({"w": np.zeros(4, dtype="float32")})
    index = json.dumps({"metadata": {}, "weight_map": {"w": "model.safetensors"}}).encode()
    for path, data in (
        *(("model.safetensors", weights), ("model.safetensors.index.json", index)),
        *(("a.txt", b"a"), ("d/b.txt", b"b")),
    ):
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=MODEL)
    api.upload_file(
        path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=DATASET, repo_type="dataset"
    )
    api.update_repo_settings(DATASET, repo_type="dataset", gated="manual")
    api.create_branch(MODEL, branch="old")
    api.create_tag(MODEL, tag="old")
    slug = api.create_collection("One").slug
    api.add_collection_item(slug, MODEL, "model")
    (folder / "send").mkdir()
    (folder / "send" / "sent.txt").write_text("sent")
    (folder / "script.py").write_text("pass\n")
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    item = api.get_collection(slug).items[0].item_object_id
    return {"slug": slug, "item": item, "sha": api.repo_info(MODEL).sha}


def own_calls(api: Any, made: dict[str, Any], folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the calls that need more than `VALUES`, in the order in which they are made."""
    from huggingface_hub import CommitOperationAdd, hf_hub_url

    data = {"repo_id": DATASET, "repo_type": "dataset"}
    add, url = CommitOperationAdd("pre.txt", b"pre"), hf_hub_url(MODEL, "a.txt")
    reads = {
        "auth_check": lambda: api.auth_check(MODEL),
        "dataset_info": lambda: api.dataset_info(DATASET),
        "file_exists": lambda: _true(api.file_exists(MODEL, "a.txt")),
        "get_collection": lambda: api.get_collection(made["slug"]),
        "get_dataset_leaderboard": lambda: api.get_dataset_leaderboard(DATASET),
        "get_full_repo_name": lambda: api.get_full_repo_name("m"),
        "get_hf_file_metadata": lambda: api.get_hf_file_metadata(url=url),
        "get_paths_info": lambda: api.get_paths_info(MODEL, ["a.txt"])[0],
        "get_safetensors_metadata": lambda: api.get_safetensors_metadata(MODEL),
        "get_sharded_safetensors_metadata": lambda: _true(
            api.get_sharded_safetensors_metadata(MODEL).weight_map == {"w": "model.safetensors"}
        ),
        "hf_hub_download": lambda: api.hf_hub_download(MODEL, "a.txt"),
        "list_dataset_parquet_files": lambda: api.list_dataset_parquet_files(DATASET),
        "list_repo_commits": lambda: api.list_repo_commits(MODEL),
        "list_repo_files": lambda: api.list_repo_files(MODEL),
        "list_repo_likers": lambda: api.list_repo_likers(MODEL),
        "get_user_overview": lambda: _true(api.get_user_overview(ME).num_datasets >= 1),
        "list_repo_refs": lambda: api.list_repo_refs(MODEL),
        "list_repo_tree": lambda: api.list_repo_tree(MODEL),
        "model_info": lambda: api.model_info(MODEL),
        "parse_safetensors_file_metadata": lambda: api.parse_safetensors_file_metadata(
            MODEL, "model.safetensors"
        ),
        "repo_exists": lambda: _true(api.repo_exists(MODEL)),
        "repo_info": lambda: api.repo_info(MODEL),
        "resolve_revision": lambda: api.resolve_revision(MODEL),
        "revision_exists": lambda: _true(api.revision_exists(MODEL, "main")),
        "run_as_future": lambda: api.run_as_future(api.whoami).result(),
        "snapshot_download": lambda: api.snapshot_download(MODEL),
        "verify_repo_checksums": lambda: api.verify_repo_checksums(MODEL),
        "list_user_repos": api.list_user_repos,
    }
    grants = {
        "list_pending_access_requests": lambda: api.list_pending_access_requests(**data),
        "grant_access": lambda: api.grant_access(user=OTHER, **data),
        "list_accepted_access_requests": lambda: api.list_accepted_access_requests(**data),
        "cancel_access_request": lambda: api.cancel_access_request(user=OTHER, **data),
        "accept_access_request": lambda: api.accept_access_request(user=OTHER, **data),
        "reject_access_request": lambda: api.reject_access_request(
            user=OTHER, rejection_reason="x", **data
        ),
        "list_rejected_access_requests": lambda: api.list_rejected_access_requests(**data),
    }
    writes = {
        "upload_file": lambda: api.upload_file(
            path_or_fileobj=b"x" * 99, path_in_repo="x/x.bin", repo_id=MODEL
        ),
        "upload_folder": lambda: api.upload_folder(repo_id=MODEL, folder_path=folder / "send"),
        "preupload_lfs_files": lambda: api.preupload_lfs_files(MODEL, [add]),
        "create_commit": lambda: api.create_commit(MODEL, [add], commit_message="pre"),
        "delete_file": lambda: api.delete_file("pre.txt", MODEL),
        "delete_files": lambda: api.delete_files(MODEL, ["sent.txt"]),
        "delete_folder": lambda: api.delete_folder("x", MODEL),
        "copy_files": lambda: api.copy_files(
            f"hf://models/{MODEL}/model.safetensors", f"hf://datasets/{DATASET}/"
        ),
        "list_lfs_files": lambda: api.list_lfs_files(MODEL),
        "permanently_delete_lfs_files": lambda: api.permanently_delete_lfs_files(
            MODEL, [one for one in api.list_lfs_files(MODEL) if one.filename == "x/x.bin"]
        ),
        "super_squash_history": lambda: api.super_squash_history(MODEL, branch="old"),
        "create_branch": lambda: api.create_branch(MODEL, branch="new"),
        "delete_branch": lambda: api.delete_branch(MODEL, branch="old"),
        "create_tag": lambda: api.create_tag(MODEL, tag="new"),
        "delete_tag": lambda: api.delete_tag(MODEL, tag="old"),
        "create_collection": lambda: api.create_collection("Two"),
        "add_collection_item": lambda: api.add_collection_item(made["slug"], DATASET, "dataset"),
        "update_collection_item": lambda: api.update_collection_item(
            made["slug"], made["item"], note="x"
        ),
        "update_collection_metadata": lambda: api.update_collection_metadata(
            made["slug"], title="Three"
        ),
        "update_collection_resource_group": lambda: api.update_collection_resource_group(
            made["slug"], "1"
        ),
        "delete_collection_item": lambda: api.delete_collection_item(made["slug"], made["item"]),
        "delete_collection": lambda: api.delete_collection(made["slug"]),
        "update_repo_settings": lambda: api.update_repo_settings(MODEL, private=True),
        "create_repo": lambda: api.create_repo(f"{ME}/new"),
        "duplicate_repo": lambda: api.duplicate_repo(MODEL, f"{ME}/copy"),
        "move_repo": lambda: api.move_repo(f"{ME}/new", f"{ME}/moved"),
        "delete_repo": lambda: api.delete_repo(f"{ME}/moved"),
    }
    missing = {
        "batch_bucket_files": lambda: api.batch_bucket_files(f"{ME}/bucket", delete=["a"]),
        "sync_bucket": lambda: api.sync_bucket(str(folder / "send"), f"hf://buckets/{ME}/bucket"),
        "sync_job_volume": lambda: api.sync_job_volume(str(folder / "send"), "/data"),
        "create_scheduled_uv_job": lambda: api.create_scheduled_uv_job(
            str(folder / "script.py"), schedule="@daily"
        ),
        "run_uv_job": lambda: api.run_uv_job(str(folder / "script.py")),
        "upload_attachment": lambda: api.upload_attachment(folder / "image.png"),
        "create_inference_endpoint_from_catalog": lambda: (
            api.create_inference_endpoint_from_catalog(MODEL)
        ),
        "update_webhook": lambda: api.update_webhook("1" * 24, url="http://127.0.0.1:9/x"),
        "create_webhook": lambda: api.create_webhook(watched=[ME], url="http://127.0.0.1:9/x"),
        "wait_for_job": lambda: api.wait_for_job("1" * 24, timeout=1),
        "wait_for_space": lambda: api.wait_for_space(SPACE, timeout=1),
    }
    return {**reads, **grants, **writes, **missing}


def _true(value: bool) -> None:
    if not value:
        raise ValueError("said no")


def ask(folder: Path) -> dict[str, str]:
    """Return what comes of each public method on the Hub of the environment."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import HfApi

    here = httpx2.URL(os.environ["HF_ENDPOINT"])

    class Here(httpx2.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            if (request.url.host, request.url.port) != (here.host, here.port):
                raise NotImplementedError(ELSEWHERE)
            return super().handle_request(request)

    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(transport=Here(), follow_redirects=True, timeout=60)
    )
    api = HfApi()
    own = own_calls(api, prepare(api, folder), folder)
    names = [n for n in dir(HfApi) if not n.startswith("_") and callable(getattr(HfApi, n))]
    outcomes = {}
    for name in [*own, *(n for n in names if n not in own)]:
        outcomes[name] = _outcome(own.get(name) or _generic(getattr(api, name)))
    return {name: outcomes[name] for name in names} | _of_paths(api, folder)


def _of_paths(api: Any, folder: Path) -> dict[str, str]:
    """Return what comes of calls with paths, each on repositories of every type."""
    from huggingface_hub import HfFileSystem

    outcomes: dict[str, str] = {}
    for kind, repo in PATHS:
        settings = {"space_sdk": "static"} if kind == "space" else {}
        api.create_repo(f"{ME}/p", repo_type=kind, **settings)
        for path in ("a.txt", "d/b.txt"):
            last = path[-5:-4].encode()
            api.upload_file(
                path_or_fileobj=last, path_in_repo=path, repo_id=f"{ME}/p", repo_type=kind
            )
        fs = HfFileSystem(skip_instance_cache=True, use_listings_cache=False)
        (folder / kind).mkdir()
        for name, call in path_calls(fs, repo, folder / kind).items():
            outcome = _outcome(call)
            if outcomes.setdefault(_PATH + name, outcome) == WORKS:
                outcomes[_PATH + name] = outcome
    return outcomes


def _generic(method: Callable[..., Any]) -> Callable[[], Any]:
    parameters = inspect.signature(method).parameters.values()
    given = {p.name: VALUES[p.name] for p in parameters if p.default is p.empty}
    if "repo_id" in given and any(p.name == "repo_type" for p in parameters):
        given["repo_type"] = "space"
    return lambda: method(**given)


def _outcome(call: Callable[[], Any]) -> str:
    """Return `WORKS`, `ELSEWHERE`, what the Hub says it has not, or what went wrong."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        done = call()
        if hasattr(done, "__next__"):
            list(done)
    except HfHubHTTPError as error:
        told = error.response.headers.get("x-error-message", "")
        known = error.response.status_code == 501 and told.startswith("This Hub has no ")
        return told if known else f"{error.response.status_code}: {error}"
    except (NotImplementedError, ValueError) as error:
        other = str(error) == ELSEWHERE or "third-party endpoints" in str(error)
        return ELSEWHERE if other else repr(error)
    except Exception as error:
        return repr(error)
    return WORKS


def table(outcomes: dict[str, str]) -> str:
    """Return the table of the README."""
    groups: dict[str, list[str]] = defaultdict(list)
    methods = {name: how for name, how in outcomes.items() if not name.startswith(_PATH)}
    paths = [f"`{name.removeprefix(_PATH)}`" for name in outcomes if name.startswith(_PATH)]
    for name, outcome in methods.items():
        groups[outcome].append(f"`{name}`")
    works = groups.pop(WORKS, [])
    lines = [f"{len(works)} of the {len(methods)} public methods of `HfApi` work:", ""]
    lines += [_listed(works), ""]
    lines += [
        f"So do {len(paths)} of `HfFileSystem`, on `hf://` paths of all types of repositories:"
    ]
    lines += ["", _listed(paths), "", "| The others say | |", "|---|---|"]
    for outcome in sorted(groups, key=lambda one: (one == ELSEWHERE, one)):
        lines.append(f"| {outcome} | {', '.join(groups[outcome])} |")
    return "\n".join(lines) + "\n"


def _listed(names: list[str]) -> str:
    return textwrap.fill(", ".join(names) + ".", 110, break_on_hyphens=False)


def written() -> str:
    """Return the table that is in the README."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


def start() -> dict[str, str]:
    """Ask a new Hub, as a user of it would."""
    from usermirrorer.hub.local import running
    from usermirrorer.hub.server.store import create_token

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_token(folder / "hub", OTHER)
        with running(folder / "hub") as hub:
            settings = os.environ | hub.environment(folder / "home")
            command = [sys.executable, "-m", "tests.hub.client_calls", "ask", str(folder)]
            done = subprocess.run(
                command, env=settings, capture_output=True, text=True, check=False, timeout=300
            )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        print(json.dumps(ask(Path(sys.argv[2]))))
    else:
        head, _, rest = README.read_text().partition(BEGIN)
        README.write_text(head + BEGIN + table(start()) + END + rest.partition(END)[2])
