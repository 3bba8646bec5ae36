"""Desktop entries of this guest that open a type, in the user's order of preference.

GLib chooses where the guest has it, as for its other programs.  Otherwise the files of
the specifications are read here: MIME applications, desktop entry, shared MIME info.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from shims.files.protocol import TransferError

if TYPE_CHECKING:
    import configparser
    from typing import Dict, Iterator, List, Optional, Set

ENTRY_GROUP = "Desktop Entry"
# First those that stay until their program ends: what they show is kept so long.
TERMINALS = (
    "xdg-terminal-exec",
    "foot",
    "kitty",
    "alacritty -e",
    "xterm -e",
    "konsole -e",
    "gnome-terminal --wait --",
    "xfce4-terminal --disable-server -x",
    "x-terminal-emulator -e",
)
STRING_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def list_entries(kind: str) -> List[str]:
    """Return the paths of the desktop files for a type, the preferred one first."""
    return list(dict.fromkeys([*list_gio_entries(kind), *list_spec_entries(kind)]))


def list_gio_entries(kind: str) -> List[str]:
    """Return the desktop files that GLib has for a type; none without GLib."""
    import ctypes

    try:
        gio = ctypes.CDLL("libgio-2.0.so.0")
    except OSError:
        return []
    default, every = (
        gio.g_app_info_get_default_for_type,
        gio.g_app_info_get_all_for_type,
    )
    default.restype = every.restype = ctypes.c_void_p
    filename = gio.g_desktop_app_info_get_filename
    filename.restype, filename.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    apps = [default(kind.encode(), 0)]
    node = every(kind.encode())
    while node:
        app, node = (ctypes.c_void_p * 2).from_address(node)  # a GList
        apps.append(app)
    paths = [filename(app) for app in apps if app]
    return [os.fsdecode(path) for path in paths if path]


def list_spec_entries(kind: str) -> Iterator[str]:
    """Yield desktop files for a type: defaults, then associations, then of parents."""
    entries = find_installed()
    preferences = [read_groups(path) for path in list_mimeapps_files()]
    types = {
        path: read_groups(path).get(ENTRY_GROUP, "MimeType", fallback="").split(";")
        for path in entries.values()
    }
    for current in (kind, *list_parent_types(kind)):

        def choices(group: str, current: str = current) -> List[List[str]]:
            """Return the installed entries that each file names, the strongest first."""
            values = [g.get(group, current, fallback="") for g in preferences]
            return [[entries[i] for i in v.split(";") if i in entries] for v in values]

        for paths in choices("Default Applications"):
            yield from paths
        removed: Set[str] = set()
        pairs = zip(choices("Added Associations"), choices("Removed Associations"))
        for added, others in pairs:
            yield from (path for path in added if path not in removed)
            removed.update(others)
        yield from (p for p in types if p not in removed and current in types[p])


def read_groups(path: str) -> configparser.RawConfigParser:
    """Return the groups of a file; a file that cannot be read has none."""
    import configparser

    groups = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#",)
    )
    groups.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        groups.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        groups.clear()
    return groups


def list_folders(kind: str) -> List[str]:
    """Return the user's folder of a kind (DATA, CONFIG), then those of the system."""
    home, system = {
        "DATA": ("~/.local/share", "/usr/local/share:/usr/share"),
        "CONFIG": ("~/.config", "/etc/xdg"),
    }[kind]
    first = os.environ.get(f"XDG_{kind}_HOME") or os.path.expanduser(home)
    others = os.environ.get(f"XDG_{kind}_DIRS") or system
    return [folder for folder in (first, *others.split(":")) if folder]


def list_mimeapps_files() -> List[str]:
    """Return the paths of files with choices, those of the user first."""
    desktops = os.environ.get("XDG_CURRENT_DESKTOP", "").lower().split(":")
    names = [f"{desktop}-mimeapps.list" for desktop in desktops if desktop]
    applications = [os.path.join(d, "applications") for d in list_folders("DATA")]
    return [
        os.path.join(folder, name)
        for folder in (*list_folders("CONFIG"), *applications)
        for name in (*names, "mimeapps.list")
    ]


