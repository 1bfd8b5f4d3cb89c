"""What a run promises: shared steps once, only what changed again, failures that stay alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.reproduce import store
from usermirrorer.recipes.reproduce.engines import ENGINES, local
from usermirrorer.recipes.reproduce.parts import Parts
from usermirrorer.recipes.reproduce.plan import read
from usermirrorer.recipes.reproduce.runner import Run, manifest


def run(plans: Path, names: list[str], engine=local, **changed) -> Run:
    plan = read("tiny", plans, changed)
    made = Run(plan, Parts(plan, None, plans.parent / "out"), plans.parent / "out", lambda _: None)
    made.run(names, engine, 2)
    return made


def running(script: Path) -> list[int]:
    """Return the processes that run a script."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(script).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def ran(plans: Path) -> list[str]:
    """Return what commands ran since the last call, in order of their names."""
    log = plans.parent / "ran"
    words = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return words


def test_a_step_that_two_items_share_runs_once_and_a_second_run_does_nothing(plans):
    first = run(plans, ["after", "right"])
    assert ran(plans) == ["after", "both", "left", "right"]
    assert run(plans, ["after", "right"]).state.done == first.state.done
    assert ran(plans) == []


def test_a_changed_plan_runs_what_depends_on_the_change_and_nothing_else(plans):
    run(plans, ["after", "right"])
    ran(plans)
    changed = run(plans, ["after", "right"], left="other")
    assert ran(plans) == ["after", "other"]
    assert changed.state.places["after"].folder.joinpath("text").read_text() == "afterotherboth"
    run(plans, ["after", "right"])
    assert ran(plans) == [], "what the plan made before is still there"


def test_a_failed_step_leaves_the_others_and_what_waits_for_it_says_so(plans):
    text = (plans / "shared.yaml").read_text()
    broken = text.replace('values: {said: "{{ left }}"}, run: write', "run: python -c 1/0")
    (plans / "shared.yaml").write_text(broken)
    made = run(plans, ["after", "right"])
    assert made.state.done == {"both", "right"}
    assert "ZeroDivisionError" in made.state.reasons["left"]
    assert made.state.reasons["after"].startswith("waits for left")
    (plans / "shared.yaml").write_text(text)
    assert run(plans, ["after", "right"]).state.reasons == {}


def test_files_of_a_step_that_were_changed_are_made_again(plans):
    place = run(plans, ["both"]).state.places["both"]
    ran(plans)
    (place.folder / "text").write_text("BOTH")
    run(plans, ["both"])
    assert ran(plans) == ["both"] and (place.folder / "text").read_text() == "both"


