"""Text of a key by the compositor's keymap: libxkbcommon through ctypes.

A layout without Latin letters cannot type the dialog's word, so there a key means the
letter at its place on an American keyboard, as it does for a chord
(``broker.jail.clipboard.keymap``).
Only what the dialog needs: a keymap, a state, the name and the text of a key.
The keymap is the compositor's word, which is trusted; what the library does
not take leaves the keyboard without text, and then only the pointer says yes.

The prompt agent runs it; ``brokerctl doctor`` tries whether the library can be loaded.
"""

from __future__ import annotations

import ctypes
import string

from broker.core.clipboard.key_verdicts import US_LETTERS
from broker.core.distribution import install_hint
from broker.core.errors import SetupError

_FORMAT_TEXT_V1 = 1
_EVDEV_OFFSET = 8
"""Key codes of XKB are those of evdev and 8 (xkbcommon/xkbcommon.h)."""
_NAME_BYTES = 64
_TEXT_BYTES = 64
_CONTROL = 4
"""Bit of Control, the same in every keymap."""
_CODES = range(1, 128)
"""Codes of keys that may bear a letter."""
_LATIN = frozenset(map(ord, string.ascii_lowercase))
"""Their symbols are numbered as in ASCII (xkbcommon-keysyms.h)."""


def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libxkbcommon.so.0")
    except OSError as error:
        raise SetupError(
            f"cannot load libxkbcommon: {error}",
            hint=install_hint("libxkbcommon0"),
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    shapes: dict[str, tuple[object, list[object]]] = {
        "xkb_context_new": (pointer, [ctypes.c_int]),
        "xkb_context_unref": (None, [pointer]),
        "xkb_keymap_new_from_string": (
            pointer,
            [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        ),
        "xkb_keymap_unref": (None, [pointer]),
        "xkb_state_new": (pointer, [pointer]),
        "xkb_state_unref": (None, [pointer]),
        "xkb_state_update_mask": (ctypes.c_int, [pointer, *[number] * 6]),
        "xkb_state_key_get_one_sym": (number, [pointer, number]),
        "xkb_state_key_get_layout": (number, [pointer, number]),
        "xkb_keymap_key_get_syms_by_level": (
            ctypes.c_int,
            [pointer, number, number, number, ctypes.POINTER(ctypes.POINTER(number))],
        ),
        "xkb_state_key_get_utf8": (
            ctypes.c_int,
            [pointer, number, ctypes.c_char_p, ctypes.c_size_t],
        ),
        "xkb_keysym_get_name": (
            ctypes.c_int,
            [number, ctypes.c_char_p, ctypes.c_size_t],
        ),
    }
    for name, (result, arguments) in shapes.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Keys:
    """One keyboard's state.  ``close`` frees what the library holds."""

    def __init__(self) -> None:
        self._lib = _library()
        self._context = self._lib.xkb_context_new(0)
        self._keymap: int | None = None
        self._state: int | None = None
        self._control = False
        self._latin: bool | None = None
        """Whether the active layout types Latin letters; None: not looked at yet."""

    def keymap(self, text: bytes) -> bool:
        """Set the keymap; return whether the library understood it."""
        self._drop()
        self._latin = None
        self._keymap = self._lib.xkb_keymap_new_from_string(
            self._context, text.rstrip(b"\0"), _FORMAT_TEXT_V1, 0
        )
        if self._keymap:
            self._state = self._lib.xkb_state_new(self._keymap)
        return bool(self._state)

    def modifiers(self, pressed: int, latched: int, locked: int, group: int) -> None:
        """Shift and its kin, and the layout."""
        self._latin = None
        self._control = bool((pressed | latched | locked) & _CONTROL)
        if self._state:
            self._lib.xkb_state_update_mask(
                self._state, pressed, latched, locked, 0, 0, group
            )

    def read(self, code: int) -> tuple[str, str]:
        """Return the name of a key's symbol, and the text it types; empty: nothing."""
        if not self._state:
            return "", ""
        key = code + _EVDEV_OFFSET
        name = ctypes.create_string_buffer(_NAME_BYTES)
        symbol = self._lib.xkb_state_key_get_one_sym(self._state, key)
        self._lib.xkb_keysym_get_name(symbol, name, _NAME_BYTES)
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        self._lib.xkb_state_key_get_utf8(self._state, key, text, _TEXT_BYTES)
        written = text.value.decode("utf-8", "replace")
        # guard: a layout with Latin letters says itself which key is which
        if written.isprintable() and written and not self._knows_latin():
            written = US_LETTERS.get(code, written)
        return name.value.decode("ascii", "replace"), (
            written if written.isprintable() and not self._control else ""
        )

    def _knows_latin(self) -> bool:
        """Return what ``_types_latin`` says, once for each state of the keyboard."""
        if self._latin is None:
            self._latin = self._types_latin()
        return self._latin

    def _types_latin(self) -> bool:
        """Return whether a key of the active layout bears a Latin letter."""
        found = ctypes.POINTER(ctypes.c_uint32)()
        for code in _CODES:
            key = code + _EVDEV_OFFSET
            layout = self._lib.xkb_state_key_get_layout(self._state, key)
            count = self._lib.xkb_keymap_key_get_syms_by_level(
                self._keymap, key, layout, 0, ctypes.byref(found)
            )
            if _LATIN.intersection(found[:count]):
                return True
        return False

    def close(self) -> None:
        """Free everything."""
        self._drop()
        if self._context:
            self._lib.xkb_context_unref(self._context)
            self._context = None

    def _drop(self) -> None:
        if self._state:
            self._lib.xkb_state_unref(self._state)
        if self._keymap:
            self._lib.xkb_keymap_unref(self._keymap)
        self._state = self._keymap = None
