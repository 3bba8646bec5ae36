"""``brokerctl notifications``: what sandboxes have shown on the desktop."""

from __future__ import annotations

import sys
import time

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.run.connect import ask
from broker.core.escape import displayed
from broker.ipc.control.api import NotificationRow, NotificationsRequest
from broker.ipc.control.methods import NOTIFICATIONS


@click.command("notifications")
@click.argument("sandbox", required=False)
@click.option(
    "--clear", is_flag=True, help="Remove the notifications after listing them."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(sandbox: str | None, *, clear: bool, as_json: bool) -> None:
    """Show the newest notifications of SANDBOX, or of all sandboxes.

    Notifications that were counted but not displayed are included.  Title and text come
    from the sandbox.  The broker keeps notifications only in memory; the audit log
    records their sizes.

    Exit code: 0 notifications were listed, 1 none exist.
    """
    request = NotificationsRequest(sandbox=sandbox, clear=clear or None)
    found = ask(NOTIFICATIONS, request)
    if as_json:
        render.json_line(msgspec.to_builtins(found))
    for row in [] if as_json else found.notifications:
        sys.stdout.write("".join(f"{line}\n" for line in _text(row)))
    if found.omitted and not as_json:
        render.note(f"{found.omitted} earlier notifications are not shown")
    if not found.notifications:
        render.note("no notifications")
        sys.exit(1)


def _text(row: NotificationRow) -> list[str]:
    """Return the lines of one notification."""
    when = time.strftime("%H:%M:%S", time.localtime(row.when))
    urgency = {0: "low, ", 2: "critical, "}.get(row.urgency, "")
    first = f"{when} {row.sandbox}: {row.summary} ({urgency}{row.outcome})"
    return [
        displayed(line)
        for line in (first, *(f"   {x}" for x in row.body.split("\n") if x))
    ]
