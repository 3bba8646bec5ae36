"""Rows of clipboard, primary selection and drags."""

from __future__ import annotations

from docs.tables.wayland.terms import (
    END,
    END_LOCAL,
    MAKE,
    MAKE_LOCAL,
    OURS,
    Cost,
    Descriptors,
    Policies,
    Sender,
    Serial,
    event,
    request,
)

_OFFER = request("Names types of its data; at most 128 of 256 bytes.", Cost.NONE)
_SELECT = request(
    "Sets its sandbox's selection; the compositor never hears of it.",
    Cost.NONE,
    Sender.FOCUSED,
    Serial.CURRENT,
)
_RECEIVE = request(
    "Data of another client of its sandbox.",
    Cost.NONE,
    descriptors=Descriptors.CLIENT_PIPE,
)
_SEND = event(
    "Learns that another client of its sandbox pastes.",
    Sender.FILTER,
    descriptors=Descriptors.SANDBOX_PIPE,
)
_DRAGGED = event(
    "Learns that a drag is over its content; the types of another sandbox's are hidden.",
    Sender.POINTED,
)

REQUESTS: Policies = {
    ("wl_data_device_manager", "create_data_source"): MAKE_LOCAL,
    ("wl_data_device_manager", "get_data_device"): MAKE,
    ("wl_data_device", "start_drag"): request(
        "A drag with a type that only its sandbox understands, in a frame.",
        Cost.OBJECT,
        Sender.POINTED,
        Serial.HELD,
    ),
    ("wl_data_device", "set_selection"): _SELECT,
    ("wl_data_device", "release"): END,
    ("wl_data_source", "offer"): _OFFER,
    ("wl_data_source", "destroy"): END,
    ("wl_data_source", "set_actions"): request(
        "Says what may be done with its drag.", Cost.NONE
    ),
    ("wl_data_offer", "accept"): request(
        "The pointer shows that a drag over its content would be taken.",
        serial=Serial.DELIVERED,
    ),
    ("wl_data_offer", "receive"): _RECEIVE,
    ("wl_data_offer", "destroy"): END,
    ("wl_data_offer", "finish"): request("Ends a drag that was dropped on it."),
    ("wl_data_offer", "set_actions"): request(
        "The pointer shows the action of a drag over its content."
    ),
    ("zwp_primary_selection_device_manager_v1", "create_source"): MAKE_LOCAL,
    ("zwp_primary_selection_device_manager_v1", "get_device"): MAKE_LOCAL,
    ("zwp_primary_selection_device_manager_v1", "destroy"): END_LOCAL,
    ("zwp_primary_selection_device_v1", "set_selection"): _SELECT,
    ("zwp_primary_selection_device_v1", "destroy"): END_LOCAL,
    ("zwp_primary_selection_offer_v1", "receive"): _RECEIVE,
    ("zwp_primary_selection_offer_v1", "destroy"): END_LOCAL,
    ("zwp_primary_selection_source_v1", "offer"): _OFFER,
    ("zwp_primary_selection_source_v1", "destroy"): END_LOCAL,
}
EVENTS: Policies = {
    ("wl_data_device", "data_offer"): OURS,
    ("wl_data_device", "enter"): _DRAGGED,
    ("wl_data_device", "leave"): _DRAGGED,
    ("wl_data_device", "motion"): _DRAGGED,
    ("wl_data_device", "drop"): _DRAGGED,
    ("wl_data_device", "selection"): OURS,
    ("wl_data_offer", "offer"): OURS,
    ("wl_data_offer", "source_actions"): OURS,
    ("wl_data_offer", "action"): OURS,
    ("wl_data_source", "target"): event(
        "Learns that a window of its sandbox would take its drag."
    ),
    ("wl_data_source", "send"): _SEND,
    ("wl_data_source", "cancelled"): event("Learns that its drag is over."),
    ("wl_data_source", "dnd_drop_performed"): event(
        "Learns that its drag was dropped."
    ),
    ("wl_data_source", "dnd_finished"): event("Learns that its drag was taken."),
    ("wl_data_source", "action"): event(
        "Learns what the window under its drag would do with it."
    ),
    ("zwp_primary_selection_device_v1", "data_offer"): OURS,
    ("zwp_primary_selection_device_v1", "selection"): OURS,
    ("zwp_primary_selection_offer_v1", "offer"): OURS,
    ("zwp_primary_selection_source_v1", "send"): _SEND,
    ("zwp_primary_selection_source_v1", "cancelled"): OURS,
}
