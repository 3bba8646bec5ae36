"""An application's menu entries, so that the menu starts it by Vitrail.

Only brokerctl runs this; it prepares text, and writes nothing.

An entry in the user's own directory precedes the exported one of the same name
(Desktop Entry Specification).  The exported text is the publisher's: known keys of it
are taken over, and its command is not.  Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from broker.core.errors import UpstreamError
from broker.host.launchers.flatpak.key_file import parse, write

MARK = "X-Vitrail-Flatpak"
"""The key that says an entry is ours; its value is the application."""
_GROUP = "Desktop Entry"
_TAKEN = re.compile(
    r"(?:Name|GenericName|Comment|Keywords)(?:\[[A-Za-z_@.]+\])?"
    r"|Icon|Categories|MimeType|StartupWMClass|StartupNotify|NoDisplay|OnlyShowIn|NotShowIn"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_FIELDS = {"%f": "%f", "%F": "%F", "%u": "%f", "%U": "%F"}
"""Field codes of files and addresses, and of files alone."""


def entry(
    untrusted_text: str,
    app: str,
    default: str,
    command: Sequence[str],
    quoted: Callable[[str], str],
) -> str | None:
    """Return a menu entry that starts the application by Vitrail; None if not needed.

    ``default`` is the command that ``flatpak run APP`` starts; ``command`` are the words
    that stand in its place, ``quoted`` as Exec has arguments.  None: the exported entry
    starts another command of the application, or nothing.  Raises UpstreamError for a
    text that is not an entry.
    """
    values = parse(untrusted_text).get(_GROUP)
    if values is None or values.get("Type") != "Application":
        raise UpstreamError("the file is not the desktop entry of an application")
    try:
        words = shlex.split(values.get("Exec", ""))
    except ValueError as error:
        raise UpstreamError(f"cannot parse the key Exec: {error}") from error
    # guard: another program of a Flatpak is not started in the place of its own
    named = [w.partition("=")[2] for w in words if w.startswith("--command=")]
    if app not in words or any(name != default for name in named):
        return None
    # A handler of addresses gets them; others get files by their paths, because
    # 'brokerctl run' shows the application those that it is given.
    addresses = "x-scheme-handler/" in values.get("MimeType", "")
    arguments = []
    for word in words[words.index(app) + 1 :]:
        if word in _FIELDS:
            arguments.append(word if addresses else _FIELDS[word])
        elif not word.startswith(("@@", "%")):  # of --file-forwarding; a name, an icon
            arguments.append(quoted(word.replace("%%", "%")))
    made = {"Type": "Application"}
    # guard: of an exported menu entry only known keys are taken over
    made |= {key: value for key, value in values.items() if _taken(key, value)}
    # guard: words of an exported menu entry are not our options
    made["Exec"] = " ".join([*(quoted(word) for word in command), "--", *arguments])
    made[MARK] = app
    return write({_GROUP: made})


def _taken(key: str, value: str) -> bool:
    """Return whether a key is known, with a value that every reader has in one line."""
    # guard: a value of a menu entry has no control characters
    plain = _CONTROL.search(value) is None
    return plain and _TAKEN.fullmatch(key) is not None


def is_ours(text: str, app: str) -> bool:
    """Return whether ``entry`` made this entry for an application."""
    try:
        return parse(text).get(_GROUP, {}).get(MARK) == app
    except UpstreamError:
        return False
