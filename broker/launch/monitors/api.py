"""The API socket of a VMM: one connection for each request, with a deadline.

The socket is made by the VMM, in a directory that it can write to.  A VMM that was
taken over can put anything of the name there, so a name proves nothing: a symbolic
link is not followed, and the process that listens must be the VMM.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.launch.monitors.http import ReplyReader, VmmReply, VmmRequest, encode
from broker.launch.process.identity import Tracked
from broker.launch.process.ready import wait_ready

_READ_BYTES = 1 << 14
_UCRED = struct.Struct("3i")


class ApiClient:
    """Speaks with the API of one VMM."""

    def __init__(self, path: Path, vmm: Tracked) -> None:
        self._path = path
        self._vmm = vmm

    async def wait_ready(self) -> None:
        """Wait until the VMM listens.

        Raises UpstreamError, with its output, when it ends first or takes too long.
        """
        try:
            (await wait_ready(self._vmm, self._connected)).close()
        except OSError as error:
            raise UpstreamError(
                f"{self._vmm.role} is not reachable: {error}"
            ) from error

    async def call(
        self, request: VmmRequest, *, deadline: float = limits.VMM_ANSWER_SECONDS
    ) -> VmmReply:
        """Send a request and return its reply, which may be a refusal.

        Raises UpstreamError when the VMM is gone, silent for ``deadline`` seconds, or
        replies something that is not HTTP.
        """
        who = self._vmm.role
        try:
            # guard: a silent VMM is not waited for
            with trio.move_on_after(deadline):
                return await self._exchange(request)
        except (OSError, trio.BrokenResourceError) as error:
            raise UpstreamError(f"{who} is not reachable ({request})") from error
        except UpstreamError as error:
            raise UpstreamError(f"{request}: {error.message}") from error
        raise UpstreamError(f"{who} did not answer {request} within {deadline:g} s")

    async def _exchange(self, request: VmmRequest) -> VmmReply:
        conn = self._connected()
        if conn is None:
            raise UpstreamError(f"{self._vmm.role} does not listen")
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
        async with stream:
            await stream.send_all(encode(request))
            reader = ReplyReader()
            while True:
                untrusted_data = await stream.receive_some(_READ_BYTES)
                if not untrusted_data:
                    raise UpstreamError(f"{self._vmm.role} closed the connection")
                reply = reader.feed(bytes(untrusted_data))
                if reply is not None:
                    return reply

    def _connected(self) -> socket.socket | None:
        """Connect to the VMM itself; None where it does not listen yet."""
        try:
            # guard: a VMM's API socket is not a link
            place = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISSOCK(os.fstat(place).st_mode):
                raise UpstreamError(f"{self._vmm.role}: {self._path} is not a socket")
            conn = _connect(f"/proc/self/fd/{place}")
        finally:
            os.close(place)
        if conn is not None:
            try:
                self._prove(conn)
            except BaseException:
                conn.close()
                raise
        return conn

    def _prove(self, conn: socket.socket) -> None:
        """Raise UpstreamError unless the VMM is the process that listens."""
        size = _UCRED.size
        told = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid = _UCRED.unpack(told)[0]
        # guard: a VMM's API socket is its own
        if pid != self._vmm.pid or self._vmm.ended:
            raise UpstreamError(
                f"{self._vmm.role}: {self._path} is another process's (pid {pid})"
            )


def _connect(path: str) -> socket.socket | None:
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        conn.settimeout(0)
        conn.connect(path)  # a UNIX connect is done or refused at once
    except ConnectionRefusedError:
        conn.close()
        return None
    except BlockingIOError as error:
        conn.close()
        raise UpstreamError("the VMM accepts no connection") from error
    except BaseException:
        conn.close()
        raise
    return conn
