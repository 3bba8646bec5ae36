"""``brokerctl lease``: leases for machines and containers of other launchers."""

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
    """Lease machines and containers of other launchers as sandboxes."""


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
    help="ID of the process with which the lease ends.",
)
@click.option(
    "--connector",
    "connectors",
    type=click.IntRange(min=2),
    multiple=True,
    help="ID of another process that may connect, such as a vhost-user backend.",
)
@click.option("--detach", is_flag=True, help="Do not wait; requires --leader.")
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
    """Acquire a lease for RECORD, and hold it until it ends or is interrupted.

    Exactly one of --cid, --hybrid and --unix specifies how the peer is identified.  With
    --leader, the lease also ends with that process; with --detach, only then.
    Starts the broker if none runs.

    Exit code: 0 the lease ended or was detached, 1 refused, 2 usage error.
    """
    if sum(way is not None for way in (cid, hybrid, unix)) != 1:
        raise click.UsageError("exactly one of --cid, --hybrid and --unix is required")
    if detach and leader is None:
        raise click.UsageError(
            "--detach requires --leader, the process with which the lease ends"
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
    """Request a lease, print it, and hold it to its end.

    Starts the broker if none runs.
    """

    async def show(item: LeaseItem) -> None:
        if as_json:
            render.json_line(msgspec.to_builtins(item))
        elif item.lease is not None:
            lease = item.lease
            sys.stdout.write(f"{lease.id} {printable(lease.sandbox)}\n")
            sys.stdout.flush()
        elif item.ended is not None:
            render.note(f"the lease has ended: {printable(item.ended)}")

    # Late: it imports what starting a broker takes.
    from broker.cli.run.request import ensure_broker_for_lease

    await ensure_broker_for_lease(request.record)
    async with open_client() as client:
        if detach:
            await show(await client.call(LEASE_ACQUIRE, request))
        else:
            await show(await client.call(LEASE_ACQUIRE, request, show))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_leases(*, as_json: bool) -> None:
    """List all leases."""
    answer = ask(LEASE_LIST, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    columns = ["LEASE", "SANDBOX", "RECORD", "LAUNCH", "PEER", "PID"]
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
    """End LEASE and close its streams; its machine continues to run."""
    request = LeaseReleaseRequest(id=take_lease_id(lease))
    ask(LEASE_RELEASE, request)
    render.note(f"lease {lease} has ended")
