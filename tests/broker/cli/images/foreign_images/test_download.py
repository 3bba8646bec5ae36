"""Signed images over HTTP, from servers that cut, lie, stall or serve too much."""

from __future__ import annotations

import io
import os
import re
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.cli.images import installed
from broker.cli.images.building import files
from broker.cli.images.foreign_images import download, importing, signed
from broker.core import limits
from broker.core.errors import IntegrityError, RefusedError, SetupError, UpstreamError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import FORMAT, ImageSpec, Manifest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIMIT = 64 << 20


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())


def signed_file(directory: Path, built: float = 1.0, key=KEY) -> bytes:
    """A signed image of 6 MiB that does not compress."""
    directory.mkdir()
    (directory / "kernel").write_bytes(os.urandom(3 << 20))
    (directory / "initrd").write_bytes(b"initrd" * 1000)
    (directory / "root").write_bytes(os.urandom(3 << 20))
    manifest = Manifest(FORMAT, ImageSpec(), "6.1", {"foot": "1"}, built, files.digest(directory), "a")  # fmt: skip
    (directory / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    target = directory.with_suffix(".image")
    signed.export_image(store.read_image("default", directory), target, key)
    return target.read_bytes()


class Server:
    """A server on loopback; ``cuts`` are the bytes that each connection sends."""

    def __init__(self) -> None:
        self.data = b""
        self.cuts: list[int] = []
        self.ranges: list[str] = []
        self.etag = '"1"'
        self.stall = False
        self.chunked = False
        self.redirect = ""
        self.range = ""
        self.status = 0
        self.ended = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.ranges.append(request.headers.get("Range", ""))
        if self.status:
            request.send_error(self.status)
            return
        if self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            request.end_headers()
            return
        start = 0
        part = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if part and request.headers.get("If-Range") == self.etag:
            start = int(part[1])
            request.send_response(206)
            last = len(self.data) - 1
            request.send_header("Content-Range", self.range or f"bytes {start}-{last}/{len(self.data)}")  # fmt: skip
        else:
            request.send_response(200)
        if not self.chunked:
            request.send_header("Content-Length", str(len(self.data) - start))
        request.send_header("ETag", self.etag)
        request.end_headers()
        remaining = self.data[start:]
        cut = self.cuts.pop(0) if self.cuts else len(remaining)
        request.wfile.write(remaining[:cut])
        if self.stall:
            while not self.ended.wait(0.02):
                request.wfile.write(remaining[cut : cut + 1])
                cut += 1
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving():
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client went away
                server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}/image"
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path: Path):
    with serving() as server:
        server.data = signed_file(tmp_path / "made")
        yield server


def fetch(paths: Paths, server: Server, key=KEY, digest="", limit=LIMIT, steps=None):
    origin = signed.ImageOrigin(key.public_key(), digest)

    async def run():
        return await download.fetch_image(
            *(paths, "tools", server.url, origin),
            limit=limit,
            progress=print if steps is None else steps.append,
        )

    return trio.run(run)


def image_files(paths: Paths) -> list[str]:
    return sorted(p.name for p in paths.images.iterdir())


def test_download_is_the_exported_image(paths, server, tmp_path):
    steps: list[str] = []
    image = fetch(paths, server, steps=steps)
    assert image.manifest.source == f"signed:{signed.fingerprint(KEY.public_key())}"
    for name in ("kernel", "initrd", "root"):
        assert (image.directory / name).read_bytes() == (tmp_path / "made" / name).read_bytes()  # fmt: skip
    assert any("downloaded 3 of 6 MiB (50 %)" in line for line in steps)
    assert ".tools.download" not in image_files(paths)


def test_cut_connections_are_continued_where_they_ended(paths, server):
    server.cuts = [2 << 20, 1 << 20, 1 << 20]
    steps: list[str] = []
    fetch(paths, server, steps=steps)
    assert server.ranges == ["", "bytes=2097152-", "bytes=3145728-", "bytes=4194304-"]
    assert "the connection was cut; continuing after 2 of 6 MiB" in steps


def test_later_download_continues_the_incomplete_file(paths, server):
    server.cuts = [2 << 20, 0, 0, 0, 0]
    with pytest.raises(UpstreamError, match="2 of 6 MiB are stored") as caught:
        fetch(paths, server)
    assert "run the same command again" in caught.value.hint
    server.ranges.clear()
    fetch(paths, server)
    assert server.ranges == ["bytes=2097152-"]


def test_changed_file_of_the_server_begins_again(paths, server, tmp_path):
    server.cuts = [2 << 20, 0, 0, 0, 0]
    with pytest.raises(UpstreamError):
        fetch(paths, server)
    server.data, server.etag = signed_file(tmp_path / "newer"), '"2"'
    assert fetch(paths, server).kernel.read_bytes() == (tmp_path / "newer/kernel").read_bytes()  # fmt: skip


