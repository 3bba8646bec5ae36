"""Bundles from a web server: by ETag, proved by their signature alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.kit.brokerctl import Answer, called, home


class Server:
    """Serves one file, and counts how often it sent it whole."""

    def __init__(self) -> None:
        self.content, self.tag, self.sent = b"", '"1"', 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                same = self.headers.get("If-None-Match") == outer.tag
                self.send_response(304 if same else 200)
                self.send_header("ETag", outer.tag)
                self.end_headers()
                if not same:
                    outer.sent += 1
                    self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/site.bundle"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_bundle_is_fetched_once_and_a_changed_one_is_not_taken(
    tmp_path: Path, server: Server
) -> None:
    with home() as env:

        def brokerctl(*words: str) -> Answer:
            return called("policy", "bundle", *words, env=env)

        key = brokerctl("key", str(tmp_path / "key"))
        trust = ("--trust", key.out.strip())
        site, base = tmp_path / "site", tmp_path / "etc"
        (site / "policy.d").mkdir(parents=True)
        base.mkdir()

        def sign(version: int, text: str) -> bytes:
            (site / "policy.d/30-site.policy").write_text(text)
            out = tmp_path / f"{version}.bundle"
            signed = brokerctl(
                *("sign", str(site), "--key", str(tmp_path / "key"), "--name", "site"),
                *("--version", str(version), "-o", str(out)),
            )
            assert signed.code == 0, signed.err
            return out.read_bytes()

        rule = "vitrail.OpenURL * @anyvm @anyvm deny\n"
        server.content = sign(1, rule)
        fetch = ("fetch", server.url, "--to", str(base), *trust)
        assert brokerctl(*fetch).code == 0
        assert (base / "policy.d/30-site.policy").read_text() == rule
        again = brokerctl(*fetch)
        assert again.code == 0
        assert "nothing new" in again.err
        assert server.sent == 1
        # Changed on its way, then longer than a bundle may be: the rules stay.
        second = sign(2, f"# two\n{rule}")
        for wrong in (second.replace(b"# two", b"# 2wo"), b"x" * (64 << 20), b""):
            server.content, server.tag = wrong, f'"{len(wrong)}"'
            assert brokerctl(*fetch).code == 1
            assert (base / "policy.d/30-site.policy").read_text() == rule
        server.content = second
        assert brokerctl(*fetch).code == 0
        assert (base / "policy.d/30-site.policy").read_text() == f"# two\n{rule}"
        # An older one is not taken back.
        server.content, server.tag = sign(1, rule), '"old"'
        assert brokerctl(*fetch).code == 1
        away = brokerctl("fetch", "http://policy.example/x", "--to", str(base), *trust)
        assert away.code == 1
        assert "https" in away.err
