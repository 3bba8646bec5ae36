"""Fuzz target: a sandbox's bytes into our end of waypipe's wire.

Invariant: whatever comes, in whatever pieces, gives events or ends the stream
with a PeerError.  No other exception; nothing is written outside a file; every
descriptor and file is given to a message or given back, once; nothing that
grows without a limit.

Seeds are recorded streams of real servers (tests/corpus/waypipe), mutated
block by block, and one that has pipes.

    python fuzz/waypipe.py [--seconds N] [--inputs N] [--seed N]

prints inputs, blocks, how the streams ended, and branch coverage of the wire
where 'coverage' is installed.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import ROOT, Meter, arguments, play, show

_METER = Meter(__name__, "broker/jail/wayland/waypipe/*.py")

from broker.core.errors import PeerError  # noqa: E402
from broker.core.limits import waypipe as waypipe_limits  # noqa: E402
from broker.jail.wayland.waypipe.blocks import BlockKind  # noqa: E402
from broker.jail.wayland.waypipe.channel import (  # noqa: E402
    Messages,
    PipeSource,
    SentFile,
    WaypipeChannel,
)
from broker.jail.worker.wayland.waypipe_memory import StreamFile, StreamMachine  # noqa: E402
from tests.kit.waypipe import wire_bytes as w  # noqa: E402
from tests.kit.waypipe.record import load  # noqa: E402

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 63, 64, 65, 255, 4096, 65535, 1 << 20, 0x7FFFFFFF,
           0x80000000, 0xFFFFFFFF, 0xFFFFFFFC, 0xFFFFFFFE)  # fmt: skip
_LARGEST = 1 << 19
"""Files are bytearrays here, so what is opened is made this small: foot's 512 MiB."""


class SmallFile(w.MemoryFile):
    """Its bytes are real here, not sparse, so it grows to a bound only."""

    def grow(self, size: int) -> None:
        super().grow(max(len(self.data), min(size, _LARGEST)))


class Memory(w.Memory):
    """Notices descriptors that are lost or released twice."""

    def __init__(self) -> None:
        super().__init__()
        self.out: set[int] = set()
        """Writing ends and files that are neither used nor given back."""

    def file(self, size: int) -> w.MemoryFile:
        if size % 1013 == 1:
            raise ValueError("no memory")  # now and then
        file = SmallFile(min(size, _LARGEST))
        self.files.append(file)
        self.out.add(id(file))
        return file

    def pipe(self) -> tuple[int, int]:
        if len(self.out) % 17 == 16:
            raise ValueError("no descriptors")
        reading, writing = super().pipe()
        self.out.add(writing)
        return reading, writing

    def gone(self, fd: object) -> None:
        key = fd if isinstance(fd, int) else id(fd)
        assert key in self.out, "given back twice"
        self.out.discard(key)

    def discard(self, fd: object) -> None:
        self.gone(fd)

    def read(self, fd: int) -> None:
        """The reading end of a pipe: ours to close."""

    def end(self) -> None:
        """Whatever the filter had is over."""
        assert not self.out, "lost"


class RealMemory(StreamMachine):
    """Files and pipes as a worker has them."""

    def __init__(self) -> None:
        super().__init__()
        self._before = open_descriptors()
        self._held: list[object] = []

    def gone(self, fd: object) -> None:
        self._held.append(fd)

    def read(self, fd: int) -> None:
        os.close(fd)

    def end(self) -> None:
        for fd in self._held:
            self.discard(fd)
        assert self.touched == 0
        assert open_descriptors() == self._before, "lost, or given back twice"


def open_descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def seeds() -> list[list[bytes]]:
    """Blocks of each recorded stream, small ones only, and of one with pipes."""
    paths = sorted((ROOT / "tests/corpus/waypipe").glob("*.stream"))
    recorded = [split(load(path)[16:]) for path in paths]
    small = [[raw for raw in blocks if len(raw) < 4096][:200] for blocks in recorded]
    return [*small, spoken()]


def split(stream: bytes) -> list[bytes]:
    """Whole blocks."""
    out = []
    while len(stream) >= 4:
        size = (struct.unpack_from("<I", stream)[0] >> 5) + 3 & ~3
        if size < 4 or size > len(stream):
            break
        out.append(stream[:size])
        stream = stream[size:]
    return out


