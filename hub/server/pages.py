"""Web pages: an index, and for each repository its card, files, versions, first rows, leaderboard.

A browser signs in with a token and gets a cookie that reads for some hours what the token's user
may see; it can change nothing.

Cards come from users: Markdown is rendered with HTML switched off, addresses with a scheme that
could run code are dropped by the renderer, and the pages' content policy allows no script at all.
"""

from __future__ import annotations

import fnmatch
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import pygit2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from usermirrorer.hub.server import (
    access,
    collections,
    derived,
    history,
    objects,
    preview,
    results,
    trees,
)
from usermirrorer.hub.server.access import COOKIE, HubError
from usermirrorer.hub.server.addresses import asked_path
from usermirrorer.hub.server.api_content import resolve
from usermirrorer.hub.server.cards import card_data
from usermirrorer.hub.server.routing import commit_of, iso, kind_of, open_repo, root_of
from usermirrorer.hub.server.store import KINDS, Repo

if TYPE_CHECKING:
    from jinja2 import Environment

router = APIRouter()
#: Rows shown of each config, longest cell, largest Parquet file that is opened for them.
ROWS, CELL, PARQUET_LIMIT = 5, 240, 512 << 20
#: Files, versions and results listed on a page, letters of a card; the rest is in the API.
_FILES, _VERSIONS, _RESULTS, _CARD = 1000, 200, 500, 200_000
#: Entries looked through for patterns of files, and comparisons of one with a pattern.
_WALKED, _COMPARED = 5000, 30_000
#: Configurations whose first rows are shown.
_CONFIGS = 50
_POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/style.css")
def style() -> Response:
    """Send the one style sheet."""
    text = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return Response(text, media_type="text/css")


@router.get("/")
def index(request: Request) -> HTMLResponse:
    """Show the repositories that the visitor may see."""
    user = access.visitor(request)
    mine = user.name.lower() if user else ""
    groups = {
        kind: [
            {
                "name": record.full_name,
                "address": address(record),
                "since": iso(record.created),
                "private": record.private,
            }
            for record in access.store_of(request).repos("kind = ?", (kind,))
            if not record.private or record.namespace.lower() == mine
        ][:_FILES]
        for kind in KINDS
    }
    return _page(
        request, "index.html.jinja", groups=groups, collections=collections.visible(request)
    )


