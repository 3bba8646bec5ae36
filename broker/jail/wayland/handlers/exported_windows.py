"""xdg-foreign: a window as the parent of another program's window of the same sandbox.

The handle that a client gets is ours, and leads nowhere outside of the sandbox.  Where
both windows are of one connection it is xdg_toplevel.set_parent; otherwise the
compositor is asked by its handle, which no client sees.
"""

from __future__ import annotations

from broker.core.limits import wayland as limits
from broker.jail.wayland.handlers import windows
from broker.jail.wayland.handlers.attention import window_sid
from broker.jail.wayland.model import Surface, Toplevel
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.dispatch import LOCAL, Classes, Handlers, Rules
from broker.jail.wayland.protocol.ids import ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.state import ClientState

_EXPORTER, _EXPORTED = "zxdg_exporter_v2", "zxdg_exported_v2"
_IMPORTER, _IMPORTED = "zxdg_importer_v2", "zxdg_imported_v2"
INVALID_SURFACE = 0


class ExportedWindow(ProtocolObject):
    """A client's zxdg_exported_v2.

    ``host`` is the compositor's one, for windows of other connections, and
    ``host_handle`` its handle; ``children`` are the imports of it.
    """

    __slots__ = ("children", "core", "handle", "host", "host_handle", "toplevel")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.core: ClientState | None = None
        self.toplevel: Toplevel | None = None
        self.handle = b""
        self.host: _HostExported | None = None
        self.host_handle = b""
        self.children: list[ImportedWindow] = []

    def withdraw(self, *, closing: bool = False) -> None:
        """Withdraw an exported window: its imports end, and its handle is forgotten."""
        core = self.core
        if core is None or self.toplevel is None:
            return
        core.sandbox.exports.pop(self.handle, None)
        for child in self.children:
            child.exported = None
            if child.core is not None and not child.dead:
                child.core.down.data += _destroyed(child.cid)
                child.core.wake()
        self.children.clear()
        self.toplevel = None
        if self.host is not None and not closing:
            core.end_own(self.host)
        self.host = None


class ImportedWindow(ProtocolObject):
    """A client's zxdg_imported_v2; ``exported`` is None once that has gone."""

    __slots__ = ("child", "core", "exported", "host")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.core: ClientState | None = None
        self.exported: ExportedWindow | None = None
        self.child: Surface | None = None
        self.host: ProtocolObject | None = None


class _HostExported(ProtocolObject):
    """The compositor's zxdg_exported_v2, which is ours."""

    __slots__ = ("exported",)

    def __init__(self, exported: ExportedWindow) -> None:
        super().__init__(_EXPORTED, 1)
        self.exported = exported


def _window(obj: ProtocolObject, surface: Surface) -> Toplevel:
    role = surface.xdg.role if surface.xdg is not None else None
    if not isinstance(role, Toplevel):
        raise ProtocolFault(obj.cid, INVALID_SURFACE, "the surface is not a window")
    return role


# -- the exporting client ----------------------------------------------------------------


def export_toplevel(
    core: ClientState, exporter: ProtocolObject, new_id: int, surface: Surface
) -> None:
    """Export a window under a handle of the sandbox's.  Raises ProtocolFault."""
    toplevel = _window(exporter, surface)
    # guard: exported windows bounded
    if len(core.sandbox.exports) >= limits.WAYLAND_EXPORTS:
        raise core.too_much("too many exported windows")
    made = core.make(new_id, _EXPORTED, 1, server=False)
    assert isinstance(made, ExportedWindow)
    made.core, made.toplevel = core, toplevel
    made.handle = core.sandbox.new_handle()
    core.sandbox.exports[made.handle] = made
    core.down.data += _handle(made.cid, made.handle)
    # Now: a window floats on sway if it has its parent before it is shown.
    _ask(made, core)


def destroy_exported(core: ClientState, exported: ExportedWindow) -> None:
    exported.withdraw()
    core.drop_local(exported)


def close(core: ClientState) -> None:
    """Withdraw the exports and forget the imports of an ended connection."""
    for exported in list(core.sandbox.exports.values()):
        if exported.core is core:
            exported.withdraw(closing=True)
        else:
            # guard: an import ends with its connection
            exported.children = [c for c in exported.children if c.core is not core]


# -- the importing client ------------------------------------------------------------------


def import_toplevel(
    core: ClientState, _importer: ProtocolObject, new_id: int, untrusted_handle: bytes
) -> None:
    """Import a window by its handle, if this sandbox has exported it."""
    made = core.make(new_id, _IMPORTED, 1, server=False)
    assert isinstance(made, ImportedWindow)
    made.core = core
    # guard: handles of this sandbox
    made.exported = core.sandbox.exports.get(untrusted_handle)
    if made.exported is None:
        core.down.data += _destroyed(made.cid)
    else:
        made.exported.children.append(made)


