"""The file chooser of the user's desktop: ``org.freedesktop.portal.FileChooser``.

It is a program of the user's own, and shows the files of the user's session.  What it
is told of a sandbox is the sandbox's name, in our words, a name to begin with and
which files it lists; what it answers are addresses of files.  Source: the documentation
of XDG Desktop Portal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.ipc.guest.file_requests import ChooseFiles, FileFilter
from broker.net.session_bus import own_bus
from broker.viewer.opening.desktop_portal import (
    CHOSEN,
    DISMISSED,
    Options,
    portal_bus,
)

_CHOOSER: Final = "org.freedesktop.portal.FileChooser"
_MOST = 1000
_HINT = (
    "install xdg-desktop-portal and the part of your desktop, as xdg-desktop-portal-gtk"
)


@dataclass(frozen=True)
class FileChoice:
    """What the user is to choose."""

    title: str
    ask: ChooseFiles
    """Its names have been checked here."""


async def choose(choice: FileChoice) -> list[Path]:
    """Show the dialog until the user has answered; returns absolute paths, or none.

    It is closed when this is cancelled.  Raises SetupError where the desktop has no
    chooser, UpstreamError where that fails.
    """
    async with portal_bus(own_bus, _CHOOSER, "file chooser", _HINT) as bus:
        await bus.property("version")
        method, options = _words(choice)
        first = "", choice.title
        return paths_in(await bus.request(method, "ssa{sv}", *first, options=options))


def paths_in(body: tuple[object, ...]) -> list[Path]:
    """Return the paths of a response.  Raises UpstreamError for one of another form."""
    code, results = (*body, None, None)[:2]
    if code in DISMISSED:
        return []
    found = results.get("uris") if isinstance(results, dict) else None
    if code != CHOSEN or not isinstance(found, tuple) or found[0] != "as":
        raise UpstreamError("the desktop's file chooser gave no valid answer")
    paths = [_path_of(uri) for uri in found[1]]
    if not 0 < len(paths) <= _MOST:
        raise UpstreamError(f"{len(paths)} files were chosen, of {_MOST} at most")
    return paths


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    path = unquote(parts.path, errors="surrogateescape")
    # guard: what is chosen is a file of the desktop
    if parts.scheme != "file" or parts.netloc or not path.startswith("/"):
        raise UpstreamError(f"{printable(uri, 200)} is not a file of this desktop")
    return Path(path)


def _words(choice: FileChoice) -> tuple[str, Options]:
    """Return the method and its options."""
    ask = choice.ask
    save = ask.kind == "save"
    options: Options = {
        "accept_label": ("s", "Save" if save else "Copy"),
        "modal": ("b", False),
    }
    if ask.names:
        # A path is an array of bytes that ends with zero.
        found = [name.encode() + b"\0" for name in ask.names]
        options["files"] = ("aay", found)
    elif save:
        if ask.name:
            options["current_name"] = ("s", ask.name)
    else:
        options["multiple"] = ("b", ask.several)
        options["directory"] = ("b", ask.kind == "folder")
    if rows := [row for row in map(_filter_row, ask.filters) if row[1]]:
        options["filters"] = ("a(sa(us))", rows)
    method = "SaveFile" if save else "OpenFile"
    return f"{method}{'s' * bool(ask.names)}", options


def _filter_row(one: FileFilter) -> tuple[str, list[tuple[int, str]]]:
    rules = [(0, glob) for glob in one.globs] + [(1, mime) for mime in one.types]
    # guard: the name of a filter is one line
    return printable(one.name, 60) or "*", rules
