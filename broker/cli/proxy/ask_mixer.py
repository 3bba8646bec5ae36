"""Requests to the mixer's socket of ``brokerctl proxy pulse``, without an event loop."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import msgspec

from broker.cli.proxy.mixer_socket import LINE_BYTES, MixerReply
from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError, UpstreamError
from broker.ipc.control.blocking_connection import require_own
from broker.ipc.control.types.sound import SoundRequest, SoundStatus


def ask_desk(path: Path, ask: SoundRequest) -> SoundStatus:
    """Ask a desk; for programs without an event loop.

    Raises FileNotFoundError when no process serves there, RefusedError for a denial,
    SetupError for another user's process, UpstreamError when it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(limits.CONTROL_REPLY_SECONDS)
        try:
            sock.connect(os.fspath(path))
            # guard: the mixer that is asked is the user's own
            require_own(sock, path)
            sock.sendall(msgspec.json.encode(ask) + b"\n")
            answer = sock.makefile("rb").readline(LINE_BYTES * 4)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
                raise FileNotFoundError(
                    error.errno, "no process is listening"
                ) from error
            raise UpstreamError(
                f"the sound filter of {path.name} does not answer: {error.strerror or error}",
                hint="to see whether the sandbox is still running, run 'brokerctl status'",
            ) from error
    try:
        said = msgspec.json.decode(answer, type=MixerReply)
    except UNREADABLE as error:
        raise UpstreamError(
            f"the sound filter of {path.name} closed the connection or sent an invalid answer",
            hint="to see whether the sandbox is still running, run 'brokerctl status'",
        ) from error
    if said.status is None:
        raise RefusedError(said.error, hint=said.hint)
    return said.status
