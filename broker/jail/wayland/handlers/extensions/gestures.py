"""zwp_pointer_gestures_v1: swipes, pinches and holds on a touchpad.

Those over a frame are ours: a client is told of what begins over its content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.jail.wayland.handlers.seat import forward
from broker.jail.wayland.input_model import Gesture
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Raw, Rules

if TYPE_CHECKING:
    from broker.jail.wayland.protocol.objects import ProtocolObject
    from broker.jail.wayland.state import ClientState


def _begin(interface: str) -> Callable[..., None]:
    """Return the handler that passes a gesture's begin to a focused client."""
    begin_message = emit.event(interface, "begin")

    def begin(
        core: ClientState,
        gesture: Gesture,
        serial: int,
        time: int,
        surface: ProtocolObject | None,
        fingers: int,
    ) -> None:
        gesture.told = isinstance(surface, Surface) and not surface.dead
        if gesture.told and surface is not None:
            core.serials.note(serial)
            core.down.data += begin_message(
                gesture.cid, serial, time, surface.cid, fingers
            )

    return begin


def _if_told(
    core: ClientState, gesture: Gesture, data: bytes, pos: int, size: int
) -> None:
    if gesture.told:
        forward(core, gesture, data, pos, size)


REQUESTS: Rules = {
    ("zwp_pointer_gesture_hold_v1", "destroy"): FORWARD,
    ("zwp_pointer_gesture_pinch_v1", "destroy"): FORWARD,
    ("zwp_pointer_gesture_swipe_v1", "destroy"): FORWARD,
}
EVENTS: Rules = {
    ("zwp_pointer_gesture_hold_v1", "begin"): _begin("zwp_pointer_gesture_hold_v1"),
    ("zwp_pointer_gesture_hold_v1", "end"): Raw(_if_told),
    ("zwp_pointer_gesture_pinch_v1", "begin"): _begin("zwp_pointer_gesture_pinch_v1"),
    ("zwp_pointer_gesture_pinch_v1", "update"): Raw(_if_told),
    ("zwp_pointer_gesture_pinch_v1", "end"): Raw(_if_told),
    ("zwp_pointer_gesture_swipe_v1", "begin"): _begin("zwp_pointer_gesture_swipe_v1"),
    ("zwp_pointer_gesture_swipe_v1", "update"): Raw(_if_told),
    ("zwp_pointer_gesture_swipe_v1", "end"): Raw(_if_told),
}
CLASSES: Classes = {
    "zwp_pointer_gesture_hold_v1": Gesture,
    "zwp_pointer_gesture_pinch_v1": Gesture,
    "zwp_pointer_gesture_swipe_v1": Gesture,
}
