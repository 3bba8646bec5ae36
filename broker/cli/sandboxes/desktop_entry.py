"""A sandbox in the application menu: a desktop entry and an icon in its colour.

The formats are those of the Desktop Entry Specification and of the Icon Theme
Specification.  The files are the user's own, below XDG_DATA_HOME.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from broker.session.menu_icons import PREFIX, data_dirs, data_home, icon, icon_file
from policy.records.model import Record

WINDOW_PREFIX = "vitrail."
"""Of the application ids of all windows, and so of the entries that they have."""
AUTOSTART_PREFIX = "vitrail-sandbox."
"""Of the files that start sandboxes with the desktop."""
WINDOW_KEY = "X-Vitrail-Window"
"""The sandbox of a hidden entry for its windows."""
APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""An application id that can be a file's name."""
_PROGRAM_IDS = 8
"""Entries of this machine with one command."""
_ACTIONS = {"terminal": "Terminal", "files": "Files", "stop": "Stop"}
_BROWSERS = frozenset({"firefox-esr", "chromium", "thunderbird"})


def icon_of(name: str) -> str:
    """Return the path of a sandbox's icon; empty: it has none."""
    file = icon_file(name)
    return str(file) if file.is_file() else ""


def has_entry(name: str) -> bool:
    """Return whether a sandbox is in the menu."""
    return _entry_file(name).is_file()


def write_entry(record: Record) -> list[Path]:
    """Write entry and icon of a record's sandboxes; returns the files, entry first."""
    entry, picture = _entry_file(record.name), icon_file(record.name)
    for path in (picture, entry):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(icon(record))
    entry.write_text(_entry(record, picture))
    expect_windows(record)
    return [entry, picture]


def expect_windows(record: Record) -> None:
    """Write the hidden entries of the windows that a record's program will open.

    Before the first window is there: Plasma looks for its icon once.  Raises OSError.
    """
    for file in window_files(record):
        write_window_entry(record, record.name, file.stem)


def expect_windows_of(record: Record, sandbox: str) -> None:
    """Write the hidden entries of a sandbox's windows, whose name is new each time.

    Raises OSError.
    """
    for file in _files_of(record, sandbox):
        write_window_entry(record, sandbox, file.stem)


def window_files(record: Record) -> list[Path]:
    """Return the hidden entries of the record's windows; none for disposables.

    A disposable's windows have the names of its sandboxes, which are not known before.
    """
    if record.host.sandbox_class == "disposable":
        return []
    return _files_of(record, record.name)


def _files_of(record: Record, sandbox: str) -> list[Path]:
    program = _program(record)
    ids = [_window_id(record, sandbox)]
    ids += [f"{WINDOW_PREFIX}{sandbox}.{one}" for one in _installed_ids(program)]
    return [data_home() / "applications" / f"{one}.desktop" for one in ids]


def _window_id(record: Record, sandbox: str) -> str:
    return f"{WINDOW_PREFIX}{sandbox}.{_program(record) or record.name}"


@cache
def _installed_ids(program: str) -> tuple[str, ...]:
    """Return the application ids of this machine's programs with that command.

    ``konsole`` has the id org.kde.konsole: the name of its desktop entry.
    """
    runs = re.compile(rf"(?m)^Exec=(?:/\S*/)?{re.escape(program)}(?:\s|$)")
    files = [
        file
        for folder in data_dirs()
        if program
        for file in (folder / "applications").glob("*.desktop")
    ]
    return tuple(
        sorted(
            {
                file.stem
                for file in files
                if file.stem != program
                and APP_ID.fullmatch(file.stem)
                and runs.search(file.read_text(errors="replace"))
            }
        )[:_PROGRAM_IDS]
    )


def write_window_entry(record: Record, sandbox: str, app_id: str) -> Path:
    """Write the hidden entry by which a task bar finds the icon of a window.

    ``app_id`` is the window's whole application id, of plain characters.
    """
    path = data_home() / "applications" / f"{app_id}.desktop"
    picture = icon_file(record.name)
    if not picture.is_file():  # of a record that is not in the menu
        picture.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(icon(record))
    label = record.viewer.label
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        f"Name={_text(label.name)}",
        f"Exec={_exec('menu', 'start', record.name)}",
        f"Icon={picture}",
        "NoDisplay=true",
        f"StartupWMClass={app_id}",
        f"{WINDOW_KEY}={sandbox}",
        "",
    ]
    path.write_text("\n".join(lines))
    return path


