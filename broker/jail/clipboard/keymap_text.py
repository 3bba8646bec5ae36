"""Reading the keymap that a compositor sends (XKB text, version 1).

Only what a chord needs is taken: key codes, the symbols of each key in each
layout, and which keys drive which real modifier.  Types and actions are
skipped, because a chord is matched at level 1, without any modifier's effect
on the symbol.  The grammar is that of libxkbcommon's serialised keymaps
(xkb_keymap_get_as_string), which every compositor that we know sends.

The text is the compositor's, who is trusted, but a broken one must not end a
connection: any text gives a ``Keymap`` or ``KeymapError``, never another error,
in time linear in its length.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from broker.core.errors import UpstreamError
from broker.core.limits import clipboard as limits
from broker.jail.clipboard.keymap import EVDEV_OFFSET, Keymap, KeymapKey

_TOKEN = re.compile(
    r"""[ \t\r\n]+ | (?://|\#)[^\n]*            # skipped
    | (?P<word> "[^"\n]*" | <[^<>\s]*> | [A-Za-z_][A-Za-z0-9_.]* | 0x[0-9A-Fa-f]+
        | [0-9]+ | [{}\[\]();=,+\-!~.|*/] )""",
    re.VERBOSE,
)
_OPENING = {"{": "}", "[": "]", "(": ")"}
_CLOSING = frozenset(_OPENING.values())
_FLAGS = frozenset({"default", "hidden", "partial", "alphanumeric_keys"})
_MODIFIERS = ("Shift", "Lock", "Control", "Mod1", "Mod2", "Mod3", "Mod4", "Mod5")
_GROUPS = 4
"""XKB's own limit in version 1."""

Tokens = Sequence[str]


class KeymapError(UpstreamError):
    """The compositor's keymap cannot be read, so there are no chords with it."""


