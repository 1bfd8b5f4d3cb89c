"""Runs the steps of a plan in order, some at once; what failed leaves the results of the others."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.job import RECIPES, last_line, lines
from usermirrorer.recipes.reproduce import store
from usermirrorer.recipes.reproduce.engines import Command, Engine, local
from usermirrorer.recipes.reproduce.parts import Parts
from usermirrorer.recipes.reproduce.plan import Plan, Step

#: First word of a command in a plan -> what is run, with this Python and whatever PATH holds.
_PROGRAMS = {
    "usermirrorer": ["-m", "usermirrorer.recipes.cli"],
    "lm_eval": ["-m", "lm_eval"],
    "accelerate": ["-m", "accelerate.commands.accelerate_cli"],
    "python": [],
}


#: Shell that runs its arguments and notes their exit status in the file that is its name.
_NOTING = '"$@"; status=$?; echo "$status" > "$0"; exit "$status"'


@dataclass
class State:
    """What became of each step: `done` with its place, or `reasons` why there is no result."""

    places: dict[str, store.Place] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)


class Run:
    """A run of a plan in a folder.

    Args:
        plan: What to run.
        parts: Models and data.
        out: The folder.
        tell: Is called with one line on each step.
    """

    def __init__(
        self, plan: Plan, parts: Parts, out: Path, tell: Callable[[str], None] = print
    ) -> None:
        self.plan, self.parts, self.out, self.tell = plan, parts, out.absolute(), tell
        self.code = version("usermirrorer")
        self.state = State()
        self._outside: dict[str, tuple[str, str]] = {}
        self._threads = 0
        self._stop, self._fetching = threading.Event(), threading.Lock()

    def look(self, names: Iterable[str]) -> State:
        """Say what is there already, fetching and running nothing.

        Of a part that is not here the content is not known; what depends on it is not done.
        """
        for name, step in self.plan.closure(names).items():
            if self._key(step, fetch=False):
                place = self.state.places[name]
                if place.is_done():
                    self.state.done.add(name)
                elif reason := place.failed():
                    self.state.reasons[name] = reason
        return self.state

    def run(self, names: Iterable[str], engine: Engine, jobs: int) -> State:
        """Run the named steps and all before them, as far as they go.

        Args:
            names: Of steps.
            engine: Where commands run.
            jobs: Most steps at once.
        """
        steps = self.plan.closure(names)
        order = TopologicalSorter({name: step.needs for name, step in steps.items()})
        order.prepare()
        if engine is local and jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            self._threads = max(1, (os.cpu_count() or 1) // jobs)
        behind = _behind(steps)
        waiting: list[str] = []
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                while order.is_active():
                    waiting += order.get_ready()
                    waiting.sort(key=lambda name: (-behind[name], name))
                    for name in waiting[: jobs - len(running)]:
                        waiting.remove(name)
                        running[pool.submit(self._one, steps[name], engine)] = name
                    if not running:
                        break
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        name = running.pop(future)
                        future.result()
                        if name in self.state.done:
                            order.done(name)
            except BaseException:
                self._stop.set()
                for future in running:
                    future.cancel()
                raise
        self._explain(steps)
        return self.state

    def _explain(self, steps: Mapping[str, Step]) -> None:
        """Say of every step that was not reached which one it waits for."""
        for name, step in steps.items():
            if name not in self.state.done and name not in self.state.reasons:
                cause = next(n for n in step.needs if n not in self.state.done)
                root = self.state.reasons[cause]
                why = root.removeprefix(f"{cause}: ")
                text = root if root.startswith("waits for") else f"waits for {cause}: {why}"
                self.state.reasons[name] = text

    def _one(self, step: Step, engine: Engine) -> None:
        try:
            self._key(step, fetch=True)
            place = self.state.places[step.name]
            if not place.is_done():
                self._make(step, place, engine)
                self.state.fresh.add(step.name)
            self.state.done.add(step.name)
        except UserError as error:
            self.state.reasons[step.name] = str(error)
            if step.name in self.state.places:
                self.state.places[step.name].fail(str(error))
            told = str(error)
            self.tell(f"✗ {told if error.where == step.name else f'{step.name}: {told}'}")

    def _key(self, step: Step, *, fetch: bool) -> bool:
        """Work out the place of a step; without `fetch`, only of parts that are here."""
        keys = {}
        for reference in step.references:
            target = reference.target
            if not reference.outside:
                if target not in self.state.places:
                    return False
                keys[target] = self.state.places[target].key
                continue
            if not fetch and not self.parts.look(target).here:
                return False
            with self._fetching:
                if target not in self._outside:
                    self._outside[target] = self.parts.get(target)
            keys[target] = self._outside[target][1]
        key = step.made_from(keys, self.code)[:12]
        self.state.places[step.name] = store.Place(self.out, step.name, key)
        return True

    def _make(self, step: Step, place: store.Place, engine: Engine) -> None:
        lock, told = place.folder.with_name(f".{step.name}.lock"), False
        while True:
            with store.locked(lock) as held:
                if held is not None:
                    if not place.is_done():
                        self._call(step, place, engine, held)
                    return
            if self._stop.is_set():
                raise UserError("was stopped", where=step.name)
            if not told:
                self.tell(f"… {step.name}: waits for the command of an earlier run to end")
                told = True
            time.sleep(2)

    def _call(self, step: Step, place: store.Place, engine: Engine, lock: int) -> None:
        start = time.monotonic()
        if place.folder.exists() and not place.record.exists() and not place.work.exists():
            place.folder.rename(place.work)  # killed between the rename and the record
        place.work.mkdir(parents=True, exist_ok=True)
        place.log.parent.mkdir(parents=True, exist_ok=True)
        words = self.command(step, place.work)
        self.tell(f"  {step.name}")
        threads = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
        words, status = ["/bin/sh", "-c", _NOTING, str(place.status), *words], 0
        command = Command(step.name, words, place.log, self.out, threads, step.gpus, lock)
        if not place.has_ended():
            place.status.unlink(missing_ok=True)
            status = engine(command, self._stop.is_set)
        if status:
            raise UserError(
                f"failed: {_last_words(place.log)}", where=step.name, fix=f"See {place.log}."
            )
        seconds = round(time.monotonic() - start, 1)
        facts = {"run": list(step.words), "inputs": self._inputs(step), "code": self.code}
        place.finish({**facts, "seconds": seconds})
        self.tell(f"✓ {step.name} {seconds:.0f} s")

    def _inputs(self, step: Step) -> dict[str, list[dict[str, str]]]:
        """Return what each input was: its target, path and key."""
        return {
            name: [{"of": r.target, "path": r.path, "key": self._key_of(r.target)} for r in given]
            for name, given in step.inputs.items()
        }

    def _key_of(self, target: str) -> str:
        return self._outside[target][1] if ":" in target else self.state.places[target].key

    def command(self, step: Step, folder: Path) -> list[str]:
        """Return the words of a step's command, with the places of its inputs."""
        given = {"out": [str(folder)]}
        for name, references in step.inputs.items():
            given[name] = [self._where(r.target, r.path) for r in references]
            given[f"{name}="] = [f"{r.label}={self._where(r.target, r.path)}" for r in references]
        program, *rest = step.words
        words = [program]
        if program in _PROGRAMS:
            words = [step.python or sys.executable, *_PROGRAMS[program]]
        for word in rest:
            name = word.strip("@")
            if word == f"@{name}@" and name in given:
                words += given[name]
            elif word.startswith("recipes/"):
                words.append(str(RECIPES / word.removeprefix("recipes/")))
            else:
                words.append(_filled(word, given))
        return words

    def _where(self, target: str, path: str) -> str:
        if ":" in target:
            return self._outside[target][0] if target in self._outside else target
        place = self.state.places.get(target)
        folder = place.folder if place else self.out / "steps" / f"{target}-?"
        return str(folder / path) if path else str(folder)


