"""Maximised and fullscreen windows: the filter's own state, and its own answers.

A compositor answers each of these requests with a configure event (xdg_toplevel), but
not each of what the filter makes of them: to show a fullscreen window that is faked, it
asks for a maximised one, which the window may be already.  mutter 43 and weston 10 send
nothing then, and mutter nothing to a window of fixed size.  So the filter sends a
configure event of its own: at once where the state is as asked for already, and after a
while if nothing has come.  The serial of such an event never reaches the compositor.

``wl_display.sync`` after each request tells which configure events may be of before it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen
from broker.jail.wayland.model import (
    FULLSCREEN,
    MAXIMIZED,
    TILED,
    Toplevel,
    XdgSurface,
)
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.sync import send_sync
from broker.jail.wayland.scene.frame import NO_EDGES

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_TILED_VERSION = 2
_NO_FENCE, _FENCE, _FENCE_AND_ONE_MORE = range(3)
"""``Toplevel.fence``: one callback at a time, whatever the number of requests."""


# -- requests to the compositor ------------------------------------------------------


def maximise(core: ClientState, toplevel: Toplevel, *, wanted: bool) -> None:
    """Handle the program's request to be maximised, or not to be.

    While fullscreen is faked, maximised is what shows it: the wish is for afterwards.
    """
    toplevel.maximized = wanted
    if toplevel.fake_fullscreen:
        toplevel.restore = wanted
        _show(core, toplevel, maximised=True)
    else:
        _ask(core, toplevel, maximised=wanted)


def fake_fullscreen(core: ClientState, toplevel: Toplevel) -> None:
    """Show a window maximised, and report it as fullscreen."""
    if FULLSCREEN in toplevel.states:
        answer(core, toplevel)  # by the user's own key: with its frame, and in full
        return
    if not toplevel.fake_fullscreen:
        # The user maximises windows, too.  What was asked counts until it is reported.
        toplevel.restore = _is_maximised(toplevel)
        toplevel.fake_fullscreen, toplevel.seen = True, False
    _show(core, toplevel, maximised=True)


def end_fake(core: ClientState, toplevel: Toplevel) -> None:
    """Give a window the state that it has besides the faked fullscreen."""
    toplevel.fake_fullscreen = toplevel.seen = False
    _show(core, toplevel, maximised=toplevel.restore)


def _is_maximised(toplevel: Toplevel) -> bool:
    """Return whether the compositor has maximised a window, or has yet to do it."""
    if toplevel.asked is not None:
        return toplevel.asked
    return MAXIMIZED in toplevel.states


def _show(core: ClientState, toplevel: Toplevel, *, maximised: bool) -> None:
    """Have a window maximised or not for the faked fullscreen, and see to an answer."""
    if _is_known(toplevel, maximised=maximised):
        # Asked for once more, it would undo what the user may do meanwhile.
        _settle(toplevel)
        answer(core, toplevel)
    else:
        _ask(core, toplevel, maximised=maximised)


def _is_known(toplevel: Toplevel, *, maximised: bool) -> bool:
    """Return whether the compositor has reported this, and was asked for nothing else."""
    return toplevel.asked is None and maximised == (MAXIMIZED in toplevel.states)


def _ask(core: ClientState, toplevel: Toplevel, *, maximised: bool) -> None:
    """Ask the compositor to maximise a window, or not to."""
    write = emit.set_maximized if maximised else emit.unset_maximized
    core.up.data += write(toplevel.sid)
    if _is_known(toplevel, maximised=maximised):
        await_answer(core, toplevel)  # toolkits ask for what there is
    else:
        toplevel.asked = maximised
        expect(core, toplevel)


def expect(core: ClientState, toplevel: Toplevel) -> None:
    """Take events for an answer only once the compositor has read the request."""
    await_answer(core, toplevel)
    if toplevel.fence == _NO_FENCE:
        _send_fence(core, toplevel)
    else:
        # guard: one fence of a window at a time
        toplevel.fence = _FENCE_AND_ONE_MORE


def await_answer(core: ClientState, toplevel: Toplevel) -> None:
    """Answer a request if the compositor does not in time (``answer_late``)."""
    toplevel.heard = False
    toplevel.unanswered = core.now + limits.WAYLAND_LATE_SECONDS
    core.due = min(toplevel.unanswered, core.due or toplevel.unanswered)


class _Fence(ProtocolObject):
    """Our wl_callback, which comes when the compositor has read a window's requests."""

    __slots__ = ("toplevel",)

    def __init__(self, toplevel: Toplevel) -> None:
        super().__init__("wl_callback", 1)
        self.toplevel = toplevel


def _send_fence(core: ClientState, toplevel: Toplevel) -> None:
    toplevel.fence = _FENCE
    send_sync(core, _FENCE_EVENTS, _Fence(toplevel))