def spoken() -> list[bytes]:
    """Files and pipes of all kinds."""
    return [
        w.open_file(2, 256),
        w.open_file(1, 64),
        w.fill(1, 0, 64, bytes(64)),
        w.diff(2, w.span(0, 4, bytes(16)) + w.span(10, 11, b"abcd"), b""),
        w.inject(1, 2),
        w.protocol(w.message(3, 0, bytes(8), fds=2)),
        w.extend(2, 512),
        w.open_file(5, 4096),
        w.diff(5, comb(40) + w.span(500, 504, bytes(16)), b"last"),
        w.inject(5),
        w.protocol(w.message(3, 0, bytes(8), fds=1)),
        w.pipe(BlockKind.OPEN_IR_PIPE, 3),
        w.inject(3),
        w.protocol(w.message(4, 1, bytes(8), fds=1), w.message(5, 0)),
        w.pipe(BlockKind.OPEN_RW_PIPE, 4),
        w.pipe(BlockKind.PIPE_SHUTDOWN_R, 3),
        w.pipe(BlockKind.PIPE_TRANSFER, -1, b"bytes of a selection"),
        w.pipe(BlockKind.PIPE_SHUTDOWN_W, -1),
        w.block(BlockKind.ACK_NBLOCKS, struct.pack("<I", 7)),
        w.block(BlockKind.CLOSE, struct.pack("<i", 0)),
    ]


def comb(count: int) -> bytes:
    """Spans of single words, a few words apart."""
    return b"".join(w.span(at, at + 1, b"word") for at in range(0, 8 * count, 8))


def large() -> list[bytes]:
    """More than the receive buffer holds, so that its end is met inside a block."""
    size = _LARGEST // 2
    fills = [w.fill(1, 0, size, bytes(size)), w.diff(1, comb(5000))]
    return [w.open_file(1, size), *fills, *fills, w.inject(1)]


def many() -> list[bytes]:
    """More files and pipes than may be."""
    files = [w.open_file(rid, 4) for rid in range(1, waypipe_limits.WAYPIPE_FILES + 2)]
    first = waypipe_limits.WAYPIPE_FILES + 2
    pipes = range(first, first + waypipe_limits.WAYPIPE_PIPES + 1)
    return [
        *files[:-1],
        *(w.pipe(BlockKind.OPEN_IR_PIPE, rid) for rid in pipes),
        files[-1],
    ]


