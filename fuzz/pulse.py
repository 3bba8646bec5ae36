"""Fuzz target: a client's bytes into the sound filter.

Invariant: whatever a client sends, in whatever pieces, the filter goes on or
ends that connection with a PeerError.  No other exception; what reaches the
server is whole frames of commands that the table lets through, with fields of
the right types; no sample is sent that the server has not asked for; no real
source is opened while the microphone is not allowed; nothing of the
connection is left behind, and queues stay within their limits.

Seeds are recorded sessions of real clients with both real servers
(tests/corpus/pulse), mutated frame by frame: fields, numbers, lengths, order.

    python fuzz/pulse.py [--seconds N] [--frames N] [--seed N]

counts only frames that pass the framing, and prints how connections ended and
the branch coverage of the core where 'coverage' is installed.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Meter, arguments, play, show

_METER = Meter(__name__, "broker/jail/sound/*.py")

from broker.core.errors import PeerError  # noqa: E402
from broker.core.streams.sound_rules import Level, Microphone, Revoked, SoundRules  # noqa: E402
from broker.jail.sound import frames  # noqa: E402
from broker.jail.sound.commands import INVALID, REQUESTS, Command  # noqa: E402
from broker.jail.sound.sandbox import SoundSandbox  # noqa: E402
from broker.jail.sound.tagstruct import encode  # noqa: E402
from tests.kit.sound import sessions as sound_sessions  # noqa: E402
from tests.kit.sound.talk import Server, Talk, create_playback, create_record  # noqa: E402

WORDS = (0, 1, 2, 3, 0x1000, 0x1001, 65536, 0x7FFFFFFF, 0x80000000, INVALID)
OWN = {
    Command.AUTH,
    Command.SET_CLIENT_NAME,
    Command.GET_SERVER_INFO,
    Command.GET_SOURCE_INFO,
}


class Strict(Server):
    """A server that looks at what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, int] = {}
        self.allowed = False

    def hear(self, data: bytes) -> bytes:
        before, parts = len(self.said), len(self.parts)
        out = super().hear(data)
        for said in self.said[before:]:
            self._check(said)
        for part in self.parts[parts:]:
            if part.seek == 0 and part.offset < 0:
                # Bytes written a second time are not requested a second time.
                self.asked[part.channel] = self.asked.get(part.channel, 0) - part.offset
        for channel, sent in self.samples.items():
            assert len(sent) <= self.asked.get(channel, 0), "more than was asked for"
        return out

    def _check(self, said) -> None:
        assert said.command in REQUESTS, said
        said.fields(REQUESTS[said.command].signature(self.agreed))
        if said.command is Command.CREATE_PLAYBACK_STREAM:
            self.asked[self.next_channel - 1] = self.first_request
            self.samples.pop(self.next_channel - 1, None)
        if said.command is Command.CREATE_RECORD_STREAM:
            assert self.allowed, "a real source without permission"


def spoken() -> list[bytes]:
    """A session that the recordings do not have: every command once."""
    out = [
        frames.command(Command.AUTH, 0, encode("Lx", [35, bytes(256)])),
        frames.command(
            Command.SET_CLIENT_NAME, 1, encode("P", [{"application.name": b"x\0"}])
        ),
        frames.command(Command.SUBSCRIBE, 2, encode("L", [0x3FF])),
        frames.command(Command.CREATE_PLAYBACK_STREAM, 3, create_playback()),
        frames.command(Command.CREATE_RECORD_STREAM, 4, create_record()),
        frames.command(Command.CREATE_RECORD_STREAM, 5, create_record(corked=True)),
        frames.samples(0, bytes(64)),
        frames.samples(0, bytes(64), 0, -32),
        frames.samples(0, bytes(64), 1, 100),
    ]
    simple = {
        "L": 0, "b": True, "t": "x", "s": None, "v": (65536, 65536), "T": (1, 1), "P": {"media.name": b"y\0"},
        "k": ["media.name"],
    }  # fmt: skip
    skip = OWN | {Command.CREATE_PLAYBACK_STREAM, Command.CREATE_RECORD_STREAM}
    for tag, (command, request) in enumerate(REQUESTS.items(), 10):
        if command in skip or "DELETE" in command.name:
            continue
        signature = request.signature(35)
        for first in (0, 0x1000, 2, INVALID):
            values = [simple[letter] for letter in signature]
            if signature.startswith("L"):
                values[0] = first
            out.append(frames.command(command, tag, encode(signature, values)))
    out += [
        frames.command(Command.DELETE_RECORD_STREAM, 200, encode("L", [0x1000])),
        frames.command(Command.DELETE_PLAYBACK_STREAM, 201, encode("L", [0])),
    ]
    return out