@functools.lru_cache(maxsize=limits.CLIPBOARD_KEYMAPS)
def read_keymap(text: bytes) -> Keymap:
    """Parse a keymap; ``text`` may end in the NUL that Wayland's does.

    Raises KeymapError.  Reading takes some 20 ms, and compositors send the same
    few keymaps to each connection and at each change of keyboard: the last
    ones are kept, for all connections of the process.
    """
    # guard: size of a keymap
    if len(text) > limits.CLIPBOARD_KEYMAP_BYTES:
        raise KeymapError("the keymap is larger than the limit")
    try:
        words = _words(text.rstrip(b"\0").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise KeymapError("the keymap is not valid UTF-8") from error
    sections = _sections(words)
    for needed in ("xkb_keycodes", "xkb_symbols"):
        if needed not in sections:
            raise KeymapError(f"the keymap has no section {needed}")
    return _Reader(sections).keymap()


def _words(text: str) -> list[str]:
    """Split a keymap's text into tokens."""
    words: list[str] = []
    at = 0
    for found in _TOKEN.finditer(text):
        if found.start() != at:
            break
        at = found.end()
        if word := found["word"]:
            words.append(word)
    if at != len(text):
        raise KeymapError(f"the keymap has an invalid token at character {at}")
    return words


def _sections(words: Tokens) -> dict[str, Tokens]:
    """Return the content of each section of a keymap by its kind."""
    if not words or words[0] != "xkb_keymap" or "{" not in words[:3]:
        raise KeymapError("the keymap does not begin with xkb_keymap")
    start = words.index("{")
    end = _closing(words, start)
    if [word for word in words[end + 1 :] if word != ";"]:
        raise KeymapError("the keymap is followed by other text")
    found: dict[str, Tokens] = {}
    for statement in _split(words[start + 1 : end], ";"):
        head = [word for word in statement[:4] if word not in _FLAGS]
        if "{" not in statement or not head:
            raise KeymapError("a section of the keymap has no content")
        if head[0] in found:
            raise KeymapError("the keymap contains a section twice")
        opened = statement.index("{")
        found[head[0]] = statement[opened + 1 : _closing(statement, opened)]
    return found


def _closing(words: Tokens, start: int) -> int:
    """Return the index of the bracket that closes the one at ``start``.

    Raises KeymapError.
    """
    open_ones: list[str] = []
    for at in range(start, len(words)):
        word = words[at]
        if word in _OPENING:
            open_ones.append(_OPENING[word])
        elif word in _CLOSING:
            if word != open_ones.pop():
                break
            if not open_ones:
                return at
    raise KeymapError("the brackets in the keymap do not match")


def _split(words: Tokens, at: str) -> Iterator[Tokens]:
    """Yield the non-empty parts between the words ``at`` that are in no bracket."""
    start = depth = 0
    for position, word in enumerate(words):
        if word in _OPENING:
            depth += 1
        elif word in _CLOSING:
            depth -= 1
        elif word == at and depth == 0:
            if position > start:
                yield words[start:position]
            start = position + 1
    if depth:
        raise KeymapError("the brackets in the keymap do not match")
    if len(words) > start:
        yield words[start:]


def _number(word: str) -> int:
    try:
        return int(word, 0)
    except ValueError as error:
        raise KeymapError("the keymap lacks an expected number") from error


def _group(word: str) -> int:
    """``Group2`` or ``2``, from 0."""
    number = _number(word.removeprefix("Group"))
    if not 1 <= number <= _GROUPS:
        raise KeymapError("the keymap uses more than four layouts")
    return number - 1


def _bracket(words: Tokens, start: int) -> Tokens:
    """Return the tokens inside the bracket that opens at ``start``."""
    if start >= len(words) or words[start] not in _OPENING:
        raise KeymapError("the keymap lacks an expected bracket")
    return words[start + 1 : _closing(words, start)]


class _Reader:
    """One keymap while it is read."""

    def __init__(self, sections: dict[str, Tokens]) -> None:
        self._codes: dict[str, int] = {}
        self._aliases: dict[str, str] = {}
        self._keys: dict[int, KeymapKey] = {}
        self._modifiers: dict[int, int] = {}
        for statement in _split(sections["xkb_keycodes"], ";"):
            self._keycode(statement)
        for statement in _split(sections["xkb_symbols"], ";"):
            if statement[0] == "key":
                self._key(statement)
        self._names: dict[str, int] = {}
        self._modifier_maps(sections["xkb_symbols"])

    def keymap(self) -> Keymap:
        return Keymap(keys=self._keys, modifiers=self._modifiers)

    def _keycode(self, words: Tokens) -> None:
        """Read one statement of keycodes."""
        match list(words):
            case ["include", *_]:
                raise KeymapError("the keymap contains an include statement")
            case ["alias", alias, "=", name]:
                self._aliases[alias] = name
            case [name, "=", code] if name.startswith("<"):
                self._codes[name] = _number(code)
            case _:  # minimum, maximum, indicators
                return

    def _code(self, name: str) -> int | None:
        code = self._codes.get(self._aliases.get(name, name))
        return None if code is None else code - EVDEV_OFFSET

    def _key(self, words: Tokens) -> None:
        """Read the symbols of one key.  Raises KeymapError."""
        if len(words) < 4 or (code := self._code(words[1])) is None:
            raise KeymapError("the keymap assigns symbols to a key without a keycode")
        groups: dict[int, tuple[str, ...]] = {}
        clamp, redirect = False, None
        for part in _split(_bracket(words, 2), ","):
            match list(part):
                case ["[", *_] if "(" not in part:
                    groups[len(groups)] = self._level_one(_bracket(part, 0))
                case ["symbols", "[", group, "]", "=", "[", *_]:
                    groups[_group(group)] = self._level_one(_bracket(part, 5))
                case ["groupsClamp"]:
                    clamp = True
                case ["groupsRedirect", "=", group]:
                    redirect = _group(group)
                case _:  # types, actions, repeat, virtual modifiers
                    continue
        if len(groups) > _GROUPS:
            raise KeymapError("a key of the keymap has more than four layouts")
        count = max(groups, default=-1) + 1
        self._keys[code] = KeymapKey(
            layouts=tuple(groups.get(at, ()) for at in range(count)),
            clamp=clamp,
            redirect=redirect,
        )

    @staticmethod
    def _level_one(words: Tokens) -> tuple[str, ...]:
        """The symbols at the first level: usually one, rarely several or none."""
        first = next(_split(words, ","), ())
        if first and first[0] == "{":
            first = tuple(w for w in _bracket(first, 0) if w != ",")
        return tuple(word for word in first if word != "NoSymbol")

    def _modifier_maps(self, symbols: Tokens) -> None:
        """Read which keys have which modifiers."""
        by_symbol: dict[str, list[int]] = {}
        for code, key in self._keys.items():
            for name in key.layouts[0] if key.layouts else ():
                by_symbol.setdefault(name, []).append(code)
        for words in _split(symbols, ";"):
            if words[0] == "include":
                raise KeymapError("the keymap contains an include statement")
            if words[0] != "modifier_map":
                continue
            if len(words) < 4 or words[1] not in _MODIFIERS:
                raise KeymapError("the keymap maps keys to an unknown modifier")
            mask = 1 << _MODIFIERS.index(words[1])
            for member in _bracket(words, 2):
                named = self._code(member)
                codes = by_symbol.get(member, []) if named is None else [named]
                for each in codes:
                    self._modifiers[each] = self._modifiers.get(each, 0) | mask
