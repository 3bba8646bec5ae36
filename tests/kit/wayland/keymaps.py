"""Real keymaps, and libxkbcommon's own opinion about them."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess

import pytest

_LEVELS = ctypes.POINTER(ctypes.c_uint32)


@functools.cache
def compiled(layout: str, variant: str = "", options: str = "") -> bytes:
    """The keymap as a compositor would send it (package libxkbcommon-tools)."""
    if shutil.which("xkbcli") is None:
        pytest.skip("needs xkbcli (libxkbcommon-tools)", allow_module_level=True)
    words = ["xkbcli", "compile-keymap", "--layout", layout]
    words += ["--variant", variant] if variant else []
    words += ["--options", options] if options else []
    return subprocess.run(words, check=True, capture_output=True, timeout=60).stdout


def by_library(text: bytes) -> dict[int, list[tuple[str, ...]]]:
    """Level-1 symbols of each key, by Wayland's code, for each layout of the map."""
    lib = ctypes.CDLL("libxkbcommon.so.0")
    for name in ("xkb_context_new", "xkb_keymap_new_from_string"):
        getattr(lib, name).restype = ctypes.c_void_p
    pointer = ctypes.c_void_p
    context = pointer(lib.xkb_context_new(0))
    keymap = pointer(lib.xkb_keymap_new_from_string(context, text, 1, 0))
    assert keymap.value, "libxkbcommon takes the keymap"
    found: dict[int, list[tuple[str, ...]]] = {}
    for code in range(
        lib.xkb_keymap_min_keycode(keymap), lib.xkb_keymap_max_keycode(keymap) + 1
    ):
        if not lib.xkb_keymap_num_layouts_for_key(keymap, code):
            continue
        found[code - 8] = [
            _symbols(lib, keymap, code, layout)
            for layout in range(lib.xkb_keymap_num_layouts(keymap))
        ]
    lib.xkb_keymap_unref(keymap)
    lib.xkb_context_unref(context)
    return found


def _symbols(lib, keymap, code: int, layout: int) -> tuple[str, ...]:
    symbols = _LEVELS()
    count = lib.xkb_keymap_key_get_syms_by_level(
        keymap, code, layout, 0, ctypes.byref(symbols)
    )
    names = []
    for at in range(count):
        room = ctypes.create_string_buffer(64)
        lib.xkb_keysym_get_name(symbols[at], room, 64)
        names.append(room.value.decode())
    return tuple(names)
