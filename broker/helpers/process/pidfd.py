"""A process that is not our child, held by a pidfd that came over a socket."""

from __future__ import annotations

import os
import signal

from broker.helpers.process.spawn import has_ended, send_signal, wait_ended


class PidfdProcess:
    """Owns the pidfd; ``pid`` is right as long as the process lives."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    async def wait(self) -> None:
        """Wait for its end.  Any number of tasks may wait."""
        await wait_ended(self._pidfd)

    def kill(self) -> None:
        """Send SIGKILL; does nothing when it has ended."""
        send_signal(self._pidfd)

    def has_ended(self) -> bool:
        """Return whether the process has ended; does not wait."""
        return has_ended(self._pidfd)

    def fileno(self) -> int:
        """Return the pidfd."""
        return self._pidfd

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)


def describe_end(code: int) -> str:
    """Describe how a process ended: exit code, or minus the signal's number."""
    if code >= 0:
        return f"ended with code {code}"
    if code == -signal.SIGSYS:
        return "was killed for a system call that its jail forbids (SIGSYS)"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
