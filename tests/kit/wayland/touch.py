"""Fingers on KWin's screen, as a person would put them there.

org_kde_kwin_fake_input has touch points, and needs no device of the kernel's.  KWin
serves it to a test where it was started with ``ALLOWED``; the filter never shows it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Self

from tests.kit.wayland.client import HEADER, Client

_MANAGER = "org_kde_kwin_fake_input"
_VERSION = 4
_AUTHENTICATE, _DOWN, _MOTION, _UP, _CANCEL, _FRAME = 0, 4, 5, 6, 7, 8
"""Requests of it, by their place in the protocol."""
ALLOWED = {"KWIN_WAYLAND_NO_PERMISSION_CHECKS": "1"}
"""KWin's environment in which any client may use its privileged protocols."""


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


class FakeInput:
    """A connection to KWin that has its fake input."""

    def __init__(self, display: Path | str) -> None:
        self.client = Client(display).start()
        name, _ = self.client.globals[_MANAGER]
        self._input = self.client.next_id
        self.client.next_id += 1
        self.client.send(
            self.client.registry, "bind", name, _MANAGER.encode(), _VERSION, self._input
        )
        self._say(_AUTHENTICATE, _text("test") + _text("touch"))
        self.client.roundtrip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def _say(self, opcode: int, body: bytes = b"") -> None:
        self.client.raw(HEADER.pack(self._input, opcode, 8 + len(body)) + body)


class Fingers(FakeInput):
    """``with Fingers(path) as f: f.down(1, 10, 20); f.up(1)``; each is a frame."""

    def _frame(self) -> None:
        self._say(_FRAME)
        self.client.roundtrip()

    def down(self, finger: int, x: float, y: float) -> None:
        """Put a finger on the screen."""
        self._say(_DOWN, struct.pack("=Iii", finger, int(x * 256), int(y * 256)))
        self._frame()

    def motion(self, finger: int, x: float, y: float) -> None:
        """Move it."""
        self._say(_MOTION, struct.pack("=Iii", finger, int(x * 256), int(y * 256)))
        self._frame()

    def up(self, finger: int) -> None:
        """Take it away."""
        self._say(_UP, struct.pack("=I", finger))
        self._frame()

    def cancel(self) -> None:
        """Have the compositor take all fingers over."""
        self._say(_CANCEL)
        self.client.roundtrip()
