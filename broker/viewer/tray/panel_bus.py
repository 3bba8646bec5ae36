"""An item's end of a panel: a name on the session bus, and calls of the panel (D-Bus).

What they mean is the item's to say (StatusNotifierItem).

The viewer runs it for icons of sandboxes, ``brokerctl tray`` for its own icon.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import trio
from jeepney import (
    DBusAddress,
    Message,
    MessageFlag,
    MessageType,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection, DBusRouter

from broker.core.errors import SetupError, UpstreamError, sole
from broker.core.stderr_log import log_stderr
from broker.net.desktop_bus import desktop_call, desktop_property, owner_changes
from broker.net.session_bus import (
    CALLS,
    Reply,
    answer_calls,
    answer_of,
    why,
)

_WATCHER = "org.kde.StatusNotifierWatcher"
_SECONDS = 5.0
_VERIFY_SECONDS = (5.0, 30.0)
"""Delays of the checks that the panel has the item, in seconds."""

ITEM_PATH = "/StatusNotifierItem"
ITEM = "org.kde.StatusNotifierItem"

Variant = tuple[str, Any]
NOTHING_MORE: Mapping[str, Variant] = MappingProxyType(
    {
        "WindowId": ("i", 0),
        "IconName": ("s", ""),
        "IconThemePath": ("s", ""),
        "OverlayIconName": ("s", ""),
        "OverlayIconPixmap": ("a(iiay)", []),
        "AttentionIconName": ("s", ""),
        "AttentionIconPixmap": ("a(iiay)", []),
        "AttentionMovieName": ("s", ""),
    }
)
"""Properties that an item has because panels ask for them."""
Pressed = TypeVar("Pressed")
OpenItemBus: TypeAlias = Callable[
    [], AbstractAsyncContextManager[tuple[DBusConnection, str]]
]
"""Returns a connection, and the bus name of its item, while its block runs."""


@dataclass(frozen=True)
class PanelSignal:
    """A signal for the panel."""

    path: str
    interface: str
    member: str
    signature: str = ""
    values: tuple[Any, ...] = ()


Answers = Callable[[str, str, str, tuple[Any, ...]], tuple[Reply, Pressed | None]]
"""An item: called with path, interface, member and values of a panel's call, it returns
the reply, and what was clicked.  Raises UnknownCallError."""


class Panel(Generic[Pressed]):
    """Shows an item in the panel; ``tell`` is for the task that changes the item."""

    def __init__(
        self,
        item: Answers[Pressed],
        clicked: Callable[[Pressed], Awaitable[None]],
        bus: OpenItemBus,
    ) -> None:
        self._item = item
        self._clicked = clicked
        self._bus = bus
        self._router: DBusRouter | None = None
        self._pressed: Pressed | None = None

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve panels until cancelled.  Raises SetupError without a session bus."""
        try:
            async with (
                self._bus() as (connection, name),
                connection.router() as router,
                trio.open_nursery() as nursery,
            ):
                await answer_of(router, message_bus.RequestName(name), _SECONDS)
                self._router = router
                await nursery.start(answer_calls, router, self._called, self._then)
                nursery.start_soon(self._keep_registered, router, connection, name)
                task_status.started()
        except (KeyError, OSError, ExceptionGroup) as error:
            # Of the nurseries inside: one failure, in a wrapper.
            # guard: a session bus that fails is a mistake of the session
            if not isinstance(sole(error), KeyError | OSError | trio.TooSlowError):
                raise
            raise SetupError(
                f"cannot use the session bus: {why(error)}",
                hint="start the broker from your desktop session",
            ) from error

    def _called(self, *call: Any) -> Reply:  # noqa: ANN401
        reply, self._pressed = self._item(*call)
        return reply

    async def _then(self) -> None:
        pressed, self._pressed = self._pressed, None
        if pressed is not None:
            await self._clicked(pressed)

    async def tell(self, signals: Iterable[PanelSignal]) -> None:
        """Send signals about the item's changes to the panel, if it knows the item."""
        if self._router is None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for one in signals:
                await self._router.send(_signal(one))

    async def _keep_registered(
        self, router: DBusRouter, connection: DBusConnection, name: str
    ) -> None:
        """Register the item at the panel, and at each panel that replaces it.

        GNOME's extension forgets an item that registers before the extension is ready,
        so read its list of items after a while, and register again if this one is absent.
        """
        rule, complained = owner_changes(_WATCHER), False
        # Not as a context manager, see DesktopSettings: it ends with the router.
        changes = router.filter(rule, bufsize=CALLS).receive_channel
        await answer_of(router, message_bus.AddMatch(rule), _SECONDS)
        names = (name, str(connection.unique_name))
        registered, delays = False, iter(_VERIFY_SECONDS)
        while True:
            if not registered:
                complained = await _register(router, name, complained=complained)
            with trio.move_on_after(next(delays, math.inf)) as verify:
                await changes.receive()
                registered, delays = False, iter(_VERIFY_SECONDS)
            if verify.cancelled_caught:
                registered = await _is_registered(router, names)


async def _register(router: DBusRouter, name: str, *, complained: bool) -> bool:
    """Register an item; log once that there is no panel, and return whether that is done."""
    call = desktop_call(_WATCHER, "RegisterStatusNotifierItem", name)
    call.header.flags |= MessageFlag.no_auto_start
    with trio.move_on_after(_SECONDS):
        answer = await router.send_and_get_reply(call)
        if answer.header.message_type is MessageType.error and not complained:
            complained = True
            log_stderr(
                "vitrail: waiting for a panel that supports icons (StatusNotifierWatcher)"
            )
    return complained


async def _is_registered(router: DBusRouter, names: tuple[str, ...]) -> bool:
    """Return whether the panel has the item of one of these bus names.

    True if the panel does not list its items, or does not answer.
    """
    call = desktop_property(_WATCHER, "RegisteredStatusNotifierItems")
    call.header.flags |= MessageFlag.no_auto_start
    with suppress(UpstreamError, trio.TooSlowError):
        ((_, items),) = (await answer_of(router, call, _SECONDS)).body
        # Panels list a bus name, with or without the item's path.
        return any(str(item).partition("/")[0] in names for item in items)
    return True


def _signal(told: PanelSignal) -> Message:
    emitter = DBusAddress(told.path, interface=told.interface)
    return new_signal(emitter, told.member, told.signature or None, told.values)
