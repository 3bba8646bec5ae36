"""Files of rules written evenly: columns of a block under each other.

A block is a run of rules without an empty line, a comment or a directive in
between.  What the file means does not change; lines with errors stay as they
are.
"""

from __future__ import annotations

from collections.abc import Iterator

from policy.errors import Problem
from policy.rules.grammar import Form, parse_lines
from policy.rules.rule import Rule

_WIDEST = 40


def fmt(text: str) -> str:
    """Return the text of a file in the even form."""
    raw = text.split("\n")
    lines = [line.strip(" \t\r") for line in raw]
    while lines and not lines[-1]:
        lines.pop()
    problems: list[Problem] = []
    items = parse_lines("", text.encode("utf-8", "replace"), Form(), problems.append)
    good = {i.line for i in items if isinstance(i, Rule) and i.broken is None}
    made: list[str] = []
    block: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        if number in good:
            block.append(line.split())
            continue
        made += _aligned(block)
        block = []
        bad = any(problem.span.line == number for problem in problems)
        made.append(_as_it_is(raw[number - 1]) if bad else line)
    made += _aligned(block)
    return "\n".join(made) + "\n" if made else ""


def _as_it_is(line: str) -> str:
    """A line with an error, without the CR of its CRLF."""
    rest = line.removesuffix("\r")
    return line if rest.endswith("\r") else rest


def _aligned(block: list[list[str]]) -> Iterator[str]:
    """Columns as wide as their widest word, but for outliers."""
    widths = [
        max((len(row[at]) for row in block if len(row[at]) <= _WIDEST), default=0)
        for at in range(5)
    ]
    for row in block:
        head = [word.ljust(width) for word, width in zip(row[:5], widths, strict=True)]
        yield " ".join([*head, *row[5:]]).rstrip()
