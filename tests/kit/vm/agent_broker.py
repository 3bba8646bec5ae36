"""The broker's side of a guest's ports, played by a test.

Serves the agent as an ordinary process (UNIX sockets) and in a real machine
(the hybrid vsock's ``<uds>_<port>`` sockets) alike.
"""

from __future__ import annotations

import socket
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.framing import FrameReader, encode_frame
from broker.core.services import AGENT, DISPLAY, PORTS
from broker.ipc import agent


@asynccontextmanager
async def agent_broker(vm, seconds: float = 120):
    """The ends of a machine's ports, for so long."""
    broker = AgentBroker.of(vm)
    try:
        with trio.fail_after(seconds):
            yield broker
    finally:
        with trio.CancelScope(shield=True):
            await broker.close_all()


class AgentBroker:
    """The broker's ends of a guest's ports: agent at once, display when asked."""

    def __init__(self, path: Path, display_path: Path) -> None:
        self.path = path
        self.display_path = display_path
        self.open: list[trio.abc.AsyncResource] = []
        self._listener = self._listen(self.path)
        self._stream: trio.SocketStream | None = None
        self._reader = FrameReader(limits.AGENT_FRAME_BYTES)
        self._messages: deque[agent.FromGuest] = deque()
        """Other messages than steps, which may come before and after any of them."""
        self.hops: defaultdict[str, list[agent.AgentStep]] = defaultdict(list)

    @classmethod
    def of(cls, vm) -> AgentBroker:
        """Return the ends of a machine's ports."""
        return cls(*(Path(f"{vm.uds}_{PORTS[port]}") for port in (AGENT, DISPLAY)))

    def _listen(self, path: Path) -> trio.SocketListener:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(8)
        return self.keep(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))

    def keep(self, resource):
        """Close this at the end of the test."""
        self.open.append(resource)
        return resource

    async def connect(self, path: Path) -> trio.SocketStream:
        """Connect as waypipe does."""
        return self.keep(await trio.open_unix_socket(str(path)))

    async def accept_display(self, listener) -> trio.SocketStream:
        return self.keep(await listener.accept())

    async def accept(self) -> agent.AgentHello:
        self._stream = self.keep(await self._listener.accept())
        self._reader = FrameReader(limits.AGENT_FRAME_BYTES)
        self._messages.clear()
        hello = await self.receive(agent.AgentHello)
        return hello

    def listen_display(self) -> trio.SocketListener:
        return self._listen(self.display_path)

    async def _read(self) -> bool:
        """Take what has come; whether the agent is there."""
        data = await self._stream.receive_some(65536)
        for body in self._reader.feed(data):
            message = agent.decode_from_guest(body)
            if isinstance(message, agent.AgentStep):
                self.hops[message.name].append(message)
            else:
                self._messages.append(message)
        return bool(data)

    async def next(self):
        """The next message that is not a step; None at the end."""
        while not self._messages:
            if not await self._read():
                return None
        return self._messages.popleft()

    async def receive(self, kind):
        """The next message that is not a step must be of this kind."""
        message = await self.next()
        assert isinstance(message, kind), message
        return message

    async def wait_hop(self, name, *, ok):
        """The next step of this name and outcome; those before it are over."""
        while True:
            while self.hops[name]:
                hop = self.hops[name].pop(0)
                if hop.ok == ok:
                    return hop
            assert await self._read(), "the agent has gone"

    async def ended(self, program):
        """Collect output until this program has ended."""
        said = b""
        while True:
            message = await self.next()
            match message:
                case agent.Output():
                    assert message.program == program
                    said += message.data
                case agent.AgentExited():
                    assert message.program == program
                    return said, message.code
                case agent.AgentStarted():
                    assert message.program == program
                case _:
                    pytest.fail(f"unexpected {message}")

    async def send(self, message) -> None:
        await self.send_raw(agent.encode(message))

    async def send_raw(self, body: bytes) -> None:
        await self._stream.send_all(encode_frame(body, limits.AGENT_FRAME_BYTES))

    async def close(self) -> None:
        await self._stream.aclose()

    async def close_all(self) -> None:
        for resource in self.open:
            await resource.aclose()

    async def run(self, *argv, program=1, env=None, display=False) -> None:
        await self.send(
            agent.Run(program=program, argv=list(argv), env=env or {}, display=display)
        )
