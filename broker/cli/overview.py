"""``brokerctl --help``: ten verbs to begin with; ``help all``: all of them, in groups.

Plain text, without rich and without loading a verb: it is what a user types
first, and what shells ask for completion.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

_HEAD = """\
Usage: brokerctl VERB [OPTIONS] [ARGUMENTS]
       brokerctl help [VERB|all]

Run, explain and audit what Vitrail's brokers do.
"""
_FOOT = """
Options: --version, -h/--help; every verb has --help, and most have --json.
Manual:  man brokerctl, or docs/brokerctl.1.md
"""
FIRST = {
    "new": ("new NAME", "create a sandbox; it asks what it is for"),
    "run": ("run SANDBOX", "start it, or another program in it"),
    "shell": ("shell SANDBOX", "open a shell in it"),
    "list": ("list", "show your sandboxes, and which are running"),
    "stop": ("stop SANDBOX", "end it and all its programs"),
    "open": ("open FILE", "open a file or an address in a sandbox"),
    "cp": ("cp SOURCE TARGET", "copy files to, from and between sandboxes"),
    "allow": ("allow", "allow what was just refused, once or always"),
    "set": ("set SANDBOX SETTING VALUE", "change a setting: set work sound on"),
    "doctor": ("doctor", "find problems and print their fixes"),
}
"""Verb -> its shape and what it does, for a person's first day."""
_FIRST_FOOT = """
All verbs: brokerctl help all
"""


def first_verbs() -> str:
    """Return the text with ten verbs, at most 24 lines for a small terminal."""
    longest = max(len(shape) for shape, _ in FIRST.values())
    lines = [f"  {shape:<{longest}}  {words}" for shape, words in FIRST.values()]
    foot = _FIRST_FOOT + _FOOT.lstrip("\n")
    return _HEAD + "\n" + "\n".join(lines) + "\n" + foot


def overview(groups: Mapping[str, Mapping[str, tuple[str, str]]], width: int) -> str:
    """Return the text, no line longer than ``width`` columns."""
    longest = max(len(verb) for verbs in groups.values() for verb in verbs)
    lines = [_HEAD]
    for group, verbs in groups.items():
        lines.append(f"{group}:")
        for verb, (_, words) in verbs.items():
            first, *rest = textwrap.wrap(words, max(20, width - longest - 4))
            lines.append(f"  {verb:<{longest}}  {first}")
            lines += [f"{'':<{longest + 4}}{line}" for line in rest]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n" + _FOOT
