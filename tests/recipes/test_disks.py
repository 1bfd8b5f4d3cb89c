"""Promise: on a full or a read-only disk every command says in one line what cannot be written.

With the path and what to do; never a traceback, and never that the Hub cannot be reached. Commands
that change nothing work all the same. The commands are those of the command line itself: one
without a case here fails.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from recipe_rows import scene

from tests.builders.distil import distil_rows
from tests.eval_harness.analysis import planted
from tests.eval_harness.fixtures import make_scenes
from tests.hub.conftest import build_release
from tests.hub.test_full_disk import fill
from tests.hub.test_full_disk import prepared as prepared_hub
from tests.product import commands
from usermirrorer.builders.common.assets import fetch_asset
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.common.storage import write_json, write_table
from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import pipeline
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.eval_harness import program
from usermirrorer.hub.local import running
from usermirrorer.hub.server.store import list_tokens
from usermirrorer.recipes import cli

#: Commands that write nothing but to the screen: they work on any disk.
READ = (
    *("sources", "validate", "release diff", "release verify", "hub check", "hub token list"),
    *("eval-results", "eval-yaml"),
)
#: Commands that ask a Hub; they run as processes of their own, which read its address at once.
REMOTE = ("release push", "release pull", "release list", "release collect")


@contextlib.contextmanager
def disk(folder: Path, megabytes: int = 8) -> Iterator[Path]:
    """Mount a small file system; skip where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_chat_model, tiny_encoder, raw_movielens) -> dict[str, Any]:
    """What commands read, on a good disk."""
    folder = tmp_path_factory.mktemp("parts")
    decided = distil_rows.write(folder, *distil_rows.many())
    made: dict[str, Any] = dict(zip(("scenes", "weak", "strong"), decided, strict=True))
    made |= {"model": tiny_chat_model, "encoder": tiny_encoder, "raw": raw_movielens}
    rows = [scene(i, 3) | {"user_id": f"of train {i}"} for i in range(90)]
    made["train"] = folder / "train.parquet"
    write_table(made["train"], pa.Table.from_pylist(rows, schema=SCENE))
    made["test"] = folder / "test.parquet"
    write_table(made["test"], pa.Table.from_pylist(make_scenes(40, seed=1), schema=SCENE))
    made["release"] = build_release(folder / "release", "1.0.0")
    made["pairs"] = folder / "release.inputs" / "pairs.parquet"
    made["built"] = folder / "built"
    size = made_up.Size(users=60, items=80, interactions=900)
    raw = made_up.write("steam", folder / "steam", size)
    config = SceneConfig(train=6, test=4, history=(1, 4))
    source = get_source("steam")
    pipeline.raw_to_scenes(source, raw, made["built"], config, embedder=str(tiny_encoder))
    rows = planted.scenes(8)
    said = planted.decide(rows, planted.right_with(0.5))
    made["said"] = planted.write(folder, "said", rows, said)
    made["manifest"] = folder / "manifest.json"
    write_json(made["manifest"], {"inputs": {}, "code": "1", "seeds": {}, "models": []})
    made["hub"] = folder / "hub"
    prepared_hub(made["hub"])
    made["log"] = folder / "log.csv"
    lines = [f"u{i % 40},i{i % 30},{1_600_000_000 + i * 5000}" for i in range(1200)]
    made["log"].write_text("user,item,time\n" + "\n".join(lines) + "\n")
    made["items"] = folder / "items.csv"
    made["items"].write_text("item,title\n" + "".join(f"i{i},Film {i}\n" for i in range(30)))
    return made