def _behind(steps: dict[str, Step]) -> dict[str, int]:
    """Return how many steps wait for each, one behind the other: the longest lines start first."""
    longest = dict.fromkeys(steps, 0)
    for name in reversed(steps):
        for need in steps[name].needs:
            longest[need] = max(longest[need], longest[name] + 1)
    return longest


def _filled(word: str, given: Mapping[str, Collection[str]]) -> str:
    """Put places into a word; within JSON as JSON has them."""
    for name, places in given.items():
        if f"@{name}@" in word:
            text = ",".join(places)
            inner = json.dumps(text)[1:-1] if word.startswith("{") else text
            word = word.replace(f"@{name}@", inner)
    recipes = str(RECIPES)
    return word.replace('"recipes/', json.dumps(f"{recipes}/")[:-1])


def _last_words(log: Path) -> str:
    if not log.exists() or not (said := lines(log)):
        return "it printed nothing"
    errors = [line for line in said if line.startswith("error:")]
    words = errors[-1].removeprefix("error: ") if errors else last_line(log)
    return words.rstrip(".")


def manifest(run: Run, names: Iterable[str]) -> dict[str, Any]:
    """Return what made each number: key, command, inputs and seconds of every step behind it."""
    from usermirrorer.builders.common.storage import read_json

    steps = {}
    for name in run.plan.closure(names):
        place = run.state.places.get(name)
        if name in run.state.done and place:
            record = read_json(place.record)
            kept = ("key", "run", "inputs", "code", "seconds")
            steps[name] = {k: record[k] for k in kept}
            steps[name]["files"] = {f: row["sha256"] for f, row in record["files"].items()}
    return {"scale": run.plan.scale, "steps": steps}
