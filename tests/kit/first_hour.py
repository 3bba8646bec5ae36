"""A person in the first hour: a terminal, a new home, Vitrail to install."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pyte
import trio

from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import PENDING
from tests.kit.brokerctl import home, paths_of
from tests.kit.installed import Installed
from tests.kit.wayland.compositor import desktop


class Terminal:
    """A pseudo-terminal with a person in front of it."""

    def __init__(self, rows=24, columns=80):
        self.master, self.slave = pty.openpty()
        size = struct.pack("4H", rows, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.screen = bytearray()

    def type(self, text):
        os.write(self.master, text.encode())

    async def shows(self, text, deadline=120):
        """Wait for this text.  Raises AssertionError with the screen as it is then."""
        with trio.move_on_after(deadline):
            while text.encode() not in self.screen:
                await trio.lowlevel.wait_readable(self.master)
                self.screen.extend(os.read(self.master, 65536))
        assert text.encode() in self.screen, bytes(self.screen)

    async def drained(self):
        """Read the terminal's output, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self.master)
            self.screen.extend(os.read(self.master, 65536))

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def terminal(**size):
    made = Terminal(**size)
    try:
        yield made
    finally:
        made.close()


class Hour:
    """A person with a new home, a desktop, and Vitrail to install."""

    def __init__(self, home_env, comp):
        self.comp = comp
        self.home = Path(home_env["HOME"])
        self.config = self.home / ".config" / "vitrail"
        self.env = {
            **home_env,
            "XDG_CACHE_HOME": str(find_paths().cache.parent),
            "WAYLAND_DISPLAY": str(comp.display),
            "TERM": "xterm-256color",
        }
        self.vitrail = Installed(self.home, self.env)
        self.number = 0

    @asynccontextmanager
    async def step(self, title):
        """A step of the hour; its time is printed."""
        self.number += 1
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        print(f"step {self.number:2} {took:6.1f} s  {title}", flush=True)

    async def types(self, *words, code=0, deadline=120):
        """Type a command; returns its answer, which has this exit code."""
        answer = await self.vitrail.run(*words, deadline=deadline)
        assert answer.code == code, (words, answer.out, answer.err)
        return answer

    @asynccontextmanager
    async def begins(self, *words, **streams):
        """A command that keeps running; killed at the end if it still runs."""
        child = self.vitrail.start(*words, **streams)
        try:
            yield child
        finally:
            await child.kill_and_wait()
            for pipe in (child.popen.stdout, child.popen.stderr):
                if pipe is not None:
                    pipe.close()

    async def questions(self):
        """As ``brokerctl pending`` has them; asked without a process for each look."""
        try:
            async with open_client(paths_of(self.env).control) as client:
                return (await client.call(PENDING, Nothing())).questions
        except SetupError:
            return []  # no broker yet

    def writes(self, path, text):
        """Save a file of the configuration."""
        file = self.config / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@asynccontextmanager
async def hour():
    """A new home on a headless desktop; its broker is ended afterwards."""
    with home() as env:
        async with desktop() as comp:
            made = Hour(env, comp)
            try:
                yield made
            finally:
                if made.vitrail.brokerctl.exists():
                    await made.vitrail.run("stop", "--broker")


async def a_live_screen(h, name):
    """Run ``top`` on a screen of 80 columns and check its text."""
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    async with AsyncExitStack() as stack:
        person = stack.enter_context(terminal(rows=24, columns=80))
        # Textual draws on standard error.
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), person.slave)
        top = await stack.enter_async_context(h.begins("top", **streams))

        def drawn():
            shown = screen.display
            return any(name in line for line in shown) and "q Quit" in shown[-1]

        with trio.move_on_after(120):
            while not drawn():
                await trio.lowlevel.wait_readable(person.master)
                stream.feed(os.read(person.master, 65536))
        assert drawn(), "\n".join(screen.display)
        print("\n".join(screen.display))
        assert len(screen.display) == 24
        assert not [line for line in screen.display if len(line) > 80]
        columns = ["SANDBOX", "CPU", "MEMORY", "STREAMS", "NETWORK", "WINDOWS"]
        (head,) = [
            n for n, line in enumerate(screen.display) if line.split() == columns
        ]
        row = screen.display[head + 1]
        assert name in row
        assert "MiB" in row
        person.type("q")
        with trio.fail_after(60):
            # It draws until it ends, and the buffer of a terminal without a reader is soon full.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(person.drained)
                assert await top.wait() == 0
                nursery.cancel_scope.cancel()
