"""The guards of chords and crossing, as ``wayland_guards`` has the filter's.

``python -m tests.kit.clipboard_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

import sys

import trio

from tests.kit.wayland_guards import Guard, missed

_T = "tests/broker/clipboard/"


def _g(name: str, file: str, source: str, without: str, test: str = "") -> Guard:
    test = test or f"test_{file}"
    return Guard(name, f"broker/clipboard/{file}", source, without, f"{_T}{test}")


GUARDS = (
    _g("exact modifiers", "chords.py", "exact = held & ~(self._ignored & ~chord.mask) == chord.mask", "exact = held & chord.mask == chord.mask"),
    _g("one verdict for each event", "chords.py", "        if known is not None:\n            return known\n", ""),
    _g("a chord once", "chords.py", "Verdict.SWALLOW if acting else verdict", "verdict"),
    _g("releases of what was seen", "chords.py", "        return Verdict.FORWARD if seen else Verdict.SWALLOW", "        return Verdict.FORWARD"),
    _g("only modifiers on enter", "chords.py", "tuple(key for key in keys if key in drive)", "tuple(keys)"),
    _g("no focus, no chord", "chords.py", "        if not self._focused:\n            return Verdict.SWALLOW\n", ""),
    _g("modifiers forgotten with the focus", "chords.py", "        self._focused = False\n        self._state = None\n", "        self._focused = False\n"),
    _g("modifiers forgotten with the keymap", "chords.py", "self._keymap, self._digest, self._state = None, digest, None", "self._keymap, self._digest = None, digest"),
    _g("both chords on one key", "chords.py", "        if found[0].mask == found[1].mask and both:", "        if False:"),
    _g("memory of verdicts", "chords.py", "        if len(self._verdicts) > limits.CLIPBOARD_KEY_EVENTS:", "        if False:"),
    _g("a letter is itself", "keymap.py", "            if found:\n                return found\n        return frozenset()", "            found |= self._bearing(symbol, other)\n            if found:\n                return found\n        return frozenset()"),
    _g("size of a keymap", "keymap_text.py", "    if len(text) > limits.CLIPBOARD_KEYMAP_BYTES:", "    if False:"),
    _g("whose focus", "crossing.py", "        if sandbox not in self._claims:\n            return NO_FOCUS\n", ""),
    _g("two claims of the focus", "crossing.py", "        if others:\n", "        if False:\n"),
    _g("focus moved while copying", "crossing.py", "if self._copy is not None and self._copy.source != event.sandbox:", "if False:"),
    _g("focus moved while policy thinks", "crossing.py", "if self._paste is not None and self._paste.target != event.sandbox:", "if False:"),
    _g("wiped by the next copy", "crossing.py", "        self._held = None\n        if self._paste is not None:\n", "        if self._paste is not None:\n"),
    _g("wiped by a paste", "crossing.py", "        self._held = None\n        yield from self._offer(", "        yield from self._offer("),
    _g("wiped with its source", "crossing.py", "        if self._held is not None and self._held.source == sandbox:", "        if False:"),
    _g("one copy at a time", "crossing.py", "(BUSY if self._copy else \"\")", '""'),
    _g("one paste at a time", "crossing.py", "        if not reason and self._paste is not None:", "        if False:"),
    _g("whose answer", "crossing.py", "        if event.sandbox != copy.source:", "        if False:"),
    _g("which answer", "crossing.py", "event.transfer != copy.transfer:\n", "False:\n"),
    _g("which decision", "crossing.py", "held is None or event.transfer != paste.transfer", "held is None"),
    _g("size of a copy", "crossing.py", "len(copy.data) + len(untrusted_data) <= room:", "True:"),
    _g("size of a rule", "crossing.py", "    if sum(len(item.data) for item in allowed) > _most(terms.max_bytes):", "    if False:"),
    _g("types of a rule", "crossing.py", "if fits(item.kind, terms.patterns)]", "]"),
    _g("images are not written anew yet", "crossing.py", '    if "images" in terms.clean and', "    if False and"),
    _g("a source that stalls", "crossing.py", "now >= self._copy.until:", "False:"),
    _g("policy that does not answer", "crossing.py", "now >= self._paste.until:", "False:"),
    _g("what was copied expires", "crossing.py", "now >= self._held.until:", "False:"),
    _g("what was pasted expires", "crossing.py", "if now >= o.until]", "if False]"),
    _g("names of files", "types.py", "spelling in NEVER or ", ""),
    _g("number of types", "types.py", "    if len(untrusted_types) > limits.WAYLAND_MIMES:", "    if False:"),
    _g("length of types", "types.py", "        if len(name.encode(\"utf-8\", \"replace\")) > limits.WAYLAND_MIME_BYTES:", "        if False:"),
    _g("hidden characters", "cleaning.py", "    return unicodedata.category(char) not in _REMOVED", "    return True"),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(1 if trio.run(missed, sys.argv[1:], GUARDS) else 0)
