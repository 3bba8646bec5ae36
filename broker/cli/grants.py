"""``brokerctl grants``: list and revoke temporary permissions."""

from __future__ import annotations

import sys

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.ipc.control.api import GrantRevokeRequest, GrantStatus, Nothing
from broker.ipc.control.methods import GRANT_LIST, GRANT_REVOKE


@click.group("grants", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List or revoke permissions that were granted until a time or a sandbox's stop.

    Without a verb, list them.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_grants)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_grants(*, as_json: bool = False) -> None:
    """List the grants that are in force, oldest first."""
    found = ask(GRANT_LIST, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(found))
        return
    for grant in found.grants:
        sys.stdout.write(f"{line(grant)}\n")
    if not found.grants:
        render.note("no grants are in force")


@command.command()
@click.argument("grant", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Revoke all grants.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def revoke(grant: str | None, *, everything: bool, as_json: bool) -> None:
    """Revoke a grant, and close the streams that it allowed.

    Exit code: 0 revoked, 1 there is no such grant, 2 usage error.
    """
    if (grant is None) is not everything:
        raise click.UsageError("specify a grant, or --all")
    ended = ask(GRANT_REVOKE, GrantRevokeRequest(id=grant))
    if as_json:
        render.json_line(msgspec.to_builtins(ended))
        return
    for one in ended.grants:
        render.note(f"revoked: {line(one)}")
    if not ended.grants:
        render.note("no grants are in force")


def line(grant: GrantStatus) -> str:
    """Return a grant as one line of text."""
    end = (
        f"until {grant.sandbox} stops"
        if grant.left is None
        else f"{grant.left:.0f} s left"
    )
    what = grant.service + (f"+{grant.argument}" if grant.argument else "")
    what += f" ({grant.about})" if grant.about else ""
    live = f", {grant.live} in use" if grant.live else ""
    text = (
        f"{grant.id} {grant.sandbox} {what} to {shown_target(grant.target)}: "
        f"{end + live} ({grant.rule})"
    )
    return printable(text, 1000)
