"""The socket that a VMM makes for its API, and the proof that it is the VMM's.

It is in a directory that the VMM can write to.  A VMM that was taken over can put
anything of the name there, so a name proves nothing: a symbolic link is not followed,
and the process that listens must be the VMM.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.host.processes.ready import wait_ready
from broker.host.processes.tracked import Tracked
from broker.net.peers.peer_process import peer_numbers
from broker.net.refused_descriptors import refuse_descriptors


class ApiSocket:
    """The socket of one VMM; ``packets``: it is a SOCK_SEQPACKET."""

    def __init__(self, path: Path, vmm: Tracked, *, packets: bool = False) -> None:
        self.path = path
        self.vmm = vmm
        self._kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM

    async def wait_ready(self) -> None:
        """Wait until the VMM listens on its API socket.

        Raises UpstreamError, with its output, when it ends first or takes too long.
        """
        try:
            (await wait_ready(self.vmm, self.connected)).close()
        except OSError as error:
            raise UpstreamError(f"{self.vmm.role} does not answer: {error}") from error

    def connected(self) -> socket.socket | None:
        """Return a connection that the VMM itself accepted.

        None if it does not listen.
        """
        try:
            with self._opened() as (path, _fd):
                return self._connected(path)
        except FileNotFoundError:
            return None

    @contextmanager
    def proven(self) -> Iterator[tuple[str, int]]:
        """Yield a path to the VMM's API socket, and the descriptor behind that path.

        For our program, which connects in its turn: to the same socket,
        whatever is at its name by then.  Raises UpstreamError.
        """
        try:
            with self._opened() as (path, fd):
                conn = self._connected(path)
                if conn is None:
                    raise UpstreamError(f"{self.vmm.role} does not accept connections")
                conn.close()
                yield path, fd
        except OSError as error:
            raise UpstreamError(f"{self.vmm.role} does not answer: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[tuple[str, int]]:
        """Hold the VMM's socket path open.  Raises UpstreamError."""
        # guard: a VMM's API socket is not a link
        place = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(place).st_mode):
                raise UpstreamError(f"{self.path} of {self.vmm.role} is not a socket")
            yield f"/proc/self/fd/{place}", place
        finally:
            os.close(place)

    def _connected(self, path: str) -> socket.socket | None:
        """Connect to the VMM's socket and prove that the VMM serves it."""
        conn = socket.socket(socket.AF_UNIX, self._kind | socket.SOCK_CLOEXEC)
        try:
            # guard: the API of a VMM sends no descriptor
            refuse_descriptors(conn)
            conn.settimeout(0)
            conn.connect(path)  # a UNIX connect is done or refused at once
            self._prove(conn)
        except ConnectionRefusedError:
            conn.close()
            return None
        except BlockingIOError as error:
            conn.close()
            raise UpstreamError("the VMM does not accept connections") from error
        except BaseException:
            conn.close()
            raise
        return conn

    def _prove(self, conn: socket.socket) -> None:
        """Raise UpstreamError unless the VMM is the process that listens."""
        pid = peer_numbers(conn)[0]
        # guard: a VMM's API socket is its own
        if pid != self.vmm.pid or self.vmm.ended:
            raise UpstreamError(
                f"process {pid} listens on {self.path}, not {self.vmm.role}"
            )
