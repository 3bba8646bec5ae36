"""How plain the English is: counts per 10,000 words of what people read.

``python -m tests.language [--list PATTERN] [PATH…]`` counts in comments,
docstrings and string literals with a space in them (messages), of the
product's Python, and in the pages under docs/.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (
    "broker",
    "policy",
    "shims",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
PATTERNS = {
    "what is/was": re.compile(
        r"\bwhat (?:is|isn't|it|was|were|are|has|had|they|comes|came|goes|went)\b",
        re.IGNORECASE,
    ),
    "nobody/somebody": re.compile(
        r"\b(?:nobody|somebody|anybody|everybody)\b", re.IGNORECASE
    ),
    "said/told": re.compile(r"\b(?:said|told|tells?|telling)\b", re.IGNORECASE),
    "whoever": re.compile(r"\b(?:whoever|whomever|whosever)\b", re.IGNORECASE),
    "anew": re.compile(r"\banew\b", re.IGNORECASE),
    "of ours/its own": re.compile(
        r"\bof (?:ours|yours|theirs)\b|\b(?:its|their) own\b",
        re.IGNORECASE,
    ),
    "the person": re.compile(r"\bpersons?\b", re.IGNORECASE),
    "stands/behind/goes on": re.compile(
        r"\b(?:stands?|behind|goe?s? on)\b", re.IGNORECASE
    ),
    "is no X": re.compile(
        r"(?<!there )\b(?:is|are|was|were) no\b(?! (?:longer|more)\b)", re.IGNORECASE
    ),
}
GOALS = {
    "what is/was": 5.0,
    "nobody/somebody": 2.0,
    "said/told": 8.0,
    "whoever": 1.0,
    "anew": 0.5,
    "of ours/its own": 8.0,
    "the person": 8.0,
    "stands/behind/goes on": 6.0,
    "is no X": 3.0,
}
"""Per 10,000 words; manuals of systemd, git and trio's docs are about there."""
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")
_CODE = re.compile(r"``[^`]*``|`[^`]*`|```.*?```", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A piece of prose, and where it begins."""

    path: Path
    line: int
    text: str


def prose_of(path: Path) -> Iterator[Text]:
    """Comments, docstrings and messages of a Python file; all of a page."""
    source = path.read_text()
    if path.suffix != ".py":
        yield Text(path, 1, re.sub(r"```.*?```", _blank, source, flags=re.DOTALL))
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], token.string.lstrip("# "))
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and " " in node.value:
            yield Text(path, node.lineno, node.value)


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def files(places: list[str]) -> list[Path]:
    """Python and Markdown files below these places."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        if path.is_file():
            found.append(path)
        else:
            found += [p for p in path.rglob("*") if p.suffix in {".py", ".md"}]
    return sorted(found)


def count(texts: list[Text]) -> tuple[int, dict[str, int]]:
    """Words, and how often each pattern occurs."""
    words = 0
    hits = dict.fromkeys(PATTERNS, 0)
    for text in texts:
        plain = _CODE.sub(" ", text.text)
        words += len(_WORD.findall(plain))
        for name, pattern in PATTERNS.items():
            hits[name] += len(pattern.findall(plain))
    return words, hits


def main() -> int:
    """Print a table; exits with 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", metavar="PATTERN", help="show the places of one")
    parser.add_argument("places", nargs="*", default=list(PLACES))
    words = parser.parse_args()
    texts = [text for path in files(words.places) for text in prose_of(path)]
    if words.list:
        _show(texts, PATTERNS[words.list])
        return 0
    total, hits = count(texts)
    print(f"{total} words")
    bad = False
    for name, number in hits.items():
        rate = number * 10_000 / max(1, total)
        bad |= rate > GOALS[name]
        print(f"{name:20} {number:6} {rate:8.1f} per 10,000 (goal {GOALS[name]:g})")
    return int(bad)


def _show(texts: list[Text], pattern: re.Pattern[str]) -> None:
    for text in texts:
        for number, line in enumerate(text.text.splitlines()):
            if pattern.search(_CODE.sub(" ", line)):
                where = text.path.relative_to(ROOT)
                print(f"{where}:{text.line + number}: {line.strip()}")


if __name__ == "__main__":
    sys.exit(main())
