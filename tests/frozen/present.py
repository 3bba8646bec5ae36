"""What this version makes of the sources: texts, by their names in a release's directory.

The sources are records, rules and calls that use every key and form of the present
version.  A release's directory has its own copies, and a test gives these to the program.
Everything is what a user gets of brokerctl, or a file that the packages install.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from broker.cli.verbs import app
from docs.tables.audit import json_schema
from policy.rules import grammar
from policy.rules.checks import SERVICES
from policy.rules.conditions import KEYS, keys_of
from policy.rules.rule import ACTIONS
from tests.kit.brokerctl import Answer, called, home

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).with_name("sources")
INTERFACE = "io.vitrail.Broker.varlink"
SCHEMAS = ("sandbox", "world", "call", "answer", "audit-event")
DATA = ROOT / "broker" / "data"
MANUAL = ROOT / "docs" / "brokerctl.1.md"
INPUTS = ("sandboxes.d", "policy.d", "calls.jsonl")
AUDIT = ("audit.sqlite", "audit.key")
_LISTED = 3
"""Elements of a list that a sample document keeps."""

DOCUMENTS = (
    "audit connections --json",
    "audit stats --json",
    "audit trace 1 --json",
    "audit verify --json",
    "get work --json",
    "link key --json",
    "list --json",
    "policy check --json",
    "policy effective work --json",
    "policy eval vitrail.Display work @adminvm --json",
    "policy explain vitrail.Display work @adminvm --json",
    "policy graph --sandbox work --json",
    "policy lint --json",
    "policy show work --json",
    "policy simulate {config}/policy.d --json",
    "sandbox list --json",
    "services --json",
)
"""Calls of brokerctl without a broker whose JSON is a sample."""

EXITS = (
    "--version",
    "nonsense",
    "audit",
    "audit --sandbox nobody",
    "audit verify",
    "audit verify --log {home}/cut.sqlite --copy",
    "audit verify --log {home}/missing.sqlite",
    "get work memory",
    "get nobody",
    "man brokerctl-nonsense",
    "policy check",
    "policy check {home}/broken.toml",
    "policy diff {config}/policy.d {config}/policy.d",
    "policy eval vitrail.Display work @adminvm",
    "policy eval vitrail.FileCopy work base",
    "policy eval vitrail.Display nobody @adminvm",
    "policy eval",
    "policy lint",
    "policy test",
    "status",
)
"""Calls of brokerctl without a broker whose exit code is a sample."""


class PresentVersion:
    """A user's home with sources and a log, and what brokerctl prints there."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.home = Path(env["HOME"])
        self.config = self.home / ".config" / "vitrail"
        self.state = self.home / ".local" / "state" / "vitrail"

    def call(self, line: str, stdin: Path | None = None) -> Answer:
        """Return the answer of brokerctl to a line of words."""
        argv = line.format(home=self.home, config=self.config).split()
        if stdin is None:
            return called(*argv, env=self.env)
        with stdin.open() as file, patch.object(sys, "stdin", file):
            return called(*argv, env=self.env)

    def documents(self, line: str) -> list[Any]:
        """Return the JSON documents that a call prints, with short lists."""
        answer = self.call(line)
        if not answer.out:
            raise ValueError(f"brokerctl {line}: {answer.err or 'no output'}")
        text = answer.out.replace(str(self.home), "/home/user")
        text = text.replace(str(ROOT), "/usr/lib/vitrail/site")
        return [short(json.loads(row)) for row in text.splitlines()][:_LISTED]

    def records(self) -> dict[str, Any]:
        """Return each record's values by key."""
        files = sorted((self.config / "sandboxes.d").glob("*.toml"))
        values_of = {}
        for name in (file.stem for file in files):
            answer = self.call(f"policy show {name} --json")
            if answer.code:
                raise ValueError(answer.out + answer.err)
            values = json.loads(answer.out)["values"]
            values_of[name] = {key: row["value"] for key, row in values.items()}
        return values_of

    def answers(self) -> list[dict[str, Any]]:
        """Return the decisions on the calls, without paths and wording."""
        answer = self.call("policy eval --batch", stdin=self.config / "calls.jsonl")
        if answer.code:
            raise ValueError(answer.out + answer.err)
        return [_decision(row) for row in answer.objects]

    def exits(self) -> dict[str, int]:
        """Return the exit code of each sample call."""
        (self.home / "broken.toml").write_text("class = 7\n")
        log = (self.state / "audit.sqlite").read_bytes()
        (self.home / "cut.sqlite").write_bytes(
            log.replace(b'"sandbox":"work"', b'"sandbox":"w0rk"', 1)
        )
        return {line: self.call(line).code for line in EXITS}


@contextmanager
def present(inputs: Path, audit: Path) -> Iterator[PresentVersion]:
    """Give a home with copies of the inputs and of a log."""
    with home() as env:
        version = PresentVersion(env)
        version.config.mkdir(parents=True)
        version.state.mkdir(parents=True, mode=0o700)
        for name in INPUTS:
            if (inputs / name).is_dir():
                shutil.copytree(inputs / name, version.config / name)
            else:
                shutil.copy(inputs / name, version.config / name)
        for name in AUDIT:
            shutil.copy(audit / name, version.state / name)
            (version.state / name).chmod(0o600)
        yield version


def language() -> dict[str, Any]:
    """Return the words of the rule language."""
    actions = {key: sorted(row.actions) for key, row in KEYS.items()}
    flow = {
        key: sorted(row.actions)
        for key, row in keys_of("vitrail.Network").items()
        if row is not KEYS.get(key)
    }
    return {
        "services": list(SERVICES),
        "actions": list(ACTIONS),
        "directives": sorted(grammar.DIRECTIVES),
        "keys": {k: sorted(row) for k, row in grammar.QUBES_KEYS.items()} | actions,
        "keys of vitrail.Network": flow,
    }


def exit_codes() -> dict[str, Any]:
    """Return the documented exit codes: of all verbs, and of each by its words."""
    table = MANUAL.read_text().partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if "|" in line]
    return {
        "all": dict(rows[2:]),
        "verbs": dict(_documented(app, ())),
    }


def schema_texts() -> dict[str, str]:
    """Return the JSON Schemas that the packages install."""
    assert (
        json.loads((DATA / "schema" / "audit-event.json").read_text()) == json_schema()
    )
    return {
        f"schema/{name}.json": (DATA / "schema" / f"{name}.json").read_text()
        for name in SCHEMAS
    }


def _documented(command: click.Command, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield each verb and what its help says about exit codes."""
    text = " ".join((command.help or "").partition("Exit code: ")[2].split())
    if text:
        yield " ".join(path), text
    if isinstance(command, click.Group):
        context = click.Context(command, info_name="brokerctl")
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _documented(below, (*path, name))


def _decision(answer: dict[str, Any]) -> dict[str, Any]:
    answer = {key: value for key, value in answer.items() if key != "reason"}
    if answer["file"]:
        answer["file"] = Path(answer["file"]).name
    if record := answer.pop("record", None):
        answer["record"] = record["decision"]
    return answer


def short(value: object) -> object:
    """Return a document with the first elements of each list."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value[:_LISTED]]
    return value
