"""Attack from inside a box: all entries of epoll sets that its user may have.

The kernel counts them for the user id, whatever the namespaces (epoll(7),
max_user_watches); 48 programs took all of this machine's in 21 s.  Then the kernel
answers EPOLL_CTL_ADD with ENOSPC to every process of that user.  Here a filter of
system calls gives that answer, in processes of the test's own.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from functools import partial

import pytest
import trio

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.pump.engine import RelayEngine
from broker.helpers.pump.handle import control_pair
from broker.helpers.pump.turns import accelerator
from broker.ipc import event_loop
from broker.ipc.pump import (
    EndReason,
    FromPump,
    StreamDone,
    Submit,
    decode_from_pump,
    encode_to_pump,
)

_ADD = 1


def take_all() -> None:
    """This process gets no further entry of an epoll set."""
    rules = libseccomp.SyscallFilter(libseccomp.ALLOW)
    is_add = libseccomp.Arg(1, libseccomp.EQ, _ADD)
    rules.add_rule(libseccomp.ERRNO(errno.ENOSPC), "epoll_ctl", is_add)
    rules.load()


# -- the brokers' event loop ----------------------------------------------------------


async def live() -> None:
    """Do what a broker does: new connections, processes that end, deadlines."""
    take_all()
    with trio.fail_after(30):
        await converse()
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        pidfd = os.pidfd_open(pid)
        await trio.lowlevel.wait_readable(pidfd)
        trio.lowlevel.notify_closing(pidfd)
        os.close(pidfd)
        print(os.waitpid(pid, 0)[1] >> 8)
        with trio.move_on_after(0.05) as waited:
            await silence()
        print(waited.cancelled_caught)
        await converse()


async def silence() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        await ours.recv(1)


async def converse() -> None:
    ours, theirs = trio.socket.socketpair()
    data = os.urandom(1 << 20)
    got = bytearray()

    async def read() -> None:
        while chunk := await theirs.recv(1 << 16):
            got.extend(chunk)
            await theirs.send(b"+")

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            sent = memoryview(data)
            while sent:
                sent = sent[await ours.send(sent[:50000]) :]
                await ours.recv(100)
            ours.shutdown(socket.SHUT_WR)
    print(bytes(got) == data)


async def test_an_event_loop_goes_on_without_entries():
    argv = our_program("tests.attack.test_epoll_entries")
    said = await run_tool(argv, deadline=60)
    assert said.decode().split() == ["True", "7", "True", "True"]


# -- the pump -------------------------------------------------------------------------


class PumpProcess:
    """The pump's loop in a child, which loses its further entries by a signal."""

    def __init__(self, *, in_c: bool) -> None:
        self.control, theirs = control_pair()
        self.control.settimeout(30)
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                self.control.close()
                signal.signal(signal.SIGUSR1, self._lose)
                make = accelerator if in_c else (lambda _: None)
                RelayEngine(theirs, (6, 1), accelerate=make).run()
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        self.hear()

    def _lose(self, *_: object) -> None:
        take_all()

    def lose(self) -> None:
        os.kill(self.pid, signal.SIGUSR1)

    def submit(self, token: int) -> tuple[socket.socket, socket.socket]:
        left, a = socket.socketpair()
        right, b = socket.socketpair()
        with a, b:
            order = encode_to_pump(Submit(token))
            socket.send_fds(self.control, [order], [a.fileno(), b.fileno()])
        left.settimeout(30)
        right.settimeout(30)
        return left, right

    def hear(self) -> FromPump:
        return decode_from_pump(self.control.recv(1 << 16))

    def end(self) -> int:
        self.control.close()
        return os.waitpid(self.pid, 0)[1]


@pytest.mark.parametrize("in_c", [False, True])
def test_a_pump_refuses_a_stream_and_carries_the_others(in_c):
    pump = PumpProcess(in_c=in_c)
    left, right = pump.submit(1)
    with left, right:
        talk(left, right)
        pump.lose()
        refused = pump.submit(2)
        done = pump.hear()
        assert isinstance(done, StreamDone)
        assert (done.token, done.end.errno) == (2, errno.ENOSPC)
        assert done.end.reason is EndReason.ERROR
        assert refused[0].recv(1) == b"", "its sockets are closed"
        for sock in refused:
            sock.close()
        # Until it is full: its source is awaited no longer, and then again.
        sent = fill(left)
        got = 0
        while got < sent:
            got += len(right.recv(1 << 20))
        talk(left, right)
        talk(right, left)
    assert isinstance(done := pump.hear(), StreamDone)
    assert done.end.errno in {0, errno.ECONNRESET, errno.EPIPE}
    assert pump.end() == 0


def talk(source: socket.socket, destination: socket.socket) -> None:
    source.send(b"word")
    assert destination.recv(100) == b"word"


def fill(sock: socket.socket) -> int:
    """Send until nothing is taken for a while; returns how many bytes were."""
    sent = 0
    with socket.socket(fileno=os.dup(sock.fileno())) as full:
        full.setblocking(False)
        room = select.poll()
        room.register(full, select.POLLOUT)
        while room.poll(300):
            sent += full.send(bytes(1 << 16))
        full.setblocking(True)
    return sent


if __name__ == "__main__":
    event_loop.run(partial(live))
    sys.exit(0)
