"""The HTTP server of a stand-in, which can also do what a taken-over VMM would.

``FAULT`` beside the program is a JSON file: at which request (``"PUT /vsock"``, or
``"start"``) what happens: ``refuse``, ``silent``, ``garbage``, ``flood``, ``huge``,
``close``, ``die``, ``link``.  Standard library only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from tests.kit.vm.monitors.backend import end, listen

FAULT = "fault.json"
_MOST = 51200


class RefusedError(Exception):
    """A request that is refused, with its status and its message."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


def take(body, required, optional=()):
    """Refuse a body with a field too few or too many, or of a wrong type."""
    if not isinstance(body, dict):
        raise RefusedError("invalid type: expected a struct")
    known = {**dict(required), **dict(optional)}
    for key, value in body.items():
        if key not in known:
            raise RefusedError(
                f"unknown field `{key}`, expected one of {', '.join(known)}"
            )
        kind = known[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise RefusedError(f"invalid type for `{key}`: {value!r}")
    for key in dict(required):
        if key not in body:
            raise RefusedError(f"missing field `{key}`")
    return body


def read_fault(program):
    """Return the fault of this run: {request: what}."""
    try:
        return json.loads(Path(program).with_name(FAULT).read_text())
    except FileNotFoundError:
        return {}


def serve_api(path, faults, answer, describe):
    """Serve requests forever.

    ``answer(method, path, body)`` returns None or a value for the body, or raises
    Refused; ``describe(message)`` makes an error's body.
    """
    if faults.get("start") == "die":
        end(3)
    if faults.get("start") == "link":
        os.symlink("/run/elsewhere", path)
        time.sleep(1000)
    if faults.get("start") == "silent":
        time.sleep(1000)
    listener = listen(path)
    while True:
        conn, _ = listener.accept()
        args = (conn, faults, answer, describe)
        threading.Thread(target=_serve, args=args, daemon=True).start()


def _serve(conn, faults, answer, describe):
    with conn:
        reader = conn.makefile("rb")
        while line := reader.readline():
            method, path, _version = line.decode().split()
            length = 0
            while header := reader.readline().strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            raw = reader.read(min(length, _MOST))
            fault = faults.get(f"{method} {path}")
            if fault and not _misbehave(conn, fault):
                return
            status, body = _answer(answer, describe, fault, method, path, raw)
            conn.sendall(_reply(status, body))


def _answer(answer, describe, fault, method, path, raw):
    try:
        if fault == "refuse":
            raise RefusedError("this is refused, \x1b[31m always")
        body = json.loads(raw) if raw else None
        made = answer(method, path, body)
    except RefusedError as error:
        return error.status, json.dumps(describe(str(error))).encode()
    except (ValueError, OSError) as error:
        return 400, json.dumps(describe(str(error))).encode()
    return (204, b"") if made is None else (200, json.dumps(made).encode())


def _reply(status, body):
    lines = [f"HTTP/1.1 {status} ", "Server: API", "Connection: keep-alive"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _misbehave(conn, fault):
    """Return whether the request is to be answered after all."""
    if fault == "die":
        end(3)
    if fault == "silent":
        time.sleep(1000)
    if fault == "garbage":
        conn.sendall(b"\x00\xff SSH-2.0-none\r\n\r\n")
    if fault == "huge":
        conn.sendall(b"HTTP/1.1 200 \r\nContent-Length: 9999999999\r\n\r\n")
    if fault == "flood":
        try:
            conn.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3_000_000)
        except OSError:
            return False
    return fault == "refuse"
