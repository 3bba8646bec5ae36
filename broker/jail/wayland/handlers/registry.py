"""wl_display and wl_registry: what a client may know and bind.

The client's registries are ours: it sees names that we number, versions that
the baseline allows, and nothing that it could not bind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from broker.core.streams.wayland_verdicts import GLOBALS, advertised_version
from broker.jail.wayland.handlers import attention
from broker.jail.wayland.input_model import BoundGlobal
from broker.jail.wayland.model import BOUNDS_VERSION, COMPOSITOR_VERSION
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import LOCAL, Classes, Rules
from broker.jail.wayland.protocol.ids import ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import INVALID_OBJECT, ProtocolFault
from broker.jail.wayland.scene import resize_timeout

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


@dataclass(eq=False)
class Advertised:
    """A global as the client sees it; ``host_name`` is 0 for ours."""

    name: int
    interface: str
    version: int
    host_name: int
    removed: bool = False


class Globals:
    """The compositor's globals and what of them is advertised."""

    def __init__(
        self, allowed: frozenset[str], denied: frozenset[str] = frozenset()
    ) -> None:
        self._allowed = allowed
        self._denied = denied
        self.host: dict[int, tuple[str, int]] = {}
        self.by_name: dict[int, Advertised] = {}
        self.bound: set[str] = set()
        """Interfaces of all globals that the client has ever bound: objects made from
        a global outlive it."""
        self._next = 1
        for row in GLOBALS.values():
            if row.local and self._version(row.name, row.version):
                self._advertise(row.name, row.version, 0)

    def _version(self, interface: str, offered: int) -> int:
        if interface in self._denied:
            return 0
        return advertised_version(interface, offered, self._allowed)

    def _advertise(self, interface: str, version: int, host_name: int) -> Advertised:
        entry = Advertised(self._next, interface, version, host_name)
        self._next += 1
        self.by_name[entry.name] = entry
        return entry

    def add(self, host_name: int, interface: str, version: int) -> Advertised | None:
        """Add a compositor's global.

        Return its entry, None if the client must not see it.
        """
        self.host[host_name] = (interface, version)
        row = GLOBALS.get(interface)
        shown = self._version(interface, version)
        # guard: hidden globals
        if row is None or row.local or not shown:
            return None
        return self._advertise(interface, shown, host_name)

    def remove(self, host_name: int) -> Advertised | None:
        """Mark a global that the compositor removed.

        Return its entry, or None if the client never saw it.
        """
        self.host.pop(host_name, None)
        for entry in self.by_name.values():
            if entry.host_name == host_name and not entry.removed:
                entry.removed = True
                return entry
        return None

    def take_away(self, interfaces: frozenset[str]) -> list[Advertised]:
        """Hide globals that the record no longer allows.

        Return those the client saw.
        """
        self._denied |= interfaces
        gone = [e for e in self.by_name.values() if e.interface in interfaces]
        for entry in gone:
            # guard: a revoked global is not bound later
            del self.by_name[entry.name]
        return [entry for entry in gone if not entry.removed]

    def first(self) -> dict[str, tuple[int, int]]:
        """The compositor's name and version of each global, the first of its kind."""
        found: dict[str, tuple[int, int]] = {}
        for name, (interface, version) in self.host.items():
            found.setdefault(interface, (name, version))
        return found


# -- wl_display ----------------------------------------------------------------------


def sync(core: ClientState, _display: ProtocolObject, new_id: int) -> None:
    core.unsent_syncs.append(core.make(new_id, "wl_callback", 1, server=False))
    resize_timeout.send_syncs(core)


_ID = struct.Struct("=I")


@lru_cache(1024)
def _global_body(name: int, interface: str, version: int) -> bytes:
    """A wl_registry.global without its object: the same for every registry."""
    return emit.registry_global(0, name, interface.encode(), version)[4:]


def told(registry: ProtocolObject, entry: Advertised) -> bytes:
    """The event with which a registry advertises a global."""
    body = _global_body(entry.name, entry.interface, entry.version)
    return _ID.pack(registry.cid) + body


def get_registry(core: ClientState, _display: ProtocolObject, new_id: int) -> None:
    registry = core.make(new_id, "wl_registry", 1, server=False)
    core.registries[registry.cid] = registry
    for entry in core.globals.by_name.values():
        if not entry.removed:
            core.down.data += told(registry, entry)


