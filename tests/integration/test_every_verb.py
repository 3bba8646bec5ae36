"""No traceback reaches a user, whatever the machine is like: every verb, in each state.

The verbs are read from the program, so a new one is tried, too.  What is asked of each
call: it ends, by itself or by Ctrl-C; it says in a sentence what failed and what to do;
the sentence names the path; and it reports nothing as done or empty where it has not
been able to look.
"""

from __future__ import annotations

import re

import pytest

from tests.kit.changing_machine import NEEDS
from tests.kit.every_verb import Result, commands, path_places, results
from tests.kit.user_states import BAD_PATHS, STATES

pytestmark = NEEDS
_SHORT = ("broker-answers-rubbish", "output-is-full")
_SHORT_PATHS = ("path:missing",)
_MACHINES_WORDS = re.compile(
    r"Traceback|Exception ignored|is a defect of Vitrail|\w+Warning: |\[Errno"
)
"""Python's own words, and the sentence that is in a traceback's place."""
_OF_PATHS = re.compile(
    "No such file|Permission denied|s a directory|Not a directory|Read-only|File exists"
    "|name too long|levels of symbolic|No space left"
)
_LATE = {
    # Downloads and builds, as long as the network takes; it shows its steps.
    "image build",
    "demo",
}
"""Verbs that Ctrl-C may have to end."""
_ASKS_BESIDE = {"set"}
"""Verbs whose question to the broker is not of what they report: of icons of windows."""
_ANSWERS_NO = {
    "device match",
    "doctor",
    "policy check",
    "policy eval",
    "policy explain",
}
"""Verbs whose exit code is their answer, and its reason the output."""


def _wrong(one: Result) -> str:
    """What is wrong with a call's end, its messages or its exit code; empty: nothing."""
    verb = " ".join(one.words)
    if _MACHINES_WORDS.search(one.err + one.out):
        return "Python's words"
    if one.killed:
        return "Ctrl-C does not end it"
    if one.interrupted:
        late = any(verb.startswith(word) for word in _LATE)
        return "" if late else "it does not end"
    if one.code < 0:
        return "a signal ended it"
    if one.code == 0:
        return _wrong_success(one)
    if not one.err.strip() and one.state != "reader-has-left":
        answered = any(verb.startswith(word) for word in _ANSWERS_NO)
        return "" if answered and one.out else "it does not say what failed"
    # Usage errors have theirs, too.
    if "error: " in one.err and "hint: " not in one.err:
        return "it does not say what to do"
    named = re.search(r"(?<![\w/])/\w", one.err) or any(
        word in one.err for word in ("file", "folder", one.path) if word
    )
    # Words of a program that is named, and a disk that several paths share.
    quoted = "failed with code" in one.err or "to the disk: " in one.err
    if _OF_PATHS.search(one.err) and not (named or quoted or "the output" in one.err):
        return "it names no path"
    return ""


def _wrong_success(one: Result) -> str:
    """What is wrong with a call that reports success."""
    beside = one.words[0] in _ASKS_BESIDE
    if one.asked and not beside and "broker" not in one.err:
        return "it reports success without the broker's answer"
    if one.path and not one.written and one.path not in one.err:
        return "it reports success without the path"
    return ""


def _look(state: str) -> None:
    found = results(state, seconds=900)
    verbs = [verb for verb, command in commands() if _has_calls(state, verb, command)]
    assert len({_verb(one, verbs) for one in found}) == len(verbs), "calls of all verbs"
    said = [
        f"{wrong}: {one.name}\n  exit code {one.code}, {one.seconds:.0f} s\n{one.err[-3000:]}"
        for one in found
        if (wrong := _wrong(one))
    ]
    assert not said, f"{len(said)} calls\n" + "\n".join(said)


def _verb(one: Result, verbs: list[str]) -> str:
    words = " ".join(one.words)
    return max((v for v in verbs if f"{words} ".startswith(f"{v} ")), key=len)


def _has_calls(state: str, verb: str, command: object) -> bool:
    return state in STATES or any(path_places(verb, command))  # type: ignore[arg-type]


# 45 s on a quiet machine, almost all of it processor time of 400 calls: load counts whole.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("state", [*_SHORT, *_SHORT_PATHS])
def test_every_verb_says_what_is_wrong(state):
    _look(state)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("state", [name for name in STATES if name not in _SHORT])
def test_every_verb_says_what_is_wrong_in_each_state(state):
    _look(state)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kind", BAD_PATHS)
def test_every_verb_names_a_path_that_it_cannot_use(kind):
    _look(f"path:{kind}")
