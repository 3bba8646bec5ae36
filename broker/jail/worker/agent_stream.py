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

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.limits import ssh_agent as limits
from broker.core.token_bucket import TokenBucket
from broker.ipc import transfer as messages
from broker.jail.ssh_agent.answers import FAILED, encode_answer
from broker.jail.ssh_agent.requests import NotPassedError, decode_request
from broker.jail.worker.framed_stream import FramedStream


class SshAgentStream:
    """See the head of this module."""

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
        """``asks``: the program asks an agent.  ``moved`` counts bytes in and out."""
        self._number = number
        self._sock = sock
        self._say = say
        self._order = order
        self._asks = asks
        patience = limits.SSH_SILENT_SECONDS
        self._stream = FramedStream(sock, wire.frames(), patience, moved)
        self._answered = trio.Event()
        self._asked: wire.AgentAsk | None = None
        """Of the sandbox's agent, which has not answered yet."""
        self._refused = self._reason = ""
        self._pace = TokenBucket(
            limits.SSH_REQUESTS_PER_SECOND, limits.SSH_REQUESTS_BURST
        )

    async def run(self) -> str:
        """Serve it until the broker finishes it; returns why.

        Raises PeerError for what is not the protocol, or an end, OSError.
        """
        failures: list[PeerError | OSError] = []
        async with trio.open_nursery() as nursery:

            async def guarded(step: Callable[[], Awaitable[None]]) -> None:
                try:
                    await step()
                except (PeerError, OSError) as error:
                    failures.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(guarded, self._obey)
            nursery.start_soon(guarded, self._requests if self._asks else self._answers)
        if failures:
            raise failures[0]
        return self._reason or self._refused or "done"

    async def _obey(self) -> None:
        """Follow orders until the last one."""
        while True:
            match await self._order():
                case messages.TransferFinish(reason=why):
                    self._reason = printable(why, 900)
                    return
                case messages.SshAnswer(answer=answer):
                    await self._stream.send(encode_answer(answer))
                    self._answered.set()
                case messages.SshToAgent(ask=ask):
                    self._asked = ask
                    await self._stream.send(wire.request_frame(ask))
                case _:
                    pass  # of an exchange of files; the broker sends none

    async def _requests(self) -> None:
        while True:
            untrusted_body = await self._stream.receive()
            # A flood of an ssh agent's requests waits in its sender.
            await trio.sleep(self._pace.take(trio.current_time()))
            try:
                ask = decode_request(untrusted_body)
            except NotPassedError as error:
                self._refused = f"a request was refused: {printable(str(error))}"
                await self._stream.send(FAILED)
                continue
            self._answered = trio.Event()
            await self._say(messages.SshAsked(self._number, ask))
            await self._answer_or_end()

    async def _answer_or_end(self) -> None:
        """Wait for the answer.  Raises PeerError where the program goes before."""
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
            raise PeerError("it has closed the connection")

    async def _answers(self) -> None:
        while True:
            untrusted_body = await self._stream.receive()
            asked, self._asked = self._asked, None
            # An agent answers what it was asked.
            if asked is None:
                raise PeerError("an ssh agent answers without a request")
            answer = wire.decode_answer(untrusted_body, asked)
            await self._say(messages.SshAnswered(self._number, answer))
