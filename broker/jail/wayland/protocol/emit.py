"""Functions that write messages, one for each message we send by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from broker.jail.wayland.protocol import signatures, wire
from broker.jail.wayland.protocol.signatures import MessageSignature

Packer = Callable[..., bytes]
"""``pack(object_id, *arguments) -> bytes``; objects and new ids as numbers."""


@cache
def packer(message: MessageSignature) -> Packer:
    """Return the function that writes this message (without descriptors)."""
    opcode = message.opcode
    if message.words is None:
        return wire.writer(message)
    whole = struct.Struct("=IHH" + message.words.format.lstrip("="))
    size = whole.size
    return _NUMBERS.get(len(message.kinds), _any)(whole.pack, opcode, size)


def _no_number(pack: Packer, opcode: int, size: int) -> Packer:
    return lambda object_id: pack(object_id, opcode, size)


def _one_number(pack: Packer, opcode: int, size: int) -> Packer:
    return lambda object_id, a: pack(object_id, opcode, size, a)


def _two_numbers(pack: Packer, opcode: int, size: int) -> Packer:
    return lambda object_id, a, b: pack(object_id, opcode, size, a, b)


def _any(pack: Packer, opcode: int, size: int) -> Packer:
    return lambda object_id, *args: pack(object_id, opcode, size, *args)


_NUMBERS = {0: _no_number, 1: _one_number, 2: _two_numbers}
"""By how many numbers there are: most messages have few, and are written often."""


def request(interface: str, name: str) -> Packer:
    """The writer of a request (to the compositor)."""
    return packer(signatures.request(interface, name))


def event(interface: str, name: str) -> Packer:
    """The writer of an event (to the client)."""
    return packer(signatures.event(interface, name))


# To the compositor.
sync = request("wl_display", "sync")
get_registry = request("wl_display", "get_registry")
bind = request("wl_registry", "bind")
create_surface = request("wl_compositor", "create_surface")
create_region = request("wl_compositor", "create_region")
region_add = request("wl_region", "add")
region_subtract = request("wl_region", "subtract")
region_destroy = request("wl_region", "destroy")
surface_destroy = request("wl_surface", "destroy")
attach = request("wl_surface", "attach")
damage = request("wl_surface", "damage")
damage_buffer = request("wl_surface", "damage_buffer")
frame = request("wl_surface", "frame")
set_input_region = request("wl_surface", "set_input_region")
set_opaque_region = request("wl_surface", "set_opaque_region")
commit = request("wl_surface", "commit")
set_buffer_scale = request("wl_surface", "set_buffer_scale")
set_buffer_transform = request("wl_surface", "set_buffer_transform")
get_subsurface = request("wl_subcompositor", "get_subsurface")
subsurface_destroy = request("wl_subsurface", "destroy")
set_position = request("wl_subsurface", "set_position")
set_sync = request("wl_subsurface", "set_sync")
set_desync = request("wl_subsurface", "set_desync")
place_above = request("wl_subsurface", "place_above")
place_below = request("wl_subsurface", "place_below")
get_viewport = request("wp_viewporter", "get_viewport")
viewport_destroy = request("wp_viewport", "destroy")
set_source = request("wp_viewport", "set_source")
set_destination = request("wp_viewport", "set_destination")
create_pool = request("wl_shm", "create_pool")
create_buffer = request("wl_shm_pool", "create_buffer")
pool_destroy = request("wl_shm_pool", "destroy")
buffer_destroy = request("wl_buffer", "destroy")
feedback = request("wp_presentation", "feedback")
get_xdg_surface = request("xdg_wm_base", "get_xdg_surface")
get_toplevel = request("xdg_surface", "get_toplevel")
get_popup = request("xdg_surface", "get_popup")
set_window_geometry = request("xdg_surface", "set_window_geometry")
ack_configure = request("xdg_surface", "ack_configure")
create_positioner = request("xdg_wm_base", "create_positioner")
set_title = request("xdg_toplevel", "set_title")
set_app_id = request("xdg_toplevel", "set_app_id")
set_min_size = request("xdg_toplevel", "set_min_size")
set_max_size = request("xdg_toplevel", "set_max_size")
set_maximized = request("xdg_toplevel", "set_maximized")
unset_maximized = request("xdg_toplevel", "unset_maximized")
get_xdg_output = request("zxdg_output_manager_v1", "get_xdg_output")

# To the client.
display_error = event("wl_display", "error")
delete_id = event("wl_display", "delete_id")
registry_global = event("wl_registry", "global")
registry_remove = event("wl_registry", "global_remove")
surface_enter = event("wl_surface", "enter")
surface_leave = event("wl_surface", "leave")
toplevel_configure = event("xdg_toplevel", "configure")
popup_done = event("xdg_popup", "popup_done")
popup_configure = event("xdg_popup", "configure")
feedback_discarded = event("wp_presentation_feedback", "discarded")
