"""Downloads: resumed after a break, checked against a hash, recorded."""

import dataclasses
import hashlib
import http.server
import json
import threading

import pytest
from click.testing import CliRunner

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import commands
from usermirrorer.builders.raw.download import RECORD, download
from usermirrorer.builders.raw.sources import get_source

BODY = bytes(range(256)) * 20_000  # 5 MB
SHA = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY with Range; the first `drops` answers end after `keep` bytes."""

    drops, keep, etag, status, ranges = 0, 2_000_000, '"v1"', 200, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range") if server.ranges else None
        server.asked.append(asked)
        if server.status != 200:
            return self.send_error(server.status)
        start = 0
        if asked and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(BODY):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        body = BODY[start:]
        if server.drops:
            server.drops -= 1
            body = body[: server.keep]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


def test_a_dropped_connection_is_continued_where_it_broke(server, tmp_path):
    server.drops = 2
    path = download(server.url, tmp_path, "data.zip", pause=0)
    assert path.read_bytes() == BODY
    assert server.asked == [None, "bytes=2000000-", "bytes=4000000-"]
    assert not list(tmp_path.glob("*.part*"))


def test_the_next_run_continues_a_download_that_gave_up(server, tmp_path):
    server.drops = 1
    with pytest.raises(UserError, match=r"broke off at 2,000,000 bytes.*again to continue"):
        download(server.url, tmp_path, "data.zip", attempts=1)
    download(server.url, tmp_path, "data.zip", expected=f"sha256:{SHA}")
    assert server.asked[-1] == "bytes=2000000-"


def test_a_file_that_changed_on_the_server_is_begun_anew(server, tmp_path):
    server.drops = 1
    with pytest.raises(UserError):
        download(server.url, tmp_path, "data.zip", attempts=1)
    server.etag = '"v2"'
    assert download(server.url, tmp_path, "data.zip").read_bytes() == BODY


def test_a_server_without_range_still_gives_the_file(server, tmp_path):
    server.drops, server.ranges = 1, False
    assert download(server.url, tmp_path, "data.zip", pause=0).read_bytes() == BODY


def test_a_leftover_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(BODY + b"more")
    mark = {"validator": '"v1"', "url": server.url}
    (tmp_path / "data.zip.part.json").write_text(json.dumps(mark))
    assert download(server.url, tmp_path, "data.zip", pause=0).read_bytes() == BODY


def test_a_wrong_hash_leaves_no_file(server, tmp_path):
    with pytest.raises(UserError, match="has md5"):
        download(server.url, tmp_path, "data.zip", expected=f"md5:{'0' * 32}")
    assert not (tmp_path / "data.zip").exists()
    assert not (tmp_path / "data.zip.part").exists()


def test_what_is_there_is_not_fetched_again_but_checked(server, tmp_path):
    path = download(server.url, tmp_path, "data.zip")
    assert json.loads((tmp_path / RECORD).read_text())["data.zip"]["sha256"] == SHA
    download(server.url, tmp_path, "data.zip")
    assert len(server.asked) == 1
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"not [0-9a-f]{64}.*remove it"):
        download(server.url, tmp_path, "data.zip")


def test_a_refusal_is_one_clear_error_without_retries(server, tmp_path):
    server.status = 403
    with pytest.raises(UserError, match=r"refuses the download \(HTTP 403"):
        download(server.url, tmp_path, "data.zip")
    assert len(server.asked) == 1


def test_plain_http_to_elsewhere_is_not_used(tmp_path):
    with pytest.raises(UserError, match="not an https address"):
        download("http://example.org/data.zip", tmp_path, "data.zip")


def test_fetch_downloads_every_file_of_a_source(server, tmp_path, monkeypatch):
    local = dataclasses.replace(
        get_source("movielens"), downloads={"data.zip": server.url}, hashes={}
    )
    monkeypatch.setattr(commands, "get_source", lambda name: local)
    done = CliRunner().invoke(commands.fetch, ["movielens", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data.zip").read_bytes() == BODY


def test_fetch_says_what_to_do_where_download_is_not_allowed():
    done = CliRunner().invoke(commands.fetch, ["mind"])
    assert "may not be downloaded" in str(done.exception)
    assert "https://msnews.github.io/" in str(done.exception)
    assert "MINDlarge_train.zip" in str(done.exception)


def test_sources_lists_all_eleven_as_json():
    done = CliRunner().invoke(commands.sources, ["--json"])
    listed = json.loads(done.output)
    assert len(listed) == 11
    assert all(source["licence"] and source["citation"] for source in listed)
    assert [s["name"] for s in listed if s["redistributable"]] == ["kuairec"]


def test_sources_shows_everything_about_one():
    done = CliRunner().invoke(commands.sources, ["kuairec"])
    for part in ("CC BY-SA 4.0", "zenodo.org", "big_matrix.csv", "@inproceedings{gao2022kuairec"):
        assert part in done.output


def test_sources_says_what_of_a_source_is_later_than_its_scenes():
    done = CliRunner().invoke(commands.sources, ["steam"])
    assert "Limits:" in done.output and "sentiment" in done.output


def test_the_table_of_sources_cuts_no_name_short(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(commands.sources, [])
    assert done.exit_code == 0
    assert "…" not in done.output