def find_installed() -> Dict[str, str]:
    """Return the paths of all desktop files by their id; the user's come first.

    In an id, a directory is a part that ends with a hyphen: kde/a.desktop is kde-a.desktop.
    """
    entries: Dict[str, str] = {}
    for folder in list_folders("DATA"):
        top = os.path.join(folder, "applications")
        for parent, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                if name.endswith(".desktop"):
                    path = os.path.join(parent, name)
                    file_id = os.path.relpath(path, top).replace(os.sep, "-")
                    entries.setdefault(file_id, path)
    return entries


def list_mime_lines(name: str) -> Iterator[str]:
    """Yield the lines of a file of the shared MIME info, the user's first."""
    for folder in list_folders("DATA"):
        try:
            with open(os.path.join(folder, "mime", name), encoding="utf-8") as file:
                yield from file.read().splitlines()
        except (OSError, UnicodeDecodeError):  # noqa: PERF203 -- each may be missing
            continue


def list_parent_types(kind: str) -> List[str]:
    """Return the types that a type is a special form of, the nearest first."""
    pairs = [line.split() for line in list_mime_lines("subclasses")]
    parents = [kind]
    for child in parents:  # it grows
        parents += [
            pair[1]
            for pair in pairs
            if len(pair) == 2 and pair[0] == child and pair[1] not in parents
        ]
    if kind.startswith("text/") and "text/plain" not in parents:
        parents.append("text/plain")
    return parents[1:]


def find_shared_type(name: str) -> str:
    """Return the type that the shared MIME info has for a file's name, or nothing."""
    from fnmatch import fnmatchcase

    best = (0, 0, "")
    for line in list_mime_lines("globs2"):
        weight, kind, glob, flags = [*line.split(":", 3), "", "", ""][:4]
        matches = fnmatchcase(name, glob) or (
            "cs" not in flags.split(",") and fnmatchcase(name.lower(), glob.lower())
        )
        if matches and weight.isdigit():
            best = max(best, (int(weight), len(glob), kind))
    return best[2]


def read_command(path: str, target: str) -> List[str]:
    """Return the command of a desktop file for a file or address.

    Returns nothing for an entry that is hidden or wrong, or whose program is missing.
    Raises TransferError if it needs a terminal and the sandbox has none.
    """
    import shlex

    groups = read_groups(path)
    lines = groups.items(ENTRY_GROUP) if groups.has_section(ENTRY_GROUP) else []
    entry = {key: unescape(value) for key, value in lines}
    values = {"%": "%", "c": localized_name(entry), "k": path}
    values.update(dict.fromkeys("fFuU", target), **dict.fromkeys("idDnNvm", ""))
    icon = ["--icon", entry["Icon"]] if entry.get("Icon") else []
    argv: List[str] = []
    try:
        for argument in shlex.split(entry.get("Exec", "")):
            text = re.sub("%(.)", lambda match: values[match[1]], argument)
            if argument == "%i":
                argv += icon
            elif text or "%" not in argument:
                argv.append(text)
    except (ValueError, KeyError):  # wrong quotes, or an unknown field code
        return []
    required = [*argv[:1], *filter(None, [entry.get("TryExec")])]
    if not argv or entry.get("Hidden") == "true" or not all(map(which, required)):
        return []
    if not re.search("%[fFuU]", entry["Exec"].replace("%%", "")):
        argv.append(target)
    return [*terminal_of(path), *argv] if entry.get("Terminal") == "true" else argv


def terminal_of(path: str) -> List[str]:
    """Return the command of a terminal for an entry's program.  Raises TransferError."""
    for terminal in TERMINALS:
        argv = terminal.split()
        if which(argv[0]):
            return argv
    name = os.path.basename(path)
    raise TransferError(
        f"{name} needs a terminal, and none is installed in this sandbox"
    )


def unescape(value: str) -> str:
    """Return a string of a desktop file without its escapes."""
    return re.sub(r"\\([sntr\\])", lambda match: STRING_ESCAPES[match[1]], value)


def localized_name(entry: Dict[str, str]) -> str:
    """Return the name of an entry in the language of the session."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next(filter(None, map(os.environ.get, names)), "").partition(".")[0]
    keys = (f"Name[{locale}]", f"Name[{locale.partition('_')[0]}]", "Name")
    return next((entry[key] for key in keys if key in entry), "")


def which(program: str) -> Optional[str]:
    """Return the path of a program that is installed here."""
    import shutil

    return shutil.which(program)
