"""In the worker: one connection of the ssh agent's protocol, of either end.

A program that asks an agent: one request at a time is decoded and passed on, and its
answer written.  A program that leads to the sandbox's agent: requests of another
sandbox, which were decided, are written, and the answers decoded.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from typing_extensions import override

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.limits import ssh_agent as limits
from broker.core.token_bucket import TokenBucket
from broker.ipc import transfer as messages
from broker.jail.ssh.answers import FAILED, encode_answer
from broker.jail.ssh.requests import NotPassedError, decode_request
from broker.jail.worker.framed_stream import FramedStream, ServedStream


class SshAgentStream(ServedStream):
    """Decodes one connection of an ssh agent or of its client."""

    def __init__(
        self,
        number: int,
        sock: trio.socket.SocketType,
        say: Callable[[messages.FromWorker], Awaitable[None]],
        order: Callable[[], Awaitable[messages.ToWorker]],
        *,
        asks: bool,
        moved: Callable[[int, int], None],
    ) -> None:
        """Serve one stream; ``asks``: the program asks an agent."""
        patience = limits.SSH_SILENT_SECONDS
        stream = FramedStream(sock, wire.frames(), patience, moved)
        super().__init__(number, stream, say, order)
        self._sock = sock
        self._asks = asks
        self._answered = trio.Event()
        self._asked: wire.AgentAsk | None = None
        """Of the sandbox's agent, which has not answered yet."""
        self._pace = TokenBucket(
            limits.SSH_REQUESTS_PER_SECOND, limits.SSH_REQUESTS_BURST
        )

    @override
    def steps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """See ``ServedStream``."""
        return (self._requests if self._asks else self._answers,)

    @override
    async def take(self, order: messages.StreamTell | messages.DaemonMore) -> None:
        """Send the program an answer, or the sandbox's agent a request."""
        if isinstance(order, messages.DaemonMore):
            return
        if isinstance(order.message, wire.AgentAnswer):
            await self._stream.send(encode_answer(order.message))
            self._answered.set()
        elif isinstance(order.message, wire.AgentAsk):
            self._asked = order.message
            await self._stream.send(wire.request_frame(order.message))

    async def _requests(self) -> None:
        """Read an ssh agent's requests; send them to the viewer."""
        while True:
            untrusted_body = await self._stream.receive()
            # A flood of an ssh agent's requests waits in its sender.
            await trio.sleep(self._pace.take(trio.current_time()))
            try:
                ask = decode_request(untrusted_body)
            except NotPassedError as error:
                self._refused = f"rejected a request: {printable(str(error))}"
                await self._stream.send(FAILED)
                continue
            self._answered = trio.Event()
            await self.pass_on(ask)
            await self._answer_or_end()

    async def _answer_or_end(self) -> None:
        """Wait for the answer.

        Raises PeerError where the program disconnects before.
        """
        gone = False
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal gone
                await trio.lowlevel.wait_readable(self._sock)
                untrusted_next = b""
                # guard: a program that goes with an answer unread ends alone
                with suppress(ConnectionError):
                    untrusted_next = await self._sock.recv(1, socket.MSG_PEEK)
                # guard: a question ends with its asker
                gone = not untrusted_next
                if gone:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self._answered.wait()
            nursery.cancel_scope.cancel()
        if gone:
            raise PeerError("the program closed the connection")

    async def _answers(self) -> None:
        """Read an ssh agent's answers; pass them back."""
        while True:
            untrusted_body = await self._stream.receive()
            asked, self._asked = self._asked, None
            # An agent answers its request.
            if asked is None:
                raise PeerError("the ssh agent sent a reply without a request")
            await self.pass_on(wire.decode_answer(untrusted_body, asked))
