"""A conversation with one sound filter: a client's words, a server's answers.

``Talk`` plays both sides with bytes made here, by struct and not by the code
under test where that matters; ``Server`` answers as pulseaudio would.  ``Peer``
is one end of a real socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from broker.core.streams.sound_rules import Level, SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, REQUESTS, Command
from broker.jail.sound.filter import PulseFilter
from broker.jail.sound.samples import format_of, is_valid
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.sound.tagstruct import Reader, Spec, encode

STEREO = Spec(3, 2, 48000)
C = Command


def cut(data: bytes, limit: int = 8 << 20):
    """All frames in some bytes; nothing may be left over."""
    cutter = frames.Cutter(limit)
    cutter.push(data)
    found = []
    while (frame := cutter.next()) is not None:
        found.append(frame)
    assert not cutter.waiting
    return found


@dataclass(frozen=True)
class Said:
    """A command on the wire."""

    command: Command
    tag: int
    body: bytes = field(repr=False)

    def fields(self, signature: str):
        """Its fields, which must be exactly these."""
        reader = Reader(self.body)
        found = reader.fields(signature)
        reader.end()
        return found


def commands(data: bytes) -> list[Said | frames.Samples]:
    """Return the commands and sample frames in a byte string."""
    found: list[Said | frames.Samples] = []
    for frame in cut(data):
        if isinstance(frame, frames.Samples):
            found.append(frame)
        else:
            number, tag = frames.head(frame.body)
            found.append(Said(Command(number), tag, frame.body[frames.HEAD_BYTES :]))
    return found


def create_playback(
    version: int = 35,
    *,
    spec: Spec = STEREO,
    sink: int = INVALID,
    name: str | None = None,
    maxlength: int = INVALID,
    volume: tuple[int, ...] | None = None,
    properties: dict | None = None,
    formats: list | None = None,
    passthrough: bool = False,
    muted: bool | None = None,
    positions: tuple[int, ...] | None = None,
    variable: bool = False,
    sync: int = 0,
    tlength: int = INVALID,
    minreq: int = INVALID,
    early: bool = False,
) -> bytes:
    """The fields of CREATE_PLAYBACK_STREAM as libpulse fills them."""
    channels = spec.channels
    positions = positions or tuple(range(channels))
    values = [
        *(
            spec,
            positions,
            sink,
            name,
            maxlength,
            False,
            tlength,
            INVALID,
            minreq,
            sync,
        ),
        volume or (65536,) * channels,
        *(False,) * 6,
        variable,
        bool(muted),
        False,
        properties if properties is not None else {"media.name": b"tone\0"},
        volume is not None,
        *(early, muted is not None, False, False, False),
        passthrough,
        formats or [],
    ]
    signature = REQUESTS[C.CREATE_PLAYBACK_STREAM].signature(version)
    return encode(signature, values[: len(signature)])


def create_record(
    version: int = 35,
    *,
    spec: Spec = STEREO,
    source: int = INVALID,
    name: str | None = None,
    fragsize: int = INVALID,
    direct: int = INVALID,
    corked: bool = False,
) -> bytes:
    """The fields of CREATE_RECORD_STREAM as libpulse fills them."""
    values = [
        *(spec, tuple(range(spec.channels)), source, name, INVALID, corked, fragsize),
        *(False,) * 9,
        {"media.name": b"rec\0"},
        direct,
        *(False,) * 3,
        [],
        (65536,) * spec.channels,
        *(False,) * 5,
    ]
    signature = REQUESTS[C.CREATE_RECORD_STREAM].signature(version)
    return encode(signature, values[: len(signature)])


class Server:
    """Answers what reaches it; remembers everything."""

    def __init__(self, version: int = 35, *, monitor: bool = False) -> None:
        self.version = self.agreed = version
        self.monitor = monitor
        self.said: list[Said] = []
        self.samples: dict[int, bytes] = {}
        self.parts: list[frames.Samples] = []
        self.next_channel = 0
        self.next_index = 700
        self.first_request = 65536
        self.real: dict[int, int] = {}
        self.deaf: set[Command] = set()
        """Commands that are not answered (yet)."""

    def hear(self, data: bytes) -> bytes:
        """Take what the filter sends; return the answers."""
        out = b""
        for one in commands(data):
            if isinstance(one, frames.Samples):
                self.parts.append(one)
                self.samples[one.channel] = (
                    self.samples.get(one.channel, b"") + one.data
                )
                continue
            self.said.append(one)
            if one.command not in self.deaf:
                out += self.answer(one)
        return out

    def answer(self, one: Said) -> bytes:
        """Return the server's reply to a command."""
        act: Callable[[Said], bytes] | None = getattr(
            self, one.command.name.lower(), None
        )
        fields = act(one) if act else b""
        return frames.command(C.REPLY, one.tag, fields)

    def named(self, command: Command) -> list[Said]:
        """Return the received commands of one kind."""
        return [one for one in self.said if one.command is command]

    def auth(self, one: Said) -> bytes:
        self.agreed = min(self.version, one.fields("Lx").number(0) & 0xFFFF, 35)
        return encode("L", [self.version | 0xC0000000])

    def set_client_name(self, _one: Said) -> bytes:
        return encode("L", [4711])

    def create_playback_stream(self, one: Said) -> bytes:
        version = self.agreed
        signature = REQUESTS[C.CREATE_PLAYBACK_STREAM].signature(version)
        spec = Reader(one.body).fields(signature[:2]).spec(0)
        spec = spec if is_valid(spec) else STEREO  # a format says more
        channel, self.next_channel = self.next_channel, self.next_channel + 1
        index, self.next_index = self.next_index, self.next_index + 13
        self.real[channel] = index
        attr = [4 << 20, 65536, 0, 1024]
        head = [channel, index, self.first_request, *attr]
        device = [spec, tuple(range(spec.channels)), 9, "alsa.secret", False, 1000]
        out = encode("LLLLLLLamLtbU", [*head, *device])
        return out + (encode("f", [format_of(spec)]) if version >= 21 else b"")

    def create_record_stream(self, one: Said) -> bytes:
        fields = Reader(one.body).fields("amLs")
        spec = fields.spec(0)
        channel, self.next_channel = self.next_channel, self.next_channel + 1
        values = [
            channel,
            800 + channel,
            4 << 20,
            1024,
            spec,
            tuple(range(spec.channels)),
            3,
        ]
        out = encode("LLLLamLtbU", [*values, fields.text(3), False, 1000])
        return out + encode("f", [format_of(spec)])

    def get_server_info(self, _one: Said) -> bytes:
        words = ["pulseaudio", "16.1", "alice", "desk", STEREO, "alsa.secret", "mic", 7]
        return encode("ttttassLm", [*words, (1, 2)])

    def get_source_info(self, _one: Said) -> bytes:
        monitor = 9 if self.monitor else INVALID
        values = [3, "mic", "Webcam", STEREO, (1, 2), 5, (65536,) * 2, False, monitor]
        return encode("LttamLvbL", values) + b"N" + encode("UtL", [0, "alsa", 0])

    def set_playback_stream_buffer_attr(self, one: Said) -> bytes:
        most = Reader(one.body).fields("LL").number(1)
        return encode("LLLLU", [min(most, 4 << 20), 65536, 0, 1024, 1000])

    def get_playback_latency(self, _one: Said) -> bytes:
        return encode("UUbTTrrUU", [1, 2, True, (1, 1), (1, 2), 3, 4, 0, 0])

    def sink_input(self, index: int, name: str = "secret") -> bytes:
        """An entry of the server's list of streams."""
        values = [index, name, 3, 99, 9, STEREO, (1, 2), (65536, 65536), 0, 0]
        values += ["soxr", "protocol-native.c", False]
        values += [{"application.process.host": b"desk\0", "media.name": b"x\0"}]
        return encode(
            "LtLLLamvUUttbPbbbf", [*values, False, True, True, format_of(STEREO)]
        )

    def get_sink_input_info(self, one: Said) -> bytes:
        return self.sink_input(one.fields("L").number(0))

    def get_sink_input_info_list(self, _one: Said) -> bytes:
        own = b"".join(self.sink_input(index) for index in self.real.values())
        return self.sink_input(5, "alice's call") + own


