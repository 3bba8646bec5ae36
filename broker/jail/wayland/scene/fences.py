"""Hold a commit until the GPU has finished drawing its buffer.

A commit whose buffer is still drawn into waits, and with it the requests that follow on
its connection; no compositor then waits for a sandbox's drawing.  The kernel says when
it is done (dma-buf.rst, "Implicit Fence Poll Support").  A late buffer is
dropped, and the window keeps its previous content.  The window is then *frozen*: later
buffers have a shorter timeout until one is in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import UnfinishedError
from broker.jail.wayland.scene import held_buffers, pictures

if TYPE_CHECKING:
    from broker.jail.wayland.model import Surface, SurfaceState
    from broker.jail.wayland.state import ClientState


def wait(core: ClientState, surface: Surface, state: SurfaceState) -> None:
    """Raise UnfinishedError until the GPU has drawn what this commit shows, or is late.

    ``core.fence`` then says what to wait for and how long; the commit is read again.
    """
    buffer = pictures.shown(surface, state)
    if buffer is None or buffer.gpu is None:
        return
    until = core.fence[1] if core.fence is not None else core.now + _patience(surface)
    core.fence = None
    for memory in buffer.gpu.memory:
        # guard: a picture is drawn before it goes up
        if memory.drawn():
            continue
        if core.now < until:
            core.fence = (memory, until)
            raise UnfinishedError
        # guard: a late picture freezes its own window
        _leave_out(core, state, buffer)
        surface.frozen = True
        return
    surface.frozen = False


def _patience(surface: Surface) -> float:
    # guard: a frozen window is waited for a moment only
    if surface.frozen:
        return limits.WAYLAND_FROZEN_SECONDS
    return limits.WAYLAND_FENCE_SECONDS


def _leave_out(core: ClientState, state: SurfaceState, buffer: Buffer) -> None:
    """Drop the late picture from a commit, and give its buffer back."""
    core.sandbox.refused["late pictures"] += 1
    attached = state.buffer is buffer  # otherwise it is drawn into where it is shown
    for name in ("buffer", "damage", "buffer_damage"):
        vars(state).pop(name, None)
    if attached and not buffer.dead:
        core.down.data += _release(buffer.cid)
    if attached:
        held_buffers.unhold(core, buffer)


_release = emit.event("wl_buffer", "release")
