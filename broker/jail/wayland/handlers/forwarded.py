"""Messages of interfaces that need no handler: checked, given our ids, passed on."""

from __future__ import annotations

from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules

REQUESTS: Rules = {
    ("wp_fractional_scale_manager_v1", "destroy"): FORWARD,
    ("wp_fractional_scale_manager_v1", "get_fractional_scale"): FORWARD,
    ("wp_fractional_scale_v1", "destroy"): FORWARD,
    ("zwp_pointer_gestures_v1", "get_swipe_gesture"): FORWARD,
    ("zwp_pointer_gestures_v1", "get_pinch_gesture"): FORWARD,
    ("zwp_pointer_gestures_v1", "release"): FORWARD,
    ("zwp_pointer_gestures_v1", "get_hold_gesture"): FORWARD,
    ("zwp_text_input_manager_v3", "destroy"): FORWARD,
    ("zxdg_decoration_manager_v1", "destroy"): FORWARD,
    ("zxdg_output_manager_v1", "destroy"): FORWARD,
    ("zxdg_output_manager_v1", "get_xdg_output"): FORWARD,
}
EVENTS: Rules = {
    ("wl_callback", "done"): FORWARD,
    ("wp_fractional_scale_v1", "preferred_scale"): FORWARD,
}
CLASSES: Classes = {}