def _passed(core: ClientState, fence: _Fence, _data: int) -> None:
    """The compositor has read all requests before the fence."""
    toplevel = fence.toplevel
    more, toplevel.fence = toplevel.fence == _FENCE_AND_ONE_MORE, _NO_FENCE
    if toplevel.dead:
        return
    if more:
        _send_fence(core, toplevel)
    elif toplevel.heard and toplevel.asked in {None, MAXIMIZED in toplevel.states}:
        # mutter answers before it confirms; what others send later is of now as well.
        _settle(toplevel)


_FENCE_EVENTS: dispatch.Handlers = {"done": _passed}


# -- what the compositor reports -----------------------------------------------------


def follow(toplevel: Toplevel, states: bytes) -> None:
    """Take the states of the compositor's configure event."""
    toplevel.states = _states(states)
    toplevel.heard = True
    if toplevel.fence == _NO_FENCE:
        _settle(toplevel)


def _settle(toplevel: Toplevel) -> None:
    """The last states are later than all that was asked for."""
    toplevel.asked = toplevel.unanswered = None
    if not toplevel.fake_fullscreen:
        return
    if MAXIMIZED in toplevel.states or FULLSCREEN in toplevel.states:
        toplevel.seen = True
    elif toplevel.seen:
        # The user has made it a small window.  sway never reports "maximised": there
        # it stays what it was told to be.
        toplevel.fake_fullscreen = toplevel.seen = False


# -- what the program receives -------------------------------------------------------


def answer(core: ClientState, toplevel: Toplevel) -> None:
    """Send the program its window's size and states in a configure event of ours."""
    toplevel.unanswered = None
    xdg = toplevel.xdg
    # A window without any yet gets the compositor's first one.
    # guard: no configure event of ours before the compositor's
    if xdg is None or toplevel.held or not (xdg.acked or xdg.serials):
        return
    serial = xdg.next_own_serial()
    tell(core, toplevel)
    note(core, xdg, serial)
    core.down.data += configure_surface(xdg.cid, serial)


def answer_late(core: ClientState, now: float) -> None:
    """Answer the requests that the compositor has not answered in time."""
    for xdg in list(core.windows):
        role = xdg.role
        if not isinstance(role, Toplevel) or role.unanswered is None:
            continue
        if role.unanswered > now:
            core.due = min(role.unanswered, core.due or role.unanswered)
            continue
        if role.fence == _NO_FENCE:
            _settle(role)  # the compositor has read the request, and does nothing
        answer(core, role)


def tell(core: ClientState, toplevel: Toplevel) -> None:
    """Send the content size and the states that a window's program is to see."""
    known = toplevel.states
    body = _told_states(
        known,
        faked=toplevel.fake_fullscreen,
        maximized=toplevel.restore,
        # Toolkits drop shadows, which would be cropped anyway.
        tiled=not fills_screen(core, toplevel),
        knows_tiles=toplevel.version >= _TILED_VERSION,
    )
    core.down.data += emit.toplevel_configure(toplevel.cid, *toplevel.configured, body)


def fills_screen(core: ClientState, toplevel: Toplevel) -> bool:
    """Return whether a window is really fullscreen, without a frame."""
    return core.rules.fullscreen is Fullscreen.REAL and FULLSCREEN in toplevel.states


def note(core: ClientState, xdg: XdgSurface, serial: int) -> None:
    """Record a configure event's serial, and what acknowledging it will confirm."""
    gone = xdg.serials[: -limits.WAYLAND_SERIALS]
    del xdg.serials[: len(gone)]
    xdg.serials.append(serial)
    role = xdg.role
    if isinstance(role, Toplevel):
        # guard: configures forgotten
        role.forget(gone)
        (w, h), edges = role.configured, core.edges_for(role)
        if fills_screen(core, role):
            role.told_edges[serial] = NO_EDGES
            return
        if edges != core.edges:
            role.told_edges[serial] = edges
        if role.bound:
            role.told_maximized[serial] = (w + edges.wide, h + edges.high)


configure_surface = emit.event("xdg_surface", "configure")


@lru_cache(256)
def _states(array: bytes) -> frozenset[int]:
    """An array of xdg_toplevel.state."""
    count = len(array) // 4
    return frozenset(struct.unpack(f"={count}I", array[: count * 4]))


@lru_cache(256)
def _told_states(
    known: frozenset[int],
    *,
    faked: bool,
    maximized: bool,
    tiled: bool,
    knows_tiles: bool,
) -> bytes:
    """Encode the array of states that the client receives."""
    told = set(known)
    if faked:
        told.add(FULLSCREEN)
        if not maximized:
            told.discard(MAXIMIZED)
    if tiled:
        told.update(TILED)
    if not knows_tiles:
        # As sway does: its size is exact, so no toolkit rounds it to rows of text.
        if known.issuperset(TILED) and not faked:
            told.add(MAXIMIZED)
        # guard: no states that a program's version lacks
        told.difference_update(TILED)
    # In descending order, the tiles are not the compositor's: the X11 bridge reads it.
    tiles = sorted(told.intersection(TILED), reverse=known.isdisjoint(TILED))
    states = [*sorted(told.difference(TILED)), *tiles]
    return struct.pack(f"={len(states)}I", *states)