@router.get("/login")
def login(request: Request) -> HTMLResponse:
    """Ask for a token."""
    return _page(request, "login.html.jinja", wrong=False)


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Let the browser of whoever has a token read with it, and go on where they came from."""
    form = parse_qs((await access.body(request, 4096)).decode("utf-8", "replace"))
    token = form.get("token", [""])[0].strip()
    kept = await run_in_threadpool(access.store_of(request).open_session, token)
    if kept is None:
        show = partial(_page, request, "login.html.jinja", wrong=True, status=401)
        return await run_in_threadpool(show)
    answer = RedirectResponse(_next(request), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, kept, httponly=True, samesite="lax", secure=secure)
    return answer


@router.post("/logout")
def sign_out(request: Request) -> Response:
    """Forget the browser's session."""
    answer = RedirectResponse(f"{root_of(request)}/", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return answer


def _next(request: Request) -> str:
    """Return where to go after signing in: a page of this server, whatever the address says."""
    home = f"{root_of(request)}/"
    path = quote(request.query_params.get("next", home), safe="/%")
    return path if path.startswith("/") and not path.startswith("//") else home


def error_page(request: Request, error: HubError) -> HTMLResponse:
    """Show an error, with the way to sign in where that may help."""
    return _page(
        request,
        "error.html.jinja",
        status=error.status,
        message=error.message,
        hidden=error.code in ("RepoNotFound", "GatedRepo"),
    )


@router.get("/collections/{namespace}/{slug}")
def collection(request: Request, namespace: str, slug: str) -> HTMLResponse:
    """Show what belongs to a release, each repository at the version that its note names."""
    shown = collections.readable(request, namespace, slug)
    items, boards = [], results.datasets_with_results(request)
    for item in shown["items"][:_RESULTS]:
        record: Repo = item["record"]
        tags = history.references(open_repo(request, record))["tags"]
        tag = next((word for word in item["note"].split() if word in tags), None)
        board = record.kind == "dataset" and record.full_name.lower() in boards
        items.append(
            {
                "record": record,
                "note": item["note"],
                "address": address(record) + (f"/tree/{quote(tag, safe='')}" if tag else ""),
                "leaderboard": f"{address(record)}#leaderboard" if board else "",
            }
        )
    return _page(request, "collection.html.jinja", collection=shown, items=items)


@router.get("/{namespace}/{name}")
@router.get("/{kinds:kinds}/{namespace}/{name}")
@router.get("/{namespace:owner}/{name}/tree/{revision:ref}")
@router.get("/{kinds:kinds}/{namespace}/{name}/tree/{revision:ref}")
@router.get("/{namespace:owner}/{name}/commit/{revision:ref}")
@router.get("/{kinds:kinds}/{namespace}/{name}/commit/{revision:ref}")
def repository(
    request: Request, namespace: str, name: str, kinds: str = "models", revision: str = "main"
) -> HTMLResponse:
    """Show a repository at a revision."""
    record = access.readable(request, kind_of(kinds), namespace, name, files=True)
    repo = open_repo(request, record)
    commit = commit_of(repo, revision)
    base = f"{address(record)}/resolve/{quote(revision, safe='')}/"
    files = [e for e in islice(trees.walk(repo, commit), _WALKED) if not e.is_folder][:_FILES]
    references = history.references(repo)
    return _page(
        request,
        "repository.html.jinja",
        record=record,
        address=address(record),
        revision=revision,
        commit=str(commit.id),
        date=iso(commit.commit_time),
        message=commit.message.partition("\n")[0][:200],
        card=_card(repo, commit, root_of(request) + base),
        files=[{"path": e.path, "size": e.size, "address": base + quote(e.path)} for e in files],
        many_files=len(files) == _FILES,
        tags=[*reversed(references["tags"]), *references["heads"]][:_VERSIONS],
        tables=first_rows(request, record, repo, commit) if record.kind == "dataset" else [],
        leaderboard=_board(request, record) if record.kind == "dataset" else [],
        results=[r["data"] for r in results.read(repo, commit) if "data" in r][:_RESULTS],
    )


def _board(request: Request, record: Repo) -> list[dict[str, Any]]:
    return results.leaderboard(request, record)[:_RESULTS]


def address(record: Repo) -> str:
    """Return the path of a repository's page."""
    return ("" if record.kind == "model" else f"/{record.kind}s") + f"/{record.full_name}"


def _page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    try:
        user = access.visitor(request)
    except HubError:  # the error page of a wrong token is a page as well
        user = None
    values |= {
        "user": user.name if user else "",
        "here": root_of(request) + asked_path(request.scope),
        "root": root_of(request),
        "status": status,
    }
    headers = _POLICY | ({"Cache-Control": "private, no-store"} if user else {})
    return HTMLResponse(_templates().get_template(template).render(values), status, headers)


@lru_cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )


def _card(repo: pygit2.Repository, commit: pygit2.Commit, base: str) -> Any:
    """Return the card rendered; it is rendered once, as hostile Markdown can take seconds."""
    from markupsafe import Markup

    readme = history.entry(repo, commit, "README.md")
    if readme is None or readme.is_folder or readme.lfs:
        return ""
    rendered: str = derived.record(
        Path(repo.path).parent, "html", readme.oid, lambda: _rendered(repo, readme)
    )
    return Markup(rendered.replace(_BASE, base))  # `base` is quoted, the rest is render_card's


#: Stands for the address below which a card's links are, which depends on the revision shown.
_BASE = "/\ue000base\ue000/"


