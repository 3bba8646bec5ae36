"""The table of ``brokerctl network``."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from broker.cli import render
from broker.core.escape import printable
from broker.ipc.control.api import FlowStatus


def as_table(flows: list[FlowStatus], now: float) -> Table:
    """Return the table for a terminal; ``now`` in seconds since 1970."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = "SANDBOX,HOST,ADDRESS,PORT,OUT,OUT/S,IN,IN/S,AGE,RULE"
    for column in heads.split(","):
        table.add_column(column, overflow="fold")
    for flow in flows:
        cells = (
            flow.sandbox,
            flow.host,
            "-" if flow.address == flow.host else flow.address,
            f"{flow.port}/{flow.protocol}" if flow.port else flow.protocol,
            render.size(flow.bytes_from_sandbox),
            f"{render.size(int(flow.rate_from_sandbox))}/s",
            render.size(flow.bytes_to_sandbox),
            f"{render.size(int(flow.rate_to_sandbox))}/s",
            render.seconds(max(0.0, now - flow.since)),
            flow.rule or "-",
        )
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table
