"""xdg-foreign: a window as the parent of another program's window of the same sandbox.

The handle that a client gets is ours, and leads nowhere outside of the sandbox.  Where
both windows are of one connection it is xdg_toplevel.set_parent; otherwise the
compositor is asked by its handle, which no client sees.
"""

from __future__ import annotations

from broker.core.limits import wayland as limits
from broker.jail.wayland import canonical, parents
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
# The same messages, two with other names: the compositor is asked by version 2 only.
_EXPORTER_1, _EXPORTED_1 = "zxdg_exporter_v1", "zxdg_exported_v1"
_IMPORTER_1, _IMPORTED_1 = "zxdg_importer_v1", "zxdg_imported_v1"
INVALID_SURFACE = 0


class ExportedWindow(ProtocolObject):
    """A client's zxdg_exported_v2.

    ``host`` is the compositor's one while the window is mapped, for windows of other
    connections, and ``host_handle`` its handle; ``imports`` are those of it.
    """

    __slots__ = ("core", "handle", "host", "host_handle", "imports", "toplevel")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.core: ClientState | None = None
        self.toplevel: Toplevel | None = None
        self.handle = b""
        self.host: _HostExported | None = None
        self.host_handle = b""
        self.imports: list[ImportedWindow] = []

    def withdraw(self, *, closing: bool = False) -> None:
        """Withdraw an exported window: its imports end, and its handle is forgotten."""
        core = self.core
        if core is None or self.toplevel is None:
            return
        core.sandbox.exports.pop(self.handle, None)
        for imported in self.imports:
            imported.exported = None
            if imported.core is not None and not imported.dead:
                # guard: a parent ends with its export
                parents.end_import(imported.core, imported)
                imported.core.down.data += _destroyed(imported.cid)
                imported.core.wake()
        self.imports.clear()
        self.toplevel = None
        if closing:
            self.host = None
        self.end_host()

    def end_host(self) -> None:
        """End the compositor's export, before its window is unmapped or destroyed."""
        host, self.host, self.host_handle = self.host, None, b""
        if host is not None and self.core is not None:
            self.core.end_own(host)
            self.core.wake()

    def request_handle(self) -> None:
        """Ask the compositor for a handle of the window, if that is mapped."""
        core, toplevel = self.core, self.toplevel
        if core is None or toplevel is None or self.host is not None:
            return
        # wlroots 0.15 ends an export when its window is unmapped: of a window that never
        # was mapped it writes into freed memory.
        # guard: exported windows are shown
        if toplevel.xdg is None or not canonical.is_sent(canonical.EXPORT, toplevel):
            return
        root = window_sid(toplevel.xdg.surface)
        exporter = core.bind_host(_EXPORTER)
        if exporter is None:
            return
        self.host = host = _HostExported(self)
        core.own(_EXPORTED, host)
        host.events = dispatch.own_events(_EXPORTED, _HOST_EVENTS)
        core.up.data += _export(exporter.sid, host.sid, root)
        core.end_own(exporter)
        core.wake()


class ImportedWindow(ProtocolObject):
    """A client's zxdg_imported_v2; ``exported`` is None once that has gone."""

    __slots__ = ("core", "exported")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.core: ClientState | None = None
        self.exported: ExportedWindow | None = None

    @property
    def is_near(self) -> bool:
        """Return whether the exported window is of the same connection."""
        return self.exported is not None and self.exported.core is self.core

    def lead(self, child: Toplevel) -> ProtocolObject | None:
        """Have the compositor put a window above the exported one.

        Return the compositor's import, which has this relation alone; None without a
        handle.
        """
        core, exported = self.core, self.exported
        root = window_sid(child.xdg.surface) if child.xdg is not None else 0
        if core is None or exported is None or not exported.host_handle or not root:
            return None
        importer = core.bind_host(_IMPORTER)
        if importer is None:
            return None
        host = core.own(_IMPORTED)
        core.up.data += _import(importer.sid, host.sid, exported.host_handle)
        core.end_own(importer)
        core.up.data += _set_parent_of(host.sid, root)
        return host


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
    interface = _EXPORTED_1 if exporter.interface == _EXPORTER_1 else _EXPORTED
    made = core.make(new_id, interface, 1, server=False)
    assert isinstance(made, ExportedWindow)
    made.core, made.toplevel = core, toplevel
    made.handle = core.sandbox.new_handle()
    core.sandbox.exports[made.handle] = made
    core.down.data += _handle(made.cid, made.handle)
    # Now: a window floats on sway if it has its parent before it is shown.
    made.request_handle()


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
            exported.imports = [i for i in exported.imports if i.core is not core]


# -- the importing client ------------------------------------------------------------------


def import_toplevel(
    core: ClientState, importer: ProtocolObject, new_id: int, untrusted_handle: bytes
) -> None:
    """Import a window by its handle, if this sandbox has exported it."""
    interface = _IMPORTED_1 if importer.interface == _IMPORTER_1 else _IMPORTED
    made = core.make(new_id, interface, 1, server=False)
    assert isinstance(made, ImportedWindow)
    made.core = core
    # guard: handles of this sandbox
    made.exported = core.sandbox.exports.get(untrusted_handle)
    if made.exported is None:
        core.down.data += _destroyed(made.cid)
    else:
        made.exported.imports.append(made)


def destroy_imported(core: ClientState, imported: ImportedWindow) -> None:
    """Destroy an import, and undo that its child is above the exported window."""
    if imported.exported is not None:
        imported.exported.imports.remove(imported)
    parents.end_import(core, imported)
    core.drop_local(imported)


def set_parent_of(
    core: ClientState, imported: ImportedWindow, surface: Surface
) -> None:
    """Put a window above an imported one; ignore a loop of parents."""
    child, exported = _window(imported, surface), imported.exported
    if exported is None or exported.toplevel is None:
        return
    # Compositors follow parents without counting.
    # guard: a loop of parents over several connections
    if parents.is_ancestor(child, exported.toplevel):
        return
    parents.set_parent(core, child, exported.toplevel, imported)


# -- the compositor ------------------------------------------------------------------------


def _host_handle(core: ClientState, host: _HostExported, handle: bytes) -> None:
    """Note the compositor's handle of an exported window; set the parents that wait."""
    host.exported.host_handle = handle
    parents.send_waiting(core.sandbox)


_HOST_EVENTS: Handlers = {"handle": _host_handle}

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
    (_EXPORTER_1, "destroy"): ObjectTable.drop_local,
    (_EXPORTER_1, "export"): export_toplevel,
    (_EXPORTED_1, "destroy"): destroy_exported,
    (_IMPORTER_1, "destroy"): ObjectTable.drop_local,
    (_IMPORTER_1, "import"): import_toplevel,
    (_IMPORTED_1, "destroy"): destroy_imported,
    (_IMPORTED_1, "set_parent_of"): set_parent_of,
}
EVENTS: Rules = {
    (_EXPORTED, "handle"): LOCAL,
    (_IMPORTED, "destroyed"): LOCAL,
    (_EXPORTED_1, "handle"): LOCAL,
    (_IMPORTED_1, "destroyed"): LOCAL,
}
CLASSES: Classes = {
    _EXPORTED: ExportedWindow,
    _EXPORTED_1: ExportedWindow,
    _IMPORTED: ImportedWindow,
    _IMPORTED_1: ImportedWindow,
}
