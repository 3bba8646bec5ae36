"""Activation, idle inhibition and the bell: what asks for a user's attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland import canonical, identity
from broker.jail.wayland.input_model import OwnSurface
from broker.jail.wayland.model import Surface, window_of
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.state import ClientState


class ActivationToken(ProtocolObject):
    """An xdg_activation_token_v1.  ``serial``: of a recent input, when it was named."""

    __slots__ = ("serial",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.serial: int | None = None


IDLE_MANAGER = "zwp_idle_inhibit_manager_v1"
IDLE_INHIBITOR = "zwp_idle_inhibitor_v1"


class IdleInhibitor(ProtocolObject):
    """A client's zwp_idle_inhibitor_v1; ``ours`` is the compositor's, on ``root``."""

    __slots__ = ("ours", "root", "surface")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None
        self.root: OwnSurface | None = None
        self.ours: ProtocolObject | None = None


def window_sid(surface: Surface | None) -> int:
    """The compositor's id of the surface that carries a window's role, or 0."""
    if surface is None:
        return 0
    xdg = surface.root().xdg
    return xdg.frame.root.sid if xdg is not None and xdg.frame is not None else 0


def set_serial(
    core: ClientState, token: ActivationToken, serial: int, seat: ProtocolObject
) -> None:
    # guard: no token of an inert seat
    fresh = core.serials.fresh(serial, core.now) and not seat.inert
    token.serial = serial if fresh else None
    if token.serial is not None:
        core.up.data += _set_serial(token.sid, serial, seat.sid)


def set_app_id(
    core: ClientState, token: ActivationToken, untrusted_app_id: bytes
) -> None:
    core.up.data += _set_app_id(
        token.sid, identity.app_id(core.rules.name, untrusted_app_id)
    )


def set_surface(core: ClientState, token: ActivationToken, surface: Surface) -> None:
    if canonical.is_sent(canonical.SET_SURFACE, surface):
        core.up.data += _set_surface(token.sid, window_sid(surface))


def commit(core: ClientState, token: ActivationToken) -> None:
    """Forward ``commit`` of an activation token only after fresh input of the client.

    Otherwise the client gets a token that opens nothing. Fresh now: a client could name
    each press in a token, and keep the tokens.
    """
    fresh = token.serial is not None
    # guard: input is fresh when the token is asked for
    fresh = fresh and core.serials.fresh(token.serial or 0, core.now)
    if fresh and core.sandbox.may(
        "activations", limits.WAYLAND_ACTIVATIONS_PER_MINUTE, core.now
    ):
        core.up.data += _commit(token.sid)
    else:
        core.down.data += _done(token.cid, b"vitrail-nothing")


_set_serial = emit.request("xdg_activation_token_v1", "set_serial")
_set_app_id = emit.request("xdg_activation_token_v1", "set_app_id")
_set_surface = emit.request("xdg_activation_token_v1", "set_surface")
_commit = emit.request("xdg_activation_token_v1", "commit")
_done = emit.event("xdg_activation_token_v1", "done")
_activate = emit.request("xdg_activation_v1", "activate")


def done(core: ClientState, token: ActivationToken, text: bytes) -> None:
    core.sandbox.keep_token(text, core.now)
    core.down.data += _done(token.cid, text)


def activate(
    core: ClientState, activation: ProtocolObject, text: bytes, surface: Surface
) -> None:
    """Forward ``activate`` only with an unused token that this sandbox was given."""
    sent = canonical.is_sent(canonical.ACTIVATE, surface)
    # guard: tokens of this sandbox
    if sent and core.sandbox.use_token(text, core.now):
        core.up.data += _activate(activation.sid, text, window_sid(surface))


def create_inhibitor(
    core: ClientState, _manager: ProtocolObject, new_id: int, surface: Surface
) -> None:
    """Create an idle inhibitor of a surface."""
    made = core.make(new_id, IDLE_INHIBITOR, 1, server=False)
    assert isinstance(made, IdleInhibitor)
    made.surface = surface
    core.inhibitors.append(made)


def destroy_inhibitor(core: ClientState, inhibitor: IdleInhibitor) -> None:
    core.inhibitors.remove(inhibitor)
    _let_sleep(core, inhibitor)
    core.drop_local(inhibitor)


def follow_windows(core: ClientState) -> None:
    """Keep the screen on for windows that are shown, and for nothing else.

    sway cannot say whether a surface without a window is visible, nor a window that is
    not mapped, and takes both for visible: one inhibitor on such a surface would keep
    the screen from locking for as long as its application runs.  So the compositor has
    our inhibitor for each one whose window is shown.
    """
    # guard: no inhibitor once the record allows none
    if not core.idle_inhibit:
        return
    for inhibitor in core.inhibitors:
        root = _shown(inhibitor.surface)
        if root is inhibitor.root:
            continue
        _let_sleep(core, inhibitor)
        if root is not None:
            inhibitor.root, inhibitor.ours = root, core.own(IDLE_INHIBITOR)
            core.up.data += _create_inhibitor(
                core.idle_inhibit, inhibitor.ours.sid, root.sid
            )


def let_sleep(core: ClientState) -> None:
    """The record allows it no more: the screen may lock, and programs keep running."""
    core.idle_inhibit = 0
    for inhibitor in core.inhibitors:
        _let_sleep(core, inhibitor)
    core.wake()


def count_awake(sandbox: Sandbox) -> int:
    """How many inhibitors of a sandbox keep the screen on now."""
    cores = [core for core in sandbox.filters if core.fault is None]
    return sum(one.ours is not None for core in cores for one in core.inhibitors)


def _let_sleep(core: ClientState, inhibitor: IdleInhibitor) -> None:
    ours, inhibitor.ours, inhibitor.root = inhibitor.ours, None, None
    if ours is not None:
        core.end_own(ours)


def _shown(surface: Surface | None) -> OwnSurface | None:
    """Return the frame of the window that shows a surface; None if none is shown."""
    window = window_of(surface.root().xdg) if surface is not None else None
    # guard: the screen stays on for a window that is shown
    if window is None or window.frame is None or not window.mapped:
        return None
    return window.frame.root


_create_inhibitor = emit.request("zwp_idle_inhibit_manager_v1", "create_inhibitor")


def destroy_bell(core: ClientState, bell: ProtocolObject) -> None:
    core.destroy(bell)


def ring(core: ClientState, bell: ProtocolObject, surface: Surface | None) -> None:
    if core.sandbox.may("bells", limits.WAYLAND_BELLS_PER_MINUTE, core.now):
        sent = canonical.is_sent(canonical.RING, surface)
        core.up.data += _ring(bell.sid, window_sid(surface) if sent else 0)


_ring = emit.request("xdg_system_bell_v1", "ring")


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("xdg_activation_token_v1", "set_serial"): set_serial,
    ("xdg_activation_token_v1", "set_app_id"): set_app_id,
    ("xdg_activation_token_v1", "set_surface"): set_surface,
    ("xdg_activation_token_v1", "commit"): commit,
    ("xdg_activation_token_v1", "destroy"): FORWARD,
    ("xdg_activation_v1", "destroy"): FORWARD,
    ("xdg_activation_v1", "get_activation_token"): FORWARD,
    ("xdg_activation_v1", "activate"): activate,
    ("xdg_system_bell_v1", "destroy"): destroy_bell,
    ("xdg_system_bell_v1", "ring"): ring,
    ("zwp_idle_inhibit_manager_v1", "destroy"): FORWARD,
    ("zwp_idle_inhibit_manager_v1", "create_inhibitor"): create_inhibitor,
    ("zwp_idle_inhibitor_v1", "destroy"): destroy_inhibitor,
}
EVENTS: Rules = {
    ("xdg_activation_token_v1", "done"): done,
}
CLASSES: Classes = {
    "xdg_activation_token_v1": ActivationToken,
    "zwp_idle_inhibitor_v1": IdleInhibitor,
}
