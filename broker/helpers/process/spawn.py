"""Starting processes: the one door.

Children are started from the main thread with plain ``fork`` and ``exec``
(``subprocess.Popen``), not through ``trio.run_process``: that one forks in a
cached worker thread, and PR_SET_PDEATHSIG is bound to the *thread* that
forked (prctl(2)), so such a child would die when trio retires the thread.
``setpriv --pdeathsig`` sets the signal, as ``preexec_fn`` is unsafe beside
threads.

An end is awaited on the child's pidfd, never on a pid number.

The host and brokerctl start programs by this; the confined viewer only signals by it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.helpers.process import popen
from broker.helpers.process.polled import happened

_TAIL_BYTES = 4096
_LOOK_SECONDS = 0.05
_ENDS = (signal.SIGTERM, signal.SIGKILL)

PIPE, DEVNULL, STDOUT = popen.PIPE, popen.DEVNULL, popen.STDOUT


async def wait_ended(pidfd: int) -> None:
    """Wait for the end of a pidfd's process.  Any number of tasks may wait.

    Never raises for want of a descriptor: the waiting task takes care of a
    whole machine.  The caller keeps ``pidfd`` open meanwhile.
    """
    try:
        # trio allows one waiter for each descriptor, so each has its own.
        mine = os.dup(pidfd)
    except OSError:
        while not has_ended(pidfd):  # noqa: ASYNC110 -- no descriptor, no event
            await trio.sleep(_LOOK_SECONDS)
        return
    try:
        # Woken is not ended: epoll(7) remembers a number that was closed while
        # a duplicate of it lives on, and wakes the task that waits for it
        # now.  Callers reap next, which would stop every task until the end.
        while not has_ended(mine):
            await trio.lowlevel.wait_readable(mine)
    finally:
        os.close(mine)


def has_ended(pidfd: int) -> bool:
    """Return whether a pidfd's process has ended, without waiting (pidfd_open(2)).

    False, too, where the kernel has no memory to say: it is asked again.
    """
    return bool(happened(pidfd, select.POLLIN))


def send_signal(pidfd: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a pidfd's process; does nothing when it has ended."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


@dataclass(eq=False)
class Child:
    """Our process.  ``pidfd`` stays open until ``wait`` returned.

    ``stdin``, ``stdout`` and ``stderr`` are our ends where a pipe was asked
    for; the owner closes them.
    """

    popen: subprocess.Popen[bytes]
    pidfd: int
    name: str
    jail: bool = False
    """Whether it is bubblewrap, which nothing outlives that it started."""

    @property
    def pid(self) -> int:
        """The process id, valid until ``wait`` returned."""
        return self.popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal's number; None while it runs."""
        return self.popen.returncode

    async def wait(self) -> int:
        """Wait for the end and return the exit code.  Any number of tasks may wait."""
        if self.pidfd >= 0:
            await wait_ended(self.pidfd)
        code = self.popen.wait()  # reaps; it has ended, so this does not block
        self._close_pidfd()
        return code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; does nothing when the process has ended.

        A jail ends by SIGTERM as by SIGKILL, whole.
        """
        # guard: a jail that is given up while it starts ends whole
        if self.pidfd >= 0 and self.jail and number in _ENDS:
            popen.kill_jail(self.pid)
        elif self.pidfd >= 0:
            send_signal(self.pidfd, number)

    def abandon(self) -> None:
        """Let go of a child that is to outlive us; no task will wait for it."""
        self._close_pidfd()
        self.popen.returncode = 0  # or its destructor warns that it still runs

    def kill_now(self) -> None:
        """Kill and reap the child at once, where nothing can be awaited.

        For a child that was started a moment ago and must not stay.
        """
        self.kill()
        self.popen.wait()
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    async def kill_and_wait(self) -> int:
        """Kill the child if it still runs, and wait for its end; not cancellable."""
        self.kill()
        code = 0
        with trio.CancelScope(shield=True):
            code = await self.wait()
        return code

    async def stop(self, grace: float = 3.0) -> int:
        """Ask the child to end (SIGTERM), insist after ``grace`` seconds, and wait."""
        self.kill(signal.SIGTERM)
        with trio.move_on_after(grace):
            await self.wait()
        return await self.kill_and_wait()


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    name: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
    pass_fds: Sequence[int] = (),
    stdin: int = DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    outlive_us: bool = False,
) -> Child:
    """Start a program and return it; must be called in trio's main thread.

    Unless ``outlive_us``, the kernel kills it when this process dies.  It gets
    a new session (no terminal, none of our signals) either way.
    ``stdout``/``stderr`` are descriptors, ``PIPE`` or None for ours.

    Raises SetupError when the program is not installed.
    """
    started = popen.start_process(
        argv,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        outlive_us=outlive_us,
    )
    try:
        pidfd = os.pidfd_open(started.pid)
    except BaseException:
        popen.kill_jail(started.pid)  # not reaped, so the pid was not reused
        started.wait()
        raise
    names = [Path(word).name for word in argv]
    # guard: an argument of a tool makes no jail of it
    jail = names[0] in popen.JAILERS and popen.BUBBLEWRAP in names
    return Child(started, pidfd, name or names[0], jail)


async def run_tool(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
    deadline: float = 60.0,
    output_limit: int = 1 << 20,
    pass_fds: Sequence[int] = (),
    name: str = "",
) -> bytes:
    """Run a trusted program to its end and return its standard output.

    ``name`` is the program's in errors, where ``argv`` begins with another one.

    Raises UpstreamError when it fails, takes longer than ``deadline`` seconds
    or prints more than ``output_limit`` bytes, with the end of its
    standard error; SetupError when it is not installed, OSError when this
    machine has no room for a process.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        read_out, write_out = _pipe(ours, theirs)
        read_err, write_err = _pipe(ours, theirs)
        child = spawn(
            argv,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            stdout=write_out,
            stderr=write_err,
        )
        ours.pop_all()  # closed by the tasks that read them
    out = bytearray()
    err = bytearray()
    what = name or Path(os.fspath(argv[0])).name
    try:
        with trio.fail_after(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, read_out, out, output_limit)
                nursery.start_soon(_collect, read_err, err, 0)
            code = await child.wait()
    except trio.TooSlowError as error:
        raise UpstreamError(f"{what} took longer than {deadline:g} s") from error
    finally:
        await child.kill_and_wait()
    tail = printable(b"; ".join(bytes(err).split(b"\n")).strip(b"; "), 2000)
    if code != 0:
        raise UpstreamError(f"{what} failed with code {code}: {tail}")
    if len(out) > output_limit:
        raise UpstreamError(f"{what} printed more than {output_limit} bytes")
    return bytes(out)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Return the two ends of a pipe, each of which its stack closes."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reading.callback(os.close, read)
    writing.callback(os.close, write)
    return read, write


async def _collect(fd: int, into: bytearray, limit: int) -> None:
    """Read to the end; keep ``limit`` bytes and one more, or (0) the tail."""
    async with trio.lowlevel.FdStream(fd) as stream:
        async for chunk in stream:
            into += chunk
            if limit:
                del into[limit + 1 :]
            else:
                del into[:-_TAIL_BYTES]
