"""What has to be alive, mapped or shown at the compositor for a request to be sent.

A column of the table of messages: one answer for each request that names an object, and
for those whose own object may have lost what it is about.  A compositor may take a null
address from an object whose device, screen or window has gone; the filter sends no such
request: the client gets an object that only the filter has, or ``popup_done``, or nothing.
``tests/broker/jail/wayland/test_needs.py`` tries each answer below ``LIVE``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Needs(enum.Enum):
    """Objects that must be there, and the filter's answer where they are not."""

    NONE = "none"
    LIVE = "what it names is not destroyed: else the connection ends"
    UNSENT = "nothing: it is not sent to the compositor"
    SEAT = "a seat that is there: else nothing, or a local object"
    SCREEN = "a screen that is there: else none is named, or a local object"
    SHOWN_SCREEN = "a screen that is there: else none is named; and, if its window is mapped, that this has the keyboard or was drawn since it was asked for: waits for it"
    DEVICE = "a seat that is there and has the capability: else a local object, which is requested once it has"
    POINTER = "a seat that has kept its pointer: else nothing, or a local object"
    PEN = "a pen that was not removed: else a local object"
    FOCUS = "a pointer or pen over its content: else nothing"
    MAPPED = "a window that is mapped: else nothing"
    MAPPED_PARENT = (
        "a parent that is mapped, and a window that is not unmapped: else held"
    )
    MAPPED_EXPORT = "a window that is mapped: else held"
    NOT_UNMAPPED = "a window that is neither unmapped nor destroyed: else nothing"
    NOT_UNMAPPED_OR_HELD = "a window that is neither unmapped nor destroyed: else held until it is mapped, or nothing"
    NEW = "a window that was never mapped: else a local object"
    SEAT_AND_MAPPED_ORIGIN = (
        "a seat that is there and a mapped window that was pressed: else nothing"
    )
    MAPPED_POPUP = "a popup at the compositor whose parent is mapped: else nothing"
    SEAT_AND_MAPPED = "a seat that is there and a window that is mapped: else nothing"
    SHOWN = "a mapped parent whose window has the keyboard or was drawn since it was asked for: waits 2 s, else `popup_done`"


_MADE_OF = {
    "wl_fixes": ("destroy_registry",),
    "wl_subcompositor": ("get_subsurface",),
    "wl_subsurface": ("place_above", "place_below"),
    "wl_surface": ("attach",),
    "wp_content_type_manager_v1": ("get_surface_content_type",),
    "wp_fractional_scale_manager_v1": ("get_fractional_scale",),
    "wp_presentation": ("feedback",),
    "xdg_toplevel_icon_manager_v1": ("set_icon",),
    "xdg_wm_base": ("get_xdg_surface",),
    "zwp_confined_pointer_v1": ("set_region",),
    "zwp_linux_dmabuf_v1": ("get_surface_feedback",),
    "zwp_locked_pointer_v1": ("set_region",),
}
_KEPT_HERE = {
    "wl_data_device": ("set_selection",),
    "wl_surface": ("set_input_region", "set_opaque_region"),
    "wp_fifo_manager_v1": ("get_fifo",),
    "wp_viewporter": ("get_viewport",),
    "xdg_popup": ("grab",),
    "xdg_toplevel_icon_v1": ("add_buffer",),
    "zwp_primary_selection_device_manager_v1": ("get_device",),
    "zwp_primary_selection_device_v1": ("set_selection",),
}

