"""A question to the person, and what may be answered.

A question holds everything that a dialog shows, and nothing else: two that are
equal look the same, so one answer serves both.  All texts in it are either our
own words, or validated names, or went through ``untrusted_word``.
"""

from __future__ import annotations

import enum

import msgspec

from broker.core.escape import printable

_WORD_CHARACTERS = 80


class Keep(enum.StrEnum):
    """For how long an answer holds."""

    ONCE = "once"
    """For this request only, and none after it."""
    TIME = "time"
    """For the same question, for ``Question.seconds``."""
    SESSION = "session"
    """For the same question until the sandbox stops."""


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question to the person: the request, its sandbox, and the choices."""

    sandbox: str
    lease: str
    record: str
    label: str
    colour: str
    """``#rrggbb``: the frame's."""
    service: str
    argument: str
    """Escaped; empty where there is none."""
    words: str
    """The sandbox's request in plain words."""
    details: tuple[tuple[str, str], ...] = ()
    """The sandbox's claims about it: name and escaped value."""
    targets: tuple[str, ...]
    """Targets to choose from; at least one."""
    default_target: str = ""
    """The target chosen beforehand; empty: none."""
    keeps: tuple[Keep, ...] = (Keep.ONCE,)
    seconds: int = 0
    """How long ``Keep.TIME`` is, and the most that any answer holds; 0: no limit."""
    rule: str = ""
    """``file:line`` of the rule that asks."""


class PersonAnswer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The person's answer, or the one that stands for a missing answer."""

    allow: bool
    target: str = ""
    keep: Keep = Keep.ONCE
    by: str = "broker"
    """``person``; ``timeout``; ``gone``: the requester has ended;
    ``broker``: the person was not asked, or could not be."""
    reason: str = ""
    """Why, where it is not simply what the person wants."""


def unfit(question: Question, answer: PersonAnswer) -> str:
    """Return why an answer is none to this question; empty when it is one.

    Checked again by the code that acts on it: a dialog is not trusted to have
    offered only the permitted choices.
    """
    if not answer.allow:
        return ""
    if answer.target not in question.targets:
        return "it chose a target that was not offered"
    if answer.keep not in question.keeps:
        return "it is to hold longer than was offered"
    return ""


def untrusted_word(untrusted_text: str, most: int = _WORD_CHARACTERS) -> str:
    r"""Return a sandbox's word as a dialog may show it: ASCII only, and short.

    Stricter than ``printable``: letters of other scripts that look like Latin
    ones are what a look-alike address is made of.
    """
    # guard: look-alikes
    plain = "".join(
        char if char.isascii() else f"\\u{ord(char):04x}"
        for char in printable(untrusted_text, 4 * most)
    )
    # guard: short words
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
