"""A sandbox in the application menu: a desktop entry and an icon in its colour.

The formats are those of the Desktop Entry Specification and of the Icon Theme
Specification.  The files are the user's own, below XDG_DATA_HOME.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

from policy.tools.colours import ink

_PREFIX = "vitrail-sandbox-"
_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 64 64">
  <rect x="3" y="3" width="58" height="58" rx="10" fill="#fafafa" stroke="{colour}" stroke-width="6"/>
  <rect x="3" y="3" width="58" height="18" rx="6" fill="{colour}"/>
  <text x="32" y="49" text-anchor="middle" font-family="sans-serif" font-size="28"
        font-weight="bold" fill="#303030">{letter}</text>
  <circle cx="12" cy="12" r="3" fill="{ink}"/>
</svg>
"""


def data_home(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user's own data are (XDG Base Directory Specification)."""
    env = os.environ if environ is None else environ
    given = env.get("XDG_DATA_HOME", "")
    return Path(given) if given.startswith("/") else Path.home() / ".local" / "share"


def write_entry(name: str, title: str, colour: str, categories: str) -> list[Path]:
    """Write entry and icon of a sandbox; returns the files, entry first.

    ``title`` is shown in the menu, ``colour`` is ``#rrggbb``.
    """
    base = data_home()
    icon = base / "icons" / "hicolor" / "scalable" / "apps" / f"{_PREFIX}{name}.svg"
    entry = base / "applications" / f"{_PREFIX}{name}.desktop"
    for path in (icon, entry):
        path.parent.mkdir(parents=True, exist_ok=True)
    letter = escape(title[:1].upper())
    icon.write_text(_ICON.format(colour=colour, ink=ink(colour), letter=letter))
    entry.write_text(_entry(name, title, icon, categories))
    return [entry, icon]


def remove_entry(name: str) -> list[Path]:
    """Remove entry and icon of a sandbox; returns the files that there were."""
    base = data_home()
    icon = base / "icons" / "hicolor" / "scalable" / "apps" / f"{_PREFIX}{name}.svg"
    entry = base / "applications" / f"{_PREFIX}{name}.desktop"
    found = [path for path in (entry, icon) if path.exists()]
    for path in found:
        path.unlink()
    return found


def _entry(name: str, title: str, icon: Path, categories: str) -> str:
    words = [brokerctl_program(), "run", "--detach", name]
    return "\n".join(
        [
            "[Desktop Entry]",
            "Type=Application",
            f"Name={_text(title)}",
            f"Comment={_text(f'Sandbox {name}')}",
            f"Exec={' '.join(quoted(word) for word in words)}",
            f"Icon={icon}",
            f"Categories={categories}",
            "StartupNotify=false",
            f"X-Vitrail-Sandbox={name}",
            "",
        ]
    )


def brokerctl_program() -> str:
    """This program, by its whole path: a menu has another PATH than a shell."""
    here = Path(sys.argv[0])
    if here.name == "brokerctl" and here.is_file():
        return str(here.resolve())
    return shutil.which("brokerctl") or "brokerctl"


def quoted(word: str) -> str:
    """An argument of Exec: quoted where it has reserved characters."""
    if all(c.isalnum() or c in "/._-+" for c in word):
        return word
    for char in ("\\", '"', "`", "$"):
        word = word.replace(char, f"\\{char}")
    # The value's own escapes are undone first, then Exec's.
    return '"' + word.replace("\\", "\\\\").replace("%", "%%") + '"'


def _text(value: str) -> str:
    return "".join(c if c.isprintable() else " " for c in value).replace("\\", "\\\\")
