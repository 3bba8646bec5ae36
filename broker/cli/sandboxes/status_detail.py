"""The detailed form of ``brokerctl status``: leases, streams with rates, processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import trio
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.cli import render
from broker.cli.run.connect import open_client
from broker.cli.tray.menu_rows import keeps_screen_on
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.ipc.control.api import (
    LeaseStatus,
    LimitStatus,
    LinkStatus,
    NetworkTraffic,
    Nothing,
    PolicyStatus,
    PumpStatus,
    SandboxStatus,
    Status,
    StreamStatus,
)
from broker.ipc.control.client import Client
from broker.ipc.control.methods import STATUS
from broker.wire.faults import NotFoundError

_SAMPLE_SECONDS = 0.5
_WATCH_SECONDS = 1.0

Rates = Mapping[int, tuple[float, float]]
"""Stream number to bytes a second: from the sandbox, to it."""


def show(sandbox: str | None, *, as_json: bool, watch: bool) -> None:
    """Print the whole status once, or repeatedly until interrupted."""
    if watch:
        trio.run(_watch, sandbox, as_json)
    else:
        trio.run(_once, sandbox, as_json)


async def _once(sandbox: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Print the status once, with rates measured over a moment."""
    async with open_client() as client:
        status = await _ask(client, sandbox)
        rates: Rates = {}
        if status.streams:
            # Two looks: one alone knows how much, not how fast.
            await trio.sleep(_SAMPLE_SECONDS)
            earlier, status = status, await _ask(client, sandbox)
            rates = rates_between(earlier, status)
    if as_json:
        render.json_line(as_object(status, rates))
    else:
        render.wide_console().print(as_text(status, rates, time.time()))