def mutate(blocks: list[bytes], rng: random.Random) -> list[bytes]:
    """Change a few blocks: order, presence, sizes, kinds, words."""
    out = list(blocks[: rng.randrange(1, len(blocks) + 1)])
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out))
        what = rng.randrange(8)
        if what == 0:
            del out[at]
        elif what == 1:
            out.insert(at, rng.choice(out))
        elif what == 2:
            other = rng.randrange(len(out))
            out[at], out[other] = out[other], out[at]
        elif what == 3:
            (word,) = struct.unpack_from("<I", out[at])
            out[at] = struct.pack("<I", word & ~31 | rng.randrange(32)) + out[at][4:]
        elif what == 4:
            (word,) = struct.unpack_from("<I", out[at])
            size = max(0, (word >> 5) + rng.choice((-8, -4, -1, 1, 4, 8, 1 << 20)))
            out[at] = (
                struct.pack("<I", size << 5 & 0xFFFFFFFF | word & 31) + out[at][4:]
            )
        elif what == 5 and len(out[at]) >= 8:
            place = 4 * rng.randrange(1, len(out[at]) // 4)
            word = struct.pack("<I", rng.choice(NUMBERS))
            out[at] = out[at][:place] + word + out[at][place + 4 :]
        elif what == 6 and len(out[at]) >= 8:
            place = rng.randrange(4, len(out[at]))
            out[at] = (
                out[at][:place] + bytes([rng.randrange(256)]) + out[at][place + 1 :]
            )
        else:
            out.insert(at, rng.choice(spoken()))
        if not out:
            return [w.block(rng.randrange(32))]
    return out


class Played:
    """One stream played to its end; ``end`` says how it ended."""

    def __init__(self, stream: bytes, rng: random.Random) -> None:
        self.memory = RealMemory() if rng.random() < 0.1 else Memory()
        self.channel = WaypipeChannel(self.memory)
        self.reading: set[int] = set()
        self.end = "still open"
        self._now = 0.0
        self.channel.send_messages(w.message(9, 1, bytes(8)), [77])
        # What a recording acknowledges was said to another.
        self.channel._sent += rng.choice((0, 1 << 20))
        try:
            word = (
                w.HEADER if rng.random() < 0.98 else w.HEADER ^ 1 << rng.randrange(32)
            )
            self._feed(w.header(word) + stream, rng)
        except PeerError as error:
            self.end = str(error).split(" of ")[0][:40]
        assert len(self.channel.files) <= waypipe_limits.WAYPIPE_FILES
        assert self.channel.pipes <= waypipe_limits.WAYPIPE_PIPES
        self.channel.close()
        self.memory.end()

    def _feed(self, data: bytes, rng: random.Random) -> None:
        while data:
            room = self.channel.room()
            count = min(len(room), len(data), rng.choice((1, 5, 64, 1 << 16)))
            assert count, "no room"
            room[:count] = data[:count]
            room.release()
            self.channel.filled(count)
            data = data[count:]
            if self.channel.begin():
                self._work(rng)

    def _work(self, rng: random.Random) -> None:
        worked = True
        while worked:
            worked, event = self.channel.next()
            if isinstance(event, Messages):
                self._use(event.fds, rng)
            elif isinstance(event, PipeSource):
                self.memory.read(event.fd)
                self.reading.add(event.rid)
            if self.reading and rng.random() < 0.2:
                rid = rng.choice(sorted(self.reading))
                self.channel.pipe_bytes(rid, b"x" * rng.randrange(100))
                if rng.random() < 0.5:
                    self.channel.pipe_ended(rid)
                    self.reading.discard(rid)
        assert (
            self.channel.unacknowledged <= waypipe_limits.WAYPIPE_UNACKNOWLEDGED_BYTES
        )
        self.channel.acknowledge()
        assert self.channel.pause(self._now) >= 0
        self._now += rng.random()
        if rng.random() < 0.02:
            self._say(rng)
        for kind, _ in w.blocks(bytes(self.channel.out)):
            assert kind in BlockKind
        self.channel.out.clear()

    def _use(self, fds: list[object], rng: random.Random) -> None:
        """Take the descriptors of messages, and close some of them at once."""
        for fd in fds:
            self.memory.gone(fd)
            if rng.random() < 0.3:
                if isinstance(fd, w.MemoryFile):
                    fd.gone = True
                elif isinstance(fd, StreamFile):
                    fd.give_up()

    def _say(self, rng: random.Random) -> None:
        """What a compositor sends: much, a keymap, descriptors without end."""
        messages = w.message(9, 1, bytes(992)) * rng.randrange(1, 140)
        fds: list[SentFile | int] = [SentFile(bytes(rng.randrange(1 << 18)))]
        fds += [77] * rng.choice((0, 1, 40))
        try:
            sinks = self.channel.send_messages(messages, fds)
        except ValueError:
            assert len(fds) > 31
            return
        assert len(sinks) == len(fds) - 1
        for sink in sinks:
            self.channel.pipe_ended(sink.rid)
        if rng.random() < 0.1:
            self.channel.say_goodbye(-71)


def fuzz(*, seconds: float, inputs: int, seed: int) -> Counter[str]:
    """Play mutated streams until either is reached; counts blocks and ends."""
    corpus, seldom = seeds(), [large(), many()]

    def drawn(rng: random.Random) -> tuple[int, str]:
        rare = rng.random() < 0.005
        blocks = rng.choice(seldom if rare else corpus)
        stream = b"".join(mutate(blocks, rng))
        played = Played(stream, rng)
        return played.channel.blocks, played.end

    return play(
        drawn, "blocks", seconds=seconds, seed=seed, limit=inputs, of="connections"
    )


def main() -> None:
    """Entry point."""
    options = arguments(__doc__, "inputs")
    ends = fuzz(seconds=options.seconds, inputs=options.inputs, seed=options.seed)
    show(ends, _METER, seed=options.seed)


if __name__ == "__main__":
    main()
