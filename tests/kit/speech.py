"""A speech synthesiser that writes its texts to a file, in place of Speech Dispatcher.

It speaks the part of SSIP that clients in Python use.
(Reference: Speech Dispatcher's manual, "SSIP".)
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager

import trio

from tests.kit.wayland.compositor import short_directory

_LISTS = {
    "OUTPUT_MODULES": ["paper"],
    "SYNTHESIS_VOICES": ["paper\ten\tnone"],
    "VOICES": ["male1"],
}
_NUMBERS = {"SPEAK": 230, "STOP": 210, "CANCEL": 210, "QUIT": 231}


class Speech:
    """Spoken texts, in order; markup and repeated spaces are left out."""

    def __init__(self) -> None:
        self.spoken: list[str] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client's connection."""
        buffer = b""
        message: list[str] | None = None
        async for data in stream:
            buffer += data
            while b"\r\n" in buffer:
                line, _, buffer = buffer.partition(b"\r\n")
                text = line.decode(errors="replace")
                if message is None:
                    await stream.send_all(_reply(text))
                    message = [] if text.upper() == "SPEAK" else None
                elif text == ".":
                    self._hear(" ".join(message))
                    await stream.send_all(b"225-1\r\n225 OK MESSAGE QUEUED\r\n")
                    message = None
                else:
                    message.append(text)

    def _hear(self, text: str) -> None:
        self.spoken.append(" ".join(re.sub(r"<[^>]*>", "", text).split()))


def _reply(command: str) -> bytes:
    words = command.upper().split() or [""]
    if words[0] == "LIST":
        values = _LISTS.get(words[1], [])
        return "".join(f"249-{value}\r\n" for value in values).encode() + b"249 OK\r\n"
    if words[0] == "GET":
        return b"251-0\r\n251 OK GET RETURNED\r\n"
    if words[0] == "HISTORY":
        return b"245-1\r\n245 OK CLIENT ID SENT\r\n"
    if words[0] in {"CHAR", "KEY", "SOUND_ICON"}:
        return b"225-1\r\n225 OK MESSAGE QUEUED\r\n"
    return b"%d OK\r\n" % _NUMBERS.get(words[0], 208)


@asynccontextmanager
async def speech():
    """Yields it, and the environment of programs that speak."""
    made = Speech()
    with (
        short_directory() as place,
        trio.socket.socket(trio.socket.AF_UNIX) as listening,
    ):
        path = place / "speech"
        await listening.bind(str(path))
        listening.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.serve_listeners, made.serve, [trio.SocketListener(listening)]
            )
            yield made, {"SPEECHD_ADDRESS": f"unix_socket:{path}"}
            nursery.cancel_scope.cancel()
