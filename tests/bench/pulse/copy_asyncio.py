"""As ``copy``, with asyncio's protocols and transports: what the prototype ran on.

python -m tests.bench.pulse.copy_asyncio SOCKET SERVER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


class Side(asyncio.Protocol):
    """One end; its bytes go to the other."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.mine: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it to write to."""
        assert isinstance(transport, asyncio.Transport)
        self.mine = transport

    def meet(self, other: Side) -> None:
        """From here on its bytes go there."""
        assert other.mine is not None
        self.other = other.mine
        for data in self._early:
            self.other.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other one ends, too."""
        if self.other is not None:
            self.other.close()


class Accepted(Side):
    """A client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server for it."""
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, server = await loop.create_unix_connection(Side, sys.argv[2])
        server.meet(self)
        self.meet(server)


async def main() -> None:
    """Entry point."""
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(Accepted, f"{sys.argv[1]}.new", backlog=64)
    Path(f"{sys.argv[1]}.new").rename(sys.argv[1])  # who sees it can connect
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(main())
