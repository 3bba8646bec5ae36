"""A box that is started and held before its program runs, until it has its lease.

Only brokerctl runs this, with the user's rights: it starts bubblewrap, and reads what
bubblewrap and the gate report.

Without an event loop: a box's window is on the screen before one would have been loaded.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.helpers.bubblewrap_status import STATUS_BYTES, leader_of, read_line
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.process.gate import READY
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.process.popen import (
    BUBBLEWRAP,
    PIPE,
    Process,
    ask_to_end,
    kill_jail,
    require_installed,
    start_process,
)
from broker.host.launchers.bubblewrap.command import BoxCommand, kill, require_ready

_READ_BYTES = 65536
_LAST_OUTPUT_SECONDS = 1.0
_TIDY_SECONDS = 3.0
"""For a program to end by itself, when it is asked to."""
Write = Callable[[bytes], None]
"""Takes output of the box's program, which may contain any bytes."""


@dataclass(eq=False)
class HeldBox:
    """A box whose program waits; made by ``held_box``."""

    popen: Process
    """bubblewrap's process outside, which ends with the box's program."""
    leader: int
    """The first process inside, as its pid is outside."""
    _pidfd: int
    """Of ``popen``."""
    _first: int
    """A pidfd of ``leader``."""
    _command: BoxCommand
    _output: tuple[int, int]
    mounted: bool = False

    def check(self, files: BoundFiles) -> None:
        """Wait until bubblewrap has mounted the box, compare its files, set its limits.

        Raises UpstreamError, and RefusedError where it has other files.  The limits are
        written by a child in the box's user namespace.
        """
        require_ready(read_line(self._output[0], len(READY)))
        files.check(self.leader)
        limit_box(self.leader, nested=self._command.box.user_namespaces)
        self.mounted = True

    def release(self) -> None:
        """Let the program run.  Raises OSError when bubblewrap has gone."""
        if self._command.box.stdin:
            self._command.gate.open_with_input(0)
        else:
            self._command.gate.open()

    def run_to_end(self, write: Write) -> int:
        """Pass the program's output on until it ends; return its exit code.

        Interrupted, the program is asked to end, and has some seconds for that: it may
        have files to save.  Then, or at the next interruption, KeyboardInterrupt goes on.
        """
        try:
            self._pass_output(write, float("inf"))
            return self.popen.wait()
        except KeyboardInterrupt:
            ask_to_end(self.leader, self._first)
            self._pass_output(write, time.monotonic() + _TIDY_SECONDS)
            raise

    def _pass_output(self, write: Write, until: float) -> None:
        """Pass output on until the program ends, or the time comes."""
        waiting = select.poll()
        ends = (self._pidfd, *self._output)
        for fd in ends:
            waiting.register(fd, select.POLLIN)
        still = len(ends)
        while still and (left := until - time.monotonic()) > 0:
            for fd, _ in waiting.poll(None if left == float("inf") else left * 1000):
                if fd == self._pidfd:
                    # Its last output is still in the pipes.
                    until = time.monotonic() + _LAST_OUTPUT_SECONDS
                elif data := os.read(fd, _READ_BYTES):
                    write(data)
                    continue
                still -= 1
                waiting.unregister(fd)


@contextmanager
def held_box(
    command: BoxCommand, sockets: Path, ours: ExitStack, write: Write
) -> Iterator[HeldBox]:
    """Start a prepared box with its directory of sockets; it ends with the block.

    ``ours`` closes the command's files, before the end is waited for.  ``write`` gets
    what bubblewrap says where the box was not mounted.  Raises SetupError when it is not
    installed, UpstreamError when it does not say in time that it has started.
    """
    require_installed(BUBBLEWRAP)
    with ours:
        popen = start_process(
            command.argv(sockets),
            pass_fds=command.pass_fds,
            stdin=command.stdin,
            stdout=PIPE,
            stderr=PIPE,
        )
        command.theirs.close()
        assert popen.stdout is not None
        assert popen.stderr is not None
        output = popen.stdout.fileno(), popen.stderr.fileno()
        held: HeldBox | None = None
        try:
            bwrap = os.pidfd_open(popen.pid)  # not reaped, so the pid was not reused
            ours.callback(os.close, bwrap)
            leader = leader_of(read_line(command.status, STATUS_BYTES), "the box")
            pidfd = _pidfd(leader)
            ours.callback(os.close, pidfd)
            # The first process inside, before bwrap outside: that asks the kernel
            # late to end the box with it.
            ours.callback(kill, pidfd)
            held = HeldBox(popen, leader, bwrap, pidfd, command, output)
            yield held
        finally:
            ours.close()
            if popen.returncode is None:
                kill_jail(popen.pid)
            popen.wait()
            if held is None or not held.mounted:
                os.set_blocking(output[1], False)
                with suppress(BlockingIOError):
                    write(os.read(output[1], _READ_BYTES))
            popen.stdout.close()
            popen.stderr.close()


def _pidfd(leader: int) -> int:
    """Open a pidfd of the box's first process.  Raises UpstreamError."""
    try:
        return os.pidfd_open(leader)
    except OSError as error:
        gone = isinstance(error, ProcessLookupError)
        why = "the box ended while starting" if gone else error.strerror
        raise UpstreamError(
            f"cannot watch process {leader} of the box: {why}"
        ) from error
