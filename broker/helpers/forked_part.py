"""A part of the broker in a separate process, forked before its event loop starts.

So both share the pages of common imports, and patches of a test are in both.

``vitrail-local`` forks its host by this; viewer, host, session children and the packet
guard fork small parts of their own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from broker.core.errors import SetupError
from broker.helpers.process.process_name import run_and_exit, set_name

# A child checks that its parent is alive. PR_SET_PDEATHSIG is set by the child itself,
# so a parent that dies before that leaves the child running. Of two hundred kills in a
# row, one left a process. Each child now looks, after the signal is set, whether it
# still has the parent that started it.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ForkedPart:
    """The process as its parent holds it; it is waited for by its pidfd."""

    pid: int
    pidfd: int


def fork_part(name: str, run: Callable[[], None]) -> ForkedPart:
    """Fork a process of that name, which ends with ``run``, or with its parent.

    Signals that a terminal sends to the whole group are ignored there.  Raises
    SetupError when it cannot be started.
    """
    gc.collect()
    gc.freeze()  # present objects are shared: do not touch them when collecting
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise SetupError(
            f"cannot start the {name} process: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    if pid == 0:
        _become(name, run, parent)
    return ForkedPart(pid, os.pidfd_open(pid))


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel end this process with its parent (prctl(2)); 0: no longer."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _become(name: str, run: Callable[[], None], parent: int) -> NoReturn:
    """Run the part in the forked child and exit; never returns."""

    def work() -> int:
        # Handlers, not SIG_IGN, which the programs that it starts would inherit.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)
        end_with_parent()
        # A parent that died before that line sends no signal any more.
        if os.getppid() != parent:
            return 1
        set_name(name)
        run()
        return 0

    run_and_exit(work, 1)


def _ignore(number: int, frame: object) -> None:
    """The broker's first process decides when this one ends."""
    del number, frame
