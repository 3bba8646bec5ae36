"""Standard input and a terminal, from ``brokerctl run`` to a broker's socket."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from broker.helpers.process.spawn import PIPE, spawn
from broker.ipc.control.api import (
    Exited,
    Nothing,
    RunInputRequest,
    RunItem,
    Started,
)
from broker.ipc.control.method import Exchange
from tests.kit.brokerctl import _START, paths_of
from tests.kit.control import ScriptedBroker, serving
from tests.kit.eventually import eventually


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


class Cat:
    """A program that echoes its input, and ends with it."""

    def __init__(self) -> None:
        self.request = None
        self.inputs, self.arrived = trio.open_memory_channel[RunInputRequest](64)
        self.api = ScriptedBroker(on_run=self.run)
        self.api.run_input = self.take  # type: ignore[method-assign]

    async def take(
        self, exchange: Exchange[Nothing], request: RunInputRequest
    ) -> Nothing:
        await self.inputs.send(request)
        return Nothing()

    async def run(self, caller, request, emit):
        self.request = request
        await emit(RunItem(started=Started(sandbox="work", program=3)))
        async for given in self.arrived:
            assert (given.sandbox, given.program) == ("work", 3)
            if given.data:
                await emit(RunItem(output=given.data))
            if given.end or given.data == b"\x04":
                break
        return RunItem(exited=Exited(sandbox="work", program=3, code=7))


@contextmanager
def brokerctl(*words, env, **streams):
    """A process of it whose pipes are closed at the end."""
    streams.setdefault("stderr", PIPE)
    child = spawn([sys.executable, "-c", _START, *words], env=env, **streams)
    try:
        yield child
    finally:
        for pipe in (child.popen.stdout, child.popen.stderr):
            if pipe is not None:
                pipe.close()


@pytest.mark.parametrize("size", [6, 300_000])
async def test_standard_input_is_carried_to_its_end(env, stack, size):
    cat = Cat()
    content = os.urandom(size)
    async with serving(paths_of(env).control, cat.api):
        read, write = os.pipe()
        child = stack.enter_context(
            brokerctl(
                *("run", "--no-window", "work", "--", "cat"),
                env=env,
                stdin=read,
                stdout=PIPE,
            )
        )
        os.close(read)

        def feed():
            with os.fdopen(write, "wb") as file:
                file.write(content)

        got = []

        async def collect():
            got.append(await trio.to_thread.run_sync(child.popen.stdout.read))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, feed)
                nursery.start_soon(collect)
            assert await child.wait() == 7
        assert got == [content]
        assert (cat.request.stdin, cat.request.tty) == (True, False)


@pytest.mark.parametrize("source", ["file", "null"])
async def test_a_file_is_carried_and_nothing_is_no_input(env, stack, source, tmp_path):
    cat = Cat()
    file = tmp_path / "in"
    file.write_bytes(b"hello\n")
    path = file if source == "file" else os.devnull

    async def ends(caller, request, emit):
        assert not request.stdin
        return RunItem(exited=Exited(sandbox="work", program=3, code=7))

    if source == "null":
        cat.api.on_run = ends
    async with serving(paths_of(env).control, cat.api):
        with open(path, "rb") as stdin:
            child = stack.enter_context(
                brokerctl(
                    *("run", "--no-window", "work", "--", "cat"),
                    env=env,
                    stdin=stdin.fileno(),
                    stdout=PIPE,
                )
            )
        with trio.fail_after(30):
            assert await child.wait() == 7
        out = child.popen.stdout.read()
        assert out == (b"hello\n" if source == "file" else b"")


async def test_a_terminal_with_its_size_its_keys_and_its_end(env, stack):
    cat = Cat()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    before = termios.tcgetattr(slave)
    async with serving(paths_of(env).control, cat.api):
        child = stack.enter_context(
            brokerctl(
                *("run", "work", "--", "bash"),
                env={**env, "TERM": "xterm-256color"},
                stdin=slave,
                stdout=slave,
            )
        )
        screen = bytearray()

        async def until(text):
            while text not in screen:
                await trio.lowlevel.wait_readable(master)
                screen.extend(os.read(master, 4096))

        with trio.fail_after(60):
            await eventually(
                lambda: cat.request and not termios.tcgetattr(slave)[3] & termios.ICANON
            )
            assert cat.request.tty
            assert not cat.request.window
            assert cat.request.display
            assert (cat.request.rows, cat.request.columns) == (30, 100)
            assert cat.request.env["TERM"] == "xterm-256color"
            os.write(master, b"x\x1b]0;evil\x07\x03y")  # Ctrl-C is a key like others
            await until(b"y")
            assert b"evil" not in screen
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 31, 101, 0, 0))
            os.kill(child.pid, signal.SIGWINCH)
            sizes = await eventually(
                lambda: [r for what, r in cat.api.asked if what == "resize"]
            )
            assert (sizes[0].rows, sizes[0].columns) == (31, 101)
            os.write(master, b"\x04")
            assert await child.wait() == 7
            await until(b"\x1b[?2004l")
        assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("words", "code"),
    [(["run", "-t", "work", "--", "sh"], 2), (["exec", "nothing", "sh"], 1)],
)
async def test_wrong_calls(env, stack, words, code):
    async with serving(paths_of(env).control, ScriptedBroker()):
        child = stack.enter_context(brokerctl(*words, env=env, stdout=PIPE))
        with trio.fail_after(30):
            assert await child.wait() == code
        assert "Traceback" not in child.popen.stderr.read().decode()


async def test_the_standard_error_is_kept_apart(env, stack):
    """``brokerctl run … 2>errors``; a terminal has one stream, and none is asked for."""
    asked = []

    async def run(caller, request, emit):
        asked.append((request.tty, request.stderr))
        await emit(RunItem(started=Started(sandbox="work", program=3)))
        await emit(RunItem(output=b"out \xff\n"))
        await emit(RunItem(stderr=b"err \xff\n"))
        return RunItem(exited=Exited(sandbox="work", program=3, code=7))

    cat = Cat()
    cat.api.on_run = run
    async with serving(paths_of(env).control, cat.api):
        words = ("run", "-q", "--no-window", "work", "--", "cat")
        child = stack.enter_context(brokerctl(*words, env=env, stdout=PIPE))
        with trio.fail_after(30):
            assert await child.wait() == 7
        assert child.popen.stdout.read() == b"out \xff\n"
        assert child.popen.stderr.read() == b"err \xff\n"
    assert asked == [(False, True)]


async def test_a_broker_that_ends_meanwhile_is_named(env, stack):
    """What became of the program, and where to look."""
    served = trio.CancelScope()

    async def run(caller, request, emit):
        await emit(RunItem(started=Started(sandbox="work-1", program=3)))
        served.cancel()
        await trio.sleep_forever()

    cat = Cat()
    cat.api.on_run = run
    with served:
        async with serving(paths_of(env).control, cat.api):
            words = ("run", "-q", "--no-window", "work", "--", "cat")
            child = stack.enter_context(brokerctl(*words, env=env, stdout=PIPE))
            await trio.sleep_forever()
    with trio.fail_after(30):
        assert await child.wait() == 1
    said = child.popen.stderr.read().decode()
    assert "the broker ended; program 3 continues if work-1 is running" in said
    assert "brokerctl logs work-1" in said
