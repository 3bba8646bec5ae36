"""The end of a broker that does not serve: by the process that it wrote down."""

from __future__ import annotations

import select
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from broker.authority.control.broker_record import HeldProcess, open_recorded
from broker.core.errors import SetupError
from broker.core.paths import Paths, require_private

_ORDERLY_SECONDS = 30.0
"""For a broker to stop its sandboxes after SIGTERM."""
_KILLED_SECONDS = 5.0
"""For its processes to end after SIGKILL, and for an authority without its broker."""


@dataclass(frozen=True)
class ForcedEnd:
    """A broker's first process that has ended, and whether it had to be killed."""

    pid: int
    killed: bool


def force_end(paths: Paths) -> ForcedEnd:
    """End this user's broker by signals: SIGTERM, then SIGKILL; wait for its end.

    Raises SetupError if none is recorded that runs, or if it cannot be ended.
    """
    require_private(paths)
    with open_recorded(paths.state) as held:
        if not held:
            raise SetupError(
                f"no running broker is recorded in {paths.state}",
                hint="to see whether a broker answers, run 'brokerctl doctor'",
            )
        # The first process ends the others; the authority is the last.
        _signal(held[:1], signal.SIGTERM)
        killed = not _ended(held, _ORDERLY_SECONDS)
        if killed:
            _signal(held, signal.SIGKILL)
            if not _ended(held, _KILLED_SECONDS):
                pids = ", ".join(str(one.pid) for one in held)
                raise SetupError(
                    f"the broker's processes ({pids}) do not end after SIGKILL",
                    hint="the kernel holds them: look for a disk or a mount that hangs",
                )
        return ForcedEnd(held[0].pid, killed)


def silent_broker(paths: Paths) -> str:
    """Return what to do about the broker that does not answer; empty: none is known."""
    try:
        with open_recorded(paths.state) as held:
            pid = held[0].pid if held else 0
    except SetupError:
        return ""
    if not pid:
        return ""
    return (
        f"the broker is process {pid}; to end it, run 'brokerctl stop --broker --force'"
    )


def _signal(held: Sequence[HeldProcess], number: int) -> None:
    """Send a signal to processes that have not ended."""
    for one in held:
        try:
            signal.pidfd_send_signal(one.pidfd, number)
        except ProcessLookupError:
            continue  # it has ended


def _ended(held: Sequence[HeldProcess], seconds: float) -> bool:
    """Wait for each process to end, at most ``seconds`` each; return whether all have."""
    for one in held:
        poll = select.poll()
        poll.register(one.pidfd, select.POLLIN)
        if not poll.poll(1000 * seconds):
            return False
    return True
