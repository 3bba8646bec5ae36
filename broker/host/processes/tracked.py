"""A process of a machine, ours or an earlier broker's, held by its pidfd.

The host holds and ends them; brokerctl looks which still live when no broker runs.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from broker.core import limits
from broker.core.process_status import status_fields
from broker.core.stderr_log import log_stderr
from broker.helpers.process.identity import (
    ProcessIdentity,
    identity_of,
    open_pidfd,
    read_identity,
)
from broker.helpers.process.spawn import (
    Child,
    has_ended,
    send_signal,
    spawn,
    wait_ended,
)
from broker.ipc.captured_stderr import FirstWords

_PASS_ON_SECONDS = 1.0
_OOM = Path("/proc/self/oom_score_adj")


def few_files(most: int) -> list[str]:
    """Return the words before a command line that limit its descriptors."""
    number = _lowered(resource.RLIMIT_NOFILE, most)
    return ["prlimit", f"--nofile={number}:{number}", "--"]


def little_memory(most: int | None) -> list[str]:
    """Return the words before a command line that limit its own memory; None: no limit."""
    return [] if most is None else ["prlimit", f"--data={most}:{most}", "--"]


def ordinary() -> list[str]:
    """Return the words before a command line that takes no processor from others.

    It has no real-time priority (``process.gate``), locks little memory, and ends before
    the desktop's programs where memory ends.
    """
    locked = _lowered(resource.RLIMIT_MEMLOCK, limits.SANDBOX_LOCKED_BYTES)
    # guard: a VMM has no real-time priority
    words = ["prlimit", "--rtprio=0:0", "--nice=0:0", f"--memlock={locked}:{locked}"]
    # guard: a VMM ends before the desktop's programs where memory ends
    words += ["choom", "-n", str(max(limits.VMM_OOM, _own_oom()))]
    return [*words, "--"]


def _own_oom() -> int:
    """Return our own oom_score_adj, below which choom(1) might not be able to go.

    The administrator may have set one for all of the user's programs.
    """
    try:
        return int(_OOM.read_text(encoding="ascii"))
    except OSError:
        return 0  # as without /proc; choom then says what it lacks


def _lowered(kind: int, most: int) -> int:
    _soft, hard = resource.getrlimit(kind)
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


class Tracked:
    """A process of a machine, held by the host by its pidfd.

    Made by ``spawn_helper`` for our child and by ``find`` for a process that was
    written down.  ``role`` is the word for it in messages.  The owner calls
    ``close``.
    """

    def __init__(
        self,
        role: str,
        identity: ProcessIdentity,
        pidfd: int,
        child: Child | None = None,
        words: FirstWords | None = None,
    ) -> None:
        self.role = role
        self.identity = identity
        self._pidfd = pidfd
        self._child = child
        self._words = words
        self.jailed = False
        """Whether ``into`` made it: its child is bubblewrap."""
        self.patience = math.inf
        """Seconds that ``end`` waits after SIGKILL: one may sleep in a driver for ever."""

    @property
    def pid(self) -> int:
        """Its process id; for messages."""
        return self.identity.pid

    @property
    def pidfd(self) -> int:
        """The pidfd, owned by this object; -1 after ``close``."""
        return self._pidfd

    @property
    def words(self) -> str:
        """Its standard error, escaped for showing; "" if not known."""
        return "" if self._words is None else self._words.text(400)

    @property
    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._pidfd < 0 or has_ended(self._pidfd)

    @property
    def stopped(self) -> bool:
        """Return whether a signal has stopped the process."""
        try:
            return status_fields(self.pid)["State"][0] == "T"
        except OSError:
            return False

    def into(self, identity: ProcessIdentity, pidfd: int) -> Tracked:
        """Return the jailed process in place of bubblewrap's; takes over ``pidfd``."""
        inside = Tracked(self.role, identity, pidfd, self._child, self._words)
        inside.jailed = True
        self._child = self._words = None
        self.close()
        return inside

    async def wait(self) -> int | None:
        """Wait for the process's end; return its exit code if it was our child."""
        if self._pidfd >= 0:
            await wait_ended(self._pidfd)
        if self._child is None:
            return None
        if self.jailed:
            # bubblewrap has only a code to pass on; a stopped one does not.
            with trio.move_on_after(_PASS_ON_SECONDS):
                await self._child.wait()
            self._child.kill()
        code = await self._child.wait()
        # bubblewrap's code for a program that signal n ended is 128 + n.
        return 128 - code if self.jailed and code > 128 else code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; does nothing when it has ended."""
        if self._pidfd >= 0:
            send_signal(self._pidfd, number)

    def kill_now(self) -> None:
        """Kill it, reap it where it was our child, and let go of it."""
        if self._child is not None:
            self._child.kill_now()
        self.kill()
        self.close()

    async def end(self, grace: float) -> None:
        """Send SIGTERM, SIGKILL after ``grace`` seconds, and wait; not cancellable.

        A process that does not end within its ``patience`` is named in the broker's own log.
        """
        with trio.CancelScope(shield=True):
            # The first process of a pid namespace gets no signal that it has no
            # handler for, except SIGKILL (pid_namespaces(7)).
            if self._handles_sigterm():
                self.kill(signal.SIGTERM)
                with trio.move_on_after(grace):
                    await self.wait()
            self.kill()
            # guard: a renderer that sleeps in the kernel keeps no machine
            with trio.move_on_after(self.patience) as waited:
                await self.wait()
            if waited.cancelled_caught:
                who = f"{self.role} (process {self.pid})"
                log_stderr(f"{who} did not exit after SIGKILL: the kernel blocks it")

    def _handles_sigterm(self) -> bool:
        """Return whether the process handles SIGTERM; a stopped one handles none."""
        if self.stopped:
            return False
        try:
            status = status_fields(self.pid)
        except OSError:
            return False
        caught = int(status["SigCgt"][0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def close(self) -> None:
        """Close the pidfd; the process runs on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._words is not None:
            self._words.close()


def spawn_helper(
    role: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Tracked:
    """Start a program of a machine, which outlives this process.

    Its environment is a PATH and ``env``, nothing else; its output is bounded.
    Raises SetupError when it is not installed.
    """
    first_words = FirstWords()
    try:
        child = spawn(
            argv,
            name=role,
            env={"PATH": os.defpath, **(env or {})},
            pass_fds=pass_fds,
            stdout=first_words.fd,
            stderr=first_words.fd,
            outlive_us=True,
        )
    except BaseException:
        first_words.close()
        raise
    pidfd = -1
    try:
        pidfd = os.dup(child.pidfd)
        # It has not been waited for yet, so the pid was not reused.
        identity = read_identity(child.pid, pidfd)
    except BaseException:
        if pidfd >= 0:
            os.close(pidfd)
        child.kill_now()
        first_words.close()
        raise
    return Tracked(role, identity, pidfd, child, first_words)


def find(role: str, identity: ProcessIdentity) -> Tracked | None:
    """Return the living process of this identity, or None.  Raises OSError.

    The caller has compared the boot.  The pidfd is opened first and must
    still be alive after the start time was read: so the time was that of the
    process the pidfd holds, not of a later one under the same number.
    """
    same, pidfd = False, -1
    try:
        # guard: without descriptors a living process has not ended
        with suppress(ProcessLookupError):
            pidfd = open_pidfd(identity.pid)
            same = identity_of(identity.pid, pidfd) == identity
    finally:
        if pidfd >= 0 and not same:
            os.close(pidfd)
    return Tracked(role, identity, pidfd) if same else None
