"""Rows of seats: pointer, keyboard, touch, gestures, text input, constraints."""

from __future__ import annotations

from docs.tables.wayland.terms import (
    END,
    MAKE,
    Cost,
    Descriptors,
    Policies,
    Sender,
    Serial,
    event,
    request,
)

_POINTED = event(
    "Nothing: only the client under the pointer receives it.", Sender.POINTED
)
_POINTED_SERIAL = event(
    "Nothing: only the client under the pointer receives it.",
    Sender.POINTED,
    Serial.GIVES,
)
_TOUCHED = event(
    "Nothing: only the client that the finger is on receives it.", Sender.POINTED
)
_TYPED = event(
    "Nothing: only the client whose window has the keyboard receives it.",
    Sender.FOCUSED,
)
_TEXT = request(
    "Text and state for the input method of its window.", sender=Sender.FOCUSED
)
_CONSTRAINT = request(
    "Holds the pointer in its window while that has it; only by a record.",
    Cost.OBJECT,
)
_CONSTRAINED = event("Learns whether its constraint is in force.", Sender.POINTED)

REQUESTS: Policies = {
    ("wl_seat", "get_pointer"): MAKE,
    ("wl_seat", "get_keyboard"): MAKE,
    ("wl_seat", "get_touch"): MAKE,
    ("wl_seat", "release"): END,
    # -- pointer ---------------------------------------------------------------
    ("wl_pointer", "set_cursor"): request(
        "At most 64 x 64 pixels at the pointer, over its content.",
        sender=Sender.POINTED,
        serial=Serial.ENTER,
    ),
    ("wl_pointer", "release"): END,
    ("wp_cursor_shape_manager_v1", "destroy"): END,
    ("wp_cursor_shape_manager_v1", "get_pointer"): MAKE,
    ("wp_cursor_shape_manager_v1", "get_tablet_tool_v2"): MAKE,
    ("wp_cursor_shape_device_v1", "destroy"): END,
    ("wp_cursor_shape_device_v1", "set_shape"): request(
        "A pointer shape of the compositor's, over its content.",
        sender=Sender.POINTED,
        serial=Serial.ENTER,
    ),
    ("zwp_relative_pointer_manager_v1", "destroy"): END,
    ("zwp_relative_pointer_manager_v1", "get_relative_pointer"): MAKE,
    ("zwp_relative_pointer_v1", "destroy"): END,
    ("zwp_pointer_gestures_v1", "get_swipe_gesture"): MAKE,
    ("zwp_pointer_gestures_v1", "get_pinch_gesture"): MAKE,
    ("zwp_pointer_gestures_v1", "get_hold_gesture"): MAKE,
    ("zwp_pointer_gestures_v1", "release"): END,
    ("zwp_pointer_gesture_swipe_v1", "destroy"): END,
    ("zwp_pointer_gesture_pinch_v1", "destroy"): END,
    ("zwp_pointer_gesture_hold_v1", "destroy"): END,
    # -- constraints -----------------------------------------------------------
    ("zwp_pointer_constraints_v1", "destroy"): END,
    ("zwp_pointer_constraints_v1", "lock_pointer"): _CONSTRAINT,
    ("zwp_pointer_constraints_v1", "confine_pointer"): _CONSTRAINT,
    ("zwp_locked_pointer_v1", "destroy"): END,
    ("zwp_locked_pointer_v1", "set_cursor_position_hint"): request(
        "Where the pointer is when its lock ends: inside its content.", Cost.HELD
    ),
    ("zwp_locked_pointer_v1", "set_region"): request(
        "A smaller part of its content.", Cost.REGION
    ),
    ("zwp_confined_pointer_v1", "destroy"): END,
    ("zwp_confined_pointer_v1", "set_region"): request(
        "A smaller part of its content.", Cost.REGION
    ),
    # -- keyboard and touch ----------------------------------------------------
    ("wl_keyboard", "release"): END,
    ("wl_touch", "release"): END,
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", "destroy"): END,
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", "inhibit_shortcuts"): request(
        "The compositor's shortcuts while its window has the keyboard; only by a record.",
        Cost.OBJECT,
    ),
    ("zwp_keyboard_shortcuts_inhibitor_v1", "destroy"): END,
    # -- text input ------------------------------------------------------------
    ("zwp_text_input_manager_v3", "destroy"): END,
    ("zwp_text_input_manager_v3", "get_text_input"): MAKE,
    ("zwp_text_input_v3", "destroy"): END,
    ("zwp_text_input_v3", "enable"): _TEXT,
    ("zwp_text_input_v3", "disable"): _TEXT,
    ("zwp_text_input_v3", "set_surrounding_text"): _TEXT,
    ("zwp_text_input_v3", "set_text_change_cause"): _TEXT,
    ("zwp_text_input_v3", "set_content_type"): _TEXT,
    ("zwp_text_input_v3", "set_cursor_rectangle"): _TEXT,
    ("zwp_text_input_v3", "commit"): _TEXT,
}
EVENTS: Policies = {
    ("wl_seat", "capabilities"): event("Learns which kinds of devices there are."),
    ("wl_seat", "name"): event("Nothing: every sandbox is told the same name."),
    # -- pointer ---------------------------------------------------------------
    ("wl_pointer", "enter"): _POINTED_SERIAL,
    ("wl_pointer", "leave"): _POINTED_SERIAL,
    ("wl_pointer", "motion"): _POINTED,
    ("wl_pointer", "button"): event(
        "Nothing: only the client under the pointer receives it.",
        Sender.POINTED,
        Serial.GIVES_INPUT,
    ),
    ("wl_pointer", "axis"): _POINTED,
    ("wl_pointer", "frame"): _POINTED,
    ("wl_pointer", "axis_source"): _POINTED,
    ("wl_pointer", "axis_stop"): _POINTED,
    ("wl_pointer", "axis_discrete"): _POINTED,
    ("wl_pointer", "axis_value120"): _POINTED,
    ("wl_pointer", "axis_relative_direction"): _POINTED,
    ("zwp_relative_pointer_v1", "relative_motion"): event(
        "How the pointer moves while it is over its window, the frame included.",
        Sender.POINTED,
    ),
    ("zwp_pointer_gesture_swipe_v1", "begin"): _POINTED_SERIAL,
    ("zwp_pointer_gesture_swipe_v1", "update"): _POINTED,
    ("zwp_pointer_gesture_swipe_v1", "end"): _POINTED_SERIAL,
    ("zwp_pointer_gesture_pinch_v1", "begin"): _POINTED_SERIAL,
    ("zwp_pointer_gesture_pinch_v1", "update"): _POINTED,
    ("zwp_pointer_gesture_pinch_v1", "end"): _POINTED_SERIAL,
    ("zwp_pointer_gesture_hold_v1", "begin"): _POINTED_SERIAL,
    ("zwp_pointer_gesture_hold_v1", "end"): _POINTED_SERIAL,
    ("zwp_locked_pointer_v1", "locked"): _CONSTRAINED,
    ("zwp_locked_pointer_v1", "unlocked"): _CONSTRAINED,
    ("zwp_confined_pointer_v1", "confined"): _CONSTRAINED,
    ("zwp_confined_pointer_v1", "unconfined"): _CONSTRAINED,
    # -- keyboard and touch ----------------------------------------------------
    ("wl_keyboard", "keymap"): event(
        "Learns the keyboard's layout.", descriptors=Descriptors.COPIED_MEMORY
    ),
    ("wl_keyboard", "enter"): event(
        "Nothing: it says that its window has the keyboard.",
        Sender.FOCUSED,
        Serial.GIVES,
    ),
    ("wl_keyboard", "leave"): event(
        "Nothing: it says that its window had the keyboard.",
        Sender.FOCUSED,
        Serial.GIVES,
    ),
    ("wl_keyboard", "key"): event(
        "Nothing: only the client whose window has the keyboard receives it.",
        Sender.FOCUSED,
        Serial.GIVES_INPUT,
    ),
    ("wl_keyboard", "modifiers"): event(
        "Learns the modifiers when the compositor says them before an enter.",
        serial=Serial.GIVES,
    ),
    ("wl_keyboard", "repeat_info"): event("Learns how quickly keys repeat."),
    ("zwp_keyboard_shortcuts_inhibitor_v1", "active"): _TYPED,
    ("zwp_keyboard_shortcuts_inhibitor_v1", "inactive"): _TYPED,
    ("wl_touch", "down"): event(
        "Nothing: only the client that the finger is on receives it.",
        Sender.POINTED,
        Serial.GIVES_INPUT,
    ),
    ("wl_touch", "up"): event(
        "Nothing: only the client that the finger is on receives it.",
        Sender.POINTED,
        Serial.GIVES_INPUT,
    ),
    ("wl_touch", "motion"): _TOUCHED,
    ("wl_touch", "frame"): event(
        "Nothing: it ends what fingers did on its windows.", Sender.POINTED
    ),
    ("wl_touch", "cancel"): event(
        "Nothing: the compositor took fingers over that were on its windows.",
        Sender.POINTED,
    ),
    ("wl_touch", "shape"): _TOUCHED,
    ("wl_touch", "orientation"): _TOUCHED,
    # -- text input ------------------------------------------------------------
    ("zwp_text_input_v3", "enter"): _TYPED,
    ("zwp_text_input_v3", "leave"): _TYPED,
    ("zwp_text_input_v3", "preedit_string"): _TYPED,
    ("zwp_text_input_v3", "commit_string"): _TYPED,
    ("zwp_text_input_v3", "delete_surrounding_text"): _TYPED,
    ("zwp_text_input_v3", "done"): _TYPED,
}
