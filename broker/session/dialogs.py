"""The file chooser of the user's desktop: ``org.freedesktop.portal.FileChooser``.

It is the user's own program, and shows the user's files.  We tell it the sandbox's
name, in our words, a name to begin with and which files it lists; it answers addresses
of files.  Source: the documentation of XDG Desktop Portal.
"""

from __future__ import annotations

import os
import re
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from jeepney import HeaderFields, Message, MessageType
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.ipc.guest.file_requests import ChooseFiles, FileFilter
from broker.net.desktop_bus import Options, PortalRequest, desktop_property

CHOSEN, DISMISSED = 0, (1, 2)
"""Codes of a response."""
_REPLY_SECONDS, _CLOSE_SECONDS = 25.0, 2.0
"""The portal and its part of the desktop may have to be started first."""
_CHOOSER: Final = "org.freedesktop.portal.FileChooser"
_MOST = 1000
_NO_SERVICE = "org.freedesktop.DBus.Error.ServiceUnknown"
_HINT = "install xdg-desktop-portal and your desktop's backend, such as xdg-desktop-portal-gtk"


@dataclass(frozen=True)
class FileChoice:
    """What the user is to choose."""

    title: str
    ask: ChooseFiles
    """Its names have been checked here."""
    button: str = ""
    """In the user's language, as the title is; empty: the desktop's own word."""


class _GivenUp(BaseException):
    """Nobody waits for the choice any more."""


def choose(choice: FileChoice) -> list[Path]:
    """Show the dialog until the user has answered; returns absolute paths, or none.

    SIGTERM closes it, and ends this process.  Raises SetupError where the desktop has no
    chooser, UpstreamError where that fails.
    """
    method, options = _words(choice)
    try:
        with _terminated(), open_dbus_connection() as bus:
            return paths_in(ChooserRequest(bus).answer(method, choice.title, options))
    # KeyError: of the environment.
    except (KeyError, OSError) as error:
        text = f"cannot connect to the desktop's file chooser: {_why(error)}"
        raise SetupError(text, hint=_HINT) from error


@contextmanager
def _terminated() -> Iterator[None]:
    """Convert SIGTERM during the block to an UpstreamError: the dialog was given up."""

    def give_up(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _GivenUp

    signal.signal(signal.SIGTERM, give_up)
    try:
        yield
    except _GivenUp:
        raise UpstreamError("the dialog was cancelled") from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ChooserRequest:
    """One request to the desktop's file chooser."""

    def __init__(self, bus: DBusConnection) -> None:
        self._bus = bus

    def answer(self, method: str, title: str, options: Options) -> tuple[object, ...]:
        """Show a portal dialog and wait for its response.

        Raises SetupError, UpstreamError.
        """
        reply = self._call(desktop_property(_CHOOSER, "version"))
        # Another program of the session could answer by the same path.
        owner = str(reply.header.fields.get(HeaderFields.sender, ""))
        made = PortalRequest(str(self._bus.unique_name), owner)
        response, end = made.response, made.ended
        came: deque[Message] = deque()
        for rule in (response, end):
            self._call(message_bus.AddMatch(rule))
        with self._bus.filter(response, queue=came), self._bus.filter(end, queue=came):
            try:
                self._call(made.call(_CHOOSER, method, "", title, options=options))
                found = self._bus.recv_until_filtered(came)
            except _GivenUp:
                with suppress(SetupError, OSError):
                    # guard: a file dialog that was given up counts until it is closed
                    self._call(made.close, _CLOSE_SECONDS)
                raise
        if not response.matches(found):
            raise UpstreamError("the desktop's portal has ended")
        return tuple(found.body)

    def _call(self, call: Message, seconds: float = _REPLY_SECONDS) -> Message:
        """Call the portal and return the reply.  Raises SetupError for an error."""
        got: Message = self._bus.send_and_get_reply(call, timeout=seconds)
        if got.header.message_type is not MessageType.method_return:
            text = "the desktop has no file chooser"
            if got.header.fields.get(HeaderFields.error_name) != _NO_SERVICE:
                text = f"{text}: {printable(' '.join(map(str, got.body)), 300)}"
            raise SetupError(text, hint=_HINT)
        return got


def _why(error: Exception) -> str:
    """Return the words of an error of the bus."""
    if isinstance(error, KeyError):
        return "this session has no D-Bus (DBUS_SESSION_BUS_ADDRESS is not set)"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    words = getattr(error, "strerror", None) or " ".join(map(str, error.args))
    return printable(words or type(error).__name__, 300)


def paths_in(body: tuple[object, ...]) -> list[Path]:
    """Parse a response's paths.  Raises UpstreamError for a body of another form."""
    code, results = (*body, None, None)[:2]
    if code in DISMISSED:
        return []
    found = results.get("uris") if isinstance(results, dict) else None
    if code != CHOSEN or not isinstance(found, tuple) or found[0] != "as":
        raise UpstreamError("the desktop's file chooser sent an invalid answer")
    paths = [_path_of(uri) for uri in found[1]]
    if not 0 < len(paths) <= _MOST:
        raise UpstreamError(
            f"{len(paths)} files were chosen; the file chooser may return 1 to {_MOST}"
        )
    return paths


def _path_of(uri: str) -> Path:
    """Convert a ``file:`` URI to its path.  Raises UpstreamError for any other URI."""
    parts = urlsplit(uri)
    path = unquote(parts.path, errors="surrogateescape")
    # guard: what is chosen is a file of the desktop
    if parts.scheme != "file" or parts.netloc or not path.startswith("/"):
        raise UpstreamError(f"{printable(uri, 200)} is not a file of this desktop")
    return Path(path)


def _words(choice: FileChoice) -> tuple[str, Options]:
    """Return the portal's method and its options for a choice of files."""
    ask = choice.ask
    save = ask.kind == "save"
    options: Options = {"modal": ("b", False)}
    if choice.button:
        options["accept_label"] = ("s", choice.button)
    if ask.names:
        # A path is an array of bytes that ends with zero.
        found = [name.encode() + b"\0" for name in ask.names]
        options["files"] = ("aay", found)
    elif save and ask.name:
        options["current_name"] = ("s", ask.name)
    if save:
        # Otherwise GNOME's dialog starts in the root directory.
        folder = os.fsencode(find_downloads(os.environ)) + b"\0"
        options["current_folder"] = ("ay", folder)
    else:
        options["multiple"] = ("b", ask.several)
        options["directory"] = ("b", ask.kind == "folder")
    if rows := [row for row in map(_filter_row, ask.filters) if row[1]]:
        options["filters"] = ("a(sa(us))", rows)
    method = "SaveFile" if save else "OpenFile"
    return f"{method}{'s' * bool(ask.names)}", options


def find_downloads(environ: Mapping[str, str]) -> Path:
    """Return the user's folder for downloads (XDG user-dirs), or home without one."""
    home = Path(environ["HOME"])
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    try:
        text = (config / "user-dirs.dirs").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    matches = re.findall(r'^\s*XDG_DOWNLOAD_DIR="(.*)"\s*$', text, re.MULTILINE)
    value = matches[-1] if matches else "$HOME/Downloads"
    folder = home / value.removeprefix("$HOME/").replace("$HOME", str(home))
    return folder if folder.is_dir() else home


def _filter_row(one: FileFilter) -> tuple[str, list[tuple[int, str]]]:
    rules = [(0, glob) for glob in one.globs] + [(1, mime) for mime in one.types]
    # guard: the name of a filter is one line
    return printable(one.name, 60) or "*", rules
