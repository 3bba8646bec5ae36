"""``brokerctl lease``: for machines and containers that others start."""

from __future__ import annotations

import sys

import msgspec
import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask, open_client
from broker.core.escape import printable
from broker.core.names import take_lease_id
from broker.ipc.control.api import (
    LeaseItem,
    LeaseReleaseRequest,
    LeaseRequest,
    LeaseStatus,
    Nothing,
)
from broker.ipc.control.methods import LEASE_ACQUIRE, LEASE_LIST, LEASE_RELEASE


@click.group("lease")
def command() -> None:
    """Bind a machine or container of another launcher to a sandbox."""


@command.command()
@click.argument("record", shell_complete=sandboxes)
@click.option(
    "--cid", type=click.IntRange(3, 0xFFFFFFFE), help="vsock CID of the machine."
)
@click.option("--hybrid", help="Path of the VMM's hybrid-vsock socket.")
@click.option("--unix", help="Directory of the container's sockets.")
@click.option("--sandbox", help="Name of the running sandbox [default: the record's].")
@click.option(
    "--leader",
    type=click.IntRange(min=2),
    help="Process ID; the lease ends with this process.",
)
@click.option(
    "--connector",
    "connectors",
    type=click.IntRange(min=2),
    multiple=True,
    help="Another process ID that may connect (a vhost-user backend).",
)
@click.option("--detach", is_flag=True, help="Do not wait; needs --leader.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def acquire(
    *,
    record: str,
    cid: int | None,
    hybrid: str | None,
    unix: str | None,
    sandbox: str | None,
    leader: int | None,
    connectors: tuple[int, ...],
    detach: bool,
    as_json: bool,
) -> None:
    """Take a lease for RECORD and hold it until it ends, or Ctrl-C.

    Exactly one of --cid, --hybrid and --unix says how the peer is recognised.
    With --leader it also ends with that process; with --detach only then.

    Exit code: 0 it ended or was detached, 1 refused, 2 wrong call.
    """
    if sum(way is not None for way in (cid, hybrid, unix)) != 1:
        raise click.UsageError("give exactly one of --cid, --hybrid and --unix")
    if detach and leader is None:
        raise click.UsageError(
            "--detach needs --leader, the process with which the lease ends"
        )
    request = LeaseRequest(
        record=record,
        sandbox=sandbox,
        cid=cid,
        hybrid=hybrid,
        unix=unix,
        leader=leader,
        connectors=list(connectors) or None,
    )
    trio.run(_acquire, request, detach, as_json)


async def _acquire(request: LeaseRequest, detach: bool, as_json: bool) -> None:  # noqa: FBT001
    """Request a lease, print it, and hold it to its end."""

    async def show(item: LeaseItem) -> None:
        if as_json:
            render.json_line(msgspec.to_builtins(item))
        elif item.lease is not None:
            lease = item.lease
            sys.stdout.write(f"{lease.id} {printable(lease.sandbox)}\n")
            sys.stdout.flush()
        elif item.ended is not None:
            render.note(f"the lease has ended: {printable(item.ended)}")

    async with open_client() as client:
        if detach:
            await show(await client.call(LEASE_ACQUIRE, request))
        else:
            await show(await client.call(LEASE_ACQUIRE, request, show))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_leases(*, as_json: bool) -> None:
    """Show every live lease."""
    answer = ask(LEASE_LIST, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    columns = ("LEASE", "SANDBOX", "RECORD", "LAUNCH", "PEER", "PID")
    render.table(columns, [_row(lease) for lease in answer.leases])


def _row(lease: LeaseStatus) -> tuple[str, ...]:
    return (
        lease.id,
        printable(lease.sandbox),
        printable(lease.record),
        str(lease.generation),
        printable(lease.peer) + (" (pending)" if lease.pending else ""),
        "-" if lease.pid is None else str(lease.pid),
    )


@command.command()
@click.argument("lease")
def release(lease: str) -> None:
    """End LEASE and cut its streams; its machine is left alone."""
    request = LeaseReleaseRequest(id=take_lease_id(lease))
    ask(LEASE_RELEASE, request)
    render.note(f"lease {lease} has ended")