def _rendered(repo: pygit2.Repository, readme: history.Entry) -> str:
    text = history.content(repo, readme).decode("utf-8", "replace").replace("\r\n", "\n")
    if text.startswith("---\n") and "\n---" in text[4:]:
        text = text[4:].partition("\n---")[2].partition("\n")[2]
    if len(text) > _CARD:
        text = text[:_CARD] + "\n\n*The card is longer, see the file README.md.*"
    return str(render_card(text.replace("\ue000", ""), _BASE))


def render_card(text: str, base: str) -> Any:
    """Render Markdown safely; relative addresses are taken below `base`."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        if token.attrs.pop("style", "") == "text-align:right":  # the policy allows no inline style
            token.attrs["class"] = "number"
        for child in token.children or ():
            for attribute in ("src", "href"):
                target = str(child.attrs.get(attribute, ""))
                if target and not target.startswith(("/", "#")) and ":" not in target:
                    child.attrs[attribute] = base + target.removeprefix("./")
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def first_rows(
    request: Request, record: Repo, repo: pygit2.Repository, commit: pygit2.Commit
) -> list[dict[str, Any]]:
    """Return `config`, `split`, `columns` and a few `rows` (texts) of each config in the card."""
    folder = access.store_of(request).folder(record)
    shown: list[tuple[str, str, str]] = derived.record(
        folder, "tables", str(commit.tree_id), lambda: _tables(repo, commit)
    )
    paths = tuple(objects.path_of(folder, oid) for _, _, oid in shown)
    heads = preview.first_rows(paths, ROWS, CELL)
    return [
        {"config": config, "split": split, **head}
        for (config, split, _), head in zip(shown, heads, strict=True)
        if head is not None
    ]


def _tables(repo: pygit2.Repository, commit: pygit2.Commit) -> list[tuple[str, str, str]]:
    """Return (config, split, SHA-256 of its first Parquet file) of the configs in the card."""
    patterns = _patterns(card_data(repo, commit).get("configs"))
    entries = islice(trees.walk(repo, commit), _WALKED) if patterns else ()
    walked = [entry for entry in entries if _is_parquet(entry)]
    left, tables = _COMPARED, []
    for config, split, pattern in patterns:
        file = history.entry(repo, commit, pattern)
        if file is None or not _is_parquet(file):
            looked_at = walked[: max(left, 0)]
            left -= len(looked_at)
            file = next((e for e in looked_at if fnmatch.fnmatchcase(e.path, pattern)), None)
        if file is not None and file.lfs is not None:
            tables.append((config, split, file.lfs[0]))
    return tables


def _is_parquet(file: history.Entry) -> bool:
    return bool(file.lfs) and file.path.endswith(".parquet") and file.size <= PARQUET_LIMIT


def _patterns(configs: Any) -> list[tuple[str, str, str]]:
    """Return (config, split, pattern) of the first split of each config; ignore what is odd."""
    patterns = []
    for config in configs if isinstance(configs, list) else []:
        files = config.get("data_files") if isinstance(config, dict) else None
        for row in files[:1] if isinstance(files, list) else []:
            path = row.get("path") if isinstance(row, dict) else None
            first = path[0] if isinstance(path, list) and path else path
            if isinstance(first, str) and len(first) <= CELL:
                patterns.append((str(config.get("config_name")), str(row.get("split")), first))
            if len(patterns) == _CONFIGS:
                return patterns
    return patterns


@router.get("/{namespace:owner}/{name}/blob/{revision:ref}/{path:below}")
@router.get("/{kinds:kinds}/{namespace}/{name}/blob/{revision:ref}/{path:below}")
def blob(
    request: Request, *, namespace: str, name: str, revision: str, path: str, kinds: str = "models"
) -> Response:
    """Show a file as it is."""
    return resolve(
        request, namespace=namespace, name=name, revision=revision, path=path, kinds=kinds
    )
