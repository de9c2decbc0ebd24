import contextlib
import gzip
import hashlib
import http.server
import threading
import time

import pytest

from charlm.data import corpus
from charlm.errors import UserError

TEXT = b"To be, or not to be.\r\n" * 10
SIZE, DIGEST = len(TEXT), hashlib.sha256(TEXT).hexdigest()


OK = b"HTTP/1.1 200 OK\r\n"
PACKED = gzip.compress(TEXT)
ODD = {
    "/short": OK + b"Content-Length: 1000000\r\n\r\n" + TEXT,
    "/chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n14\r\nTo be, or",
    "/nonsense": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "/nothing": b"",
    "/page": OK + b"Content-Type: text/html; charset=utf-8\r\n\r\n<html>the text is elsewhere",
    "/packed": OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED,
    "/badly-packed": OK + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
}
"""Answers byte for byte."""


@pytest.fixture
def server():
    """A server on this machine: /text gives the text, /away redirects to plain http elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/text":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(TEXT)
            elif self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://192.0.2.1/text")
                self.end_headers()
            elif self.path in ODD:
                self.wfile.write(ODD[self.path])
            elif self.path == "/loop":
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.end_headers()
            elif self.path == "/file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.05)
            else:
                self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def fetch(folder, sources, path=corpus.NO_PATH, size=SIZE, digest=DIGEST):
    return corpus.fetch(folder / "raw" / "corpus.txt", path, sources, size, digest, folder)


def test_the_first_source_that_answers_wins(tmp_path, server):
    (tmp_path / "local.txt").write_bytes(TEXT)
    sources = [f"{server}/missing", f"{server}/text", "local.txt"]
    received = []
    source, digest = corpus.fetch(
        tmp_path / "c", corpus.NO_PATH, sources, SIZE, DIGEST, tmp_path, received.append
    )
    assert (source, digest) == (f"{server}/text", DIGEST)
    assert (tmp_path / "c").read_bytes() == TEXT
    assert sum(received) == SIZE


def test_a_file_relative_to_the_root_is_a_source(tmp_path):
    (tmp_path / "local.txt").write_bytes(TEXT)
    assert fetch(tmp_path, ["nowhere.txt", "local.txt"])[0] == "local.txt"


def test_each_failed_source_is_listed_with_its_reason(tmp_path, server):
    (tmp_path / "short.txt").write_bytes(TEXT[:-1])
    (tmp_path / "long.txt").write_bytes(TEXT + b"x")
    (tmp_path / "wrong.txt").write_bytes(TEXT[:-1] + b"x")
    sources = [
        f"{server}/missing",
        f"{server}/away",
        "http://example.org/x",
        "ftp://example.org/x",
        "https://127.0.0.1:1/x",
        "gone.txt",
        "short.txt",
        "long.txt",
        "wrong.txt",
        ".",
    ]
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, sources)
    lines = str(caught.value).splitlines()
    reasons = [
        "HTTP 404",
        "only https",
        "only https",
        "only https",
        "no answer",
        "no such file",
        "219 bytes, but corpus.bytes is 220",
        "more than the 220 bytes",
        f"but corpus.sha256 is {DIGEST}",
        "not a regular file",
    ]
    for line, source, reason in zip(lines[1:], sources, reasons, strict=False):
        assert line.startswith(f"  {source}: ")
        assert reason in line
    assert "corpus.path" in lines[-1]
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "corpus.txt").write_text("good")
    (tmp_path / "wrong.txt").write_bytes(b"x" * SIZE)
    with pytest.raises(UserError):
        fetch(tmp_path, ["wrong.txt"])
    assert [path.read_text() for path in (tmp_path / "raw").iterdir()] == ["good"]


def test_an_own_file_is_used_as_it_is(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("anything")
    source, digest = fetch(tmp_path, ["gone.txt"], path=str(own))
    assert source == str(own)
    assert digest == hashlib.sha256(b"anything").hexdigest()


def test_a_missing_own_file_is_named_and_no_source_is_tried(tmp_path):
    (tmp_path / "local.txt").write_bytes(TEXT)
    with pytest.raises(UserError, match=r"corpus\.path.*gone\.txt: no such file"):
        fetch(tmp_path, ["local.txt"], path=str(tmp_path / "gone.txt"))


def test_without_a_checksum_a_source_is_used_as_it_is(tmp_path, server):
    digest = fetch(tmp_path, [f"{server}/text"], size=None, digest=None)[1]
    assert digest == DIGEST


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/short", "ended after 220 of 1,000,000 bytes"),
        ("/chunk", "broke off after 9 bytes"),
        ("/nonsense", "no answer"),
        ("/nothing", "no answer"),
        ("/page", "a web page, not a text"),
        ("/badly-packed", "no answer"),
        ("/loop", "redirects without an end"),
        ("/file", "only https"),
        ("/slow", "too slow"),
        ("/a blank", "HTTP 404"),
    ],
)
def test_whatever_a_source_does_the_next_one_is_taken(tmp_path, server, monkeypatch, path, reason):
    """Without a checksum: nothing else would tell what is no text."""
    monkeypatch.setattr(corpus, "TIMEOUT_S", 0.5)
    (tmp_path / "good.txt").write_bytes(TEXT)
    found = fetch(tmp_path, [f"{server}{path}", "good.txt"], size=None, digest=None)
    assert found == ("good.txt", DIGEST)
    (tmp_path / "raw/corpus.txt").write_text("old")
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, [f"{server}{path}"], size=None, digest=None)
    line = str(caught.value).splitlines()[1]
    assert reason in line
    assert len(line) < 300
    assert (tmp_path / "raw/corpus.txt").read_text() == "old"


@pytest.mark.parametrize(
    "address",
    [
        "https://[::1/x",
        "https://",
        "https:///x",
        "https://exa mple.org/x",
        "https://user:secret@127.0.0.1:1/x",
        "https://127.0.0.1:99999/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "https://\ud800.org",
    ],
)
def test_whatever_an_address_is_the_next_source_is_taken(tmp_path, address):
    (tmp_path / "good.txt").write_bytes(TEXT)
    assert fetch(tmp_path, [address, "good.txt"])[0] == "good.txt"
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, [address])
    assert "secret" not in str(caught.value)


def test_a_compressed_answer_is_unpacked(tmp_path, server):
    assert fetch(tmp_path, [f"{server}/packed"])[1] == DIGEST
