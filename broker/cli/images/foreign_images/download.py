"""Download a signed guest image over HTTP: in parts, with limits, checked before use.

The server is not trusted: the signature is checked as soon as its bytes have arrived,
the digest over all files before the image gets its name.  An incomplete file stays for
the next download of the same address.
"""

from __future__ import annotations

import http.client
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import trio
from typing_extensions import override

from broker.cli.images import installed
from broker.cli.images.building.build_room import (
    Progress,
    disk_full_explained,
    need_space,
    only_build,
)
from broker.cli.images.foreign_images import signed
from broker.core import limits
from broker.core.errors import IntegrityError, SetupError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import Image
from broker.ipc.in_thread import in_thread

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_RETRIES = 3
"""Connections in a row that may end without ``_GAIN`` bytes more than ever before."""
_GAIN = 1 << 20
_VERSION_CHARACTERS = 1000


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to the same scheme, or from http to https."""

    @override
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        # guard: a download does not leave an encrypted connection
        if urlsplit(newurl).scheme not in {"https", req.type}:
            raise UpstreamError(
                f"cannot download {printable(req.full_url, 300)}: the server redirects "
                f"to {printable(newurl, 300)}, which is not encrypted"
            )
        # guard: the body of a redirect is not read
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _shut_down_connections() -> Iterator[urllib.request.OpenerDirector]:
    """Yield an opener; at the end, wake the threads that read from its connections.

    A close waits for such a thread, and each byte of the server renews its timeout.
    """
    sockets: list[socket.socket] = []

    class Plain(http.client.HTTPConnection):
        @override
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Encrypted(http.client.HTTPSConnection):
        @override
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        @override
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class EncryptedHandler(urllib.request.HTTPSHandler):
        @override
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, req)

    try:
        yield urllib.request.build_opener(_Redirects, PlainHandler, EncryptedHandler)
    finally:
        for sock in sockets:
            with suppress(OSError):  # it is closed
                # guard: a download that ends wakes its reader
                sock.shutdown(socket.SHUT_RDWR)


@dataclass
class _Download:
    """A file of the cache that a server's file is written to."""

    url: str
    path: Path
    limit: int
    progress: Progress
    check_begin: Callable[[], None]
    """Raises for a file whose first ``signed.BEGIN_BYTES`` are not as they must be."""
    total: int = 0
    checked: bool = False
    percent: int = 0

    @property
    def note(self) -> Path:
        """The file of the address and the server's version of the incomplete file."""
        return installed.download_note(self.path)

    def stored(self) -> tuple[int, str]:
        """Return the size of the incomplete file and its version; 0 for none."""
        try:
            url, version = self.note.read_text("ascii").split("\n")
            return (self.path.stat().st_size, version) if url == self.url else (0, "")
        except (OSError, ValueError):
            return 0, ""

    def remove(self) -> None:
        """Remove the file: the next download begins again."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def sizes(self) -> str:
        """Return how much of the file there is, for people."""
        size = self.stored()[0]
        return f"{size >> 20} of {self.total >> 20 or 'unknown'} MiB"


async def fetch_image(
    paths: Paths,
    name: str,
    url: str,
    origin: signed.ImageOrigin,
    *,
    limit: int,
    progress: Progress,
) -> Image:
    """Download the signed image at ``url`` and make it the image ``name``.

    Raises SetupError for an address that is not HTTP, UpstreamError if the server fails,
    IntegrityError and RefusedError as ``signed.import_signed``.
    """
    store.take_image_name(name)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "\n" in url:
        raise SetupError(
            f"cannot download {printable(url, 300)}: not an http(s) address",
            hint="for a file on this machine, use 'brokerctl image import FILE NAME "
            "--key PUBLIC'",
        )
    paths.images.mkdir(parents=True, exist_ok=True)
    path = installed.download_path(paths, name)

    def check_begin() -> None:
        signed.verify_begin(paths, name, path, origin)

    async with only_build(paths.images / f".{name}.lock", progress):
        need_space(paths.images, "the image")
        download = _Download(url, path, limit, progress, check_begin)
        with disk_full_explained(paths.images):
            await _complete(download)
            try:
                image = await signed.import_locked(paths, name, path, origin, progress)
            except (IntegrityError, UpstreamError):
                download.remove()  # its parts may be of two files
                raise
        download.remove()
        return image


async def _complete(download: _Download) -> None:
    """Download until the file is complete; connections that break are made again."""
    failures, reason, largest = 0, "", download.stored()[0]
    while failures <= _RETRIES:
        try:
            return await _receive(download)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answered {error.code} {printable(error.reason, 100)}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                download.remove()
            elif error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise UpstreamError(
                    f"cannot download {printable(download.url, 300)}: {reason}",
                    hint="check the address",
                ) from error
        except (trio.TooSlowError, TimeoutError):
            reason = (
                f"the server sent less than {limits.IMAGE_FETCH_BYTES >> 10} KiB in "
                f"{limits.IMAGE_FETCH_SECONDS:g} s"
            )
        # ValueError: a redirect to an address that cannot be parsed.
        except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
            reason = printable(str(getattr(error, "reason", error)), 300)
        except ConnectionError as error:
            reason = printable(str(error), 300)
        size = download.stored()[0]
        # guard: a download that begins again has not continued
        failures = 0 if size - largest >= _GAIN else failures + 1
        largest = max(largest, size)
        if failures <= _RETRIES:
            download.progress(f"{reason}; continuing after {download.sizes()}")
    raise UpstreamError(
        f"cannot download {printable(download.url, 300)}: {reason}; "
        f"{download.sizes()} are stored",
        hint="to continue the download, run the same command again",
    )


async def _receive(download: _Download) -> None:
    """Receive what is missing over one connection.  Raises ConnectionError if it breaks."""
    size, version = download.stored()
    request = urllib.request.Request(download.url)  # noqa: S310 (http and https only)
    request.add_header("Accept-Encoding", "identity")
    if size and version:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", version)
    # A response is closed after its connection was shut down.
    with ExitStack() as responses, _shut_down_connections() as opener:

        def connect() -> http.client.HTTPResponse:
            response: http.client.HTTPResponse = opener.open(
                request, timeout=limits.IMAGE_FETCH_SECONDS
            )
            return response

        with trio.fail_after(limits.IMAGE_FETCH_SECONDS):
            response = responses.enter_context(
                await in_thread(connect, abandon_on_cancel=True)
            )
        offset = _start(download, response, size)
        with download.path.open("r+b") as out:
            out.truncate(offset)
            out.seek(offset)
            await _copy(download, response, out)


def _start(download: _Download, response: http.client.HTTPResponse, size: int) -> int:
    """Return the offset that the response begins at, and prepare the file for it."""
    part = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        if part is None or int(part[1]) != size:
            download.remove()
            raise ConnectionError("the server sent another part of the file")
        download.total = int(part[2])
        download.progress(f"continuing after {download.sizes()}")
        return size
    length = response.headers.get("Content-Length", "")
    download.total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0
    # guard: a download has a limit
    if download.total > download.limit:
        raise _too_large(download)
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    # A weak version does not say that the bytes are the same.
    strong = not version.startswith("W/") and version.isascii()
    # guard: a version is sent back as it came
    if not strong or version != printable(version, _VERSION_CHARACTERS):
        version = ""
    # guard: a file that begins again is checked again
    download.checked = False
    download.path.write_bytes(b"")
    download.note.write_text(f"{download.url}\n{version}")
    return 0


async def _copy(
    download: _Download, response: http.client.HTTPResponse, out: IO[bytes]
) -> None:
    """Write a response to the file.  Raises TooSlowError, ConnectionError, as the checks."""
    while True:
        received = 0
        # guard: a server that sends too slowly ends a download
        with trio.fail_after(limits.IMAGE_FETCH_SECONDS):
            while received < limits.IMAGE_FETCH_BYTES:
                data = await in_thread(response.read1, _CHUNK, abandon_on_cancel=True)
                if not data:
                    out.flush()
                    return _end(download, out.tell())
                out.write(data)
                received += len(data)
                # guard: a download without a length has a limit
                if out.tell() > download.limit:
                    raise _too_large(download)
        out.flush()
        _report(download, out.tell())
        if out.tell() >= signed.BEGIN_BYTES:
            _check_begin(download)


def _end(download: _Download, size: int) -> None:
    if size < download.total:
        raise ConnectionError("the connection was cut")
    _check_begin(download)
    download.progress(f"downloaded {size >> 20} MiB")


def _check_begin(download: _Download) -> None:
    """Check the file's signature, once for each run."""
    if not download.checked:
        try:
            download.check_begin()
        except VitrailError:
            download.remove()
            raise
        download.checked = True


def _report(download: _Download, size: int) -> None:
    """Print the progress at each tenth of the file."""
    percent = size * 100 // download.total // 10 * 10 if download.total else 0
    if percent > download.percent:
        download.percent = percent
        total = download.total >> 20
        download.progress(f"downloaded {size >> 20} of {total} MiB ({percent} %)")


def _too_large(download: _Download) -> UpstreamError:
    download.remove()
    size = f"{download.total >> 20} MiB" if download.total else "of unknown size"
    return UpstreamError(
        f"cannot download {printable(download.url, 300)}: the file is {size}, and the "
        f"limit is {download.limit >> 20} MiB",
        hint="if the image is that large, raise the limit with --max-size",
    )