async def _watch(sandbox: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Print the status repeatedly, until interrupted."""
    console = render.plain_console()
    async with open_client() as client:
        earlier = await _ask(client, sandbox)
        if as_json or not console.is_terminal:
            while True:
                await trio.sleep(_WATCH_SECONDS)
                earlier = await _show_json(client, sandbox, earlier)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                status = await _ask(client, sandbox)
                rates = rates_between(earlier, status)
                live.update(as_text(status, rates, time.time()), refresh=True)
                earlier = status
                await trio.sleep(_WATCH_SECONDS)


async def _show_json(client: Client, sandbox: str | None, earlier: Status) -> Status:
    status = await _ask(client, sandbox)
    render.json_line(as_object(status, rates_between(earlier, status)))
    return status


async def _ask(client: Client, sandbox: str | None) -> Status:
    status = await client.call(STATUS, Nothing())
    return status if sandbox is None else only(status, sandbox)


def only(status: Status, sandbox: str) -> Status:
    """Return the part of a status about one sandbox, or about those of a record.

    Raises NotFoundError.
    """
    pairs = [(s.name, s.record) for s in status.sandboxes]
    named = set(sandboxes_named(sandbox, pairs))
    sandboxes = [s for s in status.sandboxes if s.name in named]
    if not sandboxes:
        names = ", ".join(s.name for s in status.sandboxes) or "none"
        raise NotFoundError(
            f"no sandbox named '{printable(sandbox, 60)}' is running",
            hint=f"use one of the running sandboxes: {names}",
        )
    return msgspec.structs.replace(
        status,
        sandboxes=sandboxes,
        leases=[lease for lease in status.leases if lease.sandbox in named],
        streams=[s for s in status.streams if s.sandbox in named],
        processes=[p for p in status.processes if p.sandbox in named],
        pump=None,
    )


def rates_between(earlier: Status, later: Status) -> Rates:
    """Return the rates of the streams that both statuses contain, in bytes per second."""
    span = later.monotonic - earlier.monotonic
    if span <= 0:
        return {}
    before = {s.stream: s for s in earlier.streams}
    return {
        s.stream: (
            (s.bytes_from_sandbox - before[s.stream].bytes_from_sandbox) / span,
            (s.bytes_to_sandbox - before[s.stream].bytes_to_sandbox) / span,
        )
        for s in later.streams
        if s.stream in before
    }


def as_object(status: Status, rates: Rates) -> dict[str, object]:
    """Return the status as a JSON object, with the rates in its streams."""
    out: dict[str, object] = msgspec.to_builtins(status)
    streams = [
        {
            **msgspec.to_builtins(s),
            "rate_from_sandbox": rates.get(s.stream, (0.0, 0.0))[0],
            "rate_to_sandbox": rates.get(s.stream, (0.0, 0.0))[1],
        }
        for s in status.streams
    ]
    return {**out, "streams": streams}


def as_text(status: Status, rates: Rates, now: float) -> RenderableType:
    """The status for people.  ``now`` in seconds since 1970."""
    return Group(*_parts(status, rates, now))


def _parts(status: Status, rates: Rates, now: float) -> Iterator[RenderableType]:
    """Yield the printed parts of a status."""
    text = (
        f"Vitrail {status.version} ({status.role}), pid {status.pid}, up "
        f"{render.seconds(max(0.0, now - status.since))}"
    )
    if status.audit:
        events = status.audit.events
        text += (
            f", {events} event recorded"
            if events == 1
            else f", {events} events recorded"
        )
    yield Text(text)
    yield from _policy(status.policy)
    if status.audit and status.audit.failures:
        yield Text(
            f"warning: {status.audit.failures} writes to the audit log failed; "
            "actions that had to be recorded were refused",
            style="bold red",
        )
    for warning in status.warnings:
        yield Text(f"warning: {printable(warning)}", style="bold yellow")
    if status.link:
        yield from _link(status.link, now)
        if status.link.loss:
            yield Text(
                f"link: {_age(now - status.link.loss_since)} ago "
                f"{printable(status.link.loss)}",
                style="bold yellow",
            )
    for sandbox in filter(keeps_screen_on, status.sandboxes):
        yield Text(f"{sandbox.name} keeps the screen on", style="bold yellow")
    if not status.sandboxes:
        yield Text("no sandboxes are running")
    for table in _tables(status, rates, now):
        yield Text("")
        yield table
    if status.pump:
        yield Text("")
        yield _pump(status.pump)


def _link(link: LinkStatus, now: float) -> Iterator[Text]:
    state = f"link: {link.state} for {_age(now - link.since)}, {link.endpoint}"
    if link.state != "up":
        yield Text(
            f"{state} (version {link.version})",
            style="bold yellow",
        )
        yield from _link_problem(link)
        return
    yield Text(
        f"{state}, {printable(link.name)}, epoch {link.epoch[:8]} (no. "
        f"{link.epochs}), {link.leases} leases, {link.streams} streams, "
        f"{link.refused} refused"
    )
    yield from _link_problem(link)
    if link.other is None:
        yield Text("link: the other broker does not answer", style="bold yellow")
        return
    yield Text(
        f"link: the other end runs {printable(link.other.program)}, up "
        f"{_age(link.other.up_seconds)}, {link.other.leases} leases, "
        f"{link.other.streams} streams, {link.other.refused} refused"
    )
    for warning in link.other.warnings:
        yield Text(f"warning from {printable(link.name)}: {printable(warning)}")


def _link_problem(link: LinkStatus) -> Iterator[Text]:
    style = "bold yellow"
    if link.problem:
        yield Text(f"link: {printable(link.problem)}", style=style)
    if link.cure:
        yield Text("  hint: " + printable(link.cure), style=style)


def _policy(policy: PolicyStatus) -> Iterator[Text]:
    if not policy.digest or policy.denies_all:
        yield Text("no policy is in force, so everything is denied", style="bold red")
    else:
        text = f"policy {policy.digest[:12]} is in force"
        if policy.rules:
            text += (
                f", {policy.rules} rule"
                if policy.rules == 1
                else f", {policy.rules} rules"
            )
        if policy.kept:
            text += ", kept because the files have errors"
        yield Text(text)
    for problem in policy.problems:
        yield Text(f"policy: {printable(problem)}", style="bold red")


def _tables(status: Status, rates: Rates, now: float) -> Iterator[RenderableType]:
    if status.sandboxes:
        rows = [_sandbox(s, now) for s in status.sandboxes]
        yield _table("SANDBOX,RECORD,CLASS,LABEL,STATE,PID,CID,UP,IMAGE,PROGRAMS", rows)
    devices = [(s.name, device) for s in status.sandboxes for device in s.devices]
    if devices:
        yield _table("SANDBOX,DEVICE", devices)
    if traffic := [_traffic(s.name, s.network) for s in status.sandboxes if s.network]:
        yield _table("NETWORK,FLOWS,OUT/S,IN/S", traffic)
    if status.leases:
        rows = [_lease(lease, now) for lease in status.leases]
        yield _table("LEASE,SANDBOX,LAUNCH,PEER,PID,SINCE", rows)
    if status.streams:
        rows = [_stream(s, rates, now) for s in status.streams]
        yield _table("STREAM,SANDBOX,SERVICE,OUT,OUT/S,IN,IN/S,AGE,WORK,MODE", rows)
    if status.streams_omitted:
        yield Text(f"and {status.streams_omitted} streams with less traffic")
    if len(status.sandboxes) == 1 and status.sandboxes[0].limits:
        rows = [_limit(limit) for limit in status.sandboxes[0].limits]
        yield _table("LIMIT,USED,MAXIMUM,REFUSED", rows)
    if status.processes:
        rows = [
            (
                p.role,
                str(p.pid),
                p.sandbox or "-",
                render.size(p.memory) if p.memory else "-",
                p.jail or "none",
            )
            for p in status.processes
        ]
        yield _table("PROCESS,PID,SANDBOX,MEMORY,JAIL", rows)


def _table(columns: str, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns.split(","):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])
    return table


def _sandbox(s: SandboxStatus, now: float) -> Sequence[str]:
    image = s.image or "-"
    if s.image_age is not None:
        image += f" ({_age(s.image_age)} old)"
    programs = ", ".join(f"{p.program}:{p.name}" for p in s.programs) or "-"
    return (
        s.name,
        s.record,
        s.sandbox_class,
        f"{s.label} {s.color}".strip(),
        s.state + (f" ({s.accel})" if s.accel else ""),
        _number(s.pid),
        _number(s.cid),
        _age(now - s.since),
        image,
        programs,
    )


def _limit(limit: LimitStatus) -> Sequence[str]:
    bytes_ = limit.what.endswith("_bytes")
    now, most = (render.size(n) if bytes_ else str(n) for n in (limit.now, limit.most))
    what = limit.what.replace("_", " ")
    if not limit.most:  # a rate has no number at one time
        return (what, "-", "-", str(limit.refused))
    return (what, now, most, str(limit.refused))


def _traffic(name: str, traffic: NetworkTraffic) -> Sequence[str]:
    return (
        name,
        str(traffic.flows),
        f"{render.size(int(traffic.rate_from_sandbox))}/s",
        f"{render.size(int(traffic.rate_to_sandbox))}/s",
    )


def _lease(lease: LeaseStatus, now: float) -> Sequence[str]:
    return (
        lease.id,
        lease.sandbox,
        str(lease.generation),
        lease.peer + (" (pending)" if lease.pending else ""),
        _number(lease.pid),
        _age(now - lease.since),
    )


def _stream(s: StreamStatus, rates: Rates, now: float) -> Sequence[str]:
    out, back = rates.get(s.stream, (0.0, 0.0))
    return (
        str(s.stream),
        s.sandbox,
        s.service,
        render.size(s.bytes_from_sandbox),
        f"{render.size(int(out))}/s",
        render.size(s.bytes_to_sandbox),
        f"{render.size(int(back))}/s",
        _age(now - s.since),
        f"{s.work:.1f} s" if s.mode == "worker" else "-",
        s.mode or "-",
    )


def _pump(pump: PumpStatus) -> Text:
    return Text(
        f"pump: pid {pump.pid}, {pump.streams} streams now, {pump.streams_total} in "
        f"total, {render.size(pump.bytes_total)} transferred, {pump.pipes_pooled} "
        "pipes pooled"
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds >= 2 * 86400:
        days = round(seconds / 86400)
        return f"{days} day" if days == 1 else f"{days} days"
    return render.seconds(seconds)
