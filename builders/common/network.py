"""Where clients go: the Hub's address as they all understand it, and past proxies to this machine.

`datasets` takes `HF_ENDPOINT` as it is, so that a slash behind it makes addresses like `//api/...`;
every client sends even what is for this machine to a proxy of `HTTP_PROXY` and its like. Both are
settings of the environment, and are put right there: child processes inherit them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import MutableMapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from usermirrorer.builders.common.errors import UserError

ENDPOINT = "HF_ENDPOINT"
#: Names of this machine that no proxy is asked for.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put the addresses in an environment right, before anything asks the network.

    Args:
        environment: Changed in place.

    Raises:
        UserError: if `HF_ENDPOINT` is no address, or a proxy needs a package that is not there.
    """
    address = environment.get(ENDPOINT, "").strip().rstrip("/")
    if address:
        _check(address)
        environment[ENDPOINT] = address
    else:
        environment.pop(ENDPOINT, None)
    no_proxy = past_proxies(environment)
    environment.update(no_proxy)
    _without_socks(environment, no_proxy["NO_PROXY"].split(","))


def past_proxies(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Return the variables by which clients ask no proxy for this machine, nor as they did before.

    Some clients read the one in small letters first, others the other: both name the same.
    """
    named = [
        name.strip()
        for variable in ("no_proxy", "NO_PROXY")
        for name in environment.get(variable, "").split(",")
    ]
    host = urlsplit(environment.get(ENDPOINT, "")).hostname or ""
    more = [*_LOOPBACK, *([host] if is_loopback(host) else [])]
    every = ",".join(dict.fromkeys(name for name in (*named, *more) if name))
    return {"NO_PROXY": every, "no_proxy": every}


def is_loopback(host: str) -> bool:
    """Say whether a host's name or address is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def path_headers() -> dict[str, str]:
    """Return what tells a local Hub below which path of a proxy it was asked.

    It gives addresses to send files to, and cannot know a path that a proxy took away.
    """
    path = urlsplit(os.environ.get(ENDPOINT, "")).path.rstrip("/")
    return {"X-Forwarded-Prefix": path} if path else {}


def _check(address: str) -> None:
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or "?" in address or "#" in address:
        raise UserError(
            f"{ENDPOINT} is no address of a Hub", where=address, fix="Give http://HOST:PORT."
        )


def _without_socks(environment: MutableMapping[str, str], direct: list[str]) -> None:
    """Drop proxies of a kind that the Hub's client cannot speak to, where it needs none.

    Without the package it fails at once, even if all that is asked is this machine.
    """
    socks = [
        name
        for variable in _PROXIES
        for name in (variable, variable.lower())
        if environment.get(name, "").lower().startswith("socks")
    ]
    if not socks or find_spec("socksio"):
        return
    if urlsplit(environment.get(ENDPOINT, "")).hostname not in direct:
        raise UserError(
            "a SOCKS proxy needs the package socksio",
            where=socks[0],
            fix="pip install socksio, or unset it.",
        )
    for name in socks:
        del environment[name]