def test_file_that_changed_under_one_version_is_refused(paths, server, tmp_path):
    server.cuts = [5 << 20, 0, 0, 0, 0]
    with pytest.raises(UpstreamError):
        fetch(paths, server)
    server.data = signed_file(tmp_path / "newer")
    with pytest.raises((IntegrityError, UpstreamError)):
        fetch(paths, server)
    with pytest.raises(SetupError, match="there is no guest image"):
        store.find_image(paths, "tools")
    fetch(paths, server)  # the mixed file is gone


def test_another_key_is_refused_after_the_begin(paths, server):
    server.cuts, server.stall = [5 << 20], True
    with pytest.raises(IntegrityError, match="is not signed by the key"):
        fetch(paths, server, OTHER)
    assert image_files(paths) == [".tools.lock"]


def test_another_digest_is_refused(paths, server, tmp_path):
    with pytest.raises(IntegrityError, match="has the digest"):
        fetch(paths, server, digest="0" * 64)
    assert image_files(paths) == [".tools.lock"]
    right = files.digest(tmp_path / "made")
    assert fetch(paths, server, digest=right).manifest.digest == right


def test_changed_byte_at_the_end_is_refused(paths, server):
    server.data = server.data[:-20000] + bytes(5000) + server.data[-15000:]
    with pytest.raises((IntegrityError, UpstreamError)):
        fetch(paths, server)
    with pytest.raises(SetupError, match="there is no guest image"):
        store.find_image(paths, "tools")


def test_unsigned_file_is_refused(paths, server):
    server.data = bytes(5 << 20)
    with pytest.raises(UpstreamError, match="not a signed image"):
        fetch(paths, server)


@pytest.mark.parametrize("chunked", [False, True])
def test_file_over_the_limit_is_refused(paths, server, chunked):
    server.chunked = chunked
    steps: list[str] = []
    with pytest.raises(UpstreamError, match="the limit is 5 MiB") as caught:
        fetch(paths, server, limit=5 << 20, steps=steps)
    assert steps == [], "nothing was downloaded, or the size is unknown"
    assert "--max-size" in caught.value.hint
    assert image_files(paths) == [".tools.lock"]


def test_server_that_is_too_slow_ends_the_download(paths, server, monkeypatch):
    monkeypatch.setattr(limits, "IMAGE_FETCH_SECONDS", 0.5)
    server.cuts, server.stall = [1 << 20] + [0] * 5, True
    began = time.monotonic()
    with pytest.raises(UpstreamError, match=r"less than 64 KiB in 0.5 s"):
        fetch(paths, server)
    assert time.monotonic() - began < 20
    server.stall = False
    fetch(paths, server)


def test_redirect_is_followed_but_not_to_a_file(paths, server, tmp_path):
    with serving() as first:
        first.redirect = server.url
        fetch(paths, first)
        first.redirect = (tmp_path / "made.image").as_uri()
        with pytest.raises(UpstreamError, match="Redirection to url"):
            fetch(paths, first)


def test_redirect_does_not_leave_an_encrypted_connection():
    request = urllib.request.Request("https://host/image")
    handler, headers = download._Redirects(), HTTPMessage()
    with pytest.raises(UpstreamError, match="not encrypted"):
        handler.redirect_request(request, io.BytesIO(), 302, "", headers, "http://host/x")  # fmt: skip
    for url in ("https://other/x", "https://host/y"):
        assert handler.redirect_request(request, io.BytesIO(), 302, "", headers, url)


def test_absent_file_names_the_answer(paths, server):
    server.status = 404
    with pytest.raises(UpstreamError, match="the server answered 404 Not Found"):
        fetch(paths, server)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "x", "http:/x"])
def test_other_addresses_are_refused(paths, server, url):
    server.url = url
    with pytest.raises(SetupError, match="not an http"):
        fetch(paths, server)


def test_older_image_does_not_replace_a_newer_one(paths, server, tmp_path):
    server.data = signed_file(tmp_path / "newer", built=1e6)
    fetch(paths, server)
    server.data, server.etag = signed_file(tmp_path / "older", built=1e6 - 864000), '"2"'  # fmt: skip
    with pytest.raises(RefusedError, match="was built 10 days before") as caught:
        fetch(paths, server)
    assert "image remove tools" in caught.value.hint
    installed.remove_image(paths, "tools")
    fetch(paths, server)


def test_another_signer_does_not_replace_a_signed_image(paths, server, tmp_path):
    fetch(paths, server)
    server.data = signed_file(tmp_path / "other", built=9.0, key=OTHER)
    with pytest.raises(RefusedError, match="but the new image is signed by the key"):
        fetch(paths, server, OTHER)


def test_unsigned_import_does_not_replace_a_signed_image(paths, server):
    fetch(paths, server)
    with pytest.raises(RefusedError, match="but the new image is not signed"):
        installed.refuse_downgrade(paths, "tools", "oci", 9.0)
    # An image that was not signed may be replaced by any.
    image = store.find_image(paths, "tools")
    plain = msgspec.structs.replace(image.manifest, source="oci")
    manifest = image.directory / "manifest.json"
    manifest.write_bytes(installed.manifest_bytes(plain))
    installed.refuse_downgrade(paths, "tools", "oci", 0.0)