@pytest.fixture(scope="module")
def scores(tmp_path_factory, parts) -> Path:
    """What lm_eval leaves of one model."""
    out = tmp_path_factory.mktemp("scores")
    told = {"dataset": str(parts["test"]), "ablations": False}
    words = ["--model", "hf", "--model_args", f"pretrained={parts['model']},dtype=float32"]
    words += ["--tasks", "usermirror-direct_movielens", "--limit", "4", "--apply_chat_template"]
    words += ["--metadata", json.dumps(told), "--log_samples", "--output_path", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *words], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def cases(
    parts: dict[str, Any], scores: Path, out: Path, name: str = "any"
) -> dict[str, list[object]]:
    """Return command -> its arguments, everything that it makes in `out`, below `name`."""
    decided = ["--weak", parts["weak"], "--strong", parts["strong"]]
    model, made = ["--model", parts["model"], "--dtype", "float32"], out / "made" / name
    train = ["--dataset", parts["train"], "--stage", "direct", "--scenes", parts["train"]]
    analysed = [f"full={parts['weak']}", f"only-title={parts['strong']}", "--scenes",
                parts["scenes"], "--out", made]  # fmt: skip
    return {
        "quickstart": ["--out", made],
        "new": ["shop", "--interactions", parts["log"], "--items", parts["items"], "--out",
                out / "shop.yaml"],
        "sources": [],
        "fetch": ["movielens", "--out", made],
        "tables": ["movielens", parts["raw"], "--out", made],
        "scenes": ["movielens", parts["raw"], "--preset", "tiny", "--embedder", parts["encoder"],
                   "--out", made],
        "reproduce": ["table6", "--set", "sources=[movielens]", "--set", "exposures=[paper]",
                      "--jobs", "1", "--out", made],
        "ablate": [parts["built"] / "test.parquet", "--out", made],
        "export": [fetch_asset("smollm2-135m-instruct"), out / "model.gguf"],
        "analyse ablation": analysed,
        "analyse calibration": analysed,
        "analyse factors": [*parts["said"], "--out", made],
        "analyse learning-curve": [f"5={parts['weak']}", f"10={parts['strong']}", *analysed[2:]],
        "analyse style": ["--teacher", parts["strong"], *analysed],
        "analyse transfer": [f"base={parts['weak']}", f"g1={parts['weak']}",
                             f"g2={parts['strong']}", "--trained", "g1=steam", "--trained",
                             "g2=movielens", *analysed],
        "decide": [parts["scenes"], *model, "--limit", "2", "--samples", "1", "--max-tokens", "8",
                   "--out", out / "d.parquet"],
        "distil": [parts["scenes"], *decided, "--pairs", "4", "--out", out / "p.parquet"],
        "report": [parts["scenes"], *decided, "--out", made],
        "validate": [parts["train"]],
        "release build": [made, "--repo", "usermirrorer/mixed", "--version", "1.0.0",
                          "--allow-tells", "--preference", parts["pairs"],
                          "--train", parts["train"], "--test",
                          parts["test"], "--manifest", parts["manifest"]],
        "release push": [parts["release"], f"usermirrorer/{name}"],
        "release pull": ["usermirrorer/mixed", "1.0.0", made],
        "release list": ["usermirrorer/mixed"],
        "release collect": ["usermirrorer/mixed", "1.0.0"],
        "release diff": [parts["release"], parts["release"]],
        "release verify": [parts["release"]],
        "hub backup": [out / "backup", "--root", parts["hub"]],
        "hub check": ["--root", out / "hub"],
        "hub repair": ["--root", out / "broken"],
        "hub serve": ["--root", out / "new", "--port", "0"],
        "hub token create": ["--root", out / "new", "somebody"],
        "hub token list": ["--root", out / "hub"],
        "hub token revoke": ["--root", out / "hub", list_tokens(parts["hub"])[0]["id"]],
        "simulate": [parts["test"], *model, "--mode", "direct", "--limit", "2", "--out",
                     out / "c.parquet"],
        "serve": ["--export-space", made, "--endpoint", "https://lab.example"],
        "calibrate": [parts["train"], *model, "--mode", "direct", "--out", out / "c.json"],
        "interact": ["movielens", parts["raw"], "--simulators", f"a={parts['model']}", "--tiny",
                     "--recommenders", "BPR", "--trained-on", "a=none", "--out", made],
        "sweep": ["sft", *train, "--output", made, "--learning-rates", "1e-4", "--epochs", "1",
                  "--model_name_or_path", parts["model"], "--max_steps", "1"],
        "leaderboard": [f"a={scores}", "--direct", "-o", made],
        "eval-results": [scores, "--dataset", "usermirrorer/mixed"],
        "eval-yaml": ["movielens"],
        "eval-tasks": [made],
    }  # fmt: skip


def prepared(parts: dict[str, Any], out: Path) -> None:
    """Put onto a disk, while it takes it, what commands expect there."""
    shutil.copytree(parts["hub"], out / "hub")
    shutil.copytree(parts["hub"], out / "broken")
    (out / "broken" / "hub.sqlite").unlink()


@pytest.fixture
def publisher(tmp_path, monkeypatch) -> Iterator[None]:
    """A server of the files of MovieLens."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "ml-1m.zip").write_bytes(b"x" * 100_000)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "there"))
    server = _Patient(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = get_source("movielens")
    name = next(iter(source.downloads))
    url = f"http://127.0.0.1:{server.server_address[1]}/ml-1m.zip"
    monkeypatch.setitem(source.downloads, name, url)
    yield
    server.shutdown()


class _Patient(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that could not keep what they asked for."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def call(monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """Run `usermirrorer` in this process; return its exit code and what it said of errors."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["usermirrorer", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capfd.readouterr().err

    return run


