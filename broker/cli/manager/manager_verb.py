"""``brokerctl manager``: the window, for who does not know that it is a program."""

from __future__ import annotations

import sys

import rich_click as click

from broker.cli.manager.app import show


@click.command("manager")
@click.argument("page", required=False)
def command(page: str | None) -> None:
    """Show the window of sandboxes, permissions, questions, devices and events.

    PAGE is a sandbox, or one of: sandboxes, questions, devices, activity, policy,
    images, backups, setup.  A second start shows the page in the first's window.  The
    program 'vitrail-manager' does the same.

    Exit code: 0 the window was closed, 1 GTK 4 or libadwaita is missing.
    """
    sys.exit(show([page] if page else []))
