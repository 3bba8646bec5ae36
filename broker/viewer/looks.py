"""``vitrail.Settings``: how the user's desktop looks, followed live by programs of sandboxes.

The desktop's portal is asked (org.freedesktop.portal.Settings) while a sandbox listens.
What is in ``TOLD`` is passed on, and nothing else.  The caller's bytes are never read:
it gets the frames of a service that writes a line of JSON at each change
(``shims/files/calling.py``).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Final

import msgspec
import trio
from jeepney import HeaderFields, MessageType
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusRouter

from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.limits.transfer import SETTINGS_AGAIN_SECONDS, SETTINGS_SECONDS
from broker.net.desktop_bus import desktop_call, rules_of
from broker.net.session_bus import Complaint, OpenBus, answer_of

_INTERFACE = "org.freedesktop.portal.Settings"
_FRAME = struct.Struct(">BI")
_NOT_FOUND = "org.freedesktop.portal.Error.NotFound"
_DATA = 0
_FONT_CHARS = 100
_LAYOUT_CHARS = 100
_SIGNALS = 64

_APPEARANCE, _GNOME = "org.freedesktop.appearance", "org.gnome.desktop.interface"
_WINDOWS = "org.gnome.desktop.wm.preferences"
TOLD: Final[Mapping[tuple[str, str], tuple[str, float, float]]] = MappingProxyType(
    {
        (_APPEARANCE, "color-scheme"): ("u", 0, 2),
        (_APPEARANCE, "accent-color"): ("(ddd)", 0, 1),
        (_APPEARANCE, "contrast"): ("u", 0, 1),
        (_GNOME, "text-scaling-factor"): ("d", 0.5, 3),
        (_GNOME, "cursor-size"): ("i", 8, 256),
        (_GNOME, "font-name"): ("s", 1, _FONT_CHARS),
        (_GNOME, "document-font-name"): ("s", 1, _FONT_CHARS),
        (_GNOME, "monospace-font-name"): ("s", 1, _FONT_CHARS),
        # Else GTK shows a button to close a window, and no other.
        (_WINDOWS, "button-layout"): ("s", 0, _LAYOUT_CHARS),
    }
)
"""Namespace and key, with the value's type (D-Bus) and its least and greatest value;
of a text its length."""

Setting = tuple[str, str, str, object]
"""Namespace, key, type and value."""


class DesktopSettings:
    """The desktop's settings, for all sandboxes of one viewer that listen."""

    def __init__(self, bus: OpenBus) -> None:
        self._bus = bus
        self._found: dict[tuple[str, str], Setting] = {}
        self._changed = trio.Event()
        self._known = trio.Event()
        self._listeners = 0
        self._wanted = trio.Event()
        self._complaint = Complaint("sandboxes do not receive the desktop's settings")

    async def run(self) -> None:
        """Ask the desktop while a sandbox listens, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 -- no bus, no portal, one that dies
                self._complaint.tell(error)
                self._known.set()
                await trio.sleep(SETTINGS_AGAIN_SECONDS)

    @asynccontextmanager
    async def serving(
        self, fixed: Callable[[], Mapping[tuple[str, str], Setting]]
    ) -> AsyncIterator[socket.socket]:
        """Send the desktop's settings on a socket, at each change; yield its other end.

        ``fixed`` returns those that are told in place of the desktop's; what it raises
        ends the connection.
        """
        near, far = socket.socketpair()
        out = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        with near:
            async with out, trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, out, fixed)
                try:
                    yield near
                finally:
                    nursery.cancel_scope.cancel()

    async def _tell(
        self,
        out: trio.SocketStream,
        fixed: Callable[[], Mapping[tuple[str, str], Setting]],
    ) -> None:
        """Write the settings to ``out`` whenever they change, until cancelled."""
        self._listeners += 1
        self._wanted.set()
        try:
            with trio.move_on_after(SETTINGS_SECONDS):
                await self._known.wait()
            told: object = None
            while True:
                changed = self._changed
                now = list({**self._found, **fixed()}.values())
                if now != told:
                    told = now
                    data = msgspec.json.encode({"settings": now}) + b"\n"
                    await out.send_all(_FRAME.pack(_DATA, len(data)) + data)
                await changed.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the call has ended
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._wanted = trio.Event()
                self._known = trio.Event()
                self.tell_again()  # nothing is to be followed any more

    def tell_again(self) -> None:
        """Send changed values: the desktop's settings or a record may have changed."""
        self._changed.set()
        self._changed = trio.Event()

    # -- the desktop's portal -----------------------------------------------------------

    async def _follow(self) -> None:
        """Follow the portal's changes of settings until nothing listens or it ends."""
        rules = rules_of(_INTERFACE)
        async with self._bus() as bus, bus.router() as router:
            # Not as context managers: cancelled, jeepney's router fails where it closes
            # a filter in the moment that its context does.
            changes, owners = (
                router.filter(rule, bufsize=_SIGNALS).receive_channel for rule in rules
            )
            for rule in rules:
                await answer_of(router, message_bus.AddMatch(rule), SETTINGS_SECONDS)
            await self._read(router)
            async with trio.open_nursery() as nursery:

                async def follow_changes() -> None:
                    async for signal in changes:
                        if (place := tuple(signal.body[:2])) in TOLD:
                            await self._read(router, [place])

                async def follow_owners() -> None:
                    async for _ in owners:
                        await self._read(router)

                nursery.start_soon(follow_changes)
                nursery.start_soon(follow_owners)
                while self._listeners:
                    self._known.set()  # another one may listen than at the beginning
                    await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _read(
        self, router: DBusRouter, places: Collection[tuple[str, str]] = TOLD.keys()
    ) -> None:
        """Read settings from the portal: namespaces and keys of ``TOLD``."""
        found = {k: v for k, v in self._found.items() if k not in places}
        for space, key in places:
            # ReadAll names a namespace once for each backend that is installed, and a
            # dictionary keeps the last; this is the first one's, which is the desktop's.
            # The value in a signal may be any backend's.
            with suppress(MissingSettingError):
                found |= setting_in(space, key, await _value(router, space, key))
        self._known.set()
        if found != self._found:
            self._found = found
            self.tell_again()