def host_error(
    core: ClientState,
    _display: ProtocolObject,
    obj: ProtocolObject | None,
    code: int,
    untrusted_text: bytes,
) -> None:
    """Handle wl_display.error: end the client's connection.

    The text contains ids of the compositor's, so it is not passed on.
    """
    core.upstream_error(obj, code, untrusted_text)


def host_delete_id(core: ClientState, _display: ProtocolObject, sid: int) -> None:
    core.deleted(sid)


# -- wl_registry ------------------------------------------------------------------------


def take_away(core: ClientState, interfaces: frozenset[str]) -> bool:
    """Remove globals that the record no longer allows; return if one was in use.

    A client that has not is informed that they are gone, and cannot bind them any more.
    """
    if attention.IDLE_MANAGER in interfaces:
        # guard: a record that is changed lets the screen lock
        attention.let_sleep(core)
    # guard: clients that use a revoked global
    if core.globals.bound & interfaces - {attention.IDLE_MANAGER}:
        return True
    for entry in core.globals.take_away(interfaces):
        for registry in core.registries.values():
            core.down.data += emit.registry_remove(registry.cid, entry.name)
    return False


def bind(
    core: ClientState,
    registry: ProtocolObject,
    name: int,
    untrusted_interface: bytes,
    version: int,
    new_id: int,
) -> None:
    """Bind an offered global.  Raises ProtocolFault for any other."""
    entry = core.globals.by_name.get(name)
    if entry is None or entry.interface.encode() != untrusted_interface:
        raise ProtocolFault(
            registry.cid, INVALID_OBJECT, f"no global {name} has this interface"
        )
    # guard: bind an offered global only
    if not 1 <= version <= entry.version:
        raise ProtocolFault(
            registry.cid,
            INVALID_OBJECT,
            f"{entry.interface} has version {entry.version}, not {version}",
        )
    core.globals.bound.add(entry.interface)
    # A global just removed may still be bound (wl_registry.global_remove).  A seat or a
    # screen is inert then; of others the compositor has the answer.
    # guard: what is bound too late is inert
    inert = entry.removed and entry.interface in {"wl_seat", "wl_output"}
    server = bool(entry.host_name) and not inert
    obj = core.make(new_id, entry.interface, version, server=server)
    obj.inert = inert
    if isinstance(obj, BoundGlobal):
        obj.host_name = entry.host_name
    if server:
        # GTK 3 binds version 3; our own requests for its surfaces need 4
        # (damage_buffer), which has no event more.
        if entry.interface == "wl_compositor":
            version = max(version, COMPOSITOR_VERSION)
        # GTK 3 binds version 1; the frame needs the events of 4 (configure_bounds).
        # Of what it adds the client receives nothing: states and bounds are removed.
        if entry.interface == "xdg_wm_base":
            version = max(version, min(BOUNDS_VERSION, entry.version))
        core.up.data += emit.bind(
            core.registry, entry.host_name, untrusted_interface, version, obj.sid
        )


# What is gone is inert. A wl_pointer whose seat has lost its pointer, a seat or a
# screen whose global was removed and a pen that was unplugged stay usable for an
# application, and the compositor has nothing behind them; wlroots 0.15 reads a null
# address there. The filter names none of them: a relative pointer, a gesture, a lock, a
# text input or a size of a screen that is made of one is an object of the filter's
# alone, which is silent. The table of messages has, for each request, what must be
# alive, mapped or shown.
def make_inert(core: ClientState, host_name: int) -> None:
    """End what the client has bound of a seat or a screen that is gone."""
    for obj in core.by_client.values():
        # guard: what is bound is inert once its global is gone
        if isinstance(obj, BoundGlobal) and obj.host_name == host_name:
            obj.inert = True
    core.hands.remove_seat(host_name)


def destroy_registry(
    core: ClientState, _fixes: ProtocolObject, registry: ProtocolObject
) -> None:
    if core.registries.pop(registry.cid, None) is not None:
        core.drop_local(registry)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_display", "sync"): sync,
    ("wl_display", "get_registry"): get_registry,
    ("wl_fixes", "destroy"): ObjectTable.drop_local,
    ("wl_fixes", "destroy_registry"): destroy_registry,
    ("wl_registry", "bind"): bind,
}
EVENTS: Rules = {
    ("wl_display", "error"): host_error,
    ("wl_display", "delete_id"): host_delete_id,
    ("wl_registry", "global"): LOCAL,
    ("wl_registry", "global_remove"): LOCAL,
}
CLASSES: Classes = {}
