"""Rows of windows, menus, decorations, activation and the bell."""

from __future__ import annotations

from docs.tables.wayland.terms import (
    END,
    END_LOCAL,
    KEPT,
    MAKE,
    MAKE_LOCAL,
    TOLD,
    Cost,
    Policies,
    Sender,
    Serial,
    event,
    request,
)

_RESIZED = event("Learns the size that the compositor wants for its window.")
_FOREIGN = event(
    "Learns of a window of its sandbox that may be a parent.", Sender.FILTER
)
_TITLE_BAR = request(
    "Title bar of the compositor's or none, outside our frame, which has the "
    "sandbox's name where there is none."
)
_TITLE_BARS = event("Learns whether the compositor draws title bars.")
_HIDDEN_HOST = event("Learns the size of a screen; the model and name are ours.")

REQUESTS: Policies = {
    # -- windows ---------------------------------------------------------------
    ("xdg_wm_base", "destroy"): END,
    ("xdg_wm_base", "create_positioner"): MAKE_LOCAL,
    ("xdg_wm_base", "get_xdg_surface"): request(
        "A frame that is not shown yet.", Cost.WINDOW
    ),
    ("xdg_wm_base", "pong"): request(
        "Stays alive for the compositor.", serial=Serial.PING
    ),
    ("xdg_surface", "destroy"): END,
    ("xdg_surface", "get_toplevel"): request(
        "A window: the compositor may give a new window the focus.", Cost.WINDOW
    ),
    ("xdg_surface", "get_popup"): request(
        "A menu that touches its window, in a frame.", Cost.POPUP
    ),
    ("xdg_surface", "set_window_geometry"): KEPT,
    ("xdg_surface", "ack_configure"): request(
        "A size of its window takes effect.", Cost.HELD, serial=Serial.CONFIGURE
    ),
    ("xdg_toplevel", "destroy"): END,
    ("xdg_toplevel", "set_parent"): request(
        "Its window is kept above another window of the same client."
    ),
    ("xdg_toplevel", "set_title"): request(
        "Text in a title, after the sandbox's name; at most 600 a minute."
    ),
    ("xdg_toplevel", "set_app_id"): request(
        "Text in an application id, after the sandbox's name; at most 600 a minute."
    ),
    ("xdg_toplevel", "show_window_menu"): request(
        "The compositor's menu of its window appears, inside that window.",
        sender=Sender.FOCUSED,
        serial=Serial.YOUNG,
    ),
    ("xdg_toplevel", "move"): request(
        "Its window follows the pointer while a button is held.",
        Cost.PLACEMENT,
        Sender.POINTED,
        Serial.HELD,
    ),
    ("xdg_toplevel", "resize"): request(
        "Its window is resized by the pointer while a button is held.",
        Cost.PLACEMENT,
        Sender.POINTED,
        Serial.HELD,
    ),
    ("xdg_toplevel", "set_max_size"): KEPT,
    ("xdg_toplevel", "set_min_size"): KEPT,
    ("xdg_toplevel", "set_maximized"): request(
        "Its window covers the screen, with its frame.", Cost.PLACEMENT
    ),
    ("xdg_toplevel", "unset_maximized"): request(
        "Its window gets back its size.", Cost.PLACEMENT
    ),
    ("xdg_toplevel", "set_fullscreen"): request(
        "Covers the screen, where the record says so; without the keyboard a maximised window.",
        Cost.PLACEMENT,
    ),
    ("xdg_toplevel", "unset_fullscreen"): request(
        "Its window gets back its size.", Cost.PLACEMENT
    ),
    ("xdg_toplevel", "set_minimized"): request(
        "Its window disappears from the screen.", Cost.PLACEMENT
    ),
    ("xdg_wm_dialog_v1", "destroy"): END,
    ("xdg_wm_dialog_v1", "get_xdg_dialog"): MAKE,
    ("xdg_dialog_v1", "destroy"): END,
    ("xdg_dialog_v1", "set_modal"): request(
        "Its window blocks the window of the same client below it."
    ),
    ("xdg_dialog_v1", "unset_modal"): request("Takes the same back."),
    ("zxdg_decoration_manager_v1", "destroy"): END,
    ("zxdg_decoration_manager_v1", "get_toplevel_decoration"): MAKE,
    ("zxdg_toplevel_decoration_v1", "destroy"): END,
    ("zxdg_toplevel_decoration_v1", "set_mode"): _TITLE_BAR,
    ("zxdg_toplevel_decoration_v1", "unset_mode"): request("Takes the same back."),
    ("org_kde_kwin_server_decoration_manager", "create"): MAKE,
    ("org_kde_kwin_server_decoration", "release"): END,
    ("org_kde_kwin_server_decoration", "request_mode"): _TITLE_BAR,
    # -- menus -----------------------------------------------------------------
    ("xdg_positioner", "destroy"): END_LOCAL,
    ("xdg_positioner", "set_size"): KEPT,
    ("xdg_positioner", "set_anchor_rect"): KEPT,
    ("xdg_positioner", "set_anchor"): KEPT,
    ("xdg_positioner", "set_gravity"): KEPT,
    ("xdg_positioner", "set_constraint_adjustment"): KEPT,
    ("xdg_positioner", "set_offset"): KEPT,
    ("xdg_positioner", "set_reactive"): KEPT,
    ("xdg_positioner", "set_parent_size"): KEPT,
    ("xdg_positioner", "set_parent_configure"): KEPT,
    ("xdg_popup", "destroy"): END,
    ("xdg_popup", "grab"): request(
        "Nothing: the filter keeps the grab and says when the menu should go.",
        Cost.NONE,
        Sender.PRESSED,
        Serial.DELIVERED,
    ),
    ("xdg_popup", "reposition"): request(
        "Moves its menu; it still touches its window.", Cost.POPUP
    ),
    # -- attention -------------------------------------------------------------
    ("xdg_activation_v1", "destroy"): END,
    ("xdg_activation_v1", "get_activation_token"): MAKE,
    ("xdg_activation_v1", "activate"): request(
        "A window of its sandbox asks for the focus, once by each token of the sandbox's own, for a minute.",
    ),
    ("xdg_activation_token_v1", "set_serial"): request(
        "Proves to the compositor that the user acted.",
        sender=Sender.PRESSED,
        serial=Serial.INPUT,
    ),
    ("xdg_activation_token_v1", "set_app_id"): request(
        "Text in an application id, after the sandbox's name."
    ),
    ("xdg_activation_token_v1", "set_surface"): request(
        "Names its window to the compositor."
    ),
    ("xdg_activation_token_v1", "commit"): request(
        "A token that raises a window; at most 20 a minute, else one that does nothing.",
        sender=Sender.PRESSED,
    ),
    ("xdg_activation_token_v1", "destroy"): END,
    ("xdg_system_bell_v1", "destroy"): END,
    ("xdg_system_bell_v1", "ring"): request(
        "A sound or a flash of the compositor's; at most 60 a minute."
    ),
    ("xdg_toplevel_icon_manager_v1", "destroy"): END,
    ("xdg_toplevel_icon_manager_v1", "create_icon"): MAKE_LOCAL,
    ("xdg_toplevel_icon_manager_v1", "set_icon"): request(
        "48 x 48 pixels in its window's icon, inside a border in the sandbox's colour; at most 60 a minute.",
        Cost.MEMORY,
    ),
    ("xdg_toplevel_icon_v1", "destroy"): END_LOCAL,
    ("xdg_toplevel_icon_v1", "set_name"): request(
        "Nothing: names of the desktop's own icons are not passed on.", Cost.NONE
    ),
    ("xdg_toplevel_icon_v1", "add_buffer"): KEPT,
    ("zwp_idle_inhibit_manager_v1", "destroy"): END,
    ("zwp_idle_inhibit_manager_v1", "create_inhibitor"): request(
        "The screen stays on while its window is visible; only by a record.",
        Cost.OBJECT,
    ),
    ("zwp_idle_inhibitor_v1", "destroy"): END,
    ("zxdg_exporter_v2", "destroy"): END_LOCAL,
    ("zxdg_exporter_v2", "export_toplevel"): MAKE_LOCAL,
    ("zxdg_exported_v2", "destroy"): END_LOCAL,
    ("zxdg_importer_v2", "destroy"): END_LOCAL,
    ("zxdg_importer_v2", "import_toplevel"): MAKE_LOCAL,
    ("zxdg_imported_v2", "destroy"): END_LOCAL,
    ("zxdg_imported_v2", "set_parent_of"): request(
        "Its window is kept above another window of the same sandbox."
    ),
    ("zxdg_exporter_v1", "destroy"): END_LOCAL,
    ("zxdg_exporter_v1", "export"): MAKE_LOCAL,
    ("zxdg_exported_v1", "destroy"): END_LOCAL,
    ("zxdg_importer_v1", "destroy"): END_LOCAL,
    ("zxdg_importer_v1", "import"): MAKE_LOCAL,
    ("zxdg_imported_v1", "destroy"): END_LOCAL,
    ("zxdg_imported_v1", "set_parent_of"): request(
        "Its window is kept above another window of the same sandbox."
    ),
    # -- screens ---------------------------------------------------------------
    ("wl_output", "release"): END,
    ("zxdg_output_manager_v1", "destroy"): END,
    ("zxdg_output_manager_v1", "get_xdg_output"): MAKE,
    ("zxdg_output_v1", "destroy"): END,
}
EVENTS: Policies = {
    ("zxdg_exported_v2", "handle"): _FOREIGN,
    ("zxdg_imported_v2", "destroyed"): _FOREIGN,
    ("zxdg_exported_v1", "handle"): _FOREIGN,
    ("zxdg_imported_v1", "destroyed"): _FOREIGN,
    ("xdg_wm_base", "ping"): event(
        "Learns that the compositor wants an answer.", serial=Serial.GIVES
    ),
    ("xdg_surface", "configure"): event(
        "Learns that a size is to be acknowledged.", serial=Serial.GIVES
    ),
    ("xdg_toplevel", "configure"): event(
        "Learns its window's size and states, activated included."
    ),
    ("xdg_toplevel", "close"): event("Learns that the user closes its window."),
    ("xdg_toplevel", "configure_bounds"): _RESIZED,
    ("xdg_toplevel", "wm_capabilities"): event(
        "Learns what the compositor's windows can do."
    ),
    ("xdg_popup", "configure"): event("Learns where its menu is, near its window."),
    ("xdg_popup", "popup_done"): event("Learns that its menu is dismissed."),
    ("xdg_popup", "repositioned"): TOLD,
    ("zxdg_toplevel_decoration_v1", "configure"): _TITLE_BARS,
    ("org_kde_kwin_server_decoration_manager", "default_mode"): _TITLE_BARS,
    ("org_kde_kwin_server_decoration", "mode"): _TITLE_BARS,
    ("xdg_activation_token_v1", "done"): event(
        "A token; only this sandbox's windows can use it."
    ),
    ("xdg_toplevel_icon_manager_v1", "icon_size"): event(
        "Nothing: the size is the same everywhere.", Sender.FILTER
    ),
    ("xdg_toplevel_icon_manager_v1", "done"): TOLD,
    ("wl_output", "geometry"): _HIDDEN_HOST,
    ("wl_output", "mode"): _HIDDEN_HOST,
    ("wl_output", "done"): TOLD,
    ("wl_output", "scale"): _HIDDEN_HOST,
    ("wl_output", "name"): _HIDDEN_HOST,
    ("wl_output", "description"): _HIDDEN_HOST,
    ("zxdg_output_v1", "logical_position"): event("Learns how screens are arranged."),
    ("zxdg_output_v1", "logical_size"): _HIDDEN_HOST,
    ("zxdg_output_v1", "done"): TOLD,
    ("zxdg_output_v1", "name"): _HIDDEN_HOST,
    ("zxdg_output_v1", "description"): _HIDDEN_HOST,
}
