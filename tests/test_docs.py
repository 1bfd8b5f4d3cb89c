"""Promise: the documentation's site builds without a warning, is whole, and asks nobody else."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.product import modules
from tests.recipes.service.browser import browser

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
RESULTS = ".md-search-result__link"
HOSTS = "performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
PAGE = "document.documentElement"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    mkdocs = [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "-d", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(mkdocs, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


def test_every_module_and_readme_is_on_a_page_and_no_link_leads_nowhere(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    shown = set(re.findall(r'id="(usermirrorer\.[\w.]+)"', text))
    missing = [
        name
        for name, (path, _) in modules().items()
        if (path.parent / "__init__.py").is_file() and not path.stem.startswith("_")
        if f"usermirrorer.{name}" not in shown
    ]
    assert missing == []
    for page in ("index", "tasks", "recipes", "hub", "contributing"):
        html = (site / f"{page}.html").read_text(encoding="utf-8")
        for link in re.findall(r'href="([^"#:]+\.html)', html):
            assert (site / link).is_file(), f"{page} links to {link}"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_reader_finds_a_word_and_nothing_comes_from_elsewhere(site, tmp_path):
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with browser(tmp_path / "profile") as tab:
            for width in (1280, 390):
                tab.open(f"{address}/index.html?q=placebo", width=width)
                tab.wait(f"document.querySelectorAll('{RESULTS}').length > 0")
                hosts = (
                    "performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
                )
                assert set(tab.run(hosts)) == {address}
                room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert tab.run(room) <= 0
            tab.picture(tmp_path / "search.png")
    finally:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
