"""Each 'brokerctl …' in the pages is a call that brokerctl has."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from broker.cli.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_SPAN = re.compile(r"`([^`]+)`")
_ALWAYS = {"-h", "--help", "--version"}


def calls(text: str) -> Iterator[tuple[str, str]]:
    """Each call, without what follows it in a pipe; with the line it is from."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
            continue
        code = fenced or line.startswith("    ")
        for span in [line] if code else _SPAN.findall(line):
            for call in re.findall(r"\bbrokerctl ([a-z][^#|;&)<>]*)", span):
                yield call, line


@cache
def command_of(verb: str) -> click.Command:
    command: click.Command = importlib.import_module(
        f"broker.cli.{VERBS[verb]}"
    ).command
    return command


def mistakes(call: str) -> Iterator[str]:
    """What the call has that brokerctl has not."""
    try:
        words = shlex.split(call)
    except ValueError:
        words = call.split()
    verb = words.pop(0)
    if verb == "help":
        return
    if verb not in VERBS:
        yield f"no verb '{verb}'"
        return
    command = command_of(verb)
    known = _ALWAYS | options(command)
    while isinstance(command, click.Group) and words:
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            break
        command = inner
        words.pop(0)
        known |= options(command)
    is_group = isinstance(command, click.Group) and not command.invoke_without_command
    if is_group and words and re.fullmatch("[a-z]+", words[0]):
        yield f"'{verb}' has no '{words[0]}'"
    for word in words:
        if word == "--":
            return
        option = re.match(r"\[?(--?[a-zA-Z][\w-]*)", word)
        if option and option[1] not in known:
            yield f"'{verb}' has no option {option[1]}"


def options(command: click.Command) -> set[str]:
    """All names of the command's options."""
    found = [p for p in command.params if isinstance(p, click.Option)]
    return {name for p in found for name in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_call_exists(page: Path) -> None:
    found = [
        f"{line.strip()}: {mistake}"
        for call, line in calls(page.read_text())
        for mistake in mistakes(call)
    ]
    assert found == []


@pytest.mark.parametrize(
    "call",
    ["runn demo", "run --memry 1G demo", "sandbox snapsho x", "image rollback --force"],
)
def test_a_wrong_call_is_found(call: str) -> None:
    assert list(mistakes(call))