def test_a_killed_run_goes_on_in_the_folder_of_the_step_that_it_was_in(plans):
    """The command writes one part, then waits for a file; killed, it finds its part there."""
    go = plans.parent / "go"
    slow = (
        "import pathlib, sys, time; out = pathlib.Path(sys.argv[1]); part = out / 'part'; "
        "(out / 'text').write_text('again' if part.exists() else 'new'); part.write_text('1')\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)"
    )
    script = plans.parent / "slow.py"
    script.write_text(slow)
    text = (plans / "shared.yaml").read_text()
    (plans / "shared.yaml").write_text(
        text.replace("values: {said: both}, run: write", f'run: "python {script} {{{{ out }}}}"')
    )
    (plans / "items" / "two.yaml").write_text("needs: [both]\npage: {kind: sweep}\n")
    out = plans.parent / "out"
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "reproduce", "two"]
    command += ["--plans", str(plans), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("steps/both-*.work/part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list(out.glob("steps/both-*[0-9a-f].json"))
    # The command itself lives on and holds its lock: it is not started beside itself.
    with store.locked(next(out.glob("steps/.both.lock"))) as held:
        assert held is None
    for pid in running(script):
        os.kill(pid, signal.SIGKILL)
    go.touch()
    made = run(plans, ["both"])
    assert made.state.places["both"].folder.joinpath("text").read_text() == "again"


def test_what_made_a_number_is_told_to_the_last_input(plans):
    made = run(plans, ["after"])
    told = manifest(made, ["after"])["steps"]
    assert set(told) == {"after", "left", "both"}
    assert told["after"]["inputs"]["given"][0]["key"] == told["left"]["key"]
    text = made.state.places["after"].folder / "text"
    assert told["after"]["files"]["text"] == storage.file_hash(text)


def test_two_folders_get_the_same_keys_and_the_same_files(plans, tmp_path):
    plan = read("tiny", plans)
    told = []
    for name in ("a", "b"):
        made = Run(plan, Parts(plan, None, tmp_path / name), tmp_path / name, lambda _: None)
        made.run(["after"], local, 2)
        steps = manifest(made, ["after"])["steps"]
        told.append({n: (s["key"], s["files"]) for n, s in steps.items()})
    assert told[0] == told[1]


def test_slurm_gets_the_whole_command_its_gpus_and_where_to_log(plans, tmp_path, monkeypatch):
    """In place of a cluster, an `sbatch` that notes its words and runs what it was given."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write(' '.join(sys.argv[1:6]) + chr(10))\n"
        "wrap = next(w for w in sys.argv if w.startswith('--wrap='))\n"
        "sys.exit(subprocess.run(wrap[7:], shell=True).returncode)\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    text = (plans / "shared.yaml").read_text()
    (plans / "shared.yaml").write_text(text.replace("both: {values", "both: {gpus: 2, values"))
    made = run(plans, ["right"], ENGINES["slurm"])
    assert made.state.done == {"both", "right"}
    first, second = sorted((tmp_path / "asked").read_text().splitlines())
    assert "--wait --job-name=usermirrorer-both" in first and f"--output={made.out}" in first
    assert "usermirrorer-right" in second


def test_ray_runs_the_steps_of_a_plan(plans, monkeypatch):
    cluster = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on busy machines
    try:
        assert run(plans, ["right"], ENGINES["ray"]).state.done == {"both", "right"}
    finally:
        cluster.shutdown()  # who stays connected dies with the cluster, and all tests after it


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("given: both/text}, values: {said: right}", "given: nobody/text}"), "no step is called"),
        (("both: {values", "both: {inputs: {given: after/text}, values"), "need each other"),
        (("{{ left }}", "{{ nowhere }}"), "nowhere"),
        (("both: {values", "both: {speed: 9, values"), "has no 'speed'"),
        (("commands:", "commands: ["), "is not YAML"),
    ],
)
def test_a_broken_plan_is_told_with_its_file(plans, change, told):
    text = (plans / "shared.yaml").read_text()
    assert change[0] in text
    (plans / "shared.yaml").write_text(text.replace(*change))
    with pytest.raises(UserError, match=told) as error:
        read("tiny", plans)
    assert str(plans) in str(error.value)


def test_the_step_with_the_longest_line_behind_it_starts_first(plans):
    """`both` has two steps behind it, one behind the other; `alone`, first by name, has none."""
    text = (plans / "shared.yaml").read_text()
    (plans / "shared.yaml").write_text(f"{text}  alone: {{values: {{said: alone}}, run: write}}\n")
    plan, told = read("tiny", plans), []
    made = Run(plan, Parts(plan, None, plans.parent / "out"), plans.parent / "out", told.append)
    made.run(["alone", "after"], local, 1)
    assert [line.strip() for line in told if line.startswith("  ")] == [
        "both",
        "left",
        "after",
        "alone",
    ]


def test_a_step_for_which_the_scale_lists_nothing_is_left_out_with_what_needs_it(plans):
    text = (plans / "shared.yaml").read_text()
    text = text.replace("left: {inputs", "left: {each: {one: sources}, inputs")
    (plans / "shared.yaml").write_text(text.replace("given: left/text", "given: left-x/text"))
    assert set(read("tiny", plans).steps) == {"raw", "both", "right"}
    plan = read("tiny", plans, {"sources": ["x"]})
    assert {"left-x", "after"} < set(plan.steps) and plan.items["one"].needs == ("after",)


def test_a_command_that_ended_after_its_starter_was_killed_is_not_run_again(plans):
    made = run(plans, ["both"])
    place = made.state.places["both"]
    place.folder.rename(place.work)
    place.record.unlink()
    place.status.write_text("0\n")
    ran(plans)
    assert run(plans, ["both"]).state.done == {"both"} and ran(plans) == []
    place.folder.rename(place.work)
    place.record.unlink()
    place.status.write_text("1\n")
    assert run(plans, ["both"]).state.done == {"both"} and ran(plans) == ["both"]
