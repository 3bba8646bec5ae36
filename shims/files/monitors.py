"""Portals that GLib asks about this sandbox's network, power and memory.

It asks all of them if ``GTK_USE_PORTAL`` is set, which we set for dialogs: without an
answer, a program of GIO has no network at all.
Sources: the documentation of XDG Desktop Portal; rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from shims.files.bus_messages import SENDER
from shims.files.bus_service import BusInterface
from shims.files.calling import start_thread
from shims.files.protocol import tell

if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Set, Tuple

    from shims.files.bus_calls import BusRow
    from shims.files.bus_messages import BusMessage
    from shims.files.bus_service import Values

NETWORK_MONITOR = "org.freedesktop.portal.NetworkMonitor"
LOCAL_ONLY, FULL_NETWORK = 1, 4
# Addresses of a root name server.  Nothing is sent there.
REMOTE = (
    (socket.AF_INET, ("198.41.0.4", 53)),
    (socket.AF_INET6, ("2001:503:ba3e::2:30", 53)),
)
# Links, and addresses and routes of IPv4 and IPv6 (linux/rtnetlink.h).
ROUTE_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
NETLINK_ROUTE, ROUTE_BYTES = 0, 1 << 16
# The kernel reports a link's end first, and then removes the link's routes, which it does
# not report.  So the state is read again when this has passed without another message.
SETTLE_SECONDS = 0.3


def has_route(family: int, address: Tuple[Any, ...]) -> bool:
    """Return whether there is a route to an address; sends nothing (connect(2))."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError:
        return False
    return True


def is_online() -> bool:
    """Return whether this network has a default route, as GLib decides it."""
    return any(has_route(*remote) for remote in REMOTE)


class NetworkMonitor(BusInterface):
    """The state of this sandbox's network; ``changed`` is called when it changes."""

    interface = NETWORK_MONITOR
    facts: ClassVar[Values] = {"version": ("u", 3)}

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._subscribers: Set[str] = set()
        self._resolving = 0
        self._watching = False

    def answer(self, row: BusRow, call: BusMessage) -> Tuple[Any, ...]:  # type: ignore[explicit-override]
        """See ``BusInterface``; each caller also receives changes."""
        if not self._watching:
            self._watching = True
            self._watch_routes()
        self._subscribers.add(call.text(SENDER))
        return super().answer(row, call)

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``: a program that has asked waits for a change."""
        return len(self._subscribers)

    def running(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return self._resolving

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        self._subscribers.discard(sender)

    def _available(self, _: BusMessage) -> Tuple[Any, ...]:
        return (is_online(),)

    def _metered(self, _: BusMessage) -> Tuple[Any, ...]:
        return (False,)

    def _connectivity(self, _: BusMessage) -> Tuple[Any, ...]:
        return (FULL_NETWORK if is_online() else LOCAL_ONLY,)

    def _status(self, call: BusMessage) -> Tuple[Any, ...]:
        return (
            {
                "available": ("b", *self._available(call)),
                "metered": ("b", *self._metered(call)),
                "connectivity": ("u", *self._connectivity(call)),
            },
        )

    def _can_reach(self, call: BusMessage) -> Tuple[Any, ...]:
        """Resolve a name in a thread, and look for a route to one of its addresses."""
        host, port = call.body
        self._resolving += 1

        def resolve() -> Tuple[Any, ...]:
            try:
                rows = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                return (any(has_route(row[0], row[4]) for row in rows),)
            except (OSError, ValueError, OverflowError):
                return (False,)  # not a name or port, or no address
            finally:
                self._resolving -= 1

        call.work = resolve
        return ()

    def _watch_routes(self) -> None:
        """Start a thread that reports changes of the default route."""
        routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        try:
            routes.bind((0, ROUTE_GROUPS))
        except OSError as error:
            routes.close()
            tell(f"vitrail: changes of the network are not reported: {error}")
            return
        online = is_online()

        def watch() -> None:
            previous = online
            while True:
                try:
                    routes.recv(ROUTE_BYTES)
                    routes.settimeout(SETTLE_SECONDS)
                except socket.timeout:
                    routes.settimeout(None)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # changes came too fast
                        raise
                if is_online() != previous:
                    previous = not previous
                    self._changed()

        start_thread(watch)


class ProxyResolver(BusInterface):
    """No proxy: one in a program's environment is found by its own resolver."""

    interface = "org.freedesktop.portal.ProxyResolver"
    facts: ClassVar[Values] = {"version": ("u", 1)}

    def _look_up_proxies(self, _: BusMessage) -> Tuple[Any, ...]:
        return (["direct://"],)


class MemoryMonitor(BusInterface):
    """It warns of nothing, like a desktop without Low Memory Monitor."""

    interface = "org.freedesktop.portal.MemoryMonitor"
    facts: ClassVar[Values] = {"version": ("u", 1)}


class PowerProfileMonitor(BusInterface):
    """No sandbox learns whether the user's machine saves power."""

    interface = "org.freedesktop.portal.PowerProfileMonitor"
    facts: ClassVar[Values] = {
        "power-saver-enabled": ("b", False),
        "version": ("u", 1),
    }
