"""The Wayland messages of the interfaces that the bridge and Xwayland use.

From the protocols' XML files, in the notation of the broker's own table, without what
comes after the last message that is used at the versions bound here; a test compares
both.  ``>`` are requests and ``<`` events: name, version, arguments.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Optional

TABLE = """
wl_display > sync 1 n:wl_callback; get_registry 1 n:wl_registry
wl_display < error 1 o u s; delete_id 1 u
wl_registry > bind 1 u s u n
wl_registry < global 1 u s u; global_remove 1 u
wl_callback < done 1 u
wl_compositor > create_surface 1 n:wl_surface; create_region 1 n:wl_region
wl_surface > destroy 1; attach 1 ?o:wl_buffer i i; damage 1 i i i i; frame 1
    n:wl_callback; set_opaque_region 1 ?o:wl_region; set_input_region 1 ?o:wl_region;
    commit 1; set_buffer_transform 2 i; set_buffer_scale 3 i; damage_buffer 4 i i i i
wl_surface < enter 1 o:wl_output; leave 1 o:wl_output
wl_region > destroy 1; add 1 i i i i; subtract 1 i i i i
wl_shm > create_pool 1 n:wl_shm_pool h i
wl_shm < format 1 u
wl_shm_pool > create_buffer 1 n:wl_buffer i i i i u; destroy 1; resize 1 i
wl_buffer > destroy 1
wl_buffer < release 1
wl_seat > get_pointer 1 n:wl_pointer; get_keyboard 1 n:wl_keyboard; get_touch 1
    n:wl_touch; release 5
wl_seat < capabilities 1 u; name 2 s
wl_pointer > set_cursor 1 u ?o:wl_surface i i; release 3
wl_pointer < enter 1 u o:wl_surface f f; leave 1 u o:wl_surface; motion 1 u f f;
    button 1 u u u u; axis 1 u u f; frame 5; axis_source 5 u; axis_stop 5 u u;
    axis_discrete 5 u i
wl_keyboard > release 3
wl_keyboard < keymap 1 u h u; enter 1 u o:wl_surface a; leave 1 u o:wl_surface; key 1
    u u u u; modifiers 1 u u u u u; repeat_info 4 i i
wl_touch > release 3
wl_touch < down 1 u u o:wl_surface i f f; up 1 u u i; motion 1 u i f f; frame 1;
    cancel 1; shape 6 i f f; orientation 6 i f
wl_output < geometry 1 i i i i i s s i; mode 1 u i i i; done 2; scale 2 i
zxdg_output_manager_v1 > destroy 1; get_xdg_output 1 n:zxdg_output_v1 o:wl_output
zxdg_output_v1 > destroy 1
zxdg_output_v1 < logical_position 1 i i; logical_size 1 i i; done 1
wp_viewporter > destroy 1; get_viewport 1 n:wp_viewport o:wl_surface
wp_viewport > destroy 1; set_source 1 f f f f; set_destination 1 i i
xdg_wm_base > destroy 1; create_positioner 1 n:xdg_positioner; get_xdg_surface 1
    n:xdg_surface o:wl_surface; pong 1 u
xdg_wm_base < ping 1 u
xdg_positioner > destroy 1; set_size 1 i i; set_anchor_rect 1 i i i i; set_anchor 1 u;
    set_gravity 1 u; set_constraint_adjustment 1 u
xdg_surface > destroy 1; get_toplevel 1 n:xdg_toplevel; get_popup 1 n:xdg_popup
    ?o:xdg_surface o:xdg_positioner; set_window_geometry 1 i i i i; ack_configure 1 u
xdg_surface < configure 1 u
xdg_toplevel > destroy 1; set_parent 1 ?o:xdg_toplevel; set_title 1 s; set_app_id 1 s;
    show_window_menu 1 o:wl_seat u i i; move 1 o:wl_seat u; resize 1 o:wl_seat u u;
    set_max_size 1 i i; set_min_size 1 i i; set_maximized 1; unset_maximized 1;
    set_fullscreen 1 ?o:wl_output; unset_fullscreen 1; set_minimized 1
xdg_toplevel < configure 1 i i a; close 1
xdg_popup > destroy 1; grab 1 o:wl_seat u; reposition 3 o:xdg_positioner u
xdg_popup < configure 1 i i i i; popup_done 1; repositioned 3 u
zwp_relative_pointer_manager_v1 > destroy 1; get_relative_pointer 1
    n:zwp_relative_pointer_v1 o:wl_pointer
zwp_relative_pointer_v1 > destroy 1
zwp_relative_pointer_v1 < relative_motion 1 u u f f f f
zwp_pointer_constraints_v1 > destroy 1; lock_pointer 1 n:zwp_locked_pointer_v1
    o:wl_surface o:wl_pointer ?o:wl_region u; confine_pointer 1
    n:zwp_confined_pointer_v1 o:wl_surface o:wl_pointer ?o:wl_region u
