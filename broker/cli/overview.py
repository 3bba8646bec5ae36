"""``brokerctl --help``: ten verbs to begin with; ``help all``: all of them, in groups.

Plain text, without rich and without loading a verb: it is what a user types
first, and what shells ask for completion.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from broker.cli.texts import tr
from broker.core.language.catalogue import mark

_HEAD = mark("""\
Usage: brokerctl VERB [OPTIONS] [ARGUMENTS]
       brokerctl help [VERB|all]

Run, explain and audit what Vitrail's brokers do.
""")
_FOOT = mark("""
Options: --version, -h/--help; every verb has --help, and most have --json.
Manual:  man brokerctl, or docs/brokerctl.1.md
""")
FIRST = {
    "new": ("new NAME", mark("create a sandbox; it asks what it is for")),
    "run": ("run SANDBOX", mark("start it, or another program in it")),
    "shell": ("shell SANDBOX", mark("open a shell in it")),
    "list": ("list", mark("show your sandboxes, and which are running")),
    "stop": ("stop SANDBOX", mark("end it and all its programs")),
    "open": ("open FILE", mark("open a file or an address in a sandbox")),
    "cp": ("cp SOURCE TARGET", mark("copy files to, from and between sandboxes")),
    "allow": ("allow", mark("allow what was just refused, once or always")),
    "set": ("set SANDBOX SETTING VALUE", mark("change a setting: set work sound on")),
    "doctor": ("doctor", mark("find problems and print their fixes")),
}
"""Verb -> its shape and what it does, for a person's first day."""
_FIRST_FOOT = mark("""
All verbs: brokerctl help all
""")


def first_verbs() -> str:
    """Return the text with ten verbs, at most 24 lines for a small terminal."""
    longest = max(len(shape) for shape, _ in FIRST.values())
    lines = [f"  {shape:<{longest}}  {tr(words)}" for shape, words in FIRST.values()]
    foot = tr(_FIRST_FOOT) + tr(_FOOT).lstrip("\n")
    return tr(_HEAD) + "\n" + "\n".join(lines) + "\n" + foot


def overview(groups: Mapping[str, Mapping[str, tuple[str, str]]], width: int) -> str:
    """Return the text, no line longer than ``width`` columns."""
    longest = max(len(verb) for verbs in groups.values() for verb in verbs)
    lines = [tr(_HEAD)]
    for group, verbs in groups.items():
        lines.append(f"{tr(group)}:")
        for verb, (_, words) in verbs.items():
            first, *rest = textwrap.wrap(tr(words), max(20, width - longest - 4))
            lines.append(f"  {verb:<{longest}}  {first}")
            lines += [f"{'':<{longest + 4}}{line}" for line in rest]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n" + tr(_FOOT)