def mutate(rng: random.Random, frame: bytes, everything: list[bytes]) -> list[bytes]:
    """Frames sent in the place of one: none, one or several, all well framed."""
    kind = rng.randrange(10)
    body = bytearray(frame[20:])
    channel = struct.unpack_from(">I", frame, 4)[0]
    if kind == 0:
        return []
    if kind == 1:
        return [frame, frame]
    if kind == 2:
        return [frame, rng.choice(everything)]
    if channel != INVALID:
        offset = rng.choice((0, -64, 64, -(1 << 63), (1 << 63) - 1))
        return [
            frames.samples(
                rng.choice((0, 1, 2, channel)), bytes(body), rng.randrange(4), offset
            )
        ]
    if kind == 3:
        body[1:5] = struct.pack(">I", rng.randrange(110))
    elif kind in {4, 5} and len(body) > 15:
        at = rng.randrange(10, len(body) - 4)
        body[at : at + 4] = struct.pack(">I", rng.choice(WORDS))
    elif kind == 6:
        at = rng.randrange(len(body))
        body[at] = rng.choice(b"LtNPvma10xBFf\0\xff")
    elif kind == 7:
        del body[rng.randrange(len(body)) :]
    elif kind == 8:
        body += rng.randbytes(rng.randrange(1, 20))
    else:
        at = rng.randrange(len(body))
        body[at] ^= 1 << rng.randrange(8)
    body = body or bytearray(b"L")
    return [struct.pack(">IIQI", len(body), INVALID, 0, 0) + bytes(body)]


class Run:
    """One connection: feeds, judges, and counts how it ended."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        rules = SoundRules(
            "work",
            microphone=rng.choice(list(Microphone)),
            revoked=rng.choice(list(Revoked)),
        )
        self.server = Strict()
        self.server.allowed = rules.microphone is Microphone.ALLOW
        self.events: list = []
        sandbox = SoundSandbox(rules, self.events.append)
        self.talk = Talk(sandbox=sandbox, server=self.server, start=False)

    def feed(self, data: bytes) -> bool:
        """Feed some bytes; False when the connection is over."""
        talk = self.talk
        talk.raw(data)
        talk.unread.clear()
        if self.rng.random() < 0.05:
            self._world()
        assert len(talk.core.up) == 0
        fault = talk.core.fault
        if fault is not None and not isinstance(fault, PeerError):
            raise AssertionError("not a protocol fault") from fault
        return fault is None

    def _world(self) -> None:
        """Time passes, the server and the person do something."""
        talk, rng = self.talk, self.rng
        talk.pass_time(rng.choice((0.01, 0.3, 3)))
        kind = rng.randrange(6)
        sandbox = talk.sandbox
        if kind == 0 and self.server.real:
            channel = rng.choice(list(self.server.real))
            self.server.asked[channel] = self.server.asked.get(channel, 0) + 4096
            talk.server_says(Command.REQUEST, encode("LL", [channel, 4096]))
        elif kind == 1 and sandbox.rules.microphone is not Microphone.DENY:
            self.server.allowed = True
            sandbox.allow_microphone(talk.now)
        elif kind == 2:
            sandbox.deny_microphone(talk.now)
            talk.pump()
            self.server.allowed = False
        elif kind == 3:
            sandbox.set_level(Level(rng.randrange(65537), rng.random() < 0.5))
        elif kind == 4:
            talk.core.from_server(
                frames.samples(rng.randrange(3), bytes(400)), talk.now
            )
        else:
            talk.server_says(
                Command.RECORD_STREAM_KILLED, encode("L", [rng.randrange(3)])
            )
        talk.pump()

    def close(self) -> None:
        """Nothing may be left."""
        sandbox = self.talk.sandbox
        self.talk.core.close()
        left = (sandbox.playbacks, sandbox.by_real, sandbox.recordings, sandbox.members)
        assert not any(left), left
        assert not sandbox.connections
        assert not sandbox.active


def one(
    session: list[bytes], rng: random.Random, everything: list[bytes], rate: float
) -> tuple[int, str]:
    """One mutated session; frames fed, and how it ended."""
    run = Run(rng)
    count, alive = 0, True
    for original in session:
        for data in (
            mutate(rng, original, everything) if rng.random() < rate else [original]
        ):
            count += 1
            cut = rng.randrange(1, len(data)) if rng.random() < 0.05 else len(data)
            alive = run.feed(data[:cut]) and (cut == len(data) or run.feed(data[cut:]))
            if not alive:
                break
        if not alive:
            break
    ended = "went on" if alive else str(run.talk.core.fault).split(" ")[0:4]
    run.close()
    return count, ended if isinstance(ended, str) else " ".join(ended)


def fuzz(*, seconds: float, limit: int, seed: int) -> Counter[str]:
    """Fuzz until either is reached; returns how connections ended."""
    sessions = [*sound_sessions.all_sessions().values(), spoken()]
    everything = [frame for session in sessions for frame in session]

    def drawn(rng: random.Random) -> tuple[int, str]:
        session = spoken() if rng.random() < 0.3 else rng.choice(sessions)
        # Rare mutations reach deep; frequent ones try beginnings.
        return one(session, rng, everything, rng.choice((0.003, 0.02, 0.2)))

    return play(drawn, "frames", seconds=seconds, seed=seed, limit=limit)


def main() -> None:
    """Entry point."""
    options = arguments(__doc__, "frames", seconds=30)
    fuzz(seconds=2, limit=5000, seed=1)  # so that growth is growth
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    ends = fuzz(seconds=options.seconds, limit=options.frames, seed=options.seed)
    seconds = time.monotonic() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    show(ends, _METER, seed=options.seed)
    print(f"{ends['frames'] / seconds:.0f} frames a second, {grown} KiB more memory")
    assert grown < 64 << 10, "memory grows"


if __name__ == "__main__":
    main()