def autostart_file(record: str) -> Path:
    """Return the file by which the desktop starts a record's sandbox."""
    return autostart_home() / f"{AUTOSTART_PREFIX}{record}.desktop"


def autostart_home() -> Path:
    """Return the directory of the Desktop Application Autostart Specification."""
    return config_home() / "autostart"


def config_home() -> Path:
    """Where a user's settings are (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(given) if given.startswith("/") else Path.home() / ".config"


def write_autostart(record: Record) -> list[Path]:
    """Write the file by which the desktop starts a record's sandbox, if it is to.

    Returns the files written.
    """
    if record.values.get("autostart") != "login":
        return []
    path = autostart_file(record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        f"Name={_text(record.viewer.label.name)}",
        f"Comment={_text(f'Start sandbox {record.name} at login')}",
        f"Exec={_exec('menu', 'start', record.name)}",
        f"X-Vitrail-Sandbox={record.name}",
        "",
    ]
    path.write_text("\n".join(lines))
    return [path]


def remove_entry(name: str) -> list[Path]:
    """Remove entry and icon of a sandbox; return the files that existed."""
    own = (_entry_file(name), icon_file(name), autostart_file(name))
    found = [path for path in own if path.exists()]
    hidden = (data_home() / "applications").glob(f"{WINDOW_PREFIX}{name}.*.desktop")
    for path in (*found, *hidden):
        path.unlink()
    return found


def _entry_file(name: str) -> Path:
    return data_home() / "applications" / f"{PREFIX}{name}.desktop"


def _entry(record: Record, icon: Path) -> str:
    """Return the text of a record's menu entry."""
    name, title = record.name, record.viewer.label.name
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        f"Name={_text(title)}",
        f"Comment={_text(f'Sandbox {name}')}",
        f"Exec={_exec('menu', 'start', name)}",
        f"Icon={icon}",
        f"Categories={_categories(record)}",
        "StartupNotify=false",
        # Of a persistent sandbox; 'brokerctl menu start' writes those of other windows.
        f"StartupWMClass={_window_id(record, name)}",
        f"X-Vitrail-Sandbox={name}",
        f"Actions={''.join(f'{key};' for key in _ACTIONS)}",
    ]
    for key, label in _ACTIONS.items():
        lines += ["", f"[Desktop Action {key}]", f"Name={label}"]
        lines.append(f"Exec={_exec('menu', key, name)}")
    return "\n".join([*lines, ""])


def _program(record: Record) -> str:
    """The name of the record's program; empty for kinds without a command."""
    command: tuple[str, ...] = getattr(record.host.launch, "command", ())
    return Path(command[0]).name if command else ""


def _categories(record: Record) -> str:
    program = _program(record)
    if program in _BROWSERS:
        return "Network;WebBrowser;"
    return "System;TerminalEmulator;" if program == "foot" else "Utility;"


def _exec(*words: str) -> str:
    return " ".join(quoted(word) for word in (brokerctl_program(), *words))


def brokerctl_program() -> str:
    """This program, by its whole path: a menu has another PATH than a shell."""
    here = Path(sys.argv[0])
    if here.name == "brokerctl" and here.is_file():
        return str(here.resolve())
    # The manager runs a verb by its module: brokerctl is beside its interpreter.
    here = Path(sys.executable).with_name("brokerctl")
    if here.is_file():
        return str(here)
    return shutil.which("brokerctl") or "brokerctl"


def quoted(word: str) -> str:
    """Quote an argument of Exec where it has reserved characters."""
    if all(c.isalnum() or c in "/._-+" for c in word):
        return word
    for char in ("\\", '"', "`", "$"):
        word = word.replace(char, f"\\{char}")
    # The value's own escapes are undone first, then Exec's.
    return '"' + word.replace("\\", "\\\\").replace("%", "%%") + '"'


def _text(value: str) -> str:
    return "".join(c if c.isprintable() else " " for c in value).replace("\\", "\\\\")
