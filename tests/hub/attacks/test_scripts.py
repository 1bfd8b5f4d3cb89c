"""Promise: no text of a user becomes a script, an attribute or a frame of a page of the Hub."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from fastapi import Request

from tests.hub.attacks.corpus import commit, rows
from usermirrorer.hub.server.access import HubError
from usermirrorer.hub.server.app import create_app, error_response
from usermirrorer.hub.server.pages import render_card

#: What the payloads do, so that a browser can be asked whether they did it.
RUN = "document.documentElement.setAttribute(`data-ran`,1)"
PAYLOADS = {row["name"]: row["text"].replace("@", RUN) for row in rows("scripts")}
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "link",
        "body",
        "header",
        "main",
        "footer",
        "nav",
        "section",
    ),
    *("div", "span", "p", "a", "img", "h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "thead"),
    *(
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "code",
        "em",
        "strong",
        "br",
        "hr",
        "blockquote",
        "details",
    ),
    *("summary", "form", "button", "input", "label", "small", "time"),
}


class Page(HTMLParser):
    """Collects what in a page could run."""

    def __init__(self) -> None:
        super().__init__()
        self.dangers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.dangers.append(f"<{tag}>")
        for name, value in attrs:
            scheme = re.match(
                r"\s*([a-z0-9+.-]+)\s*:", re.sub(r"[\x00-\x20]", "", value or ""), re.I
            )
            code = scheme and scheme[1].lower() not in ("http", "https", "mailto")
            leads = name in ("href", "src", "action", "formaction", "srcdoc", "data", "xlink:href")
            if name.startswith("on") or name in ("style", "srcdoc") or (leads and code):
                self.dangers.append(f"{name}={value}")


def dangers(html: str) -> list[str]:
    page = Page()
    page.feed(html)
    return page.dangers


def test_what_could_run_is_seen():
    """Otherwise the tests below would hold for anything."""
    assert dangers("<script>x</script>") and dangers("<img onerror=x>")
    assert dangers("<a href=' java\tscript:x'>") and dangers("<iframe src=x>")
    assert not dangers("<a href='/x'>x</a><img src='/a.png'>")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_script_gets_out_of_a_card(payload):
    html = str(render_card(payload, "/base/"))
    assert dangers(html) == []


@pytest.fixture(scope="module")
def addresses(hub, owner) -> list[str]:
    """Pages with every payload in every text that a user gives."""
    results, files, items = [], {}, []
    for number, (name, payload) in enumerate(PAYLOADS.items()):
        data = {"dataset": {"id": "usermirrorer/board", "task_id": payload}, "value": number}
        results.append({**data, "notes": payload, "source": {"url": payload, "name": payload}})
        path = re.sub(r'[\x00-\x1f/\\:"]', "_", payload)[:100].strip(" .")
        files[f"{number}/{path}"] = name
        items.append(payload)
    card = {"pretty_name": items[0], "tags": items, "license": items[1], "configs": [{"x": items}]}
    files["README.md"] = f"---\n{json.dumps(card)}\n---\n" + "\n\n".join(items)
    files[".eval_results/x.yaml"] = json.dumps(results)
    made = ["/datasets/usermirrorer/board", "/usermirrorer/m", "/"]
    for repo in ("models/usermirrorer/m", "datasets/usermirrorer/board"):
        assert commit(owner, repo, files).status_code == 200
        lines = [{"key": "header", "value": {"summary": items[0], "description": items[5]}}]
        lines += [{"key": "file", "value": {"path": "z", "content": "z", "encoding": "utf-8"}}]
        content = "\n".join(map(json.dumps, lines))
        owner.post(f"/api/{repo}/commit/main", content=content).raise_for_status()
        for number, text in enumerate(items):
            tag = re.sub(r"[\x00-\x20~^:?*\[\\]|\.\.|@\{|//", "_", text)[:200].strip("/.-")
            owner.post(f"/api/{repo}/tag/main", json={"tag": f"{number}-{tag}", "message": text})
    for number, text in enumerate(items):
        body = {"title": f"{number}{text}"[:60], "description": text[:150]}
        made_page = owner.post("/api/collections", json={**body, "namespace": "usermirrorer"})
        slug = made_page.raise_for_status().json()["slug"]
        item = {"item": {"id": "usermirrorer/board", "type": "dataset"}, "note": text[:500]}
        owner.post(f"/api/collections/{slug}/items", json=item).raise_for_status()
        made.append(f"/collections/{slug}")
    return made


def test_no_script_gets_out_of_a_page(addresses, stranger):
    for address in addresses:
        page = stranger.get(address, headers={"Accept": "text/html"})
        assert page.status_code == 200, address
        assert dangers(page.text) == [], address
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "script-src" not in policy
    assert "&lt;script&gt;" in page.text or "&lt;img" in stranger.get("/usermirrorer/m").text


def test_error_pages_repeat_nothing_as_it_came(stranger):
    from urllib.parse import quote

    for payload in PAYLOADS.values():
        text = quote(payload.replace("\0", ""), safe="")
        for address in (f"/usermirrorer/{text}", f"/login?next={text}", f"/no/such/{text}"):
            page = stranger.get(address, headers={"Accept": "text/html"})
            assert dangers(page.text) == [], address


def test_no_message_says_where_things_lie(tmp_path):
    """Errors of libraries name files; whoever asks has no business with the folder of the Hub."""
    app = create_app(tmp_path)
    try:
        for accept in (b"*/*", b"text/html"):
            headers = [(b"accept", accept), (b"host", b"localhost")]
            scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "app": app}
            scope |= {"query_string": b"", "root_path": "", "server": ("localhost", 80)}
            error = HubError(400, f"{tmp_path}/repos/1/git is wrong")
            answer = error_response(Request(scope), error)
            told = answer.body.decode() + str(answer.headers)
            assert "git is wrong" in told and str(tmp_path) not in told
    finally:
        app.state.store.close()


def test_no_script_runs_in_a_browser(hub, addresses, tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("needs Debian's chromium")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    browser += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom"]
    for address in addresses[:2]:
        done = subprocess.run(
            [*browser, f"{hub.endpoint}{address}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "<title>" in done.stdout
        assert not re.search(r"<html[^>]*data-ran", done.stdout)
