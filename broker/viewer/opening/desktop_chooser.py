"""The file chooser of the user's desktop: ``org.freedesktop.portal.FileChooser``.

It is a program of the user's own, and shows the files of the user's session.  What it
is told of a sandbox is the sandbox's name, in our words, a name to begin with and
which files it lists; what it answers are addresses of files.  Source: the documentation
of XDG Desktop Portal.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    new_method_call,
)
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection, open_dbus_connection

from broker.core.errors import SetupError, UpstreamError, sole
from broker.core.escape import printable
from broker.ipc.transfer_guest import FileFilter

_NAME = "org.freedesktop.portal.Desktop"
_PATH = "/org/freedesktop/portal/desktop"
_CHOOSER: Final = "org.freedesktop.portal.FileChooser"
_REQUEST: Final = "org.freedesktop.portal.Request"
_PORTAL = DBusAddress(_PATH, _NAME, _CHOOSER)
_PROPERTIES = DBusAddress(_PATH, _NAME, "org.freedesktop.DBus.Properties")
_REPLY_SECONDS, _CLOSE_SECONDS = 25.0, 2.0
"""The portal and its part of the desktop may have to be started first."""
_NO_BUS = (
    KeyError,  # of the environment
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
)
_CHOSEN, _DISMISSED = 0, (1, 2)
_MOST = 1000
_SIGNALS = 64
_HINT = (
    "install xdg-desktop-portal and the part of your desktop, as xdg-desktop-portal-gtk"
)


@dataclass(frozen=True)
class FileChoice:
    """What the user is to choose."""

    title: str
    button: str
    save: bool = False
    folder: bool = False
    several: bool = False
    name: str = ""
    names: Sequence[str] = ()
    """Of several files to save: the user chooses their folder."""
    filters: Sequence[FileFilter] = ()


async def choose(choice: FileChoice) -> list[Path]:
    """Show the dialog until the user has answered; returns absolute paths, or none.

    It is closed when this is cancelled.  Raises SetupError where the desktop has no
    chooser, UpstreamError where that fails.
    """
    try:
        async with await open_dbus_connection() as bus:
            return await _chosen(_Bus(bus), choice)
    except (*_NO_BUS, ExceptionGroup) as error:
        found = sole(error)
        if not isinstance(found, _NO_BUS):
            raise
        words = printable(str(found) or type(found).__name__, 300)
        if isinstance(found, KeyError):
            words = "DBUS_SESSION_BUS_ADDRESS is not set"
        text = f"the desktop's file chooser cannot be reached: {words}"
        raise SetupError(text, hint=_HINT) from error


class _Bus:
    """A connection that does one thing after the other."""

    def __init__(self, connection: DBusConnection) -> None:
        self._connection = connection
        self._signals: deque[Message] = deque(maxlen=_SIGNALS)
        """Those that came before a reply."""

    @property
    def own_name(self) -> str:
        return str(self._connection.unique_name)

    async def send(self, call: Message) -> int:
        serial: int = next(self._connection.outgoing_serial)
        await self._connection.send(call, serial=serial)
        return serial

    async def call(self, call: Message) -> Message:
        """Return the reply.  Raises SetupError for an error."""
        with trio.fail_after(_REPLY_SECONDS):
            serial = await self.send(call)
            while True:
                got = await self._connection.receive()
                if got.header.message_type is MessageType.signal:
                    self._signals.append(got)
                elif got.header.fields.get(HeaderFields.reply_serial) == serial:
                    break
        if got.header.message_type is not MessageType.method_return:
            words = printable(" ".join(map(str, got.body)), 300)
            raise SetupError(f"the desktop has no file chooser: {words}", hint=_HINT)
        return got

    async def signal(self, *rules: MatchRule) -> tuple[MatchRule, Message]:
        """Wait for a signal of one of the rules."""
        while True:
            got = (
                self._signals.popleft()
                if self._signals
                else await self._connection.receive()
            )
            for rule in rules:
                if rule.matches(got):
                    return rule, got


async def _chosen(bus: _Bus, choice: FileChoice) -> list[Path]:
    ask = new_method_call(_PROPERTIES, "Get", "ss", (_CHOOSER, "version"))
    # The unique name: another program of the session could answer by the same path.
    owner = str((await bus.call(ask)).header.fields.get(HeaderFields.sender, ""))
    token = f"vitrail{secrets.token_hex(8)}"
    sender = bus.own_name.lstrip(":").replace(".", "_")
    handle = f"{_PATH}/request/{sender}/{token}"
    response, end = _response_rule(owner, handle), _end_rule(owner)
    for rule in (response, end):
        await bus.call(message_bus.AddMatch(rule))
    await bus.call(new_method_call(_PORTAL, *_words(choice, token)))
    try:
        which, message = await bus.signal(response, end)
    except trio.Cancelled:
        close = new_method_call(DBusAddress(handle, owner, _REQUEST), "Close")
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await bus.send(close)
        raise
    if which is end:
        raise UpstreamError("the desktop's portal has ended")
    return paths_in(message.body)


def paths_in(body: tuple[object, ...]) -> list[Path]:
    """Return the paths of a response.  Raises UpstreamError for one of another form."""
    code, results = (*body, None, None)[:2]
    if code in _DISMISSED:
        return []
    found = results.get("uris") if isinstance(results, dict) else None
    if code != _CHOSEN or not isinstance(found, tuple) or found[0] != "as":
        raise UpstreamError("the desktop's file chooser has failed")
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


def _words(choice: FileChoice, token: str) -> tuple[str, str, tuple[object, ...]]:
    """Return the method, its signature and its arguments."""
    options: dict[str, tuple[str, object]] = {
        "handle_token": ("s", token),
        "accept_label": ("s", choice.button),
        "modal": ("b", False),
    }
    if choice.names:
        # A path is an array of bytes that ends with zero.
        found = [name.encode() + b"\0" for name in choice.names]
        options["files"] = ("aay", found)
    elif choice.save:
        if choice.name:
            options["current_name"] = ("s", choice.name)
    else:
        options["multiple"] = ("b", choice.several)
        options["directory"] = ("b", choice.folder)
    if rows := [row for row in map(_filter_row, choice.filters) if row[1]]:
        options["filters"] = ("a(sa(us))", rows)
    method = "SaveFile" if choice.save else "OpenFile"
    if choice.names:
        method = "SaveFiles"
    return method, "ssa{sv}", ("", choice.title, options)


def _filter_row(one: FileFilter) -> tuple[str, list[tuple[int, str]]]:
    rules = [(0, glob) for glob in one.globs] + [(1, mime) for mime in one.types]
    # guard: the name of a filter is one line
    return printable(one.name, 60) or "*", rules


def _response_rule(owner: str, handle: str) -> MatchRule:
    # guard: an answer is the portal's own
    return MatchRule(
        type="signal",
        sender=owner,
        path=handle,
        interface=_REQUEST,
        member="Response",
    )


def _end_rule(owner: str) -> MatchRule:
    rule = MatchRule(
        type="signal", interface=message_bus.interface, member="NameOwnerChanged"
    )
    rule.add_arg_condition(0, owner)
    return rule
