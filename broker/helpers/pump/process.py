"""The pump as a process: a fork of a small process.

A separate process, so that no stream waits for Python's interpreter lock
while the broker computes, and so that the part which touches every byte can
do nothing else: after ``confine`` it may neither open, connect nor execute.

The broker's is forked by the fork server of helpers (``starting.fork_pump``), an
acceptor's by the acceptor.  ``start_pump`` forks, which is right only while the program
has no trio and no threads.
"""

from __future__ import annotations

import array  # noqa: F401 -- socket.recv_fds imports it when called, too late then
import gc
import os
import platform
import re
import resource
import signal
import socket
from collections.abc import Collection
from typing import NoReturn

from broker.core.errors import SetupError
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process.hardening import confine
from broker.helpers.process.process_name import run_and_exit, set_name
from broker.helpers.pump.engine import RelayEngine
from broker.helpers.pump.handle import PumpHandle, control_pair
from broker.helpers.pump.turns import accelerator
from broker.ipc.captured_stderr import FirstWords

_NAME = "vitrail-pump"


def start_pump(program: bytes) -> PumpHandle:
    """Fork the pump and return its handle; call it before trio starts.

    ``program`` is its filter of system calls (``carrying_filters.pump_filter``).

    Raises SetupError when the process cannot be started.
    """
    broker, pump = control_pair()
    words = FirstWords()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        broker.close()
        pump.close()
        words.close()
        raise SetupError(
            f"cannot start the relay's process: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    if pid == 0:
        _fork_of(pump.detach(), words.fd, parent, program)
    pump.close()
    return PumpHandle(broker, pid, os.pidfd_open(pid), words)


def become_pump(control: int, words: int, program: bytes) -> None:
    """Carry streams in a process that was forked for it; ``words`` is for its errors."""
    keep_only(words, [control])
    pump(control, program)


def _fork_of(control: int, words: int, parent: int, program: bytes) -> NoReturn:
    """Run the pump in the forked child and exit; never returns."""

    def work() -> int:
        keep_only(words, [control])
        end_with_parent()
        # A parent that died before that line sends no signal any more.
        return pump(control, program) if os.getppid() == parent else 0

    run_and_exit(work)


def keep_only(words: int, kept: Collection[int]) -> None:
    """Close all descriptors that a fork has inherited, but ``kept``.

    ``words`` becomes its standard input, output and error.
    """
    # Confined, it still reads and writes whatever it has: a terminal, or the log's file.
    for number in range(3):
        # guard: a confined fork has no file of its parent's
        os.dup2(words, number)
    least = 3
    for fd in (*sorted(kept), 0x7FFFFFFF):
        os.closerange(least, fd)
        least = fd + 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def pump(control_fd: int, program: bytes) -> int:
    """Confine this process and carry streams until the broker is gone.

    Returns the exit code.
    """
    # Ctrl-C in a terminal reaches every process of it; the broker decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # splice to a socket whose peer has gone raises it.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    set_name(_NAME)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kernel = kernel_version()
    control = socket.socket(fileno=control_fd)
    # Objects that exist now live as long as the process: the collector need not
    # look at them again, and the pages shared with the parent stay shared.
    gc.collect()
    gc.freeze()
    confine(program)
    RelayEngine(control, kernel, accelerate=accelerator).run()
    return 0


def kernel_version() -> tuple[int, int]:
    """The running kernel's major and minor number."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)
