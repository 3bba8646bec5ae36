"""A part of a broker that was taken over, and the terminal that the broker was started from.

The file of a terminal is open for reading whatever it was opened for: its holder reads what
the user types there after the broker was sent to the background.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.helpers import terminal_log
from broker.helpers.process.spawn import spawn
from tests.kit.brokerctl import home, paths_of
from tests.kit.relay.sockets import fds
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.display import processes_of


@contextmanager
def terminal():
    """The two ends of one that changes no byte."""
    master, slave = os.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    try:
        yield master, slave
    finally:
        os.close(master)


async def shown_until(master, word):
    """What the terminal shows up to a word."""
    found = b""
    with trio.fail_after(60):
        while word not in found:
            await trio.lowlevel.wait_readable(master)
            found += os.read(master, 4096)
    return found


def holders(pid, name):
    """The names of a broker's processes, but of those that let nobody look and those
    that end meanwhile; whether they have a file open.
    """
    for one in processes_of(pid):
        with suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            holds = name in fds(one)
            yield Path(f"/proc/{one}/comm").read_text().strip(), holds


async def test_no_part_of_a_broker_holds_its_terminal():
    ordinary_user()
    with home() as env, terminal() as (master, slave):
        name = os.ttyname(slave)
        child = spawn(
            [sys.executable, "-m", "broker.programs.local"],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        try:
            await shown_until(master, b"vitrail-local: ready\n")
            found = list(holders(child.pid, name))
            os.kill(child.pid, signal.SIGTERM)
            with trio.fail_after(60):
                assert await child.wait() == 0
        finally:
            await child.kill_and_wait()
        assert [one for one, holds in found if holds] == ["vitrail-termina"]
        assert len(found) > 4
        assert not paths_of(env).control.exists()


@contextmanager
def leaving(words):
    """A process that leaves its terminal and writes; yields the terminal's other end."""
    with terminal() as (master, slave):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for fd in range(3):
                    os.dup2(slave, fd)
                os.close(slave)
                terminal_log.leave_terminal()
                os.write(2, words)
                code = int(os.isatty(1) or os.isatty(2))
            finally:
                os._exit(code)
        os.close(slave)
        yield master
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_what_it_writes_drives_no_terminal():
    words = b"a \x1b]52;c;aGVsbG8=\x07 \xc2\x9b2J \x18 b\xc3\xa4\n"
    with leaving(words) as master:
        shown = await shown_until(master, b"\n")
    assert b"\xc3\xa4\n" in shown
    assert not set(shown) & {0x1B, 0x07, 0x18}
    assert b"\xc2\x9b" not in shown


async def test_the_process_at_the_terminal_ends_with_the_last_who_writes():
    with leaving(b"last words\n") as master:
        await shown_until(master, b"last words\n")
        with pytest.raises(OSError, match="Input/output error"):
            await shown_until(master, b"further words")
