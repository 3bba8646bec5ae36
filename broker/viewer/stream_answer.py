"""The answer that a viewer gives to the preamble of a stream."""

from __future__ import annotations

import socket

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.limits import link as limits
from broker.net.link.preamble import PreambleVerdict
from broker.net.link.preamble_gate import PreambleGate
from broker.net.link_service.sockets import send_all
from broker.viewer.host_ends.host_intake import IntakePlace


class StreamAnswer:
    """The one answer to a preamble.

    On a separate descriptor, because the code that carries the stream owns and
    closes the other one, also when it refuses.
    """

    def __init__(
        self, conn: socket.socket, gate: PreambleGate, preamble: bytes
    ) -> None:
        self._sock: socket.socket | None = conn.dup()
        self._gate = gate
        self._preamble = preamble
        self.place: IntakePlace | None = None
        """Of the undecided, which it has until it is answered."""

    async def __call__(self, error: VitrailError | None) -> None:
        """Answer that the stream is accepted and its payload may come, or why not."""
        if error is None:
            await self.say(PreambleVerdict.TAKEN)
        elif isinstance(error, RefusedError):
            await self.say(PreambleVerdict.DENIED)
        else:
            await self.say(PreambleVerdict.FAILED)

    async def say(self, verdict: PreambleVerdict) -> None:
        """Send the verdict on a stream's preamble to the host, once; free its place."""
        # guard: a decision frees the place
        self._leave_place()
        sock, self._sock = self._sock, None
        if sock is None:
            return
        with sock, trio.move_on_after(limits.LINK_HANDSHAKE_SECONDS):
            answer = self._gate.answer(self._preamble, verdict)
            try:
                await send_all(sock, answer)
            except UpstreamError:
                return  # it has gone; the code that carries the stream detects it

    def close(self) -> None:
        """Free its place and close our descriptor; the stream has no answer if none came."""
        # guard: an end frees the place
        self._leave_place()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _leave_place(self) -> None:
        if self.place is not None:
            self.place.close()
