"""Last resort: messages to standard error when no other channel is left.

The broker's standard error is a file beside the audit log, so a full disk
takes both.  A message that cannot be written is lost; it must not end the broker, and
every sandbox with it.

Any process may call it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from broker.core.escape import displayed


def log_stderr(text: str) -> None:
    """Write a line (or several) to standard error, if that can be; never raises.

    It may be a terminal, and ``text`` the error of a process that a sandbox has taken
    over: unprintable characters are escaped, but for line ends.
    """
    # guard: the broker's own log drives no terminal
    shown = displayed(text)
    try:
        sys.stderr.write(f"{shown}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # full, gone; ValueError: closed
        return


def log_exception(error: BaseException) -> None:
    """Write the traceback of an internal error; never raises."""
    log_stderr("".join(traceback.format_exception(error)).rstrip())


@contextmanager
def isolated() -> Iterator[None]:
    """Log an internal error of the block, and continue after it.

    Put around the work for a sandbox, a connection or a machine, if
    the error of one must not end the others.  Expected errors are handled inside;
    cancellation passes.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- that is its purpose
        log_exception(error)


async def run_isolated(step: Callable[..., Awaitable[object]], *args: object) -> None:
    """Await a step inside ``isolated``: for a task beside those of others."""
    with isolated():
        await step(*args)
