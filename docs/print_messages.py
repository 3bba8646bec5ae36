"""Print ``docs/messages.md`` from the rows beside the code.

``python -m docs.print_messages`` writes the page; with ``--check`` it compares
and returns 1 when the page is older than the rows.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from broker.ipc import authority as authority_rows
from broker.ipc import fork_server as fork_rows
from broker.ipc import host_rows
from broker.ipc.audit import log_rows
from broker.ipc.control import forwarded
from broker.net.link import link_rows
from docs.tables import desktop as desktop_policies
from docs.tables import ipc as message_policies
from docs.tables import port_frames, session, waypipe
from docs.tables import sound as pulse
from docs.tables import transfer as transfer_policies
from docs.tables.channel import ChannelPolicy
from docs.tables.rows import rows_table
from shims.files.bus_calls import BUS_OBJECTS

PAGE = Path(__file__).with_name("messages.md")
_HEAD = """# Messages of the other channels

<!-- printed by python -m docs.print_messages; do not edit -->

A line for each message that a sandbox, its worker or the broker sends, except those of Wayland, which are on [a separate page](wayland-messages.md).
Messages that are equal in all else share a line.
The last sentences are what a hostile sender gets out of it.
"""
_COLUMNS = ("who", "when", "cost", "descriptors")
_USUAL = 3
"""Messages of a channel with the same value, from which on it is printed once above."""


def _table(title: str, rows: dict[str, ChannelPolicy]) -> str:
    lines = [f"## {title}", ""]
    usual: list[str] = []
    known: list[str] = []
    for column in _COLUMNS:
        attribute = "sender" if column == "who" else column
        values = Counter(str(getattr(row, attribute)) for row in rows.values())
        value, count = values.most_common(1)[0]
        usual.append(value if count >= _USUAL else "")
        if usual[-1]:
            known.append(f"*{column}* {value}")
    if known:
        lines += [f"Unless a line says otherwise: {'; '.join(known)}.", ""]
    bounds: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, row in rows.items():
        cells = zip(
            _COLUMNS,
            (row.sender, row.when, row.cost, row.descriptors),
            usual,
            strict=True,
        )
        parts = (
            f"*{column}* {value}" for column, value, most in cells if value != most
        )
        gains = bounds.setdefault(tuple(parts), {})
        gains.setdefault(row.gain, []).append(f"`{name}`")
    for key, gains in bounds.items():
        head = f"{'; '.join(key)}. " if key else ""
        lines += _lines(head, {gain: ", ".join(names) for gain, names in gains.items()})
    return "\n".join(lines) + "\n"


def _lines(bounds: str, names: dict[str, str]) -> list[str]:
    """Return a line for each gain; bounds that several gains have stand above them."""
    if not bounds or len(names) == 1:
        return [f"* {equal}: {bounds}{gain}" for gain, equal in names.items()]
    return [f"* {bounds.strip()}", *(f"  * {n}: {g}" for g, n in names.items())]


_BUS_HEAD = """## Calls of the session bus

A guest's session bus has no other methods and signals of Vitrail: one that is absent, or has other types, is answered by an error, and the filter at the desktop's bus does not pass it.
`service`: of the rule that decides.
`guest`: who begins it there: its programs call a method; a signal is to them.
`desktop`: the viewer, which calls a method of the user's desktop or listens for its signal.
`at once`: the most of what it begins that runs in a guest.
"""
_BUS_COLUMNS = (
    "interface",
    "member",
    "types",
    "service",
    "guest",
    "desktop",
    "at once",
)


def _bus_table() -> str:
    lines = [_BUS_HEAD, f"| {' | '.join(_BUS_COLUMNS)} |"]
    lines.append("| --- " * len(_BUS_COLUMNS) + "|")
    for one in BUS_OBJECTS.values():
        for row in one.rows.values():
            columns = (
                f"`{one.interface}`",
                f"`{row.member}`",
                f"`{row.takes or '()'}`" + (f" → `{row.gives}`" if row.gives else ""),
                one.service.replace(",", ", ") or "none of its own",
                ("signal" if row.signal else "method") if row.guest else "no",
                "yes" if row.desktop else "no",
                str(row.most or ""),
            )
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    commands = {
        f"{c.name}` ({pulse.happens(c)}) `{c.value}": row
        for c, row in sorted(pulse.POLICIES.items())
    }
    blocks = {k.name: row for k, row in sorted(waypipe.POLICIES.items())}
    parts = [
        _HEAD,
        _table("PulseAudio commands", commands),
        _table("waypipe blocks", blocks),
        _table("Guest agent", dict(message_policies.AGENT)),
        _table("Frames on a machine's port", dict(port_frames.POLICIES)),
        _table("Files and links", dict(transfer_policies.GUEST)),
        _table("Entries of a transfer", dict(transfer_policies.ENTRIES)),
        _table("Notifications", dict(desktop_policies.GUEST)),
        _table("Icons in the panel", dict(desktop_policies.TRAY)),
        _bus_table(),
        _table("Workers", dict(message_policies.WORKER)),
        rows_table("Fork servers", fork_rows),
        rows_table("The authority", authority_rows, log_rows),
        rows_table("Forwarded calls of the control socket", forwarded),
        _table("Orders of the viewer", dict(session.ORDERS)),
        rows_table("Host and viewer", host_rows, link_rows),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
