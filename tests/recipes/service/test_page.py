"""Promise: people try a simulator in a browser, and nothing they paste becomes part of the page."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading

import pytest

from .browser import browser
from .conftest import serving

needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
READY = "!document.getElementById('ask').disabled && !document.getElementById('result').hidden"
EVIL = '<img src=x onerror="window.bad = 1"><script>window.bad = 1</script>'
TYPE = """(id, text) => {
    const field = document.getElementById(id);
    field.value = text;
    field.dispatchEvent(new Event('input'));
}"""


def ask(tab):
    tab.run("document.getElementById('ask').click()")
    tab.wait(READY)


@needs_browser
def test_a_person_asks_swaps_an_item_and_sees_what_changed(service, tmp_path):
    with browser(tmp_path / "profile") as tab:
        tab.open(service.address)
        tab.wait("document.querySelectorAll('#shown li').length === 5")  # the example is there
        assert "librarian" in tab.run("document.getElementById('profile').value")
        tab.run("document.getElementById('mode').value = 'direct'")
        ask(tab)
        shares = "[...document.querySelectorAll('.share')].map((e) => parseFloat(e.textContent))"
        first = tab.run(shares)
        assert len(first) == 5 and abs(sum(first) - 100) < 0.5
        widths = tab.run("[...document.querySelectorAll('.fill')].map((e) => e.style.width)")
        assert [round(float(w.rstrip("%")), 1) for w in widths] == first
        swapped = tab.run("document.querySelector('#shown .text').textContent")
        tab.run("document.querySelectorAll('#shown li:first-child button')[1].click()")
        assert tab.run("document.querySelector('#shown .text').textContent") != swapped
        ask(tab)
        tab.wait("document.querySelectorAll('.was').length === 4")  # the four that stayed
        assert tab.run("document.querySelector('.change').textContent") == "new"
        tab.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
        assert tab.complaints() == []


@needs_browser
def test_the_decision_process_is_seen(service, tmp_path):
    with browser(tmp_path / "profile") as tab:
        tab.open(service.address)
        tab.wait("document.querySelectorAll('#shown li').length === 5")
        ask(tab)
        heads = tab.run("[...document.querySelectorAll('dt')].map((e) => e.textContent)")
        assert [h for h in heads if h][:2] == ["Stimulus", "Stimulus Factors"]
        assert tab.run("document.getElementById('verdict').textContent").startswith("Would choose ")


@needs_browser
def test_pasted_text_never_becomes_html(service, tmp_path):
    with browser(tmp_path / "profile") as tab:
        tab.open(service.address)
        tab.wait("document.querySelectorAll('#shown li').length === 5")
        catalogue = "\n".join([f"{EVIL} {n}" for n in range(4)])
        for name in ("catalogue", "profile", "history"):
            tab.run(f"({TYPE})({json.dumps(name)}, {json.dumps(catalogue)})")
        tab.run("document.getElementById('mode').value = 'direct'")
        assert EVIL in tab.run("document.querySelector('#shown .text').textContent")
        ask(tab)
        assert EVIL in tab.run("document.querySelector('.option').textContent")
        assert tab.run("document.querySelectorAll('img, li script, section script').length") == 0
        assert tab.run("window.bad") is None
        # Even a script that got in would not run: the policy has no inline ones.
        tab.run(
            "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            "document.body.append(s)"
        )
        assert tab.run("window.bad") is None


@needs_browser
def test_errors_are_read_on_the_page_and_a_phone_needs_no_sideways_scrolling(service, tmp_path):
    with browser(tmp_path / "profile") as tab:
        tab.open(service.address, 360, 700)
        tab.wait("document.querySelectorAll('#shown li').length === 5")
        twice = "One film (1999)\nONE film (1999)\n" + "x" * 300
        tab.run(f"({TYPE})('catalogue', {json.dumps(twice)})")
        tab.run("document.getElementById('ask').click()")
        tab.wait("document.getElementById('status').className === 'bad'")
        assert "read alike" in tab.run("document.getElementById('status').textContent")
        for ident in ("catalogue-part", "more"):
            tab.run(f"document.getElementById('{ident}').open = true")
        assert tab.run("document.documentElement.scrollWidth") <= 360


def test_the_page_allows_no_inline_script_and_no_frame(service):
    import httpx

    answer = httpx.get(service.address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert (
        "<script>" not in answer.text
        and "onclick" not in answer.text
        and "style=" not in answer.text
    )
    source = httpx.get(f"{service.address}/page/app.js").text
    assert not any(word in source for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval("))
    docs = httpx.get(f"{service.address}/docs")
    assert "/v1/choose" in docs.text and "script" not in docs.text
    assert "/v1/choose" in httpx.get(f"{service.address}/openapi.json").json()["paths"]


@needs_browser
def test_the_same_page_as_a_static_space_asks_a_service_elsewhere(tiny_chat_model, tmp_path):
    space = tmp_path / "space"
    export = [sys.executable, "-m", "usermirrorer.recipes.cli", "serve", "--export-space"]
    subprocess.run([*export, str(space)], check=True, capture_output=True)
    assert "sdk: static" in (space / "README.md").read_text().split("---")[1]
    again = subprocess.run([*export, str(space)], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and again.stderr.count("\n") == 1  # nothing is overwritten
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    handler = functools.partial(quiet, directory=str(space))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        elsewhere = f"http://127.0.0.1:{files.server_port}"
        token = {"USERMIRRORER_SERVE_TOKEN": "secret"}
        log = tmp_path / "log"
        with (
            serving(tiny_chat_model, log, "--allow-origin", elsewhere, env=token) as service,
            browser(tmp_path / "profile") as tab,
        ):
            tab.open(elsewhere)
            tab.wait("document.querySelectorAll('#shown li').length === 5")
            assert "address" in tab.run("document.getElementById('status').textContent")
            tab.run("document.getElementById('mode').value = 'direct'")
            tab.run(f"document.getElementById('endpoint').value = '{service.address}/'")
            tab.run("document.getElementById('ask').click()")
            tab.wait("document.getElementById('status').className === 'bad'")
            assert "token" in tab.run("document.getElementById('status').textContent")
            tab.run("document.getElementById('token').value = 'secret'")
            ask(tab)
            assert tab.run("document.querySelectorAll('.fill').length") == 5
        files.shutdown()
