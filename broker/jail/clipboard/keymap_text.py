"""Reading the keymap that a compositor sends (XKB text, version 1), by libxkbcommon.

Only what a chord needs is taken: the symbols of each key in each layout, and which keys
drive which real modifier.  A chord is matched at level 1, without any modifier's effect
on the symbol.

The text is the compositor's, who is trusted, but a broken one must not end a
connection: it gives a ``KeymapError``.  The library reads no file: a worker has none, and
the keymap that a compositor sends includes none.

Source: xkbcommon/xkbcommon.h.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator

from broker.core.errors import UpstreamError
from broker.core.limits import clipboard as limits
from broker.jail.clipboard.keymap import EVDEV_OFFSET, REAL, Keymap, KeymapKey

_NO_FILES, _TEXT_V1 = 1 | 2, 1
"""No default includes, no names from the environment; the format."""
_EFFECTIVE, _DOWN = 1 << 3, 1
_NAME_BYTES = 64
KEY_MAX = 0x2FF
"""The last key of the kernel's (linux/input-event-codes.h)."""


class KeymapError(UpstreamError):
    """The compositor's keymap cannot be read, so there are no chords with it."""


def _loaded() -> ctypes.CDLL | None:
    """Load libxkbcommon with the types of its functions; None without it."""
    try:
        lib = ctypes.CDLL("libxkbcommon.so.0")
    except OSError:
        return None
    pointer, number, whole = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
    size, text = ctypes.c_size_t, ctypes.c_char_p
    symbols = ctypes.POINTER(ctypes.POINTER(number))
    for name, result, arguments in (
        ("xkb_context_new", pointer, [whole]),
        ("xkb_keymap_new_from_buffer", pointer, [pointer, text, size, whole, whole]),
        ("xkb_keymap_unref", None, [pointer]),
        ("xkb_keymap_max_keycode", number, [pointer]),
        ("xkb_keymap_num_layouts", number, [pointer]),
        (
            "xkb_keymap_key_get_syms_by_level",
            whole,
            [pointer, number, number, number, symbols],
        ),
        ("xkb_keysym_get_name", whole, [number, text, size]),
        ("xkb_state_new", pointer, [pointer]),
        ("xkb_state_unref", None, [pointer]),
        ("xkb_state_update_key", whole, [pointer, number, whole]),
        ("xkb_state_serialize_mods", number, [pointer, whole]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


_LIBRARY = _loaded()
"""At import: a worker cannot open files any more."""


@functools.lru_cache(maxsize=limits.CLIPBOARD_KEYMAPS)
def read_keymap(text: bytes) -> Keymap:
    """Parse a keymap; ``text`` may end in the NUL that Wayland's does.

    Raises KeymapError.  Compositors send the same few keymaps to each connection and at
    each change of keyboard: the last ones are kept, for all connections of the process.
    """
    # guard: size of a keymap
    if len(text) > limits.CLIPBOARD_KEYMAP_BYTES:
        raise KeymapError("the keymap is larger than the limit")
    if _LIBRARY is None:
        raise KeymapError("the keymap cannot be read: libxkbcommon is not installed")
    text = text.rstrip(b"\0")
    keymap = _LIBRARY.xkb_keymap_new_from_buffer(
        _context(_LIBRARY), text, len(text), _TEXT_V1, 0
    )
    if not keymap:
        # The library writes its reason to standard error, in the broker's log.
        raise KeymapError("libxkbcommon cannot read the keymap")
    try:
        return _KeymapReader(_LIBRARY, keymap).read()
    finally:
        _LIBRARY.xkb_keymap_unref(keymap)


@functools.cache
def _context(library: ctypes.CDLL) -> int:
    context: int | None = library.xkb_context_new(_NO_FILES)
    if context is None:
        raise KeymapError("libxkbcommon has no memory")
    return context


@functools.cache
def _name(library: ctypes.CDLL, symbol: int) -> str:
    name = ctypes.create_string_buffer(_NAME_BYTES)
    library.xkb_keysym_get_name(symbol, name, _NAME_BYTES)
    return name.value.decode("ascii", "replace")


class _KeymapReader:
    """One keymap of the library's while it is read."""

    def __init__(self, library: ctypes.CDLL, keymap: int) -> None:
        self._library, self._keymap = library, keymap

    def read(self) -> Keymap:
        """Return what chords need of the keymap."""
        layouts = range(self._library.xkb_keymap_num_layouts(self._keymap))
        last = self._library.xkb_keymap_max_keycode(self._keymap)
        keys, modifiers = {}, {}
        for code in range(min(last - EVDEV_OFFSET, KEY_MAX) + 1):
            found = tuple(tuple(self._symbols(code, layout)) for layout in layouts)
            if any(found):
                keys[code] = KeymapKey(found)
            if driven := self._driven(code):
                modifiers[code] = driven
        return Keymap(keys, modifiers)

    def _symbols(self, code: int, layout: int) -> Iterator[str]:
        """Yield the symbols of a key at level 1: usually one, rarely several or none.

        The library wraps, clamps or redirects a layout that the key does not have.
        """
        symbols = ctypes.POINTER(ctypes.c_uint32)()
        count = self._library.xkb_keymap_key_get_syms_by_level(
            self._keymap, code + EVDEV_OFFSET, layout, 0, ctypes.byref(symbols)
        )
        for symbol in symbols[:count]:
            yield _name(self._library, symbol)

    def _driven(self, code: int) -> int:
        """Return the real modifiers that are in effect while a key alone is down."""
        state = self._library.xkb_state_new(self._keymap)
        if not state:
            raise KeymapError("libxkbcommon has no memory")
        try:
            self._library.xkb_state_update_key(state, code + EVDEV_OFFSET, _DOWN)
            found: int = self._library.xkb_state_serialize_mods(state, _EFFECTIVE)
        finally:
            self._library.xkb_state_unref(state)
        return found & REAL
