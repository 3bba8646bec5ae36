"""A question to the user, and what may be answered.

A question holds everything that a dialog shows, and a digest of the request that
it is about: two that are equal look the same and are about the same, so one answer serves
both.  All texts in it are either our own words, or validated names, or went through
``untrusted_word``.

The authority makes a question and checks the answer; the prompt agent shows it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from broker.core.escape import printable
from broker.core.limits import transfer as limits

_WORD_CHARACTERS = 80
_WHOLE = frozenset({"host", "relying party"})
"""Details that are never shortened, for whom they name is in any part of them."""


PageImage = tuple[int, bytes]
"""A small picture in shades of grey: its width, and a byte for each pixel."""
NO_PAGE_IMAGE: PageImage = (0, b"")
_PREVIEW_SIDE, _PREVIEW_PIXELS = 240, 40_000


def is_page_image(preview: PageImage) -> bool:
    """Return whether a picture has rows of its width, and a bounded size."""
    width, pixels = preview
    if not 0 < width <= _PREVIEW_SIDE or not 0 < len(pixels) <= _PREVIEW_PIXELS:
        return False
    return not len(pixels) % width and len(pixels) // width <= _PREVIEW_SIDE


class Keep(enum.StrEnum):
    """For how long an answer holds."""

    ONCE = "once"
    """For this request only, and none after it."""
    TIME = "time"
    """For the same question, for ``Question.seconds``."""
    SESSION = "session"
    """For the same question until the sandbox stops."""


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question to the user: the request, its sandbox, and the choices."""

    sandbox: str
    lease: str
    record: str
    label: str
    colour: str
    """``#rrggbb``: the frame's."""
    service: str
    argument: str
    """Escaped; empty if there is none."""
    words: str
    """The sandbox's request in plain words."""
    details: tuple[tuple[str, str], ...] = ()
    """What else is permitted, and claims, whose titles say that they are: title and
    escaped value."""
    preview: PageImage = NO_PAGE_IMAGE
    """A page that the sandbox has drawn; none without a width."""
    targets: tuple[str, ...]
    """Targets to choose from; at least one."""
    default_target: str = ""
    """The target chosen beforehand; empty: none."""
    keeps: tuple[Keep, ...] = (Keep.ONCE,)
    seconds: int = 0
    """How long ``Keep.TIME`` is, and the most that any answer holds; 0: no limit."""
    remembers: str = ""
    """The requests that a remembered answer serves, where these are more than the
    question shows: "every address of this host"."""
    rule: str = ""
    """``file:line`` of the rule that asks."""
    subject: str = ""
    """Digest of the whole request.  Not shown: texts are shortened, and what looks
    alike then may be different."""


class PersonAnswer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The user's answer, or the value for a missing answer."""

    allow: bool
    target: str = ""
    keep: Keep = Keep.ONCE
    by: str = "broker"
    """``person``; ``timeout``; ``gone``: the requester has ended;
    ``broker``: the user was not asked, or could not be."""
    reason: str = ""
    """Why, where it is not simply what the user wants."""


CONTROL_SOCKET = "answered over the control socket"
"""Begin of the reason of an answer by 'brokerctl answer'; the log has the process, too."""


def unfit(question: Question, answer: PersonAnswer) -> str:
    """Return why an answer does not fit this question; empty if it does.

    Checked again by the code that acts on it: a dialog is not trusted to have
    offered only the permitted choices.
    """
    if not answer.allow:
        return ""
    if answer.target not in question.targets:
        return "the answer has a target that was not offered"
    if answer.keep not in question.keeps:
        return "the answer is to be kept longer than was offered"
    return ""


def untrusted_word(untrusted_text: str, most: int = _WORD_CHARACTERS) -> str:
    r"""Return a sandbox's word as a dialog may show it: ASCII only, and short.

    Stricter than ``printable``: letters of other scripts that look like Latin
    ones are what a look-alike address is made of.
    """
    if len(untrusted_text) > 2 * most:
        untrusted_text = untrusted_text[:most] + untrusted_text[-most:]
    # guard: look-alikes
    plain = "".join(
        char if char.isascii() else f"\\u{ord(char):04x}"
        for char in printable(untrusted_text, 20 * most)
    )
    # guard: short words
    return plain if len(plain) <= most else _shortened(plain, most)


def _shortened(plain: str, most: int) -> str:
    """Cut the middle: a name's type is at its end."""
    end = (most - 3) // 2
    # guard: names keep their end
    return f"{plain[: most - 3 - end]}...{plain[len(plain) - end :]}"


def untrusted_details(
    details: Iterable[tuple[str, str | None]],
) -> tuple[tuple[str, str], ...]:
    """Return details as a dialog may show them, those with a value."""
    return tuple((name, _detail(name, value)) for name, value in details if value)


def _detail(name: str, untrusted_value: str) -> str:
    # guard: hosts are shown whole
    if name in _WHOLE:
        return untrusted_word(untrusted_value, limits.URL_HOST_CHARS)
    return untrusted_word(untrusted_value)