zwp_locked_pointer_v1 > destroy 1; set_cursor_position_hint 1 f f; set_region 1
    ?o:wl_region
zwp_locked_pointer_v1 < locked 1; unlocked 1
zwp_confined_pointer_v1 > destroy 1; set_region 1 ?o:wl_region
zwp_confined_pointer_v1 < confined 1; unconfined 1
zxdg_decoration_manager_v1 > destroy 1; get_toplevel_decoration 1
    n:zxdg_toplevel_decoration_v1 o:xdg_toplevel
zxdg_toplevel_decoration_v1 > destroy 1; set_mode 1 u; unset_mode 1
zxdg_toplevel_decoration_v1 < configure 1 u
wl_data_device_manager > create_data_source 1 n:wl_data_source; get_data_device 1
    n:wl_data_device o:wl_seat
wl_data_device > start_drag 1 ?o:wl_data_source o:wl_surface ?o:wl_surface u;
    set_selection 1 ?o:wl_data_source u; release 2
wl_data_device < data_offer 1 n:wl_data_offer; enter 1 u o:wl_surface f f
    ?o:wl_data_offer; leave 1; motion 1 u f f; drop 1; selection 1 ?o:wl_data_offer
wl_data_source > offer 1 s; destroy 1; set_actions 3 u
wl_data_source < target 1 ?s; send 1 s h; cancelled 1; dnd_drop_performed 3;
    dnd_finished 3; action 3 u
wl_data_offer > accept 1 u ?s; receive 1 s h; destroy 1; finish 3; set_actions 3 u u
wl_data_offer < offer 1 s; source_actions 3 u; action 3 u
zwp_primary_selection_device_manager_v1 > create_source 1
    n:zwp_primary_selection_source_v1; get_device 1 n:zwp_primary_selection_device_v1
    o:wl_seat; destroy 1
zwp_primary_selection_device_v1 > set_selection 1 ?o:zwp_primary_selection_source_v1
    u; destroy 1
zwp_primary_selection_device_v1 < data_offer 1 n:zwp_primary_selection_offer_v1;
    selection 1 ?o:zwp_primary_selection_offer_v1
zwp_primary_selection_source_v1 > offer 1 s; destroy 1
zwp_primary_selection_source_v1 < send 1 s h; cancelled 1
zwp_primary_selection_offer_v1 > receive 1 s h; destroy 1
zwp_primary_selection_offer_v1 < offer 1 s
xdg_wm_dialog_v1 > destroy 1; get_xdg_dialog 1 n:xdg_dialog_v1 o:xdg_toplevel
xdg_dialog_v1 > destroy 1; set_modal 1; unset_modal 1
xwayland_shell_v1 > destroy 1; get_xwayland_surface 1 n:xwayland_surface_v1
    o:wl_surface
xwayland_surface_v1 > set_serial 1 u u; destroy 1
xdg_activation_v1 > destroy 1; get_activation_token 1 n:xdg_activation_token_v1;
    activate 1 s o:wl_surface
xdg_activation_token_v1 > set_serial 1 u o:wl_seat; set_app_id 1 s; set_surface 1
    o:wl_surface; commit 1; destroy 1
xdg_activation_token_v1 < done 1 s
"""


class WireMessage(NamedTuple):
    """A request (``>``) or event (``<``), the kinds of its arguments, and of which.

    An object that may be none has the kind ``O``.  ``words`` has all values at once, where
    they are numbers alone, and ``objects`` the place, kind and interface of each object.
    """

    mark: str
    interface: str
    opcode: int
    name: str
    kinds: str
    types: tuple[str, ...]
    words: Optional[Struct]
    objects: tuple[tuple[int, str, str], ...]


MESSAGES: dict[tuple[str, str, int], WireMessage] = {}
"""By mark, interface and opcode."""
BY_NAME: dict[tuple[str, str, str], WireMessage] = {}
"""By mark, interface and name."""
for _line in TABLE.replace("\n    ", " ").strip().splitlines():
    _interface, _mark, _rest = _line.split(" ", 2)
    for _opcode, _text in enumerate(_rest.split("; ")):
        _name, _, *_words = _text.split()
        _words = [_word.replace("?o", "O").lstrip("?") for _word in _words]
        _pairs = [_word.partition(":") for _word in _words]
        _kinds, _types = "".join(p[0] for p in _pairs), tuple(p[2] for p in _pairs)
        _form = "<" + "".join("i" if kind == "i" else "I" for kind in _kinds)
        _plain = Struct(_form) if {*"fhsa"}.isdisjoint(_kinds) else None
        _objects = [(at, p[0], p[2]) for at, p in enumerate(_pairs) if p[0] in "oO"]
        _said = _mark, _interface, _opcode, _name, _kinds, _types
        _made = WireMessage(*_said, _plain, tuple(_objects))
        MESSAGES[_mark, _interface, _opcode] = _made
        BY_NAME[_mark, _interface, _name] = _made
