"""The Wayland messages of the bridge and Xwayland, by number and by name."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Optional

from shims.x11.wayland_messages import TABLE


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
