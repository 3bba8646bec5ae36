"""A page as a script: its blocks of code in order, each with the text before it.

A block is what is indented by four columns (less what its list item has) or fenced.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

DOCS = Path(__file__).parents[2] / "docs"
_PROMPT = re.compile(r"^(\w+)\$ +(\S.*)$")
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Typed:
    """A command after the prompt of a machine, as in ``viewer$ brokerctl run web``."""

    machine: str
    command: str


@dataclass(frozen=True)
class Block:
    """One block of code."""

    heading: str
    before: str
    """The paragraph that ends above it."""
    text: str

    @property
    def typed(self) -> list[Typed]:
        """Its commands with a prompt."""
        found = map(_PROMPT.match, self.text.splitlines())
        return [Typed(match[1], match[2]) for match in found if match]

    @property
    def is_settings(self) -> bool:
        """Whether it is a file in TOML."""
        try:
            return bool(tomllib.loads(self.text))
        except tomllib.TOMLDecodeError:
            return False

    @property
    def path(self) -> str:
        """The file that the block is: named in its first comment, or above it."""
        named = [self.text.splitlines()[0].removeprefix("# ")]
        named += reversed(_SPAN.findall(self.before))
        return next((name for name in named if name.endswith(".toml")), "")


def blocks(page: Path) -> Iterator[Block]:
    """All of them, in order."""
    heading, before, code = "", "", list[str]()
    fenced = blank = False
    for line in [*page.read_text().splitlines(), "", "the end"]:
        if line.startswith("```"):
            fenced = not fenced
            if fenced:
                continue
        if fenced or line.startswith("    ") or (code and not line):
            code.append(line)
            continue
        if code:
            yield Block(heading, before, dedent("\n".join(code)).strip("\n") + "\n")
            before, code = "", []
        if line.startswith("#"):
            heading, before = line.lstrip("# "), ""
        elif line.startswith("```"):
            continue
        elif line:
            before = line if blank else f"{before}\n{line}"
        blank = not line


def spans(page: Path) -> list[str]:
    """What the text has in code style, outside the blocks."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    return _SPAN.findall(re.sub(r"(?m)^    .*$", "", text))
