"""Expectations about decisions, in files ``*.policytest`` beside the policy.

    # SERVICE[+ARG]   SOURCE  TARGET   given facts       expected
    vitrail.OpenURL   work    @dispvm  scheme=https  ->  allow target=@dispvm:web
    vitrail.FileCopy  work    vault                  ->  deny rule=30-user.policy:7

Expected are a decision and, if wanted, ``target``, ``targets`` (all of them,
with commas), ``default_target`` and ``rule``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from policy import limits
from policy.errors import Problem, Span, visible
from policy.records.device import DeviceError, DeviceFacts
from policy.records.device_json import device_text
from policy.rules.engine import PolicyAnswer, PolicyCall
from policy.rules.rule import ACTIONS, Rule
from policy.suggestions import did_you_mean
from policy.tools.calls import canonical_target

_WORD = re.compile(r"[^ \t]+")
_TOLD = ("mime", "scheme", "host", "size", "device", "protocol", "port", "key")
_NUMBERS = {"size": "a number of bytes", "port": "a number"}
_EXPECTED = ("target", "targets", "default_target", "rule")
_FORM = "SERVICE[+ARG] SOURCE TARGET [key=value …] -> allow|ask|deny [key=value …]"


@dataclass(frozen=True)
class Case:
    """One expectation."""

    file: str
    line: int
    call: PolicyCall
    verdict: str
    expected: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True)
class Result:
    """How a case came out; ``wrong`` is empty when all was as expected."""

    case: Case
    answer: PolicyAnswer
    wrong: tuple[str, ...]


def parse_cases(file: str, content: bytes) -> tuple[list[Case], list[Problem]]:
    """Parse a file of cases; return them and its problems."""
    cases: list[Case] = []
    problems: list[Problem] = []
    lines = content.decode("utf-8", "replace").split("\n")
    if "\ufffd" in "".join(lines):
        problems.append(Problem(file, Span(1, 1, 1, 2), "the file is not UTF-8"))
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r")
        words = list(_WORD.finditer(line[: limits.LINE_CHARS]))
        if not words or words[0][0].startswith("#"):
            continue
        found = len(problems)
        case = _case(file, number, line, words, problems)
        if len(problems) == found and case is not None:
            cases.append(case)
    return cases, problems


def _case(
    file: str,
    number: int,
    line: str,
    words: Sequence[re.Match[str]],
    problems: list[Problem],
) -> Case | None:
    """Parse one line to a case; add its problem and return None if malformed."""

    def wrong(at: int, message: str, expected: str = "", hint: str = "") -> None:
        word = words[min(at, len(words) - 1)]
        span = Span(number, word.start() + 1, number, word.end() + 1)
        problems.append(Problem(file, span, message, expected, hint, line))

    texts = [word[0] for word in words]
    arrow = texts.index("->") if "->" in texts else -1
    if arrow < 3 or arrow + 1 >= len(texts):
        wrong(0, "not an expectation", _FORM)
        return None
    verdict = texts[arrow + 1]
    if verdict not in ACTIONS:
        hint = did_you_mean(verdict, ACTIONS)
        wrong(
            arrow + 1, f"'{verdict[:40]}' is not a decision", ", ".join(ACTIONS), hint
        )
    pairs: list[dict[str, str]] = []
    for first, last, known in ((3, arrow, _TOLD), (arrow + 2, len(texts), _EXPECTED)):
        made: dict[str, str] = {}
        for at in range(first, last):
            key, equals, value = texts[at].partition("=")
            if not equals or key not in known or key in made:
                expected = ", ".join(f"{word}=" for word in known)
                wrong(at, f"'{texts[at][:40]}' is not allowed here", expected)
                return None
            made[key] = value
        pairs.append(made)
    told, expected_of = pairs
    numbers = {key: told.pop(key) for key in _NUMBERS if told.get(key)}
    if bad := next((k for k, text in numbers.items() if not _is_number(text)), None):
        wrong(3, f"{bad} is {_NUMBERS[bad]}", f"{bad}=1000")
        return None
    device: DeviceFacts | None = None
    if "device" in told:
        try:
            device = device_text(told.pop("device"))
        except DeviceError as error:
            wrong(3, str(error), 'device={"id":"0951:1666","interfaces":["08:06:50"]}')
            return None
    service, plus, argument = texts[0].partition("+")
    call = PolicyCall(
        service,
        "+" + argument if plus else "+",
        canonical_target(texts[1]),
        canonical_target(texts[2]),
    )
    given: dict[str, Any] = {**told, "device": device}
    given.update((key, int(text)) for key, text in numbers.items())
    call = call._replace(**given)
    return Case(file, number, call, verdict, tuple(expected_of.items()), line)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def run_cases(
    cases: Iterable[Case], decide: Callable[[PolicyCall], PolicyAnswer]
) -> list[Result]:
    """Return the results in order; ``decide`` answers as the broker would."""
    return [_run(case, decide(case.call)) for case in cases]


def _run(case: Case, answer: PolicyAnswer) -> Result:
    """Compare an answer with what a case expects; return the result."""
    wrong: list[str] = []
    if answer.verdict != case.verdict:
        wrong.append(f"{answer.verdict}, not {case.verdict}")
    place = answer.where
    got = {
        "target": answer.target or "",
        "targets": ",".join(answer.targets),
        "default_target": answer.default_target or "",
        "rule": place,
    }
    for key, value in case.expected:
        if key == "targets":
            value = ",".join(sorted(value.split(",")))  # noqa: PLW2901 -- any order
        same = got[key] == value
        if key == "rule":
            same = same or place.endswith("/" + value)
        if not same:
            wrong.append(f"{key}={got[key]}, not {value}")
    return Result(case, answer, tuple(wrong))


def covered(
    results: Iterable[Result], rules: Sequence[Rule]
) -> tuple[list[Rule], float]:
    """Return the rules that decided no case, and the share that did (0 to 1)."""
    hit = {id(result.answer.rule) for result in results}
    missed = [rule for rule in rules if id(rule) not in hit]
    return missed, 1 - len(missed) / len(rules) if rules else 1.0


def tap(results: Sequence[Result]) -> str:
    """Format test results as TAP 13."""
    lines = ["TAP version 13", f"1..{len(results)}"]
    for number, result in enumerate(results, 1):
        case = result.case
        name = f"{case.file}:{case.line}: {case.text.strip()}".replace("#", "\\#")
        word = "not ok" if result.wrong else "ok"
        lines.append(f"{word} {number} - {visible(name)}")
        if result.wrong:
            lines += [f"  # {visible(text)}" for text in result.wrong]
            lines.append(f"  # {visible(result.answer.reason)}")
    return "\n".join(lines) + "\n"


def junit(results: Sequence[Result]) -> str:
    """Format test results as JUnit's XML."""
    bad = sum(1 for result in results if result.wrong)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="policy" tests="{len(results)}" failures="{bad}">',
    ]
    for result in results:
        case = result.case
        name = quoteattr(visible(case.text.strip()))
        place = quoteattr(visible(f"{case.file}:{case.line}"))
        head = f"  <testcase classname={place} name={name}"
        if result.wrong:
            text = quoteattr(visible("; ".join([*result.wrong, result.answer.reason])))
            lines.append(f"{head}><failure message={text}/></testcase>")
        else:
            lines.append(f"{head}/>")
    return "\n".join([*lines, "</testsuite>"]) + "\n"
