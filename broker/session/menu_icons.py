"""Icons of sandboxes in the menu, in the colours of their records (Icon Theme Specification).

``brokerctl new`` makes a sandbox's icon; a session child draws it again when a record
that is in force has another colour or name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from broker.core.escape import escape_markup
from broker.core.files.replace_file import replace_file
from broker.core.prompt_words import PROMPT_ID
from policy.records.model import Record

PREFIX = "vitrail-sandbox-"
"""Of the names of icons and entries."""
PROMPT_ENTRY = f"{PROMPT_ID}.desktop"
"""By which a desktop has a name and an icon for the window of a question."""
_DATA_DIRS = "/usr/local/share:/usr/share"
_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 64 64">
  <rect x="3" y="3" width="58" height="58" rx="10" fill="#fafafa" stroke="{colour}" stroke-width="6"/>
  <rect x="3" y="3" width="58" height="18" rx="6" fill="{colour}"/>
  <text x="32" y="49" text-anchor="middle" font-family="sans-serif" font-size="28"
        font-weight="bold" fill="#303030">{letter}</text>
  <circle cx="12" cy="12" r="3" fill="#fafafa" stroke="#303030"/>
</svg>
"""


def data_home() -> Path:
    """Where a user's own data are (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_DATA_HOME", "")
    return Path(given) if given.startswith("/") else Path.home() / ".local" / "share"


def data_dirs() -> list[Path]:
    """Return the places of this machine's shared data, the most important one first."""
    return [
        Path(one) for one in (os.environ.get("XDG_DATA_DIRS") or _DATA_DIRS).split(":")
    ]


def icon_file(name: str) -> Path:
    """Where the icon of a record's sandboxes is, or would be."""
    folder = data_home() / "icons" / "hicolor" / "scalable" / "apps"
    return folder / f"{PREFIX}{name}.svg"


def icon(record: Record) -> str:
    """Return the icon of a record's sandboxes (SVG)."""
    label = record.viewer.label
    letter = escape_markup(label.name[:1].upper())
    return _ICON.format(colour=label.colour, letter=letter)


def write_prompt_entry() -> None:
    """Write the desktop entry of the question's window, where none is installed.

    Raises OSError.
    """
    places = [place / "applications" for place in (data_home(), *data_dirs())]
    if not any((place / PROMPT_ENTRY).is_file() for place in places):
        content = resources.files("broker") / "data/desktop" / PROMPT_ENTRY
        places[0].mkdir(parents=True, exist_ok=True)
        replace_file(places[0] / PROMPT_ENTRY, content.read_bytes(), mode=0o644)


def draw_icons(records: Iterable[Record]) -> None:
    """Draw again the icons that exist and differ from their records.

    Raises OSError.
    """
    for record in records:
        file, content = icon_file(record.name), icon(record)
        if file.is_file() and file.read_text(errors="replace") != content:
            # A whole file at any time: menus read it when they see the change.
            replace_file(file, content.encode(), mode=0o644)
