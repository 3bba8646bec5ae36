"""``brokerctl --help``: the verbs in groups, from the table alone.

Plain text, without rich and without loading a verb: it is what a user types
first, and what shells ask for completion.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

_HEAD = """\
Usage: brokerctl VERB [OPTIONS] [ARGUMENTS]
       brokerctl help [VERB]

Run, explain and audit what Vitrail's brokers do.
"""
_FOOT = """
Options: --version, -h/--help; every verb has --help, and most have --json.
Manual:  man brokerctl, or docs/brokerctl.1.md
"""


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