def test_remove_takes_an_incomplete_download_with_it(paths, server):
    server.cuts = [2 << 20, 0, 0, 0, 0]
    with pytest.raises(UpstreamError):
        fetch(paths, server)
    installed.remove_image(paths, "tools")
    assert image_files(paths) == [".tools.lock"]


@contextmanager
def dripping(answer: bytes):
    """Accept one connection, send ``answer``, then a byte every 20 ms until the end."""
    ended = threading.Event()
    closed = threading.Event()

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)
            try:
                while not ended.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/image", closed
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        # Chunks drip in their size line, so that no read returns.
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["headers", "body"],
)
def test_dripping_server_is_left_while_it_still_sends(tmp_path, monkeypatch, answer):
    monkeypatch.setattr(limits, "IMAGE_FETCH_SECONDS", 0.3)
    with dripping(answer) as (url, closed):
        path = tmp_path / "file"
        target = download._Download(url, path, LIMIT, print, lambda: None)
        guard = threading.Timer(3, os._exit, (1,))  # a hang ends the test
        guard.start()
        with pytest.raises(trio.TooSlowError):
            trio.run(download._receive, target)
        guard.cancel()
        assert closed.wait(2), "the connection is still open"


def test_file_that_begins_again_is_checked_again(paths, server, monkeypatch):
    checks: list[str] = []
    check = signed.verify_begin
    monkeypatch.setattr(signed, "verify_begin", lambda *a: (checks.append(""), check(*a)))  # fmt: skip
    server.cuts, original = [5 << 20], server.data
    first = server.answer

    def answer(request: BaseHTTPRequestHandler) -> None:
        if server.ranges:  # the second connection has another file
            server.data, server.etag = bytes(len(original)), '"2"'
        first(request)

    server.answer = answer
    with pytest.raises(UpstreamError, match="not a signed image"):
        fetch(paths, server)
    assert len(checks) == 2


def test_download_that_begins_again_and_again_ends(paths, server):
    first = server.answer

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Range"):
            server.ranges.append("416")
            request.send_error(416)
            return
        server.cuts = [(1 << 20) + 100000]
        server.status = 404 if len(server.ranges) > 20 else 0  # no endless test
        first(request)

    server.answer = answer
    with pytest.raises(UpstreamError, match=r"MiB are stored"):
        fetch(paths, server)
    assert len(server.ranges) <= 6


@pytest.mark.parametrize("digits", [19, 5000])
def test_range_with_many_digits_is_another_part(paths, server, digits):
    server.cuts, server.range = [2 << 20] + [0] * 9, f"bytes {'9' * digits}-1/1"
    steps: list[str] = []
    with pytest.raises(UpstreamError):
        fetch(paths, server, steps=steps)
    assert any("another part of the file" in line for line in steps)


@pytest.mark.parametrize("length", [300, 600, 999])
def test_long_version_continues_the_download(paths, server, length):
    server.etag = f'"{"v" * length}"'[:1000]
    server.cuts = [2 << 20]
    fetch(paths, server)
    assert server.ranges == ["", "bytes=2097152-"]


@pytest.mark.parametrize("etag", ['"\xe9"', '"\x07"', '"' + "v" * 1001 + '"'])
def test_version_that_is_not_plain_begins_again(paths, server, etag):
    server.etag, server.cuts = etag, [2 << 20]
    fetch(paths, server)
    assert server.ranges == ["", ""]


def test_version_that_was_cut_begins_again(paths, server):
    paths.images.mkdir(parents=True)
    path = installed.download_path(paths, "tools")
    path.write_bytes(b"original")
    installed.download_note(path).write_text(f'{server.url}\n"v…')
    fetch(paths, server)
    assert server.ranges == [""]


def test_body_of_a_redirect_is_not_read():
    body = io.BytesIO(b"x")
    request = urllib.request.Request("https://host/image")
    download._Redirects().redirect_request(request, body, 302, "", HTTPMessage(), "https://host/y")  # fmt: skip
    assert body.closed


def test_import_that_waited_does_not_replace_a_signed_image(paths, server, monkeypatch):
    monkeypatch.setattr(importing, "needed_container", lambda *_: "")
    origin = signed.ImageOrigin(KEY.public_key())
    archive = paths.cache / "signed"

    async def never(_: Path) -> tuple[dict[str, str], str]:
        raise AssertionError("the import went on")

    async def run() -> None:
        waiting = trio.Event()

        async def plain() -> None:
            source = importing.RootSource("oci", never)
            with pytest.raises(RefusedError, match="the new image is not signed"):
                await importing.make_foreign(
                    *(paths, "tools", source, None), lambda _: waiting.set()
                )

        async with trio.open_nursery() as nursery:  # noqa: SIM117 -- the lock ends first
            async with importing.only_build(paths.images / ".tools.lock", print):
                nursery.start_soon(plain)
                await waiting.wait()
                await signed.import_locked(paths, "tools", archive, origin, print)

    paths.images.mkdir(parents=True)
    archive.write_bytes(server.data)
    trio.run(run)
