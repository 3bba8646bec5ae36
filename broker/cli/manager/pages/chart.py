"""Bytes and decisions of each sandbox as bars, from the counts of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from broker.cli import render
from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import action_row, group, name_control, page_of
from broker.cli.manager.words import tr, trn

ROWS: Final = 20
"""Sandboxes of a chart, those with the largest numbers."""
_WIDTH: Final = 240


_Number = tuple[str, int, str]
"""A sandbox, its number, and what the number is."""


def chart_page(events: Mapping[str, Any], decisions: Mapping[str, Any]) -> Any:
    """Return the page of two objects of ``audit stats``: all events, and the decisions."""
    return page_of(
        [
            group(
                tr("Bytes of closed streams"),
                _bars(_traffic(events)),
                tr("No stream has been closed."),
            ),
            group(
                tr("Decisions"),
                _bars(_decisions(decisions)),
                tr("Nothing has been decided."),
            ),
        ]
    )


def _traffic(events: Mapping[str, Any]) -> list[_Number]:
    """Return the bytes of each sandbox; there is an object for each of its services."""
    found: dict[str, tuple[int, int, int]] = {}
    for one in events["traffic"]:
        name, streams = str(one["sandbox"]), int(one["streams"])
        sent, got = int(one["bytes_from_sandbox"]), int(one["bytes_to_sandbox"])
        before = found.get(name, (0, 0, 0))
        found[name] = (before[0] + sent, before[1] + got, before[2] + streams)
    made: list[_Number] = []
    for name, (sent, got, streams) in found.items():
        text = tr(
            "{sent} out, {received} in, {streams}",
            sent=render.size(sent),
            received=render.size(got),
            streams=trn("{number} stream", "{number} streams", streams),
        )
        made.append((name, sent + got, text))
    return made


def _decisions(decisions: Mapping[str, Any]) -> list[_Number]:
    made: list[_Number] = []
    for name, number in decisions.get("sandbox", {}).items():
        denied = int(decisions["denied"].get(name, 0))
        text = tr(
            "{decisions}, {denied} denied",
            decisions=trn("{number} decision", "{number} decisions", int(number)),
            denied=denied,
        )
        made.append((str(name), int(number), text))
    return made


def _bars(numbers: Sequence[_Number]) -> list[Any]:
    """Return a row for each name, the largest number first; its bar is its share of that."""
    found = sorted(numbers, key=lambda one: -one[1])[:ROWS]
    most = max((number for _, number, _ in found), default=0)
    rows = []
    for name, number, text in found:
        bar = Gtk.ProgressBar(
            fraction=number / most if most else 0.0,
            valign=Gtk.Align.CENTER,
            width_request=_WIDTH,
        )
        name_control(bar, text)
        rows.append(action_row(name or tr("of no sandbox"), text, bar))
    return rows
