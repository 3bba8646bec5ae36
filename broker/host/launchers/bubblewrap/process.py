"""A box that is started and held before its program runs, until it has its lease."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from broker.core.errors import UpstreamError
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.process.gate import READY, Gate, close_output
from broker.helpers.process.identity import open_pidfd
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.process.spawn import PIPE, Child, spawn
from broker.helpers.process.tool_jail import read_leader, read_line
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.command import kill, prepare, require_ready


@dataclass(eq=False)
class HeldBox:
    """A box whose program waits."""

    child: Child
    leader: int
    """The first process inside, as its pid is outside."""
    _pidfd: int
    _gate: Gate
    _stdin: bool
    _status: int
    """bubblewrap says here at the end how it was, and would die of a closed pipe."""

    def release(self) -> None:
        """Let the program run.  Raises OSError when bubblewrap has gone."""
        if self._stdin:
            self._gate.open_with_input(0)
        else:
            self._gate.open()

    def abandon(self) -> None:
        """Give up the means to let it run; it ends without running its program."""
        self._gate.abandon()

    async def end(self) -> None:
        """End it, if it has not ended, and close our descriptors; not cancellable."""
        with trio.CancelScope(shield=True):
            # The first process inside, before bwrap outside: that asks the kernel late
            # to end the box with it.
            kill(self._pidfd)
            self.abandon()
            await self.child.stop()
            os.close(self._pidfd)
            os.close(self._status)


async def start_held(box: Box) -> HeldBox:
    """Start bubblewrap; its output is in the child's pipes.

    Raises SetupError when it is not installed, UpstreamError when it does not say
    in time that it has started, RefusedError when its files are others than were named.
    """
    with ExitStack() as ours, ExitStack() as opened:
        files = BoundFiles(box.binds, box.without_links, opened)
        command = prepare(box, ours)
        child = spawn(
            command.argv,
            name="bwrap",
            cwd="/",
            pass_fds=command.pass_fds,
            stdin=command.stdin,
            stdout=PIPE,
            stderr=PIPE,
        )
        command.theirs.close()
        try:
            leader = await read_leader(command.status, "the box")
            pidfd = _hold(leader)
            ours.callback(os.close, pidfd)
            await _mounted(child)
            files.check(leader)
            limit_box(leader, nested=box.user_namespaces)
        except BaseException:
            with trio.CancelScope(shield=True):
                await child.stop()
            close_output(child)
            raise
        ours.pop_all()
        return HeldBox(child, leader, pidfd, command.gate, box.stdin, command.status)


def _hold(leader: int) -> int:
    """Return a pidfd of a box's first process.  Raises UpstreamError if it ended."""
    try:
        return open_pidfd(leader)
    except OSError as error:
        raise UpstreamError(f"the box exited immediately: {error.strerror}") from error


async def _mounted(child: Child) -> None:
    """Wait until the box has all mounts: its gate says so before all other output."""
    assert child.popen.stdout is not None
    require_ready(await read_line(child.popen.stdout.fileno(), len(READY)))
