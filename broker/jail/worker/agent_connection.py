"""One connection of a guest agent: frames in, frames out, deadlines.

The shell around ``core.framing`` and ``ipc.agent``.  It runs in the sandbox's
jailed worker.  Whatever the guest does wrong ends this one connection.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from broker.core import limits
from broker.core.errors import PeerError
from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import link as link_limits
from broker.core.token_bucket import TokenBucket
from broker.ipc import agent

_READ_BYTES = 65536
_PINGED_VERSION = 2


class AgentShell:
    """Speaks with one agent; owns the socket.

    ``deliver`` gets every valid message in order; while it waits, and when
    the guest is faster than ``limits.AGENT_MESSAGES_PER_SECOND``, the guest
    is not read.  ``serving`` and ``displays`` are sent to it in each ping.
    """

    def __init__(
        self,
        sock: socket.socket,
        deliver: Callable[[agent.FromGuest], Awaitable[None]],
        *,
        serving: str,
        displays: Callable[[], int],
    ) -> None:
        sock.settimeout(0)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._deliver = deliver
        self._serving = serving
        self._displays = displays
        self._pings = trio.Event()
        self._timed = False
        """The agent knows the time of a ping."""
        self._pace = TokenBucket(
            limits.AGENT_MESSAGES_PER_SECOND, limits.AGENT_MESSAGES_BURST
        )
        self._outbox, self._to_guest = trio.open_memory_channel[agent.ToGuest](
            limits.WORKER_QUEUE
        )
        self._scope = trio.CancelScope()
        self._reason = ""
        self.from_guest = 0
        """Bytes of this connection; ``to_guest`` the other way."""
        self.to_guest = 0

    def send_nowait(self, message: agent.ToGuest) -> None:
        """Queue a message.  Raises trio.WouldBlock when too many wait already."""
        self._outbox.send_nowait(message)

    def give_up(self, reason: str) -> None:
        """End the connection from our side; ``run`` returns this reason."""
        self._reason = self._reason or reason
        self._scope.cancel()

    async def run(self) -> str:
        """Serve the agent's connection until either side ends; return why it ended.

        The socket is closed when this returns or is cancelled.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guard, self._read)
                    nursery.start_soon(self._guard, self._write)
                    nursery.start_soon(self._ping)
        finally:
            self._sock.close()
        return self._reason

    async def _guard(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; its error gives the guest agent up."""
        try:
            await step()
        except PeerError as error:
            self.give_up(str(error))
        except OSError as error:
            self.give_up(f"the connection failed: {error.strerror}")

    async def _read(self) -> None:
        """Read frames of the guest agent, with deadlines."""
        frames = FrameReader(limits.AGENT_FRAME_BYTES)
        greeted = False
        late = "the guest agent sent no message"
        deadline = trio.current_time() + limits.AGENT_FIRST_FRAME_SECONDS
        while True:
            with trio.move_on_at(deadline) as patience:
                untrusted_data = await self._sock.recv(_READ_BYTES)
            if patience.cancelled_caught:
                raise PeerError(f"{late} in time")
            self.from_guest += len(untrusted_data)
            if not untrusted_data:
                where = " inside a message" if frames.in_frame else ""
                raise PeerError(f"the guest agent closed the connection{where}")
            was_inside = frames.in_frame
            bodies = frames.feed(untrusted_data)
            for body in bodies:
                await self._take(body, greeted=greeted)
                greeted = True
            if not greeted:
                continue  # the first frame has one deadline, from the start
            if not frames.in_frame:
                deadline = float("inf")
            elif bodies or not was_inside:
                late = "the guest agent did not finish a message"
                deadline = trio.current_time() + limits.AGENT_FRAME_SECONDS

    async def _take(self, untrusted_body: bytes, *, greeted: bool) -> None:
        """Handle one message of the guest agent."""
        message = agent.decode_from_guest(untrusted_body)
        if isinstance(message, agent.AgentHello) is greeted:
            raise PeerError(
                "the guest agent sent AgentHello twice"
                if greeted
                else "the guest agent's first message is not AgentHello"
            )
        if isinstance(message, agent.AgentHello) and message.version >= _PINGED_VERSION:
            self._timed = message.version >= agent.TIMED_VERSION
            self._pings.set()
        await self._deliver(message)
        early = self._pace.take(trio.current_time())
        if early > 0:
            await trio.sleep(early)

    async def _ping(self) -> None:
        """Send the guest a ping at intervals, until cancelled."""
        await self._pings.wait()
        while True:
            with contextlib.suppress(trio.WouldBlock):  # it will hear the others
                now = time.time_ns() if self._timed else 0
                self._outbox.send_nowait(
                    agent.AgentPing(self._serving, self._displays(), now)
                )
            await trio.sleep(limits.AGENT_PING_SECONDS)

    async def _write(self) -> None:
        """Send queued messages to the guest agent."""
        async for message in self._to_guest:
            frame = encode_frame(agent.encode(message), limits.AGENT_FRAME_BYTES)
            left = memoryview(frame)
            with trio.move_on_after(limits.AGENT_FRAME_SECONDS) as patience:
                while left:
                    piece = left[: link_limits.LINK_PIECE_BYTES]
                    sent = await self._sock.send(piece)
                    self.to_guest += sent
                    left = left[sent:]
            if patience.cancelled_caught:
                raise PeerError(
                    "the guest agent did not read a message within "
                    f"{limits.AGENT_FRAME_SECONDS:g} s"
                )
