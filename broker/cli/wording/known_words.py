"""English messages of click, and of code that brokerctl shares with brokers, translated.

Brokers word what they refuse without a catalogue (``core.language.notices`` has their
sentences); a message that is not known is shown as it is.
"""

from __future__ import annotations

import re
from typing import Final

from broker.cli.texts import catalogue, tr

CLICKS_WORDS: Final = (
    "No such command '{name}'",
    "No such option {name}. Did you mean {other}?",
    "No such option {name}.",
    "No such option: {name} (Did you mean {other}?)",
    "No such option: {name}",
    "Missing command.",
    "Missing argument '{name}'.",
    "Missing argument '{name}'. Choose from: {choices}",
    "Missing option '{name}'.",
    "Missing option '{name}'. Choose from: {choices}",
    "Got unexpected extra argument ({words})",
    "Got unexpected extra arguments ({words})",
    "Option '{name}' requires an argument.",
    "Option '{name}' does not take a value.",
    "Invalid value for {name}: {message}",
    "{value} is not one of {choices}.",
    "{value} is not a valid integer.",
    "{value} is not a valid integer range.",
    "{value} is not a valid float range.",
    "{value} is not a valid float.",
    "{value} is not in the range {range}.",
    "File {name} does not exist.",
    "Directory {name} does not exist.",
    "Path {name} does not exist.",
    "File {name} is a directory.",
    "Directory {name} is a file.",
)
"""Of several versions of click."""
SHARED_WORDS: Final = (
    "the broker at {path} takes no connections: {reason}",
    "cannot connect to the broker at {path}: {reason}",
    "run the command as the user who started the broker; to find other reasons, run 'brokerctl doctor'",
    "there is no audit log yet ({path})",
    "a broker begins the log when it starts: run 'brokerctl run SANDBOX', or on the host of two machines 'vitrail-host'",
    "{name} is not a sandbox name",
    "use 1 to 31 characters of a-z, 0-9 and '-', beginning with a-z",
    "did you mean '{name}'?",
)
"""Those that ``core.language.notice_templates`` lacks: no broker says them."""


_DEPTH: Final = 6
"""Of messages within messages."""


def known_words(message: str, depth: int = _DEPTH) -> str:
    """Return a message in the user's language, with the values that it has."""
    # guard: a message within many is shown
    if not depth:
        return message
    if catalogue.language == "en":
        return message
    for words in (*CLICKS_WORDS, *SHARED_WORDS):
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(words))
        found = re.fullmatch(pattern, message, re.DOTALL)
        if found is not None:
            values = found.groupdict()
            if "message" in values:
                values["message"] = known_words(values["message"], depth - 1)
            return tr(words, **values)
    # Late: commands in English need none of it.
    from broker.core.language.notices import in_users_language

    return in_users_language(message, [catalogue.language])
