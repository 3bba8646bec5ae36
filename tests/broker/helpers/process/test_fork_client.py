"""A fork server's client, whose server is the test."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager

import msgspec
import trio
import trio.testing

from broker.helpers.process import fork_client
from broker.ipc import fork_server as messages
from broker.wire import fdpass
from broker.wire.call_messages import AnswerMessage, decode_message, encode_message
from broker.wire.calls import MESSAGE_BYTES

HOUR = 3600.0


async def fork_worker(server):
    """Have a worker forked, whose descriptors are standard input."""
    request = messages.ForkWorker(allow_unjailed=False)
    return await server.fork(messages.FORK_WORKER, request, [0] * 4)


class Server:
    """Forks nothing: each child is a process that lives already."""

    pid, returncode = 1, None

    def __init__(self, sock):
        self.sock, self.killed = sock, False

    def answer(self):
        got = fdpass.receive(self.sock, MESSAGE_BYTES, messages.DESCRIPTORS)
        fdpass.close_all(got.fds)
        call = decode_message(got.data).call
        forked = msgspec.Raw(msgspec.msgpack.encode(messages.Forked(1)))
        told = [os.pidfd_open(os.getpid()), *os.pipe2(os.O_NONBLOCK)]
        fdpass.send(self.sock, encode_message(AnswerMessage(call, forked)), told[:2])
        fdpass.close_all(told)

    def kill(self):
        self.killed = True

    async def wait(self):
        self.sock.close()


@contextmanager
def servers(monkeypatch):
    """The servers that were started, each with its end of the channel."""
    made = []

    async def start(_program, theirs):
        await trio.lowlevel.checkpoint()
        made.append(Server(socket.socket(fileno=os.dup(theirs.fileno()))))
        return made[-1]

    monkeypatch.setattr(fork_client, "_discard", lambda _, fds: fdpass.close_all(fds))
    yield made, start
    for one in made:
        one.sock.close()


async def test_a_start_that_was_given_up_ends_no_server_an_hour_later(
    monkeypatch, autojump_clock
):
    program = fork_client.ForkServerProgram(
        messages.ForkServerKind.WORKERS, "a worker", lambda: 60.0
    )
    with servers(monkeypatch) as (made, start):
        server = fork_client.ForkServer(program, start)

        async def fork():
            child = await fork_worker(server)
            child.close()

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fork)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            if not made[0].killed:
                made[0].answer()
            await trio.sleep(HOUR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fork)
            await trio.testing.wait_all_tasks_blocked()
            if not made[0].killed:
                made[0].answer()
            else:
                nursery.cancel_scope.cancel()
        assert [one.killed for one in made] == [False]
        await server.close()


async def test_a_server_has_its_time_again_when_it_has_answered(
    monkeypatch, autojump_clock
):
    program = fork_client.ForkServerProgram(
        messages.ForkServerKind.WORKERS, "a worker", lambda: 60.0
    )
    with servers(monkeypatch) as (made, start):
        server = fork_client.ForkServer(program, start)
        for _ in range(6):
            with trio.move_on_after(9.9):
                await fork_worker(server)
        for _ in range(6):
            made[0].answer()  # late, and to nobody
        await trio.sleep(HOUR)
        async with trio.open_nursery() as nursery:

            async def fork():
                child = await fork_worker(server)
                child.close()
                nursery.cancel_scope.cancel()

            nursery.start_soon(fork)
            await trio.sleep(5)
            if not made[0].killed:
                made[0].answer()
                await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert [one.killed for one in made] == [False]
        await server.close()


async def test_a_server_that_answers_nothing_is_replaced_though_callers_give_up(
    monkeypatch, autojump_clock
):
    program = fork_client.ForkServerProgram(
        messages.ForkServerKind.WORKERS, "a worker", lambda: 60.0
    )
    with servers(monkeypatch) as (made, start):
        server = fork_client.ForkServer(program, start)
        for _ in range(7):
            with trio.move_on_after(10):
                await fork_worker(server)
        assert [one.killed for one in made] == [True, False]
        await server.close()
