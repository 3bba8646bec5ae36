"""``brokerctl labels``: print names and colours of labels for bars and task lists.

A window's application id is ``vitrail.SANDBOX.ID``, set by the filter and not by
the application, so a rule on it cannot be met by another sandbox.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape

import rich_click as click

from broker.cli import render
from broker.cli.policy.records import print_problems, read_records
from broker.cli.run.connect import offline_paths
from broker.core.escape import printable
from policy.records.model import Record
from policy.tools.colours import ink


@dataclass(frozen=True)
class WindowLabel:
    """How windows of a record's sandboxes are to be marked."""

    record: str
    name: str
    colour: str
    """``#rrggbb``; ``text`` is black or white, whichever is read better on it."""
    text: str

    @property
    def sandbox(self) -> str:
        """A regular expression for the names of its sandboxes."""
        return f"{self.record}(-[0-9]{{4}})?"

    @property
    def app_id(self) -> str:
        r"""A regular expression (PCRE, POSIX extended) for application ids."""
        return rf"^vitrail\.{self.sandbox}(\.|$)"

    @property
    def markup(self) -> str:
        """The label in Pango's markup."""
        name = escape(printable(self.name, 60), quote=True)
        return (
            f"<span background='{self.colour}' foreground='{self.text}'> {name} </span>"
        )


@click.command("labels")
@click.option("--json", "form", flag_value="json", help="Print one JSON array.")
@click.option("--css", "form", flag_value="css", help="Print GTK CSS for status bars.")
@click.option(
    "--sway", "form", flag_value="sway", help="Print rules for sway's configuration."
)
@click.option(
    "--waybar", "form", flag_value="waybar", help="Print settings for waybar."
)
def command(*, form: str | None) -> None:
    """Show name and colour of each record's windows, by application ID.

    'brokerctl labels --sway > ~/.config/sway/config.d/vitrail' marks window titles; run
    this command again after a record has changed.  The font of sway must have the prefix
    'pango:', as in 'font pango:monospace 10'.
    """
    found = read_records(offline_paths())
    labels = [label_of(found.records[name]) for name in sorted(found.records)]
    if form is None:
        rows = [(one.record, one.name, one.colour, one.app_id) for one in labels]
        render.table(["RECORD", "LABEL", "COLOUR", "APPLICATION ID"], rows)
    else:
        sys.stdout.write(_FORMS[form](labels))
    print_problems(found.problems, stderr=True)


def label_of(record: Record) -> WindowLabel:
    """The label of a record."""
    label = record.viewer.label
    return WindowLabel(record.name, label.name, label.colour, ink(label.colour))


def _json(labels: list[WindowLabel]) -> str:
    return (
        render.json_text(
            [
                {
                    "record": one.record,
                    "label": one.name,
                    "colour": one.colour,
                    "text": one.text,
                    "app_id": one.app_id,
                }
                for one in labels
            ]
        )
        + "\n"
    )


def _css(labels: list[WindowLabel]) -> str:
    lines = ["/* Written by 'brokerctl labels --css'. */"]
    for one in labels:
        variable = f"vitrail_{one.record.replace('-', '_')}"
        lines += [
            f"@define-color {variable} {one.colour};",
            (
                f".vitrail-{one.record} {{ background-color: @{variable}; "
                f"color: {one.text}; }}"
            ),
        ]
    return "\n".join(lines) + "\n"


def _sway(labels: list[WindowLabel]) -> str:
    lines = ["# Written by 'brokerctl labels --sway'.", f"# {_NEEDS_PANGO}"]
    for one in labels:
        # The filter's own "[name] " stays: this is for the eye.
        title = f"{one.markup} %title".replace('"', "'")
        app_id = one.app_id.replace("\\", "\\\\")
        lines.append(f'for_window [app_id="{app_id}"] title_format "{title}"')
    return "\n".join(lines) + "\n"


_NEEDS_PANGO = (
    "Labels require a font with the prefix 'pango:', such as: font pango:monospace 10"
)
"""sway shows markup as text where its configuration names a font without it (sway(5))."""


def _waybar(labels: list[WindowLabel]) -> str:
    rewrite = {rf"\[{one.sandbox}\] (.*)": f"{one.markup} $2" for one in labels}
    # Unlike sway/window, a task list shows markup as text unless it is switched on.
    taskbar = {"markup": True, "rewrite": rewrite}
    made = {"sway/window": {"rewrite": rewrite}, "wlr/taskbar": taskbar}
    return json.dumps(made, indent=2) + "\n"


_FORMS = {"json": _json, "css": _css, "sway": _sway, "waybar": _waybar}
