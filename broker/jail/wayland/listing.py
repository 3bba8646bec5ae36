"""Windows as a user lists them: ``brokerctl windows`` and its sisters."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.errors import RefusedError
from broker.core.limits import wayland as limits
from broker.jail.wayland.identity import clean_text
from broker.jail.wayland.model import Toplevel, XdgSurface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.state import ClientState

_ACTIVATION = "xdg_activation_v1"
_activate = emit.request(_ACTIVATION, "activate")
_close = emit.event("xdg_toplevel", "close")


@dataclass(frozen=True)
class WindowInfo:
    """A mapped toplevel.  ``number`` is its name in its sandbox.

    ``title`` and ``app_id`` are the application's words without hidden
    characters and without our prefix; sizes are of the content.
    """

    number: int
    title: str
    app_id: str
    width: int
    height: int
    focused: bool


def windows_of(sandbox: Sandbox) -> list[WindowInfo]:
    """Return all windows that a sandbox shows, oldest first."""
    found = [
        _info(core, xdg, xdg.role)
        for core in sandbox.filters
        if core.fault is None
        for xdg in core.windows
        if xdg.mapped and isinstance(xdg.role, Toplevel)
    ]
    return sorted(found, key=lambda info: info.number)


def _info(core: ClientState, xdg: XdgSurface, top: Toplevel) -> WindowInfo:
    """Return a window's row for a list."""
    frame = xdg.frame
    outer = (frame.outer if frame is not None else None) or (0, 0)
    edges = frame.edges if frame is not None else core.edges
    return WindowInfo(
        xdg.number,
        clean_text(top.title.decode("utf-8", "replace"), limits.WAYLAND_TITLE_CHARS),
        clean_text(top.app_id.decode("utf-8", "replace"), limits.WAYLAND_APP_ID_CHARS),
        max(0, outer[0] - edges.wide),
        max(0, outer[1] - edges.high),
        xdg.surface in core.focused.values(),
    )


def _find(sandbox: Sandbox, number: int) -> tuple[ClientState, Toplevel]:
    """Find a window of the sandbox by its number.  Raises RefusedError."""
    for core in sandbox.filters:
        for xdg in core.windows:
            if xdg.number == number and isinstance(xdg.role, Toplevel):
                return core, xdg.role
    raise RefusedError(
        f"sandbox {sandbox.name} has no window {number}",
        hint="to list the windows, run 'brokerctl windows'; window numbers are not reused",
    )


def raise_window(sandbox: Sandbox, token: bytes) -> None:
    """Have the compositor raise a window: the newest, if none has the keyboard.

    ``token``: the compositor's, for the user's press elsewhere on the desktop
    (xdg-activation, activate).  Nothing happens without a window.
    """
    shown = [
        (xdg.surface in core.focused.values(), xdg.number, core, xdg)
        for core in sandbox.filters
        if core.fault is None
        for xdg in core.windows
        if xdg.mapped and xdg.frame is not None and isinstance(xdg.role, Toplevel)
    ]
    if not shown:
        return
    _, _, core, xdg = max(shown, key=lambda one: one[:2])
    assert xdg.frame is not None
    name = core.host_name_of(_ACTIVATION)
    if name is not None:
        made = core.own(_ACTIVATION)
        core.up.data += emit.bind(
            core.registry, name, _ACTIVATION.encode(), 1, made.sid
        )
        core.up.data += _activate(made.sid, token, xdg.frame.root.sid)
        core.end_own(made)
        core.wake()


def ask_to_close(sandbox: Sandbox, number: int) -> None:
    """Ask the application to close a window; it may ask the user first.

    Raises RefusedError when there is no such window.
    """
    core, top = _find(sandbox, number)
    core.down.data += _close(top.cid)
    core.wake()


def cut(sandbox: Sandbox, number: int) -> None:
    """End the connection that a window belongs to, with all its windows.

    Raises RefusedError when there is no such window.
    """
    core, _ = _find(sandbox, number)
    core.fail(RefusedError("the user closed its window"))
    core.wake()
