"""The user's terminal and standard input, as a program in a sandbox gets them."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

_READ_BYTES = 16384
_STDIN = 0


def has_terminal() -> bool:
    """Return whether a user sits here: standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def has_input() -> bool:
    """Return whether standard input should be passed to the program.

    A terminal is not, unless the program gets a terminal too: then the user
    types for this command.  Nor is a closed input or ``/dev/null``.
    """
    try:
        info = os.fstat(_STDIN)
    except OSError:
        return False
    null = Path(os.devnull).stat().st_rdev
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == null:
        return False
    return not os.isatty(_STDIN)


def size() -> tuple[int, int]:
    """Return rows and columns of the terminal; 24 and 80 if it does not say."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


@contextmanager
def raw() -> Iterator[None]:
    """Switch the terminal to raw mode for the block."""
    before = termios.tcgetattr(_STDIN)
    tty.setraw(_STDIN, termios.TCSADRAIN)
    try:
        yield
    finally:
        # Not TCSAFLUSH: text typed ahead is for the next command.
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


async def typed() -> AsyncGenerator[bytes, None]:
    """Yield standard input as it arrives, to its end; for ``aclosing``.

    It stays in blocking mode: that belongs to the open file, which the shell
    that started us shares.
    """
    import trio  # late: the help of 'run' loads this module

    from broker.ipc.in_thread import in_thread

    waits = _can_wait()
    while True:
        if waits:
            await trio.lowlevel.wait_readable(_STDIN)
            data = os.read(_STDIN, _READ_BYTES)
        else:  # a file, for which there is nothing to wait
            data = await in_thread(os.read, _STDIN, _READ_BYTES)
        if not data:
            return
        yield data


def _can_wait() -> bool:
    """Return whether standard input can be waited for (epoll)."""
    with select.epoll() as epoll:
        try:
            epoll.register(_STDIN, select.EPOLLIN)
        except PermissionError:
            return False
    return True


async def resized() -> AsyncGenerator[tuple[int, int], None]:
    """Yield each new size of the terminal; for ``aclosing``."""
    import trio  # late, as above

    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            yield size()
