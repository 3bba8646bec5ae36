"""Boxes and containers that a call of another sandbox starts.

``brokerctl run`` starts one as it does for the user, in a separate process, which holds
it and outlives the broker, as a box that the user has started does.
"""

from __future__ import annotations

from signal import SIGTERM

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.host_viewer import first_of
from policy.records.model import Record, has_command
from policy.records.places import is_held

SERVING_PROGRAM = "vitrail-services"
_START_SECONDS = 60.0
"""For a box or container to be leased: Podman may unpack an image first."""


async def start_box(record: Record, leased: trio.Event, nursery: trio.Nursery) -> None:
    """Start a box of a persistent record that serves calls; returns once it has ``leased``.

    ``brokerctl run`` starts it, in a process that outlives the broker.  A start that has begun goes on: a caller that is cancelled waits for it, too, and the
    box stays, as after any call.  ``nursery`` waits for the process that holds it.  Raises RefusedError for another
    record, UpstreamError if it does not start, SetupError without the program.
    """
    _require_served(record)
    words = our_program("broker.cli.app", "run", "--quiet", record.name)
    # What its programs write goes nowhere: brokerctl's own errors are on standard error.
    child = spawn(words, name="brokerctl", stdout=DEVNULL, outlive_us=True)
    ended = trio.Event()

    async def attend() -> None:
        try:
            await child.wait()
        finally:
            if child.returncode is None:
                # The broker ends: a box that it has not leased ends, too.
                if not leased.is_set():
                    child.kill(SIGTERM)
                child.abandon()
            ended.set()

    nursery.start_soon(attend)
    # Who calls and hangs up has it started once, not each time.
    # guard: a start of a box goes on without its caller
    with trio.move_on_after(_START_SECONDS, shield=True):
        await first_of(leased, ended)
    late = not ended.is_set()
    if not leased.is_set():
        # It ends its box, which nobody waits for.
        with trio.CancelScope(shield=True):
            await child.stop()
    if not leased.is_set():
        how = f"did not start within {_START_SECONDS:g} s" if late else "ended at once"
        raise UpstreamError(
            f"cannot start '{record.name}': it {how}",
            hint=f"to start it and see its errors, run 'brokerctl run {record.name}'",
        )


def _require_served(record: Record) -> None:
    """Refuse to start a box by a call unless its program only serves calls."""
    launch = record.host.launch
    command = " ".join(launch.command) if has_command(launch) else ""
    # guard: a call starts no program that the user would start
    if not is_held(launch) or SERVING_PROGRAM not in command:
        raise RefusedError(
            f"a call cannot start '{record.name}': its command does not run {SERVING_PROGRAM}",
            where=record.where("launch.kind"),
            hint=f"run 'brokerctl run {record.name}' first, or set command = [\"{SERVING_PROGRAM}\"] if it only serves calls",
        )
    # guard: a box that a call starts is not one of many
    if record.host.sandbox_class == "disposable":
        raise RefusedError(
            f"a call cannot start '{record.name}': nothing would stop a disposable box",
            where=record.where("class"),
            hint='set class = "persistent"',
        )
