"""A client that sends any bytes: by struct, no library between."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

INVALID = 0xFFFFFFFF
REPLY, ERROR = 2, 0


def u32(number: int) -> bytes:
    """A number."""
    return b"L" + struct.pack(">I", number)


def text(word: str | None) -> bytes:
    """A text, or none."""
    return b"N" if word is None else b"t" + word.encode() + b"\0"


def truth(value: bool) -> bytes:
    """A truth."""
    return b"1" if value else b"0"


def volume(*channels: int) -> bytes:
    """Volumes."""
    return b"v" + bytes([len(channels)]) + struct.pack(f">{len(channels)}I", *channels)


def properties(**words: str) -> bytes:
    """A property list; '_' means '.'."""
    out = b"P"
    for key, word in words.items():
        data = word.encode() + b"\0"
        out += text(key.replace("_", ".")) + u32(len(data))
        out += b"x" + struct.pack(">I", len(data)) + data
    return out + b"N"


STEREO = b"a\3\2" + struct.pack(">I", 48000) + b"m\2\1\2"
PLAYBACK = (
    STEREO + u32(INVALID) + text(None) + u32(INVALID) + truth(False) + u32(INVALID) * 3
    + u32(0) + volume(65536, 65536) + b"0" * 7 + b"00" + properties(media_name="x")
)  # fmt: skip
RECORD = (
    STEREO + u32(INVALID) + text(None) + u32(INVALID) + truth(False) + u32(1920)
    + b"0" * 7 + b"00" + properties(media_name="x") + u32(INVALID)
)  # fmt: skip
"""As in protocol version 13."""

REFUSED: dict[int, bytes] = {
    7: b"",  # EXIT
    15: text("x") + STEREO + u32(4) + properties(),  # CREATE_UPLOAD_STREAM
    16: u32(0),  # DELETE_UPLOAD_STREAM
    17: u32(0),  # FINISH_UPLOAD_STREAM
    18: u32(INVALID) + text(None) + u32(65536) + text("bell") + properties(),
    19: text("bell"),  # REMOVE_SAMPLE
    25: u32(0),  # GET_MODULE_INFO
    33: u32(0) + text(None),  # GET_SAMPLE_INFO
    36: u32(0) + text(None) + volume(0, 0),  # SET_SINK_VOLUME
    38: u32(0) + text(None) + volume(0, 0),  # SET_SOURCE_VOLUME
    39: u32(0) + text(None) + truth(True),  # SET_SINK_MUTE
    40: u32(0) + text(None) + truth(True),  # SET_SOURCE_MUTE
    44: text("viewer"),  # SET_DEFAULT_SINK
    45: text("viewer.monitor"),  # SET_DEFAULT_SOURCE
    48: u32(0),  # KILL_CLIENT
    49: u32(0),  # KILL_SINK_INPUT
    50: u32(0),  # KILL_SOURCE_OUTPUT
    51: text("module-null-sink") + text("sink_name=evil"),  # LOAD_MODULE
    52: u32(1),  # UNLOAD_MODULE
    53: text("x") + u32(0) + text("m") + text(""),  # ADD_AUTOLOAD
    54: text("x") + u32(0),  # REMOVE_AUTOLOAD
    55: text("x") + u32(0),  # GET_AUTOLOAD_INFO
    56: b"",  # GET_AUTOLOAD_INFO_LIST
    67: u32(0) + u32(0) + text(None),  # MOVE_SINK_INPUT
    68: u32(0) + u32(0) + text(None),  # MOVE_SOURCE_OUTPUT
    70: u32(0) + text(None) + truth(True),  # SUSPEND_SINK
    71: u32(0) + text(None) + truth(True),  # SUSPEND_SOURCE
    87: u32(INVALID) + text("module-stream-restore") + u32(0),  # EXTENSION
    88: u32(0) + text(None),  # GET_CARD_INFO
    90: u32(0) + text(None) + text("off"),  # SET_CARD_PROFILE
    96: u32(0) + text(None) + text("p"),  # SET_SINK_PORT
    97: u32(0) + text(None) + text("p"),  # SET_SOURCE_PORT
    100: u32(0) + text(None) + text("p") + b"r" + bytes(8),  # SET_PORT_LATENCY_OFFSET
    101: b"",  # ENABLE_SRBCHANNEL
    102: b"",  # DISABLE_SRBCHANNEL
    103: u32(7),  # REGISTER_MEMFD_SHMID
    104: text("/core") + text("list-handlers") + text(None),  # SEND_OBJECT_MESSAGE
}
"""Every command that is refused, by number, with fields that a server takes."""


class Hostile:
    """One connection.  Blocking, with a deadline for each answer."""

    def __init__(
        self, path: Path, version: int = 13, *, handshake: bool = True
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(path))
        self._tag = 0
        self.credit = 0
        self.overflows = 0
        if handshake:
            cookie = b"x" + struct.pack(">I", 256) + bytes(256)
            word = self.ask(8, u32(version | 0xC0000000) + cookie)
            assert word[0] == REPLY
            self.flags, agreed = divmod(struct.unpack(">xI", word[1])[0], 1 << 16)
            assert agreed >= version
            assert self.ask(9, properties(application_name="evil"))[0] == REPLY

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def frame(self, channel: int, body: bytes, flags: int = 0, offset: int = 0) -> None:
        """Send a frame."""
        self.sock.sendall(
            struct.pack(">IIqI", len(body), channel, offset, flags) + body
        )

    def command(self, number: int, fields: bytes = b"") -> int:
        """Send a command; its tag."""
        self._tag += 1
        self.frame(INVALID, u32(number) + u32(self._tag) + fields)
        return self._tag

    def read(self) -> tuple[int, bytes]:
        """A frame of the server's: its channel and body.  EOFError at the end."""
        size, channel = struct.unpack(">II", self._bytes(20)[:8])
        return channel, self._bytes(size)

    def _bytes(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.sock.recv(count - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError
            data += more
        return data

    def ask(self, number: int, fields: bytes = b"") -> tuple[int, bytes]:
        """Send a command; the number and fields of its answer."""
        tag = self.command(number, fields)
        while True:
            channel, body = self.read()
            if channel != INVALID:
                continue
            said, got = struct.unpack(">xIxI", body[:10])
            if said == 61:
                self.credit += struct.unpack(">xI", body[15:20])[0]
            elif said == 62:
                self.overflows += 1
            elif got == tag:
                return said, body[10:]

    def error(self, number: int, fields: bytes = b"") -> int:
        """The error that a command is answered with."""
        said, body = self.ask(number, fields)
        assert said == ERROR, (number, said, body)
        return int(struct.unpack(">xI", body)[0])

    def play(self) -> int:
        """A playback stream: its channel."""
        said, body = self.ask(3, PLAYBACK)
        assert said == REPLY, body
        channel, _, self.credit = struct.unpack(">xIxIxI", body[:15])
        return int(channel)

    def ended(self) -> bool:
        """Whether the other side has hung up (waits for it)."""
        try:
            while True:
                self.read()
        except EOFError:
            return True
        except TimeoutError:
            return False