class MissingSettingError(Exception):
    """The desktop has no such setting."""


async def _value(router: DBusRouter, space: str, key: str) -> object:
    """Return the portal's value of a setting.  Raises MissingSettingError."""
    call = desktop_call(_INTERFACE, "Read", space, key)
    with trio.fail_after(SETTINGS_SECONDS):
        answer = await router.send_and_get_reply(call)
    if answer.header.message_type is MessageType.method_return:
        return answer.body[0] if answer.body else None
    if answer.header.fields.get(HeaderFields.error_name) != _NOT_FOUND:
        raise UpstreamError(" ".join(map(str, answer.body)) or "it returned an error")
    raise MissingSettingError


def setting_in(space: str, key: str, variant: object) -> dict[tuple[str, str], Setting]:
    """Return a passed-on setting with the value of a reply of Read; {} for another form."""
    form, least, most = TOLD[space, key]
    # Read wraps a value twice, in some releases once.
    while isinstance(variant, tuple) and len(variant) == 2 and variant[0] == "v":
        variant = variant[1]
    if not isinstance(variant, tuple) or len(variant) != 2 or variant[0] != form:
        return {}
    value = variant[1]
    sizes = [len(value)] if form == "s" else value if form == "(ddd)" else [value]
    plain = form != "s" or value == printable(value)
    # guard: only settings of the table reach a sandbox
    if not plain or not all(least <= size <= most for size in sizes):
        return {}
    return {(space, key): (space, key, form, value)}


_KEYS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "color_scheme": (_APPEARANCE, "color-scheme"),
        "accent_color": (_APPEARANCE, "accent-color"),
        "contrast": (_APPEARANCE, "contrast"),
        "text_scale": (_GNOME, "text-scaling-factor"),
        "cursor_size": (_GNOME, "cursor-size"),
        "font": (_GNOME, "font-name"),
        "document_font": (_GNOME, "document-font-name"),
        "monospace_font": (_GNOME, "monospace-font-name"),
    }
)
"""Keys of a record's ``[looks]``; a test compares them with its table."""
_WORDS = MappingProxyType({"default": 0, "dark": 1, "light": 2, "normal": 0, "high": 1})


def fixed_settings(
    looks: Iterable[tuple[str, str | int]],
) -> dict[tuple[str, str], Setting]:
    """Return the settings that a record fixes (``ViewerRecord.looks``)."""
    found: dict[tuple[str, str], Setting] = {}
    for name, value in looks:
        if name == "language":
            continue  # of a program's environment
        place = _KEYS[name]
        form = TOLD[place][0]
        told: object = value
        if form == "u":
            told = _WORDS[str(value)]
        elif form == "d":
            told = int(value) / 100
        elif form == "(ddd)":
            told = tuple(part / 255 for part in bytes.fromhex(str(value)[1:]))
        found[place] = (*place, form, told)
    return found
