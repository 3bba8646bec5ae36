"""A guest's own end offers its programs the GPU: a hostile program ends itself only."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
import threading

import pytest

from shims.wayland import gpu_buffers, gpu_memory
from shims.wayland.client_stream import DESCRIPTORS, ClientStream
from shims.wayland.gpu_buffers import GPU_NAME
from shims.wayland.gpu_memory import Gpu
from shims.wayland.ready_loop import ReadyLoop
from shims.wayland.stream_blocks import (
    BUFFER_FILL,
    EXTEND_FILE,
    HEADER,
    OPEN_FILE,
    PROTOCOL,
    block,
    split_messages,
    take_blocks,
)

XRGB, LINEAR, SHM = 0x34325258, 0, 6
REGISTRY, DMABUF, SURFACE, COMPOSITOR = 2, 3, 5, 4


class PaperGpu:
    """Answers when it is told to."""

    def __init__(self):
        self.lost, self.device = "", 0xE280
        self.asked, self.read_rows, self.dropped = [], [], []

    def check(self, done):
        done(self.lost)

    def read(self, picture, top, bottom, done):
        self.read_rows.append((picture, top, bottom))
        self.asked.append(done)

    def drop(self, picture):
        os.close(picture.fd)
        self.dropped.append(picture)


def message(oid, opcode, *words):
    body = b"".join(w if isinstance(w, bytes) else struct.pack("<I", w) for w in words)
    return struct.pack("<II", oid, 8 + len(body) << 16 | opcode) + body


def string(text):
    data = text.encode() + b"\0"
    return struct.pack("<I", len(data)) + data + bytes(-len(data) % 4)


class Program:
    """A program of the guest, and the host at the other end of its stream."""

    def __init__(self, gpu=None, memory=None):
        self.loop, self.gpu = ReadyLoop(), gpu or PaperGpu()
        self.client, ours = socket.socketpair()
        self.host, theirs = socket.socketpair()
        for sock in (self.client, self.host, ours, theirs):
            sock.setblocking(False)
        self.ended = False
        self.stream = ClientStream(
            self.loop, ours, theirs, memory, self._gone, self.gpu
        )
        self._sent, self._got = bytearray(), b""

    def _gone(self, _stream):
        self.ended = True

    def close(self):
        self.stream.close()
        self.client.close()
        self.host.close()

    def turn(self):
        """Let the stream do what it can do now."""
        for _ in range(20):
            for key, events in self.loop._selector.select(0):
                if self.loop._selector.get_map().get(key.fd) is key:
                    key.data(events)

    def send(self, *messages, fds=()):
        socket.send_fds(self.client, [b"".join(messages)], list(fds))
        self.turn()

    def from_host(self, *messages):
        self.host.sendall(block(PROTOCOL, b"".join(messages)))
        self.turn()

    def blocks(self):
        """Return what the host has got since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._sent += self.host.recv(1 << 20)
        if self._sent.startswith(HEADER):
            del self._sent[: len(HEADER)]
        return list(take_blocks(self._sent))

    def requests(self):
        """Return the host's Wayland requests: (object, opcode, body)."""
        found = []
        for kind, body in self.blocks():
            if kind == PROTOCOL:
                for oid, word, begin, end in split_messages(body):
                    found.append((oid, word & 0x7FF, body[begin + 8 : end]))
        return found

    def events(self):
        """Return what the program has got."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                # A read ends at a descriptor.
                got, fds, _, _ = socket.recv_fds(self.client, 1 << 16, 8)
                data += got
                for fd in fds:
                    os.close(fd)
                if not got:
                    break
        return [
            (oid, opcode, data[begin + 8 : end])
            for oid, opcode, begin, end in split_messages(data)
        ]

    def begin(self):
        """Bind everything."""
        self.send(message(1, 1, REGISTRY))
        shm = struct.pack("<I", SHM) + string("wl_shm") + struct.pack("<I", 1)
        self.from_host(message(REGISTRY, 0, shm))
        names = [body for oid, _, body in self.events() if oid == REGISTRY]
        assert names == [
            shm,
            struct.pack("<I", GPU_NAME) + string("zwp_linux_dmabuf_v1") + b"\4\0\0\0",
        ]
        bind = message(REGISTRY, 0, GPU_NAME, string("zwp_linux_dmabuf_v1"), 4, DMABUF)
        other = message(REGISTRY, 0, 7, string("wl_compositor"), 4, COMPOSITOR)
        self.send(bind, other, message(COMPOSITOR, 0, SURFACE))
        found = self.requests()
        assert (REGISTRY, 0, shm[:-4] + struct.pack("<II", 1, DMABUF)) in found
        return self

    def buffer(self, oid=6, new=7, *, plane=0, offset=64, stride=64, width=16, height=4,
               form=XRGB, flags=0, modifier=LINEAR, fd=True, create=True):  # fmt: skip
        """Make a picture as a program of Mesa does."""
        self.send(message(DMABUF, 1, oid))
        spare = os.memfd_create("no dma-buf")
        words = (plane, offset, stride, modifier >> 32, modifier & 0xFFFFFFFF)
        self.send(message(oid, 1, *words), fds=[spare] if fd else [])
        os.close(spare)
        if create and not self.ended:
            self.send(message(oid, 3, new, width, height, form, flags))

    def show(self, new=7):
        self.send(
            message(SURFACE, 1, new, 0, 0),
            message(SURFACE, 2, 0, 0, 16, 4),
            message(SURFACE, 6),
        )


@pytest.fixture
def program():
    made = Program().begin()
    yield made
    made.close()


def test_a_picture_of_the_gpu_is_shared_memory_to_the_host(program):
    program.buffer()
    program.send(message(6, 0))
    blocks = program.blocks()
    opened, grown, *_ = [(k, b) for k, b in blocks if k in (OPEN_FILE, EXTEND_FILE)]
    assert opened == (OPEN_FILE, struct.pack("<iI", 1, 4))
    assert grown == (EXTEND_FILE, struct.pack("<iI", 1, 256))
    said = b"".join(body for kind, body in blocks if kind == PROTOCOL)
    requests = [(oid, word & 0x7FF, said[b + 8 : e]) for oid, word, b, e in split_messages(said)]  # fmt: skip
    assert requests == [
        (DMABUF, 0, struct.pack("<Ii", 6, 4)),
        (6, 2, struct.pack("<i", 256)),
        (6, 0, struct.pack("<IiiiiI", 7, 0, 16, 4, 64, 1)),
        (6, 1, b""),
    ]


def test_a_commit_waits_for_what_the_gpu_drew(program):
    program.buffer()
    program.blocks()
    program.show()
    # Not even what precedes the commit has gone: it is one batch.
    assert program.blocks() == []
    ((picture, top, bottom),) = program.gpu.read_rows
    assert (top, bottom, picture.offset, picture.size) == (0, 4, 64, 256)
    picture.view = bytes(64) + bytes(range(256))
    program.gpu.asked.pop()("")
    program.turn()
    (fill, pixels), (kind, said) = program.blocks()
    assert (fill, kind) == (BUFFER_FILL, PROTOCOL)
    assert pixels[12:] == bytes(range(256))
    assert [oid for oid, *_ in split_messages(said)] == [SURFACE] * 3


def test_a_lost_gpu_keeps_the_window_and_is_offered_no_more(program):
    program.buffer()
    program.blocks()
    program.show()
    program.gpu.lost = f"{gpu_memory.LOST}: it hangs"
    program.gpu.asked.pop()(program.gpu.lost)
    program.turn()
    # The commit without a picture, and the next ones, which ask nobody.
    assert [kind for kind, _ in program.blocks()] == [PROTOCOL]
    program.show()
    assert [kind for kind, _ in program.blocks()] == [PROTOCOL]
    assert not program.ended
    other = Program(program.gpu)
    other.send(message(1, 1, REGISTRY))
    shm = struct.pack("<I", SHM) + string("wl_shm") + struct.pack("<I", 1)
    other.from_host(message(REGISTRY, 0, shm))
    assert [body for oid, _, body in other.events() if oid == REGISTRY] == [shm]
    other.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"plane": 1},
        {"modifier": 1 << 56 | 1},
        {"fd": False},
        {"width": 0},
        {"width": 1 << 31},
        {"height": 0},
        {"height": 16385},
        {"width": 17},
        {"stride": 0},
        {"stride": 1 << 31},
        {"stride": 131076},
        {"form": 0x3231564E},
        {"flags": 1},
    ],
)
def test_a_picture_that_is_none_ends_its_program_only(program, wrong):
    program.buffer(**wrong)
    assert program.ended
    assert not program.gpu.read_rows


def test_parameters_make_one_buffer(program):
    program.buffer()
    assert not program.ended
    program.send(message(6, 3, 8, 16, 4, XRGB, 0))
    assert program.ended


def test_a_second_plane_ends_its_program(program):
    program.buffer(create=False)
    spare = os.memfd_create("second")
    program.send(message(6, 1, 0, 0, 64, 0, 0), fds=[spare])
    os.close(spare)
    assert program.ended


def test_memory_that_is_too_small_ends_its_program_only(program):
    program.buffer()
    program.show()
    program.gpu.asked.pop()("cannot read a GPU buffer: 64 + 256 bytes in 300")
    assert program.ended
    assert len(program.gpu.dropped) == 1


def test_a_program_that_ends_closes_all_memory_once(program):
    program.buffer(6, 7)
    program.buffer(8, 9, create=False)
    program.send(message(6, 0), message(7, 0))
    assert len(program.gpu.dropped) == 1
    program.client.close()
    program.turn()
    assert len(program.gpu.dropped) == 2
    assert program.ended


def test_feedback_names_the_node_and_both_formats(program):
    program.send(message(DMABUF, 2, 10))
    events = [(opcode, body) for oid, opcode, body in program.events() if oid == 10]
    assert [opcode for opcode, _ in events] == [1, 2, 4, 6, 5, 3, 0]
    assert events[1][1] == struct.pack("<IQ", 8, program.gpu.device)
    program.send(message(10, 0))
    assert (10, 1, b"") in program.requests()


def test_the_table_of_formats_is_one_that_no_program_changes(program):
    program.send(message(DMABUF, 2, 10), message(DMABUF, 2, 11))
    tables = []
    for _ in range(2):  # a read ends after a descriptor's message
        _, fds, _, _ = socket.recv_fds(program.client, 1 << 16, 8)
        tables += fds
    first, second = tables
    assert os.path.sameopenfile(first, second)
    with pytest.raises(PermissionError):
        os.pwrite(first, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(first, 0)
    for fd in tables:
        os.close(fd)


def test_a_program_that_never_reads_takes_few_descriptors(program):
    program.stream._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    gpu_buffers._table()  # one for all programs, made once
    gc.collect()  # what tests before this one have left
    before = len(os.listdir("/proc/self/fd"))
    data = bytearray((message(DMABUF, 2, 10) + message(10, 0)) * 3000)

    def push():
        with contextlib.suppress(BlockingIOError):
            while data:
                del data[: program.client.send(data)]
                program.turn()
        program.turn()

    push()
    assert len(os.listdir("/proc/self/fd")) <= before + DESCRIPTORS + 2
    assert not program.ended
    # One that reads after all has each answer.
    done = 0
    while found := program.events():
        done += sum((oid, opcode) == (10, 0) for oid, opcode, _ in found)
        program.blocks()
        push()
    assert done == 3000
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def stuck(monkeypatch):
    """A GPU whose kernel does not return from a call, until the test is over."""
    monkeypatch.setattr(gpu_memory, "GPU_NODE", "/dev/null")
    free = threading.Event()
    monkeypatch.setattr(Gpu, "_check", lambda _self: free.wait(60))
    yield Gpu(ReadyLoop())
    free.set()


def test_a_gpu_that_does_not_answer_is_lost_for_good(stuck, capsys):
    said = []
    stuck.check(said.append)
    stuck.check(said.append)
    assert said == []
    _, late = stuck._loop._alarm
    late()  # as the loop calls it
    assert len(said) == 2
    assert all(reason.startswith(gpu_memory.LOST) for reason in said)
    assert stuck._loop._alarm is None
    stuck.check(said.append)
    assert len(said) == 3
    assert capsys.readouterr().err.count(gpu_memory.LOST) == 1


def test_slow_pictures_of_one_program_delay_others_by_a_bounded_time(monkeypatch):
    """63 connections, whose frames take just less time each than loses the GPU."""
    monkeypatch.setattr(gpu_memory, "GPU_NODE", "/dev/null")
    monkeypatch.setattr(Gpu, "_work", lambda _self: None)
    monkeypatch.setattr(Gpu, "_check", lambda _self: None)
    now, said = [100.0], []
    monkeypatch.setattr(gpu_memory.time, "monotonic", lambda: now[0])
    gpu = Gpu(ReadyLoop())
    for _ in range(63):
        gpu.check(said.append)
    gpu.check(said.append)  # of another window
    now[0] += 9.9
    gpu._jobs.get()()
    ((key, events),) = gpu._loop._selector.select(0)
    key.data(events)
    assert said == [""]
    when, late = gpu._loop._alarm
    assert when == 100 + gpu_memory.GPU_SECONDS + 1
    late()  # as the loop calls it then
    assert len(said) == 64
    assert all(reason.startswith(gpu_memory.LOST) for reason in said[1:])


def test_the_loop_calls_an_alarm_without_any_readiness():
    loop, called = ReadyLoop(), []

    def ring():
        called.append(1)
        loop.stop()

    loop.alarm(0.0, ring)
    loop.run()
    assert called == [1]


def test_what_is_no_memory_of_a_gpu_is_an_answer(monkeypatch):
    monkeypatch.setattr(gpu_memory, "GPU_NODE", "/dev/null")
    loop = ReadyLoop()
    gpu, said = Gpu(loop), []

    def take(reason):
        said.append(reason)
        loop.stop()

    picture = gpu_memory.GpuPicture(gpu, os.memfd_create("none"), 0, 64)
    gpu.read(picture, 0, 1, take)
    loop.run()
    (reason,) = said
    assert reason.startswith("cannot read a GPU buffer: ")
    assert not gpu.lost
    gpu.drop(picture)
