"""HTTP as the APIs of VMMs use it: one JSON request, one reply.  Sans-IO.

A VMM has all of a guest's memory and acts on bytes that the guest writes, so what it
replies comes from a program that the guest may have taken over.  Nothing of a reply
is kept beyond ``limits.VMM_REPLY_BYTES``, and what is not of the shape below ends it:

* a status line of HTTP/1.0 or 1.1 with a status of 200 to 599,
* headers of bounded number and size, of which only Content-Length means anything;
  a chunked body, or one without a length, is refused,
* nothing after the body.

Sources: RFC 9112; micro_http, which Firecracker and Cloud Hypervisor both use,
writes an empty reason phrase and no Content-Length if there is no body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from typing_extensions import override

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable

Body: TypeAlias = Mapping[str, object]

_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})(?: [\x20-\x7e]*)?", re.ASCII)
_HEADER = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([\x20-\x7e]*)", re.ASCII)
_LENGTH = re.compile(rb"[0-9]{1,10}", re.ASCII)
_HEAD_END = b"\r\n\r\n"
_SHOWN = 300


@dataclass(frozen=True)
class VmmRequest:
    """One request; ``body`` None: none exists."""

    method: str
    path: str
    body: Body | None = None

    @override
    def __str__(self) -> str:
        """For messages."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class VmmReply:
    """One reply, of bounded size; what ``body`` says is the VMM's word."""

    status: int
    body: bytes = b""

    @property
    def done(self) -> bool:
        """Return whether the request was carried out."""
        return 200 <= self.status < 300

    def text(self) -> str:
        """Return the body for showing."""
        return printable(self.body, _SHOWN)


def encode(request: VmmRequest) -> bytes:
    """Encode an HTTP request for a VMM's API."""
    body = b"" if request.body is None else msgspec.json.encode(request.body)
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        "Host: localhost",
        "Accept: application/json",
    ]
    if request.body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class ReplyReader:
    """Takes the bytes of one reply, in pieces of any size."""

    def __init__(self) -> None:
        self._data = b""
        self._length: int | None = None
        self._status = 0

    def feed(self, untrusted_data: bytes) -> VmmReply | None:
        """Parse received bytes; return the reply once it is complete.

        Raises UpstreamError.
        """
        self._data += untrusted_data
        # guard: a VMM's reply is bounded
        if len(self._data) > limits.VMM_REPLY_BYTES:
            raise _malformed(f"more than {limits.VMM_REPLY_BYTES} bytes")
        if self._length is None:
            head, end, rest = self._data.partition(_HEAD_END)
            if not end:
                return None
            self._status, self._length = _read_head(head)
            self._data = rest
        if len(self._data) < self._length:
            return None
        if len(self._data) > self._length:
            raise _malformed("data after the body")
        return VmmReply(self._status, self._data)


def _read_head(untrusted_head: bytes) -> tuple[int, int]:
    """Return the status and the length of the body."""
    first, *lines = untrusted_head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise _malformed("no HTTP status")
    if len(lines) > limits.VMM_REPLY_HEADERS:
        raise _malformed(f"more than {limits.VMM_REPLY_HEADERS} headers")
    length: int | None = None
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _malformed("an invalid header")
        name, value = header[1].lower(), header[2].rstrip()
        if name == b"transfer-encoding":
            raise _malformed("Transfer-Encoding in place of Content-Length")
        if name != b"content-length":
            continue
        # Two lengths: each reader might take another one.
        if length is not None or not _LENGTH.fullmatch(value):
            raise _malformed("an invalid Content-Length")
        length = int(value)
        if length > limits.VMM_REPLY_BYTES:
            raise _malformed(f"more than {limits.VMM_REPLY_BYTES} bytes")
    return int(status[1]), length or 0


def _malformed(what: str) -> UpstreamError:
    return UpstreamError(f"the VMM sent an invalid reply: {what}")
