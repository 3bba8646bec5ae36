"""Rules that name a sandbox: for its new name, and for its backups."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from policy.errors import Problem
from policy.rules.grammar import Form, parse_lines
from policy.rules.rule import Rule
from policy.rules.rulefiles import FOLDER
from policy.rules.ruleset import SUFFIX

_SIDES = (2, 3)
"""Columns of a rule's source and target."""


def with_name(line: str, name: str, new: str) -> str:
    """Return a rule's line with another name where it names the sandbox ``name``."""
    if line.lstrip().startswith(("#", "!")):
        return line
    tokens = re.split(r"(\s+)", line)
    side = re.compile(rf"(@dispvm:)?{re.escape(name)}")
    redirect = re.compile(rf"((?:default_)?target=(?:@dispvm:)?){re.escape(name)}")
    column = 0
    for index, token in enumerate(tokens):
        if not token or token.isspace():
            continue
        pattern = side if column in _SIDES else redirect
        if match := pattern.fullmatch(token):
            tokens[index] = f"{match[1] or ''}{new}"
        column += 1
    return "".join(tokens)


def text_with_name(text: str, name: str, new: str) -> str:
    """Return the text of a file of rules with another name for a sandbox."""
    return "".join(
        with_name(line, name, new) for line in text.splitlines(keepends=True)
    )


def lines_naming(text: str, name: str) -> list[str]:
    """Return the lines whose rules name a sandbox."""
    return [line for line in text.splitlines() if with_name(line, name, "") != line]


def files_naming(folders: Iterable[Path], name: str) -> dict[Path, str]:
    """Return the files of rules below ``folders`` that name a sandbox, with their text.

    Files that cannot be read are left out.
    """
    files: dict[Path, str] = {}
    for folder in folders:
        for file in sorted((folder / FOLDER).glob(f"*{SUFFIX}")):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if lines_naming(text, name):
                files[file] = text
    return files


def name_only(untrusted_text: str, name: str) -> bool:
    """Return whether a text has only valid rules, and each names the sandbox."""
    problems: list[Problem] = []
    content = untrusted_text.encode()
    items = list(parse_lines("", content, Form(), problems.append))
    naming_count = len(lines_naming(untrusted_text, name))
    # guard: rules of a backup are about its sandbox alone
    return (
        not problems
        and all(isinstance(i, Rule) for i in items)
        and len(items) == naming_count
    )
