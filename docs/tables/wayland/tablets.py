"""Rows of pens and tablets."""

from __future__ import annotations

from broker.jail.wayland.protocol.signatures import events_of, requests_of
from docs.tables.wayland.terms import (
    END,
    MAKE,
    Cost,
    Policies,
    Sender,
    Serial,
    event,
    request,
)

_TOOL = "zwp_tablet_tool_v2"
_PADS = [f"zwp_tablet_pad_{part}v2" for part in ("", "group_", "ring_", "strip_")]
_NO_PAD = request("Nothing: pads are not passed on, so none is there.", Cost.NONE)
_NEW = event("Nothing: it learns of a pen when that comes over its content.")
_HIDDEN = event("Nothing: names and numbers of hardware are not passed on.")
_KIND = event(
    "Learns a pen's kind and axes when that comes over its content.", Sender.POINTED
)
_OVER = event("Nothing: only the client under the pen receives it.", Sender.POINTED)
_ENTERS = event(
    "Nothing: only the client under the pen receives it.", Sender.POINTED, Serial.GIVES
)
_INPUT = event(
    "Nothing: only the client under the pen receives it.",
    Sender.POINTED,
    Serial.GIVES_INPUT,
)
_EVENTS = {
    **dict.fromkeys(("hardware_serial", "hardware_id_wacom"), _HIDDEN),
    **dict.fromkeys(("type", "capability", "done"), _KIND),
    "removed": event("Learns that a pen that it knows is gone."),
    "proximity_in": _ENTERS,
    **dict.fromkeys(("down", "button"), _INPUT),
}

REQUESTS: Policies = {
    ("zwp_tablet_manager_v2", "get_tablet_seat"): MAKE,
    ("zwp_tablet_manager_v2", "destroy"): END,
    ("zwp_tablet_seat_v2", "destroy"): END,
    ("zwp_tablet_v2", "destroy"): END,
    (_TOOL, "destroy"): END,
    (_TOOL, "set_cursor"): request(
        "At most 64 x 64 pixels at the pen, over its content.",
        sender=Sender.POINTED,
        serial=Serial.ENTER,
    ),
    **{(pad, m.name): _NO_PAD for pad in _PADS for m in requests_of(pad)},
}
EVENTS: Policies = {
    **{("zwp_tablet_seat_v2", m.name): _NEW for m in events_of("zwp_tablet_seat_v2")},
    **{
        ("zwp_tablet_v2", m.name): _KIND if m.name == "done" else _HIDDEN
        for m in events_of("zwp_tablet_v2")
    },
    **{(_TOOL, m.name): _EVENTS.get(m.name, _OVER) for m in events_of(_TOOL)},
    **{(pad, m.name): _HIDDEN for pad in _PADS for m in events_of(pad)},
}
