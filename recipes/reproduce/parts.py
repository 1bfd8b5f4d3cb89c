"""What a plan needs from outside: models, raw data, an environment; where and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import file_hash, fingerprint
from usermirrorer.recipes.interact import environment
from usermirrorer.recipes.reproduce.plan import Plan

#: What a scale's `data` says of a source: `part:NAME` of the package registry, `made-up:U,I,N`
#: (users, items, interactions of `builders/raw/made_up.py`), or `own`: it has to be given.
OWN, PART, MADE_UP = "own", "part:", "made-up:"


@dataclass(frozen=True)
class Part:
    """A model, raw files, or an environment: its name, what was asked for, whether it is here."""

    target: str
    wanted: str
    here: bool
    fix: str = ""


def recommenders() -> Part:
    """Return the environment that `usermirrorer interact` trains recommenders in."""
    try:
        return Part("environment:recommenders", environment.python().parents[1].name, True)
    except UserError as error:
        return Part("environment:recommenders", Path(error.where).name, False, error.fix)


class Parts:
    """The parts of a plan.

    Args:
        plan: Names models by role and says where raw data comes from.
        data: Folder with a folder of raw files for each source; None: what the scale says.
        out: Where made-up files are written.
    """

    def __init__(self, plan: Plan, data: Path | None, out: Path) -> None:
        self.plan, self.data, self.out = plan, data, out

    def look(self, target: str) -> Part:
        """Say whether a part is here, without fetching anything."""
        kind, _, name = target.partition(":")
        return self._look_model(target, name) if kind == "model" else self._look_data(target, name)

    def get(self, target: str) -> tuple[str, str]:
        """Fetch a part or make it up; return where it is, and its key, a hash of its content.

        Raises:
            UserError: if it is missing.
        """
        part = self.look(target)
        if not part.here and part.fix:
            raise UserError(
                f"{target.replace(':', ' ')} is missing", where=part.wanted, fix=part.fix
            )
        kind, _, name = target.partition(":")
        if kind == "model":
            return _get_model(part.wanted)
        folder = self._get_data(name, part.wanted)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return str(folder), fingerprint([[str(p.relative_to(folder)), file_hash(p)] for p in files])

    def _look_model(self, target: str, role: str) -> Part:
        models: dict[str, Any] = self.plan.settings["models"]
        if role not in models:
            raise UserError(f"the scale names no model for {role!r}", fix=f"--model {role}=MODEL")
        name = str(models[role])
        if name in assets.ASSETS or Path(name).exists() or name.startswith(("http://", "https://")):
            return Part(target, name, True)
        if name.startswith(("/", "./", "../", "~")):
            return Part(target, name, False, f"Name another: --model {role}=MODEL.")
        return Part(target, name, _is_cached(name))  # of a Hub: fetched on use

    def _look_data(self, target: str, source: str) -> Part:
        if self.data and (self.data / source).is_dir():
            return Part(target, str(self.data / source), True)
        said: dict[str, str] = self.plan.settings.get("data", {})
        wanted = said.get(source, said.get("*", OWN))
        if wanted.startswith((PART, MADE_UP)):
            return Part(target, wanted, True)
        return Part(
            target,
            f"{self.data or 'DATA'}/{source}",
            False,
            f"Give --data DATA, its folder; `usermirrorer fetch {source}` gets it or says how.",
        )

    def _get_data(self, source: str, wanted: str) -> Path:
        if wanted.startswith(PART):
            return assets.fetch_asset(wanted.removeprefix(PART))
        if wanted.startswith(MADE_UP):
            return self._make_up(source, wanted.removeprefix(MADE_UP))
        return Path(wanted)

    def _make_up(self, source: str, size: str) -> Path:
        from usermirrorer.builders.common.storage import atomic
        from usermirrorer.builders.raw import made_up

        folder = self.out / "made-up" / f"{source}-{size.replace(',', '-')}"
        if not folder.is_dir():
            with atomic(folder) as temporary:
                made_up.write(source, temporary, _size(source, size))
        return folder


def _size(source: str, text: str) -> Any:
    from usermirrorer.builders.raw.made_up import PUBLISHED, Size

    if source not in PUBLISHED:
        raise UserError(
            f"there is no source {source!r} to make up files of",
            fix=f"Choose from {', '.join(PUBLISHED)}.",
        )
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UserError(
            f"{MADE_UP}{text} of {source} is not {MADE_UP}USERS,ITEMS,INTERACTIONS", where="data"
        )
    return Size(*map(int, parts))


def _is_cached(name: str) -> bool:
    """Say whether a repository of a Hub lies in its client's cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        return False


def _get_model(name: str) -> tuple[str, str]:
    if name.startswith(("http://", "https://")):
        return name, fingerprint(name)  # an endpoint says nothing of its weights
    folder = assets.resolve_model(name)
    known = name in assets.ASSETS
    return folder, assets.ASSETS[name].sha256[:16] if known else assets.model_revision(folder)