def destroy_imported(core: ClientState, imported: ImportedWindow) -> None:
    """Destroy an import, and undo that its child is above the exported window."""
    exported, child = imported.exported, imported.child
    if exported is not None:
        exported.children.remove(imported)
        role = child.xdg.role if child is not None and child.xdg is not None else None
        if isinstance(role, Toplevel) and role.parent is exported.toplevel:
            role.parent = None
            if exported.core is core:
                windows.set_parent(core, role, None)
    if imported.host is not None:
        core.end_own(imported.host)
    core.drop_local(imported)


def set_parent_of(
    core: ClientState, imported: ImportedWindow, surface: Surface
) -> None:
    """Put a window above an imported one; ignore a loop of parents."""
    child, exported = _window(imported, surface), imported.exported
    if exported is None or exported.toplevel is None or exported.core is None:
        return
    step: Toplevel | None = exported.toplevel
    while step is not None:
        # Compositors follow parents without counting.
        # guard: a loop of parents over several connections
        if step is child:
            return
        step = step.parent
    imported.child = surface
    if exported.core is core:
        windows.set_parent(core, child, exported.toplevel)
        return
    child.parent = exported.toplevel
    if exported.host_handle:
        _lead(imported, exported.host_handle)
    elif exported.host is None:
        _ask(exported, exported.core)  # it may be shown by now


# -- the compositor ------------------------------------------------------------------------


def _bound(core: ClientState, interface: str) -> ProtocolObject | None:
    """Bind a global of the compositor for one request; None if it has none."""
    name = core.host_name_of(interface)
    if name is None:
        return None
    made = core.own(interface)
    core.up.data += emit.bind(core.registry, name, interface.encode(), 1, made.sid)
    return made


def _ask(exported: ExportedWindow, core: ClientState) -> None:
    """Ask the compositor for a handle of the window."""
    toplevel = exported.toplevel
    # wlroots 0.15 ends an export when its window is unmapped: of a window that never was shown
    # it writes into freed memory.
    # guard: exported windows are shown
    if toplevel is None or toplevel.xdg is None or not toplevel.xdg.mapped:
        return
    surface = toplevel.xdg.surface
    root, exporter = window_sid(surface), _bound(core, _EXPORTER)
    if exporter is None or not root:
        return
    host = _HostExported(exported)
    core.own(_EXPORTED, host)
    host.events = dispatch.own_events(_EXPORTED, _HOST_EVENTS)
    exported.host = host
    core.up.data += _export(exporter.sid, host.sid, root)
    core.end_own(exporter)
    core.wake()


def _host_handle(core: ClientState, host: _HostExported, handle: bytes) -> None:
    """Note the compositor's handle of an exported window; apply waiting children."""
    del core
    exported = host.exported
    exported.host_handle = handle
    for child in exported.children:
        if child.child is not None and child.core is not exported.core:
            _lead(child, handle)


_HOST_EVENTS: Handlers = {"handle": _host_handle}


def _lead(imported: ImportedWindow, handle: bytes) -> None:
    """Have the compositor put the imported window's child above the exported one."""
    core, root = imported.core, window_sid(imported.child)
    if core is None or not root:
        return
    if imported.host is None:
        importer = _bound(core, _IMPORTER)
        if importer is None:
            return
        imported.host = core.own(_IMPORTED)
        core.up.data += _import(importer.sid, imported.host.sid, handle)
        core.end_own(importer)
    core.up.data += _set_parent_of(imported.host.sid, root)
    core.wake()


_handle = emit.event(_EXPORTED, "handle")
_destroyed = emit.event(_IMPORTED, "destroyed")
_export = emit.request(_EXPORTER, "export_toplevel")
_import = emit.request(_IMPORTER, "import_toplevel")
_set_parent_of = emit.request(_IMPORTED, "set_parent_of")

# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    (_EXPORTER, "destroy"): ObjectTable.drop_local,
    (_EXPORTER, "export_toplevel"): export_toplevel,
    (_EXPORTED, "destroy"): destroy_exported,
    (_IMPORTER, "destroy"): ObjectTable.drop_local,
    (_IMPORTER, "import_toplevel"): import_toplevel,
    (_IMPORTED, "destroy"): destroy_imported,
    (_IMPORTED, "set_parent_of"): set_parent_of,
}
EVENTS: Rules = {
    (_EXPORTED, "handle"): LOCAL,
    (_IMPORTED, "destroyed"): LOCAL,
}
CLASSES: Classes = {_EXPORTED: ExportedWindow, _IMPORTED: ImportedWindow}
