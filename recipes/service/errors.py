"""Errors in the form of OpenAI's API, which its clients read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse

from usermirrorer.builders.common.errors import UserError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def failure(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: int | None = None,
    close: bool = False,
) -> JSONResponse:
    """Return an error's response.

    Args:
        status: Of HTTP.
        message: For people.
        code: For programs.
        param: The part of the request that is wrong.
        retry_after: Seconds after which asking again is worth while.
        close: Hang up: the rest of the request is not read.
    """
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    headers: dict[str, str] = {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if close:
        headers["Connection"] = "close"
    return JSONResponse(error(message, kind, code, param), status, headers)


def error(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error's body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def public(wrong: UserError) -> str:
    """Return what a user can mend, without the folders of this machine: nobody's business."""
    try:
        local = Path(wrong.where).is_absolute() or Path(wrong.where).exists()
    except OSError:  # no file has so long a name
        local = False
    return str(UserError(wrong.what, where="" if local else wrong.where, fix=wrong.fix))


def told(errors: list[Any]) -> tuple[str, str | None]:
    """Return what is wrong with a request, as pydantic found it, and the part that is."""
    first: Mapping[str, Any] = errors[0] if errors else {}
    place = ".".join(str(part) for part in first.get("loc", ()) if part != "body")[:200]
    message = str(first.get("msg", "the request is malformed"))[:300]
    return (f"{place}: {message}" if place else message), place or None
