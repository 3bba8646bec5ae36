"""The parent of each window: one note, and a compositor that never has another relation.

``Toplevel.parent`` is the note, ``parent_sent`` says whether the compositor has it.  A
relation is removed before another one is set, and before either window is unmapped:
then no compositor derives one itself (xdg_toplevel.set_parent: children of an unmapped
parent get the parent's parent).  Programs of one sandbox name each other's windows by
xdg-foreign, and the compositor reads their connections in any order.  So a parent that
was removed counts until the child's connection answers a sync (``removed_parent``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland import canonical
from broker.jail.wayland.canonical import Treatment
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.sync import send_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.jail.wayland.handlers.exported_windows import ImportedWindow
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.state import ClientState


class RemovedParent(ProtocolObject):
    """Our wl_callback, answered once the compositor has read that a relation ended."""

    __slots__ = ("ancestors", "child", "core")

    def __init__(
        self, core: ClientState, child: Toplevel, ancestors: set[Toplevel]
    ) -> None:
        super().__init__("wl_callback", 1)
        self.core, self.child, self.ancestors = core, child, ancestors


def set_parent(
    core: ClientState,
    child: Toplevel,
    parent: Toplevel | None,
    imported: ImportedWindow | None = None,
) -> None:
    """Change a window's parent; ``imported`` is the import that names it, if any."""
    remove_parent(core, child)
    child.parent, child.imported = parent, imported
    send_parent(core, child)


def remove_parent(core: ClientState, child: Toplevel) -> None:
    """Forget a window's parent, here and at the compositor."""
    withdraw_parent(core, child)
    child.parent = child.imported = None


def withdraw_parent(core: ClientState, child: Toplevel) -> None:
    """End a relation at the compositor; the note stays."""
    if not child.parent_sent:
        return
    child.parent_sent = False
    core.up.data += _set_parent(child.sid, 0)
    host, child.host_import = child.host_import, None
    if host is not None:
        core.end_own(host)
        removed = RemovedParent(core, child, set(_ancestors(child)))
        if child.removed_parent is not None:
            removed.ancestors |= child.removed_parent.ancestors
        child.removed_parent = removed
        send_sync(core, _SYNC_EVENTS, removed)
    core.wake()


def send_parent(core: ClientState, child: Toplevel) -> None:
    """Send a window's parent, if both may be named now; otherwise it is held."""
    parent, xdg = child.parent, child.xdg
    if parent is None or child.parent_sent or xdg is None:
        return
    rule = canonical.rule_for(canonical.SET_PARENT, child)
    # guard: a parent is sent for no window that is unmapped
    if rule is Treatment.DROP or (rule is Treatment.COMMIT and not xdg.committed):
        return
    # wlroots 0.15 ends the relation only when a parent is unmapped: with a parent that
    # never was mapped it writes into freed memory.
    # guard: parents are shown
    if parent.xdg is None or not parent.xdg.mapped:
        return
    # guard: a removed parent counts until that is read
    if _may_reach(core, parent, child):
        return
    if _is_near(child):
        core.up.data += _set_parent(child.sid, parent.sid)
    elif child.imported is not None:
        child.host_import = child.imported.lead(child)
        if child.host_import is None:
            return
    child.parent_sent = True


def send_waiting(sandbox: Sandbox) -> None:
    """Send the parents of all windows of a sandbox that may be named by now."""
    for core in sandbox.filters:
        for child in _windows(core):
            if child.parent is not None and not child.parent_sent:
                send_parent(core, child)
                core.wake()


def release(core: ClientState, window: Toplevel) -> None:
    """Send what was held until this window was mapped."""
    requests, window.held_requests = window.held_requests, {}
    for send in requests.values():
        send()
    for exported in list(core.sandbox.exports.values()):
        if exported.toplevel is window:
            exported.request_handle()
    send_waiting(core.sandbox)


def is_ancestor(window: Toplevel, of: Toplevel) -> bool:
    """Return whether ``window`` is ``of``, or above it by the notes."""
    return window is of or window in _ancestors(of)


def leave_family(core: ClientState, parent: Toplevel) -> None:
    """End all relations of a window that is about to be unmapped or destroyed.

    Its children get its own parent (xdg_toplevel.set_parent), if the compositor can be
    told by their connection.
    """
    for other in core.sandbox.filters:
        for child in _windows(other):
            # guard: a window that is unmapped has no children
            if child.parent is parent:
                near = _is_near(child)
                above = (parent.parent, parent.imported) if near else (None, None)
                set_parent(other, child, *above)
            removed = child.removed_parent
            if removed is not None and parent in removed.ancestors:
                # Until it is read, the compositor gives the child these.
                removed.ancestors.update(_ancestors(parent))
    for exported in list(core.sandbox.exports.values()):
        if exported.toplevel is parent:
            exported.end_host()
    withdraw_parent(core, parent)


def end_import(core: ClientState, imported: ImportedWindow) -> None:
    """End the relations that an import has set."""
    for child in _windows(core):
        if child.imported is imported:
            remove_parent(core, child)


def _is_near(child: Toplevel) -> bool:
    """Return whether a window and its parent are of one connection."""
    return child.imported is None or child.imported.is_near


def _windows(core: ClientState) -> list[Toplevel]:
    return [xdg.role for xdg in core.windows if isinstance(xdg.role, Toplevel)]


def _ancestors(window: Toplevel) -> Iterator[Toplevel]:
    """Yield a window's parent, and that one's, by the notes, which have no ring."""
    step = window.parent
    while step is not None:
        yield step
        step = step.parent


def _may_reach(core: ClientState, window: Toplevel, child: Toplevel) -> bool:
    """Return whether the compositor may still have ``child`` above ``window``.

    What the child's own connection has removed is read before its next request.
    """
    waiting, visited = [window], {window}
    while waiting:
        step = waiting.pop()
        above = {step.parent} if step.parent is not None else set()
        removed = step.removed_parent
        if removed is not None and removed.core is not core:
            above |= removed.ancestors
        waiting += above - visited
        visited |= above
    return child in visited


def _removed(core: ClientState, removed: RemovedParent, _data: int) -> None:
    """The compositor has read that a relation ended: a held one may be set."""
    if removed.child.removed_parent is removed:
        removed.child.removed_parent = None
        send_waiting(core.sandbox)


_SYNC_EVENTS: dispatch.Handlers = {"done": _removed}
_set_parent = emit.request("xdg_toplevel", "set_parent")