NEEDS: Mapping[tuple[str, str], Needs] = {
    **{(i, name): Needs.LIVE for i, names in _MADE_OF.items() for name in names},
    **{(i, name): Needs.UNSENT for i, names in _KEPT_HERE.items() for name in names},
    # -- seats, their devices, screens ------------------------------------------
    ("wl_seat", "get_pointer"): Needs.DEVICE,
    ("wl_seat", "get_keyboard"): Needs.DEVICE,
    ("wl_seat", "get_touch"): Needs.DEVICE,
    ("wl_data_device_manager", "get_data_device"): Needs.SEAT,
    ("wl_data_device", "start_drag"): Needs.SEAT_AND_MAPPED_ORIGIN,
    ("xdg_activation_token_v1", "set_serial"): Needs.SEAT,
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", "inhibit_shortcuts"): Needs.SEAT,
    ("zwp_tablet_manager_v2", "get_tablet_seat"): Needs.SEAT,
    ("zwp_text_input_manager_v3", "get_text_input"): Needs.DEVICE,
    ("wp_cursor_shape_manager_v1", "get_pointer"): Needs.POINTER,
    ("zwp_pointer_constraints_v1", "lock_pointer"): Needs.POINTER,
    ("zwp_pointer_constraints_v1", "confine_pointer"): Needs.POINTER,
    ("zwp_pointer_gestures_v1", "get_swipe_gesture"): Needs.POINTER,
    ("zwp_pointer_gestures_v1", "get_pinch_gesture"): Needs.POINTER,
    ("zwp_pointer_gestures_v1", "get_hold_gesture"): Needs.POINTER,
    ("zwp_relative_pointer_manager_v1", "get_relative_pointer"): Needs.POINTER,
    ("wp_cursor_shape_manager_v1", "get_tablet_tool_v2"): Needs.PEN,
    ("wl_pointer", "set_cursor"): Needs.FOCUS,
    ("wp_cursor_shape_device_v1", "set_shape"): Needs.FOCUS,
    ("zwp_tablet_tool_v2", "set_cursor"): Needs.FOCUS,
    ("xdg_toplevel", "set_fullscreen"): Needs.SHOWN_SCREEN,
    ("zxdg_output_manager_v1", "get_xdg_output"): Needs.SCREEN,
    # -- windows -----------------------------------------------------------------
    ("xdg_activation_v1", "activate"): Needs.NOT_UNMAPPED,
    ("xdg_activation_token_v1", "set_surface"): Needs.NOT_UNMAPPED,
    ("xdg_system_bell_v1", "ring"): Needs.NOT_UNMAPPED,
    ("zxdg_imported_v2", "set_parent_of"): Needs.MAPPED_PARENT,
    ("zxdg_imported_v1", "set_parent_of"): Needs.MAPPED_PARENT,
    ("xdg_wm_dialog_v1", "get_xdg_dialog"): Needs.NOT_UNMAPPED_OR_HELD,
    ("xdg_dialog_v1", "set_modal"): Needs.NOT_UNMAPPED_OR_HELD,
    ("xdg_dialog_v1", "unset_modal"): Needs.NOT_UNMAPPED_OR_HELD,
    ("zxdg_decoration_manager_v1", "get_toplevel_decoration"): Needs.NEW,
    ("zxdg_toplevel_decoration_v1", "set_mode"): Needs.NOT_UNMAPPED_OR_HELD,
    ("zxdg_toplevel_decoration_v1", "unset_mode"): Needs.NOT_UNMAPPED_OR_HELD,
    ("org_kde_kwin_server_decoration_manager", "create"): Needs.NEW,
    ("org_kde_kwin_server_decoration", "request_mode"): Needs.NOT_UNMAPPED_OR_HELD,
    ("zwp_idle_inhibit_manager_v1", "create_inhibitor"): Needs.MAPPED,
    ("zxdg_exporter_v2", "export_toplevel"): Needs.MAPPED_EXPORT,
    ("zxdg_exporter_v1", "export"): Needs.MAPPED_EXPORT,
    ("xdg_toplevel", "set_parent"): Needs.MAPPED_PARENT,
    ("xdg_toplevel", "show_window_menu"): Needs.SEAT_AND_MAPPED,
    ("xdg_toplevel", "move"): Needs.SEAT_AND_MAPPED,
    ("xdg_toplevel", "resize"): Needs.SEAT_AND_MAPPED,
    # -- menus -------------------------------------------------------------------
    ("xdg_surface", "get_popup"): Needs.SHOWN,
    ("xdg_popup", "reposition"): Needs.MAPPED_POPUP,
}
