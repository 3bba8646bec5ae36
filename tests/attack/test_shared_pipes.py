"""Attack: a program makes a pipe that it shares with a worker blocking."""

from __future__ import annotations

import fcntl
import os
import socket
import threading

import pytest

from broker.jail.worker.pipes import PipeWriter

CONTENT = bytes(range(256)) * 1024


def never_waits(action):
    """Run it in a thread; fails where it blocks for longer than a slow machine may."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_a_pipe_made_blocking_does_not_stop_the_writer():
    """The asking program has the same open file, and so its O_NONBLOCK."""
    read, write = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write, bytes(4096))
    writer = PipeWriter(write)
    moved = []

    def fill():
        moved.append(writer.take(CONTENT))
        with pytest.raises(BlockingIOError):
            writer.push()
        moved.append(writer.staged)

    try:
        assert never_waits(fill)
        assert moved[0] == moved[1] > 4096
    finally:
        os.close(read)
        writer.close()
        os.close(write)


def test_all_bytes_arrive_in_order():
    read, write = os.pipe2(os.O_CLOEXEC)
    writer, got, rest = PipeWriter(write), b"", CONTENT
    while rest or writer.staged:
        try:
            if not writer.staged:
                rest = rest[writer.take(rest) :]
            writer.push()
        except BlockingIOError:
            got += os.read(read, 1 << 20)
    writer.close()
    os.close(write)
    while data := os.read(read, 1 << 20):
        got += data
    os.close(read)
    assert got == CONTENT


def test_a_socket_in_place_of_a_pipe_does_not_stop_it_either():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = PipeWriter(ours.fileno())

        full = []

        def fill():
            while not full:
                try:
                    writer.take(CONTENT)
                except BlockingIOError as error:
                    full.append(error)

        assert never_waits(fill)
        assert full
        writer.close()
