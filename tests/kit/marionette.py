"""Mozilla's programs, asked by their remote protocol, Marionette.

The program is started with ``--marionette`` and a profile whose ``user.js`` sets
``marionette.port`` to 0.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.kit.eventually import eventually


class Marionette:
    """Some commands of version 3.

    Each message is its length in decimal, a colon, and ``[type, number, name or error,
    parameters or result]`` in JSON.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def hello(self) -> None:
        """Read its greeting, and begin a session."""
        assert (await self._message())["marionetteProtocol"] == 3
        await self.call("WebDriver:NewSession")

    async def call(self, name: str, **parameters: object):
        """Send a command and return its result."""
        text = json.dumps([0, 1, name, parameters]).encode()
        await self._stream.send_all(b"%d:%b" % (len(text), text))
        _type, _number, error, result = await self._message()
        assert error is None, error
        return result

    async def _message(self):
        while b":" not in self._received:
            self._received += await self._stream.receive_some()
        size, _, rest = self._received.partition(b":")
        while len(rest) < int(size):
            rest += await self._stream.receive_some()
        self._received = rest[int(size) :]
        return json.loads(rest[: int(size)])


@asynccontextmanager
async def marionette(profile: Path) -> AsyncIterator[Marionette]:
    """Talk to the program that was started with this profile."""
    port = profile / "MarionetteActivePort"

    async def listens() -> bool:
        return port.exists() and port.read_text().isdecimal()

    await eventually(listens, deadline=120)
    async with await trio.open_tcp_stream("127.0.0.1", int(port.read_text())) as s:
        program = Marionette(s)
        with trio.fail_after(120):
            await program.hello()
            yield program