def as_process(words: list[object], **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "usermirrorer.recipes.cli", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stderr


def assert_told(name: str, out: Path, code: int, said: str) -> None:
    """One line says what is not written, where and what to do; or nothing had to be written."""
    assert "Traceback" not in said and "cannot be reached" not in said, said
    if name in READ:
        assert code in (0, 1) and "cannot be" not in said, said
        return
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1, said
    assert "cannot be written: " in errors[0] and str(out) in errors[0], said
    assert any(word in errors[0] for word in ("Free some", "Choose another", "another folder"))


KINDS = {
    "full": fill,
    "read-only": lambda out: subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True),
}


def test_every_command_has_a_case(parts, tmp_path):
    assert set(cases(parts, tmp_path, tmp_path)) == {name for name, _ in commands()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_here_says_in_one_line_what_cannot_be_written(
    parts, scores, publisher, call, tmp_path, kind, monkeypatch
):
    with disk(tmp_path / "disk") as out:
        prepared(parts, out)
        KINDS[kind](out)
        monkeypatch.chdir(out)  # where eval-results and eval-yaml write
        wrong = {}
        for name in cases(parts, scores, out):
            if name not in REMOTE:
                words = cases(parts, scores, out, name.replace(" ", "-"))[name]
                code, said = call(*name.split(), *words)
                try:
                    assert_told(name, out, code, said)
                except AssertionError as error:
                    wrong[name] = (code, said[-600:], str(error)[:100])
        monkeypatch.undo()
        for name, told in wrong.items():
            print(name, told[0], told[1])
        assert not wrong, list(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lm_eval_says_so_before_it_scores(parts, tmp_path, kind):
    """By itself it scores, cannot write what came of it, and ends as if all were well."""
    told = {"dataset": str(parts["test"]), "ablations": False}
    with disk(tmp_path / "disk") as out:
        KINDS[kind](out)
        words = ["--model", "hf", "--model_args", f"pretrained={parts['model']}"]
        words += ["--tasks", "usermirror-direct_movielens", "--limit", "2"]
        words += ["--metadata", json.dumps(told), "--log_samples", "--output_path", out / "scores"]
        done = subprocess.run(
            [sys.executable, "-m", "lm_eval", "run", *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert_told("lm_eval", out, done.returncode, done.stderr)
        assert "Running" not in done.stderr  # requests


@pytest.mark.parametrize("words", ["--output_path OUT", "-o OUT", "--output_path=OUT", "-C FILE"])
def test_where_lm_eval_will_write_is_read_as_it_reads_it(words, tmp_path):
    (tmp_path / "c.yaml").write_text("output_path: OUT\n")
    given = ["run", "--tasks", "x", *words.replace("FILE", str(tmp_path / "c.yaml")).split()]
    assert program.output_path(given) == Path("OUT")
    assert program.output_path(["run", "--tasks", "x", "--log_samples"]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_commands_that_ask_a_hub_say_so_too_and_never_that_it_cannot_be_reached(
    parts, tmp_path, kind
):
    with running(tmp_path / "hub") as hub, disk(tmp_path / "disk") as out:
        good = hub.environment(tmp_path / "home")
        code, said = as_process(["release", "push", parts["release"], "usermirrorer/mixed"], **good)
        assert code == 0, said
        prepared(parts, out)
        KINDS[kind](out)
        for place, home in (("good", good), ("bad", hub.environment(out / "home"))):
            for name in REMOTE:
                words = cases(parts, parts["release"], out, name.replace(" ", f"-{place}-"))[name]
                code, said = as_process([*name.split(), *words], **home)
                if code == 0:  # only `pull` has something to write
                    assert name != "release pull", said
                    continue
                assert_told(name, out, code, said)


def test_a_cache_that_cannot_be_written_is_told_as_such(parts, tmp_path):
    with running(tmp_path / "hub") as hub, disk(tmp_path / "disk") as out:
        good = hub.environment(tmp_path / "home")
        as_process(["release", "push", parts["release"], "usermirrorer/mixed"], **good)
        fill(out)
        code, said = as_process(["validate", "usermirrorer/mixed"], **hub.environment(out / "home"))
        assert_told("of the cache", out, code, said)


def test_output_that_nobody_takes_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "usermirrorer.recipes.cli", "sources"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "cannot be written: No space left" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        "I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file",
        "database or disk is full",
        "[Errno 28] Error writing bytes to file",
    ],
)
def test_what_libraries_make_of_a_full_disk_is_known(text):
    told = unwritable(RuntimeError(text), "/here")
    assert str(told).startswith("/here: cannot be written: No space left on device. Free some")


def test_a_network_that_forbids_is_no_disk():
    assert unwritable(PermissionError(1, "Operation not permitted")) is None
    assert unwritable(ValueError("no")) is None
