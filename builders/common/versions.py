"""Semantic versions of releases, and their git tags."""

from __future__ import annotations

import re

from usermirrorer.builders.common.errors import UserError

_VERSION = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def parse_version(version: str) -> tuple[int, int, int]:
    """Return (major, minor, patch) of `1.2.3` or `v1.2.3`.

    Raises:
        UserError: if it is not a semantic version.
    """
    match = _VERSION.fullmatch(version)
    if not match:
        raise UserError(f"{version!r} is not a version", fix="Write it like 1.2.0.")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch


def tag_of(version: str) -> str:
    """Return the git tag of a version, e.g. `v1.2.0`."""
    return "v{}.{}.{}".format(*parse_version(version))
