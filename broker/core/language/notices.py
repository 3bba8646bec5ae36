"""Notifications and errors of a broker in the user's language.

A broker's processes send English: its log, its JSON and its own processes have no other
language, and none of those with the rights to decide reads a catalogue.  The process
that shows a text to a person recognises the sentence in a table (``notice_templates``),
and inserts its values into the translation.  A sentence that is not in the table is shown
as it is.  Sans-IO but for the catalogue's file.

A child of the starter runs this before notify-send(1), a session child for a dialog,
the manager and the panel's menu for what brokerctl says, which prints English.
"""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import Final

from broker.core.language.catalogue import Catalogue, languages
from broker.core.language.notice_templates import TEMPLATES
from broker.core.stderr_log import log_stderr

DOMAIN: Final = "notices"
_NAME: Final = r"@?[A-Za-z0-9][A-Za-z0-9_.-]*(?::[A-Za-z0-9_.-]+)?"
_COUNT: Final = r"[0-9]{1,18}"
_PARTY: Final = rf"your own programs|the desktop|{_NAME}"
_PLACE: Final = r"[^\s:]+:[0-9]+(?::[0-9]+)?"
# To its first point, so that a text is not compared once for each point in it.
# guard: a long text of a sandbox holds up no starter
_SERVICE: Final = r"[^\s:.]+\.[^\s:]+"
VALUES: Final = MappingProxyType(
    {
        "name": _NAME,
        "target": r"[^\s',]+",
        "number": _COUNT,
        "most": _COUNT,
        "seconds": rf"{_COUNT}(?:\.[0-9]+)?",
        "where": r"[^\s:;,]+(?::[0-9]+)*",
        "place": _PLACE,
        "service": _SERVICE,
        "port": r"[^\s']+",
        "program": r"\S+",
        "socket": r"\S+",
        "package": r"[a-z0-9.+ -]+",
        "command": r"(?:sudo|nix-env) [A-Za-z0-9._+ -]+",
        "chord": r"\S+",
        "scheme": r"\S+",
        "value": r'[^"]*',
        "mime": r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+",
        # Sentences or words of the table, if they are known.
        "party": _PARTY,
        "source": _PARTY,
        "destination": _PARTY,
        "way": rf"(?:{_PARTY}) → (?:{_PARTY})|{_NAME}",
        "size": r"[0-9.]+ (?:bytes|kB|MB)",
        "what": r"[^:]+",
        "step": r"[a-z ]+",
        "reason": ".+",
        # Anything, which stays as it is: it ends the sentence, or what follows has no space.
        "text": ".+",
        "path": ".+",
        "device": ".+",
        "list": ".+",
    }
)
"""The pattern of each value of a template, by its name."""
NESTED: Final = frozenset(
    {"party", "source", "destination", "way", "size", "what", "step", "reason"}
)
"""Values that are translated themselves."""
_PARTIES: Final = frozenset({"party", "source", "destination", "way"})
"""Of these, those that are words or the name of a sandbox."""
_VALUE: Final = re.compile(r"\{(\w+)\}")
_DEPTH: Final = 6
"""Of reasons within reasons."""


def in_users_language(text: str, wanted: list[str] | None = None) -> str:
    """Return a broker's text, line by line, in the first language with a catalogue.

    ``wanted``: languages; without it those of the environment.
    """
    if wanted is None:
        wanted = languages(os.environ)
    if not wanted:
        return text
    try:
        # Read again for each text: nothing of it stays in the memory of a process.
        catalogue = Catalogue(DOMAIN, wanted)
    except (OSError, ValueError) as error:
        log_stderr(f"vitrail: cannot read the catalogue of notifications: {error}")
        return text
    return translated(text, catalogue)


def translated(text: str, catalogue: Catalogue) -> str:
    """Return a text, line by line, in a catalogue's language."""
    if catalogue.language == "en":
        return text
    return "\n".join(_sentence(line, catalogue, _DEPTH) for line in text.split("\n"))


def _sentence(text: str, catalogue: Catalogue, depth: int) -> str:
    """Return a sentence with its values in a catalogue's language, if it is known."""
    if not depth:
        return text
    for template in TEMPLATES:
        forms = (template,) if isinstance(template, str) else template
        for form in forms:
            values = recognised(form, text)
            if values is None:
                continue
            # A value is inserted: braces in it are no place for another one.
            shown = {
                name: _sentence(value, catalogue, depth - 1)
                if _is_words(name, value)
                else value
                for name, value in values.items()
            }
            if isinstance(template, str):
                return catalogue.text(template, **shown)
            number = int(shown.pop("number"))
            return catalogue.plural(*template, number, **shown)
    return text


def _is_words(name: str, value: str) -> bool:
    """Return whether a value has a translation of its own."""
    # A record may be named "something".
    # guard: a sandbox keeps its name in each language
    if name in _PARTIES and re.fullmatch(_NAME, value):
        return False
    return name in NESTED


def recognised(template: str, text: str) -> dict[str, str] | None:
    """Return the values of a text that is made by a template; None: it is not."""
    parts = _VALUE.split(template)
    # Most templates are left here, without a pattern.
    if not (text.startswith(parts[0]) and text.endswith(parts[-1])):
        return None
    if len(parts) == 1:
        return {} if text == template else None
    pattern = ""
    seen: set[str] = set()
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            seen.add(part)
            pattern += f"(?P<{part}>{VALUES[part]})"
    found = re.fullmatch(pattern, text)
    return None if found is None else found.groupdict()