class Talk:
    """One client with one filter, and a server after that."""

    def __init__(
        self,
        rules: SoundRules | None = None,
        *,
        sandbox: SoundSandbox | None = None,
        server: Server | None = None,
        version: int = 35,
        level: Level | None = None,
        start: bool = True,
    ) -> None:
        self.events: list = []
        self.now = 100.0
        self.sandbox = sandbox or SoundSandbox(
            rules or SoundRules("work"), self.events.append, level
        )
        self.server = server or Server()
        self.core = PulseFilter(self.sandbox, bytes(256), self.now)
        self.version = version
        self.tag = 100
        self.unread: list[Said | frames.Samples] = []
        if start:
            word = self.ask(C.AUTH, encode("Lx", [version | 0xC0000000, bytes(256)]))
            assert word.fields("L").number(0) == min(version, self.server.version, 35)
            self.ask(
                C.SET_CLIENT_NAME,
                encode("P", [{"application.name": b"Player\0", "application.process.user": b"al\0"}]),
            )  # fmt: skip

    def pump(self) -> None:
        """Carry bytes between filter and server until both are silent."""
        down = self.core.down
        while True:
            if self.core.up:
                data = bytes(self.core.up)
                self.core.up.clear()
                self.core.from_server(self.server.hear(data), self.now)
            elif down.data:
                self.unread += commands(bytes(down.data))
                down.sent(len(down.data))
                self.core.resume(self.now)
            else:
                return

    def raw(self, data: bytes) -> None:
        """Bytes of the client."""
        self.core.from_client(data, self.now)
        self.pump()

    def say(self, command: int, fields: bytes = b"") -> int:
        """A command of the client; its tag."""
        self.tag += 1
        self.raw(frames.command(command, self.tag, fields))
        return self.tag

    def ask(self, command: int, fields: bytes = b"") -> Said:
        """The same; the answer, which must have come."""
        tag = self.say(command, fields)
        found = [o for o in self.unread if isinstance(o, Said) and o.tag == tag]
        assert len(found) == 1, (command, self.core.fault, self.unread)
        self.unread.remove(found[0])
        return found[0]

    def refused(self, command: int, fields: bytes = b"") -> int:
        """The error that a command is answered with; the connection continues."""
        answer = self.ask(command, fields)
        assert self.core.fault is None
        assert answer.command is C.ERROR, answer
        return answer.fields("L").number(0)

    def take(self, command: Command) -> list[Said]:
        """Events of that kind that have come, taken away."""
        found = [o for o in self.unread if isinstance(o, Said) and o.command is command]
        self.unread = [o for o in self.unread if o not in found]
        return found

    def server_says(self, command: Command, fields: bytes) -> None:
        """An event of the server."""
        self.core.from_server(frames.command(command, INVALID, fields), self.now)
        self.pump()

    def play(self, **options) -> tuple[int, int]:
        """A playback stream: its channel and the index that the client is told."""
        answer = self.ask(
            C.CREATE_PLAYBACK_STREAM, create_playback(self.version, **options)
        )
        assert answer.command is C.REPLY, answer.fields("L")
        head = Reader(answer.body).fields("LL")
        return head.number(0), head.number(1)

    def record(self, **options) -> int:
        """A recording: its channel."""
        answer = self.ask(
            C.CREATE_RECORD_STREAM, create_record(self.version, **options)
        )
        assert answer.command is C.REPLY, answer.fields("L")
        return Reader(answer.body).fields("LL").number(0)

    def recorded(self, channel: int) -> bytes:
        """Samples that have come on that channel, taken away."""
        found = [
            o
            for o in self.unread
            if isinstance(o, frames.Samples) and o.channel == channel
        ]
        self.unread = [o for o in self.unread if o not in found]
        return b"".join(part.data for part in found)

    def pass_time(self, seconds: float) -> None:
        """Let time go by, deadline after deadline."""
        end = self.now + seconds
        while True:
            due = self.core.deadline
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.core.tick(self.now)
            self.pump()
        self.now = end


class Peer:
    """One end of a connection, a frame at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.cutter = frames.Cutter(1 << 20)
        self.tag = 0

    async def frame(self):
        while (found := self.cutter.next()) is None:
            data = await self.stream.receive_some(65536)
            assert data, "it has ended"
            self.cutter.push(data)
        return found

    async def say(self, command, fields=b""):
        self.tag += 1
        await self.stream.send_all(frames.command(command, self.tag, fields))


async def open_playback(client: Peer, server: Peer, model: Server) -> None:
    """Open a playback stream through the filters between them (channel 0)."""
    for command, fields in (
        (Command.AUTH, encode("Lx", [35, bytes(256)])),
        (Command.SET_CLIENT_NAME, encode("P", [{}])),
        (Command.CREATE_PLAYBACK_STREAM, create_playback()),
    ):
        await client.say(command, fields)
        body = (await server.frame()).body
        word, tag = frames.head(body)
        said = Said(Command(word), tag, body[frames.HEAD_BYTES :])
        await server.stream.send_all(model.answer(said))
        assert frames.head((await client.frame()).body)[0] == Command.REPLY
