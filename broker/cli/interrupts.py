"""What ends a verb from outside: Ctrl-C, SIGTERM, SIGHUP, a reader that leaves.

Python raises KeyboardInterrupt for SIGINT only; for the other two the process
dies at once, and what a verb has to undo is not undone.  trio delivers SIGINT
as KeyboardInterrupt at a point where a task can be interrupted, so the other
signals are turned into SIGINT, and their number is remembered for the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_OTHERS = (signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a verb that Ctrl-C ended."""
_SIGPIPE_STATUS = 141
_silent: set[int] = set()


def silence(number: signal.Signals) -> None:
    """Have this signal end the verb without a line; its exit code stays."""
    _silent.add(number)


class Interrupts:
    """The signal that ended the verb; SIGINT unless another one was received."""

    def __init__(self) -> None:
        self.number = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count."""
        return 128 + self.number

    @property
    def is_silent(self) -> bool:
        """Whether the verb ends by this signal as a matter of course."""
        return self.number in _silent

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: remember it, and interrupt as Ctrl-C does."""
        del frame
        self.number = signal.Signals(number)
        signal.raise_signal(signal.SIGINT)


@contextmanager
def received() -> Iterator[Interrupts]:
    """Convert SIGTERM and SIGHUP to KeyboardInterrupt for the block.

    A signal that is ignored stays ignored (nohup, a job in the background of a
    script), and without a handler for SIGINT nothing is changed.
    """
    _silent.clear()
    interrupts = Interrupts()
    before: dict[signal.Signals, object] = {}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for number in _OTHERS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupts.receive)
    try:
        yield interrupts
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


def is_interrupt(error: BaseException) -> bool:
    """Return whether this is KeyboardInterrupt, alone or in the groups of nurseries."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End quietly, with SIGPIPE's status, when the reader (head, less) leaves.

    click and rich would make 1 of it, which has another meaning in verbs
    that search.  Flushes at the end, so that a late error is seen here.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Data still buffered is discarded at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_SIGPIPE_STATUS)
