"""The page for people, its parts, and the description of the API: nothing of it from elsewhere."""

from __future__ import annotations

import html
import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

FOLDER = Path(__file__).parent / "page"
EXAMPLE = Path(__file__).parents[1] / "simulator" / "example.json"
#: File -> type, of what the page is made of.
PARTS = {
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src {places}; base-uri 'none'; form-action 'none'"
)
SECURITY = {
    "Content-Security-Policy": _CSP.format(places="'self'") + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

routes = APIRouter(include_in_schema=False)


def policy_of_space() -> str:
    """Return what a page elsewhere may do: ask any service, and nothing else."""
    return _CSP.format(places="'self' https: http://localhost:* http://127.0.0.1:*")


@routes.get("/")
async def index() -> Response:
    """Show the page."""
    return HTMLResponse((FOLDER / "index.html").read_text(encoding="utf-8"), headers=SECURITY)


@routes.get("/page/{name}")
async def part(name: str) -> Response:
    """Return a part of the page."""
    if name == "example.json":
        return FileResponse(EXAMPLE, media_type="application/json", headers=SECURITY)
    if name not in PARTS:
        return Response(status_code=404)
    return FileResponse(FOLDER / name, media_type=PARTS[name], headers=SECURITY)


@routes.get("/page/settings/model.json")
async def settings(request: Request) -> dict[str, Any]:
    """Tell the page what it cannot know; nothing that a token protects."""
    state = request.app.state
    simulator = state.batches.simulator
    return {
        "name": state.name,
        "mode": simulator.form.mode,
        "guided": state.guided,
        "token": bool(state.token),
        "calibrated": simulator.calibration is not None,
    }


@routes.get("/docs")
async def docs(request: Request) -> Response:
    """Describe the API on a page without scripts."""
    return HTMLResponse(_docs(json.dumps(request.app.openapi())), headers=SECURITY)


@cache
def _docs(openapi: str) -> str:
    described = json.loads(openapi)
    parts = []
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = str(body.get("schema", {}).get("$ref", "")).rsplit("/", maxsplit=1)[-1]
            schema = described.get("components", {}).get("schemas", {}).get(name, {})
            parts.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(told.get('summary', '').rstrip('?'))}: "
                f"{html.escape(told.get('description', ''))}</p>{_fields(schema)}</section>"
            )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><title>API</title>'
        '<link rel="stylesheet" href="/page/style.css"><main class="docs">'
        f"<h1>{html.escape(described['info']['title'])}</h1>"
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>. '
        '<a href="/">Back to the page</a>.</p>' + "".join(parts) + "</main></html>"
    )


def _fields(schema: dict[str, Any]) -> str:
    if not schema:
        return ""
    rows = []
    for name, field in schema.get("properties", {}).items():
        kinds = [field, *field.get("anyOf", [])]
        kind = ", ".join(str(k["type"]) for k in kinds if "type" in k and k["type"] != "null")
        default = "required" if name in schema.get("required", ()) else field.get("default", "")
        cells = (name, kind, "" if default is None else default, field.get("description", ""))
        rows.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><tr><th>field<th>type<th>default<th></tr>{body}</table>"
