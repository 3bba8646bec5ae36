"""One task for each client, whatever happens to the others."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

import pytest
import trio

from broker.core.token_bucket import TokenBucket
from broker.ipc.accept_loop import SHORT, serve


class Listener:
    """A real listener whose next accepts fail as they are told to."""

    def __init__(self, path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()
        self.failures: list[int] = []

    def settimeout(self, seconds):
        self.sock.settimeout(seconds)

    def fileno(self):
        return self.sock.fileno()

    def accept(self):
        if self.failures:
            code = self.failures.pop()
            raise OSError(code, os.strerror(code))
        return self.sock.accept()


async def echo(client):
    with client:
        client.settimeout(0)
        while True:
            await trio.lowlevel.wait_readable(client)
            data = client.recv(100)
            if not data:
                return
            client.send(data)


def said(path, words: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(words)
        return sock.recv(100)


async def test_clients_do_not_wait_for_each_other(tmp_path):
    listener = Listener(tmp_path / "s")
    with listener.sock, socket.socket(socket.AF_UNIX) as idle, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, echo)
            idle.connect(str(tmp_path / "s"))
            for words in (b"one", b"two"):
                got = await trio.to_thread.run_sync(said, tmp_path / "s", words)
                assert got == words
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", [*sorted(SHORT), errno.ECONNABORTED])
async def test_without_descriptors_clients_wait_and_are_served_later(tmp_path, code):
    listener = Listener(tmp_path / "s")
    listener.failures = [code, code]
    with listener.sock, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, echo)
            assert await trio.to_thread.run_sync(said, tmp_path / "s", b"x") == b"x"
            nursery.cancel_scope.cancel()
    assert not listener.failures


async def test_beyond_a_pace_clients_wait_in_the_backlog(tmp_path, autojump_clock):
    listener = Listener(tmp_path / "s")
    began, times, last = trio.current_time(), [], trio.Event()

    async def client(sock):
        sock.close()
        times.append(trio.current_time() - began)
        if len(times) == 8:
            last.set()

    with ExitStack() as stack:
        stack.enter_context(listener.sock)
        for _ in range(8):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(tmp_path / "s"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, client, TokenBucket(10, 3))
            await last.wait()
            nursery.cancel_scope.cancel()
    assert times == pytest.approx([0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4])


async def test_a_broken_listener_is_an_error(tmp_path):
    listener = Listener(tmp_path / "s")
    listener.failures = [errno.EINVAL]
    with listener.sock, socket.socket(socket.AF_UNIX) as client, trio.fail_after(60):
        client.connect(str(tmp_path / "s"))
        with pytest.raises(ExceptionGroup) as group:
            await serve(listener, echo)
    assert group.group_contains(OSError, match="Invalid argument")
