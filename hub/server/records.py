"""What a repository's record holds, and which names it may have."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("model", "dataset", "space")
#: What addresses begin with, here and in clients: a user of this name would be taken for it.
RESERVED = frozenset(
    [
        *("api", "buckets", "collections", "datasets", "healthz", "kernels", "lfs", "login"),
        *("logout", "models", "papers", "spaces", "xet", "zero-gpu"),
    ]
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


@dataclass(frozen=True)
class Repo:
    """One repository. `gated` is "" (open), "auto" (any signed-in user) or "manual" (owner)."""

    id: int
    kind: str
    namespace: str
    name: str
    private: bool
    gated: str
    created: float
    #: Counts the changes of this record: of a record and a folder, the newer one is right.
    revision: int = 0

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def valid_name(name: object) -> bool:
    """Say whether `name` may be a user's or a repository's."""
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and ".." not in name
        and "--" not in name
        and not name.endswith((".git", ".ipynb"))
    )
