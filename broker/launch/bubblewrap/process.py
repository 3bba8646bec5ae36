"""A box that is started and held before its program runs, until it has its lease."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import trio

from broker.core.errors import UpstreamError
from broker.launch.bubblewrap.arguments import Box, Descriptors, bwrap_args
from broker.launch.process import program_filters
from broker.launch.process.gate import Gate
from broker.launch.process.identity import open_pidfd
from broker.launch.process.spawn import PIPE, Child, spawn

_STATUS_BYTES = 4096
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
_START_SECONDS = 10.0


class _Status(msgspec.Struct):
    """The first line of --json-status-fd; further fields are passed over."""

    leader: int = msgspec.field(name="child-pid")


@dataclass(eq=False)
class HeldBox:
    """A box whose program waits."""

    child: Child
    leader: int
    """The first process inside, as its pid is outside."""
    _pidfd: int
    _gate: Gate
    _status: int
    """bubblewrap says here at the end how it was, and would die of a closed pipe."""

    def release(self) -> None:
        """Let the program run.  Raises OSError when bubblewrap has gone."""
        self._gate.open()

    def abandon(self) -> None:
        """Give up the means to let it run; it ends without running its program."""
        self._gate.abandon()

    async def end(self) -> None:
        """End it, if it has not ended, and close our descriptors; not cancellable."""
        with trio.CancelScope(shield=True):
            # The first process inside, before bwrap outside: that asks the kernel late
            # to end the box with it.
            _kill(self._pidfd)
            self.abandon()
            await self.child.stop()
            os.close(self._pidfd)
            os.close(self._status)


async def start_held(box: Box) -> HeldBox:
    """Start bubblewrap; its output is in the child's pipes.

    Raises SetupError when it is not installed, UpstreamError when it does not say
    in time that it has started.
    """
    uid, gid = os.getuid(), os.getgid()
    with ExitStack() as ours:
        gate, release = os.pipe()
        heard, status = os.pipe()
        ours.callback(os.close, release)
        ours.callback(os.close, heard)
        with ExitStack() as theirs:
            theirs.callback(os.close, gate)
            theirs.callback(os.close, status)
            passwd = _memory(
                theirs, f"user:x:{uid}:{gid}::/home/user:/bin/sh\n".encode()
            )
            group = _memory(theirs, f"user:x:{gid}:\n".encode())
            rules = _memory(theirs, program_filters.box_filter())
            hosts = _memory(theirs, _HOSTS)
            resolver = _resolver(theirs, box)
            fds = Descriptors(status, passwd, group, rules, resolver, hosts)
            named = [] if resolver is None else [resolver]
            child = spawn(
                bwrap_args(box, fds, uid),
                name="bwrap",
                cwd="/",
                pass_fds=(status, passwd, group, rules, hosts, *named),
                stdin=gate,
                stdout=PIPE,
                stderr=PIPE,
            )
        try:
            leader = await _leader(heard)
            pidfd = _hold(leader)
        except BaseException:
            with trio.CancelScope(shield=True):
                await child.stop()
            raise
        ours.pop_all()
        return HeldBox(child, leader, pidfd, Gate(release), heard)


def _hold(leader: int) -> int:
    try:
        return open_pidfd(leader)
    except OSError as error:
        raise UpstreamError(f"the box ended at once: {error.strerror}") from error


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended


def _resolver(stack: ExitStack, box: Box) -> int | None:
    return None if box.resolver is None else _memory(stack, box.resolver.encode())


def _memory(stack: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("vitrail-box", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def _leader(fd: int) -> int:
    os.set_blocking(fd, False)
    said = b""
    with trio.move_on_after(_START_SECONDS):
        while b"\n" not in said and len(said) < _STATUS_BYTES:
            await trio.lowlevel.wait_readable(fd)
            data = os.read(fd, _STATUS_BYTES)
            if not data:
                break
            said += data
    try:
        return msgspec.json.decode(said.split(b"\n")[0], type=_Status).leader
    except msgspec.DecodeError as error:
        raise UpstreamError(
            "bubblewrap did not start the box",
            hint="its own words are above; user namespaces must be allowed "
            "('brokerctl doctor')",
        ) from error
