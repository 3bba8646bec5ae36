"""One stream: its reading of blocks, and its refusals, one rule each."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe import channel as subject
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.channel import (
    Closed,
    Messages,
    PipeBytes,
    PipeEnded,
    PipeSource,
    SentFile,
    WaypipeChannel,
)
from tests.kit.waypipe import wire_bytes as w
from tests.kit.waypipe.wire_bytes import Memory


class World:
    def __init__(self) -> None:
        self.memory = Memory()
        self.channel = WaypipeChannel(self.memory)

    def feed(self, data: bytes, step: int = 1 << 30) -> list:
        """Feed bytes in pieces; returns the output."""
        events = []
        while data:
            room = self.channel.room()
            count = min(step, len(room), len(data))
            assert count, "no room for the next bytes"
            room[:count] = data[:count]
            room.release()
            self.channel.filled(count)
            data = data[count:]
            if not self.channel.begin():
                continue
            while True:
                worked, event = self.channel.next()
                if not worked:
                    break
                if event is not None:
                    events.append(event)
        return events

    def out(self) -> list:
        data, self.channel.out = bytes(self.channel.out), bytearray()
        return w.blocks(data)


@pytest.fixture
def world():
    world = World()
    world.feed(w.header())
    return world


def refused(world: World, data: bytes, match: str) -> None:
    with pytest.raises(PeerError, match=match):
        world.feed(data)
    world.channel.close()


def ack(count: int) -> bytes:
    return w.block(BlockKind.ACK_NBLOCKS, struct.pack("<I", count))


# -- accepted messages --------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 17, 4096])
def test_a_pool_is_opened_written_and_given_to_its_message(step):
    world = World()
    stream = (
        w.header()
        + w.open_file(1, 22)
        + w.diff(1, w.span(0, 2, b"abcdefgh") + w.span(4, 5, b"wxyz"), b"YZ")
        + w.inject(1)
        + w.protocol(w.message(3, 0, struct.pack("<IIi", 5, 0, 22)[:8], fds=1))
    )
    (event,) = world.feed(stream, step)
    (file,) = world.memory.files
    assert event == Messages(w.message(3, 0, struct.pack("<II", 5, 0)), [file])
    assert bytes(file.data) == b"abcdefgh" + bytes(8) + b"wxyz" + b"YZ"
    assert world.channel.blocks == 4
    assert world.channel.bytes == len(stream)


def test_a_fill_is_bytes_at_a_place(world):
    world.feed(w.open_file(1, 8) + w.fill(1, 3, 5, b"ab") + w.fill(1, 8, 8, b""))
    assert bytes(world.memory.files[0].data) == b"\0\0\0ab\0\0\0"


def test_a_file_grows(world):
    world.feed(w.open_file(1, 4) + w.extend(1, 8) + w.diff(1, w.span(1, 2, b"abcd")))
    assert bytes(world.memory.files[0].data) == b"\0\0\0\0abcd"


def test_a_batch_may_be_opened_newest_first(world):
    world.feed(w.open_file(3, 4) + w.open_file(2, 4) + w.open_file(1, 4))
    (event,) = world.feed(
        w.inject(1, 2, 3) + w.protocol(w.message(1, 1, fds=2), w.message(1, 2, fds=1))
    )
    assert event.fds == world.memory.files[::-1]


def test_a_selection_goes_out_to_a_reader_in_the_sandbox(world):
    """wl_data_offer.receive: the sandbox will read what we read from the pipe."""
    source, messages = world.feed(
        w.pipe(BlockKind.OPEN_IR_PIPE, 1)
        + w.inject(1)
        + w.protocol(w.message(7, 1, b"\5\0\0\0text\0\0\0\0", fds=1))
    )
    assert source == PipeSource(1, 1001)
    assert messages.fds == [2001]
    world.channel.pipe_bytes(1, b"hello")
    world.channel.pipe_ended(1)
    world.channel.pipe_bytes(1, b"late")
    world.channel.pipe_ended(1)
    one = struct.pack("<i", 1)
    assert world.out() == [
        (BlockKind.PIPE_TRANSFER, one + b"hello"),
        (BlockKind.PIPE_SHUTDOWN_W, one),
    ]


def test_a_reader_in_the_sandbox_may_leave(world):
    world.feed(w.pipe(BlockKind.OPEN_IR_PIPE, 1) + w.inject(1))
    assert world.feed(w.pipe(BlockKind.PIPE_SHUTDOWN_R, 1)) == [PipeEnded(1)]
    assert world.channel.pipes == 0
    world.channel.pipe_bytes(1, b"too late")
    assert world.out() == []


def test_a_selection_comes_from_a_writer_in_the_sandbox(world):
    """wl_data_source.send: the sandbox writes, we get it in pieces."""
    event = w.message(9, 1, b"\5\0\0\0text\0\0\0\0")
    (sink,) = world.channel.send_messages(event, [77])
    assert (sink.rid, sink.fd) == (-1, 77)
    rid = struct.pack("<i", -1)
    assert world.out() == [
        (BlockKind.OPEN_IR_PIPE, rid),
        (BlockKind.INJECT_RIDS, rid),
        (BlockKind.PROTOCOL, w.message(9, 1, b"\5\0\0\0text\0\0\0\0", fds=1)),
    ]
    assert world.feed(w.pipe(BlockKind.PIPE_TRANSFER, -1, b"data")) == [
        PipeBytes(-1, b"data")
    ]
    assert world.feed(w.pipe(BlockKind.PIPE_SHUTDOWN_W, -1)) == [PipeEnded(-1)]
    assert world.feed(w.pipe(BlockKind.PIPE_TRANSFER, -1, b"late")) == []


def test_a_keymap_is_sent_as_a_file(world):
    keymap = bytes(range(256)) * 1000
    world.channel.send_messages(w.message(4, 0, bytes(8)), [SentFile(keymap)])
    got = world.out()
    assert got[0] == (BlockKind.OPEN_FILE, struct.pack("<iI", -1, len(keymap)))
    assert got[-2] == (BlockKind.INJECT_RIDS, struct.pack("<i", -1))
    assert got[-1] == (BlockKind.PROTOCOL, w.message(4, 0, bytes(8), fds=1))
    back = bytearray(len(keymap))
    for kind, body in got[1:-2]:
        assert kind is BlockKind.BUFFER_FILL
        rid, start, end = struct.unpack_from("<iII", body)
        assert rid == -1
        back[start:end] = body[12:]
    assert back == keymap


def test_many_messages_are_cut_between_two(world):
    messages = [w.message(n, 0, bytes(1000 - 8)) for n in range(1, 201)]
    world.channel.send_messages(b"".join(messages), [])
    got = world.out()
    assert len(got) > 2
    assert all(len(body) <= waypipe_limits.WAYPIPE_MESSAGES_BYTES for _, body in got)
    assert all(len(body) % 1000 == 0 for _, body in got)
    assert b"".join(body for _, body in got) == b"".join(messages)


def test_blocks_are_acknowledged_together(world):
    world.feed(w.open_file(1, 4) + w.inject(1) + w.protocol(w.message(1, 0, fds=1)))
    world.channel.send_messages(w.message(1, 0), [])
    world.out()
    world.feed(ack(1))  # not counted itself
    world.channel.acknowledge()
    world.channel.acknowledge()
    assert world.out() == [(BlockKind.ACK_NBLOCKS, struct.pack("<I", 3))]


def test_goodbye_both_ways(world):
    assert world.feed(w.block(BlockKind.CLOSE, struct.pack("<i", -32))) == [Closed(-32)]
    world.channel.say_goodbye(-71)
    assert world.out() == [(BlockKind.CLOSE, struct.pack("<i", -71))]


def test_messages_for_a_closed_file_are_late_and_not_an_error(world):
    world.feed(w.open_file(1, 8) + w.inject(1) + w.protocol(w.message(1, 0, fds=1)))
    world.memory.files[0].gone = True
    late = w.diff(1, w.span(0, 1, b"late")) + w.fill(1, 0, 1, b"x") + w.extend(1, 99)
    assert world.feed(late + late) == []
    assert bytes(world.memory.files[0].data) == bytes(8)
    assert len(world.channel.files) == 0


def test_closing_gives_back_what_no_message_has_got(world):
    world.feed(
        w.open_file(1, 8) + w.open_file(2, 8) + w.pipe(BlockKind.OPEN_IR_PIPE, 3)
    )
    world.feed(w.pipe(BlockKind.OPEN_IR_PIPE, 4) + w.inject(1, 3))
    world.channel.close()
    one, two = world.memory.files
    assert set(map(id, world.memory.discarded)) == set(
        map(
            id,
            [one, two, *[fd for fd in world.memory.discarded if isinstance(fd, int)]],
        )
    )
    assert sorted(fd for fd in world.memory.discarded if isinstance(fd, int)) == [
        2001,
        2002,
    ]


# -- refused messages: one test for each rule -----------------------------------------

_OPEN = w.open_file(1, 64)
_AFTER_OPEN = {
    "trailing bytes beyond the file": (w.diff(1, b"", bytes(65)), "diff of"),
    "fill with its start behind its end": (w.fill(1, 9, 8, b""), "fill of"),
    "fill beyond the file": (w.fill(1, 60, 65, bytes(5)), "fill of"),
    "fill with fewer bytes than it says": (w.fill(1, 0, 8, b"abcd"), "fill of"),
    "fill with more bytes than it says": (w.fill(1, 0, 4, b"abcdefgh"), "fill of"),
    "span one word longer than its block": (
        w.diff(1, w.span(0, 3, bytes(8))),
        "span of",
    ),
    "span beyond the file": (w.diff(1, w.span(15, 17, bytes(8))), "span of"),
    "span far beyond the file": (
        w.diff(1, w.span(0x40000000, 0x40000001, bytes(4))),
        "span of",
    ),
    "span without a word": (w.diff(1, w.span(3, 3, b"")), "span of"),
    "span backwards": (w.diff(1, w.span(5, 3, b"")), "span of"),
    "span cut off": (w.diff(1, bytes(4)), "inside a span"),
    "diff longer than its block": (w.diff(1, bytes(12), sizes=(16, 0)), "diff of"),
    "diff shorter than its block": (w.diff(1, bytes(16), sizes=(12, 0)), "diff of"),
    "diff not in words": (w.diff(1, bytes(13), sizes=(13, 0)), "diff of"),
    "diff and rest that overflow together": (
        w.diff(1, bytes(12), sizes=(0xFFFFFFFC, 16)),
        "diff of",
    ),
    "file that shrinks": (w.extend(1, 63), "would shrink"),
    "file that grows beyond the limit": (
        w.extend(1, waypipe_limits.WAYPIPE_POOL_BYTES + 65),
        "a file grows by",
    ),
    "id used twice": (w.open_file(1, 8), "was already used"),
    "file that costs too much memory": (w.fill(1, 0, 9, b"expensive"), "memory"),
    "descriptor used twice": (
        w.inject(1) + w.protocol(w.message(1, 0, fds=1)) + w.inject(1),
        "was already used",
    ),
    "descriptor twice in one list": (w.inject(1, 1), "was already used"),
    "descriptor that no message takes": (
        w.inject(1) + w.protocol(w.message(1, 0)),
        "require 0 descriptors, but 1 were sent",
    ),
    "message without its descriptor": (
        w.protocol(w.message(1, 0, fds=1)),
        "require 1 descriptors, but 0 were sent",
    ),
    "pipe bytes for a file": (w.pipe(BlockKind.OPEN_IR_PIPE, 1), "was already used"),
}


@pytest.mark.parametrize("case", _AFTER_OPEN)
def test_lies_about_a_file_end_the_stream(world, case):
    data, match = _AFTER_OPEN[case]
    world.feed(_OPEN)
    before = bytes(world.memory.files[0].data)
    refused(world, data, match)
    if "memory" not in case:
        assert bytes(world.memory.files[0].data) == before


_REFUSED = {
    "fill of no file": (w.fill(5, 0, 1, b"x"), "never opened"),
    "diff of no file": (w.diff(5, w.span(0, 1, bytes(4))), "never opened"),
    "extension of no file": (w.extend(5, 8), "never opened"),
    "fill of our file": (w.fill(-1, 0, 1, b"x"), "never opened"),
    "file with our id": (w.open_file(-1, 8), "the sender must not use the id"),
    "file with the id 0": (w.open_file(0, 8), "the sender must not use the id"),
    "id beyond the window": (
        w.open_file(1 + waypipe_limits.WAYPIPE_ID_WINDOW, 8),
        "too high",
    ),
    "gigantic file": (w.open_file(1, 0xF0000000), "a file grows by"),
    "descriptor of no file": (w.inject(7), "does not exist"),
    "our descriptor": (w.inject(-1), "does not exist"),
    "bytes of no pipe": (w.pipe(BlockKind.PIPE_TRANSFER, 3, b"x"), "never opened"),
    "end of no pipe": (w.pipe(BlockKind.PIPE_SHUTDOWN_W, -1), "never opened"),
    "end of no reader": (w.pipe(BlockKind.PIPE_SHUTDOWN_R, 3), "never opened"),
    "pipe with our id": (
        w.pipe(BlockKind.OPEN_IR_PIPE, -1),
        "the sender must not use the id",
    ),
    "half an id": (w.block(BlockKind.INJECT_RIDS, bytes(6)), "inside an id"),
    "message cut off": (w.block(BlockKind.PROTOCOL, bytes(8) + bytes(4)), "message"),
    "message of 4 bytes": (
        w.block(BlockKind.PROTOCOL, struct.pack("<IHH", 1, 0, 4)),
        "invalid message of 4",
    ),
    "message not in words": (
        w.block(BlockKind.PROTOCOL, struct.pack("<IHH", 1, 0, 10) + bytes(4)),
        "message of 10",
    ),
    "message longer than its block": (
        w.block(BlockKind.PROTOCOL, struct.pack("<IHH", 1, 0, 16) + bytes(4)),
        "message of 16",
    ),
    "unknown kind": (w.block(24), "unknown block type"),
    "GPU buffer": (w.block(BlockKind.OPEN_DMABUF, bytes(64)), "GPU"),
    "video": (w.block(BlockKind.OPEN_DMAVID_SRC, bytes(64)), "video"),
    "timeline": (w.block(BlockKind.OPEN_TIMELINE, bytes(8)), "timeline"),
    "reconnection": (w.block(BlockKind.RESTART, bytes(4)), "reconnection"),
    "version that we did not choose": (w.block(BlockKind.VERSION, bytes(4)), "version"),
    "pipe to be read by the application": (
        w.pipe(BlockKind.OPEN_IW_PIPE, 1),
        "for an application to read",
    ),
    "size 0": (w.block(BlockKind.PROTOCOL, size=0), "0 bytes"),
    "size 3": (w.block(BlockKind.CLOSE, size=3), "3 bytes"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_nonsense_ends_the_stream(world, case):
    refused(world, *_REFUSED[case])


_SIZES = {
    BlockKind.PROTOCOL: waypipe_limits.WAYPIPE_MESSAGES_BYTES,
    BlockKind.INJECT_RIDS: 4 * waypipe_limits.WAYPIPE_FDS_PER_BLOCK,
    BlockKind.OPEN_FILE: 8,
    BlockKind.EXTEND_FILE: 8,
    BlockKind.BUFFER_FILL: waypipe_limits.WAYPIPE_BLOCK_BYTES - 4,
    BlockKind.BUFFER_DIFF: waypipe_limits.WAYPIPE_BLOCK_BYTES - 4,
    BlockKind.OPEN_IR_PIPE: 4,
    BlockKind.PIPE_TRANSFER: 4 + waypipe_limits.WAYPIPE_PIPE_BLOCK_BYTES,
    BlockKind.PIPE_SHUTDOWN_R: 4,
    BlockKind.PIPE_SHUTDOWN_W: 4,
    BlockKind.ACK_NBLOCKS: 4,
    BlockKind.CLOSE: 4,
}


@pytest.mark.parametrize("kind", _SIZES)
def test_a_block_that_is_too_long_is_refused_before_its_bytes_come(world, kind):
    refused(world, w.block(kind, size=4 + _SIZES[kind] + 1), "allowed are")


@pytest.mark.parametrize("kind", _SIZES)
def test_the_longest_block_fits(world, kind):
    """It waits for its bytes, and there is room for them."""
    assert world.feed(w.block(kind, size=4 + _SIZES[kind])) == []
    with world.channel.room() as room:
        assert len(room) >= _SIZES[kind]


@pytest.mark.parametrize("kind", _SIZES)
def test_a_block_too_short_for_its_head_is_refused(world, kind):
    least = {
        BlockKind.PROTOCOL: 8,
        BlockKind.BUFFER_FILL: 12,
        BlockKind.BUFFER_DIFF: 12,
    }.get(kind, 8 if kind in {BlockKind.OPEN_FILE, BlockKind.EXTEND_FILE} else 4)
    refused(world, w.block(kind, size=4 + least - 1), "allowed are")


def test_sent_messages_are_acknowledged_once_and_in_order(world):
    for number in range(5):
        world.channel.send_messages(w.message(number + 1, 0), [])
    assert world.feed(ack(2) + ack(3) + ack(5)) == []
    world.channel.send_messages(w.message(9, 1), [77])  # a pipe, its id, the message
    assert world.feed(ack(8)) == []


@pytest.mark.parametrize("count", [0, 1, 2, 6, 0xFFFFFFFF])
def test_an_acknowledgement_of_nothing_new_or_of_too_much_is_a_lie(world, count):
    for number in range(5):
        world.channel.send_messages(w.message(number + 1, 0), [])
    world.feed(ack(2))
    refused(world, ack(count), f"acknowledgement of {count} blocks")


def test_acknowledgements_go_on_beyond_32_bits(world):
    world.channel._sent = world.channel._heard = (1 << 32) - 1
    world.channel.send_messages(w.message(1, 0), [])
    world.feed(ack(0))
    refused(world, ack(1), "but 4294967296 were sent")


# -- limits, at N and N + 1 --------------------------------------------------------------


def test_files_are_counted(world):
    most = waypipe_limits.WAYPIPE_FILES
    world.feed(b"".join(w.open_file(n, 4) for n in range(1, most + 1)))
    refused(world, w.open_file(most + 1, 4), "files are open")


def test_files_that_are_over_do_not_count(world):
    most = waypipe_limits.WAYPIPE_FILES
    world.feed(b"".join(w.open_file(n, 4) for n in range(1, most + 1)))
    world.memory.files[7].gone = True
    world.feed(w.open_file(most + 1, 4))


def test_declared_bytes_are_counted(world, monkeypatch):
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_DECLARED_BYTES", 1000)
    world.feed(w.open_file(1, 400) + w.open_file(2, 400) + w.extend(1, 600))
    refused(world, w.open_file(3, 1), "the files have more than")


def test_pipes_are_counted(world):
    most = waypipe_limits.WAYPIPE_PIPES
    world.feed(b"".join(w.pipe(BlockKind.OPEN_IR_PIPE, n) for n in range(1, most + 1)))
    assert world.channel.pipes == most
    refused(world, w.pipe(BlockKind.OPEN_IR_PIPE, most + 1), "pipes are open")


def test_pipes_that_are_opened_and_shut_again_are_counted_too(world):
    """Each leaves a descriptor that no message has got."""
    most = waypipe_limits.WAYPIPE_PIPES
    for rid in range(1, most + 1):
        world.feed(
            w.pipe(BlockKind.OPEN_IR_PIPE, rid) + w.pipe(BlockKind.PIPE_SHUTDOWN_R, rid)
        )
    refused(world, w.pipe(BlockKind.OPEN_IR_PIPE, most + 1), "pipes are open")


def test_descriptors_of_one_block_are_counted(world):
    most = waypipe_limits.WAYPIPE_FDS_PER_BLOCK
    world.feed(b"".join(w.open_file(n, 4) for n in range(1, most + 2)))
    world.feed(w.inject(*range(1, most + 1)))
    refused(world, w.inject(most + 1), "too many descriptors")


def test_the_id_window_moves(world):
    for n in range(1, 3 * waypipe_limits.WAYPIPE_ID_WINDOW, 2):
        world.feed(w.open_file(n + 1, 4) + w.open_file(n, 4))
        world.feed(w.inject(n, n + 1) + w.protocol(w.message(1, 0, fds=2)))
        for file in world.memory.files:
            file.gone = True
    world.feed(w.open_file(n + 1 + waypipe_limits.WAYPIPE_ID_WINDOW, 4))
    refused(
        world, w.open_file(n + 3 + waypipe_limits.WAYPIPE_ID_WINDOW, 4), "new object"
    )


def test_memory_is_looked_at_inside_a_long_diff(world):
    count = 2 * waypipe_limits.WAYPIPE_SPANS_PER_CHECK + 1
    world.feed(w.open_file(1, 8 * count))
    file = world.memory.files[0]
    world.feed(
        w.diff(1, b"".join(w.span(2 * n, 2 * n + 1, b"abcd") for n in range(count)))
    )
    assert file.cost == 3
    assert bytes(file.data) == b"abcd\0\0\0\0" * count


def _comb(count: int) -> bytes:
    return b"".join(w.span(2 * n, 2 * n + 1, b"abcd") for n in range(count))


@pytest.mark.parametrize(("more", "pause"), [(0, 0.0), (1, 0.1)])
def test_spans_of_a_second_are_counted(monkeypatch, more, pause):
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_PER_SECOND", 10)
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_BURST", 50)
    world = World()
    world.feed(w.header() + w.open_file(1, 4096))
    world.feed(w.diff(1, _comb(30)) + w.diff(1, _comb(20 + more)))
    assert world.channel.pause(100.0) == pytest.approx(pause)
    world.feed(w.diff(1, w.span(0, 7, bytes(28)) * 10))
    assert world.channel.pause(101.0 + pause) == pytest.approx(0.0)
    assert world.channel.pause(101.0 + pause) == pytest.approx(0.0)


def test_every_span_counts_once_however_it_is_copied(world):
    """Runs of single words, other ones, and both in a mixture."""
    world.feed(w.open_file(1, 1 << 20))
    sizes = [1] * 100 + [2] * 7 + [1] * 15 + [3] + [1] * 5000 + [9] * 5000
    at, spans = 0, b""
    for size in sizes:
        spans += w.span(at, at + size, bytes(4 * size))
        at += size + 1
    pieces = len(spans)
    assert pieces < waypipe_limits.WAYPIPE_BLOCK_BYTES
    world.feed(w.diff(1, spans))
    assert world.channel.files.spans == len(sizes)


@pytest.mark.parametrize("more", [0, 1])
def test_bytes_that_are_not_acknowledged_are_counted(world, more):
    """The sender keeps them until then."""
    body = waypipe_limits.WAYPIPE_UNACKNOWLEDGED_BYTES // 4 - 16
    world.feed(w.open_file(1, body))
    rest = waypipe_limits.WAYPIPE_UNACKNOWLEDGED_BYTES - 3 * (16 + body) - 12
    blocks = [w.fill(1, 0, body, bytes(body))] * 3
    blocks.append(w.fill(1, 0, rest - 16 + more, bytes(rest - 16 + more)))
    world.feed(b"".join(blocks))
    told = [(BlockKind.ACK_NBLOCKS, struct.pack("<I", 5))] if more else []
    assert world.out() == told
    assert world.channel.unacknowledged == (0 if more else rest + 3 * (16 + body) + 12)


def test_too_many_descriptors_in_a_message_of_ours(world):
    with pytest.raises(ValueError, match="32 descriptors"):
        world.channel.send_messages(w.message(1, 0), [1] * 32)


# -- properties ------------------------------------------------------------------------------

_spans = st.lists(
    st.tuples(
        st.integers(0, 90), st.integers(1, 12), st.binary(min_size=48, max_size=48)
    ),
    max_size=12,
)


@given(_spans, st.integers(0, 3), st.integers(1, 400))
def test_a_diff_writes_what_a_plain_reading_of_it_says(spans, rest, step):
    world = World()
    size = 4 * 102 + rest
    model = bytearray(size)
    encoded = b""
    for start, count, data in spans:
        stop = min(start + count, 102)
        words = data[: 4 * (stop - start)]
        model[4 * start : 4 * stop] = words
        encoded += w.span(start, stop, words)
    tail = b"END"[:rest]
    model[size - rest :] = tail
    world.feed(w.header() + w.open_file(1, size) + w.diff(1, encoded, tail), step)
    assert world.memory.files[0].data == model


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(1, 50))
def test_any_blocks_give_events_or_a_refusal(bodies, step):
    world = World()
    stream = w.header() + w.open_file(1, 64)
    for number, body in enumerate(bodies):
        stream += w.block((number * 7 + len(body)) % 24, body)
    with contextlib.suppress(PeerError):
        world.feed(stream, step)
    world.channel.close()
    assert len(world.memory.files[0].data) >= 64


@given(st.binary(max_size=300))
def test_any_bytes_give_events_or_a_refusal(data):
    world = World()
    with contextlib.suppress(PeerError):
        world.feed(w.header() + data, 64)
    world.channel.close()
    assert world.channel.header is not None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_what_we_encode_a_channel_of_the_other_side_would_read(sizes):
    """Our blocks are in the form that we read ourselves."""
    world = World()
    messages = b"".join(
        w.message(n + 1, 3, bytes(4 * size)) for n, size in enumerate(sizes)
    )
    world.channel.send_messages(messages, [])
    (got,) = World().feed(w.header() + bytes(world.channel.out))
    assert got == Messages(messages, [])


def test_every_kind_is_handled_or_refused():
    refusals = set(subject.blocks._WHY_NOT)
    assert set(subject._HANDLERS) == set(subject.blocks._BODIES)
    assert set(BlockKind) == set(subject._HANDLERS) | refusals
