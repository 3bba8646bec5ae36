"""Input files of ``brokerctl policy``: rules, records, worlds, calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.policy.directories import contents
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy.records.device import DeviceError, DeviceFacts
from policy.records.device_json import device_text
from policy.records.loader import load_records, search_path
from policy.records.model import RecordSet
from policy.rules.checks import SERVICES
from policy.rules.engine import PolicyAnswer, PolicyCall
from policy.rules.rulefiles import SHIPPED, load_rules, rule_path
from policy.rules.ruleset import RuleSet
from policy.rules.verdict import Verdict
from policy.rules.world import DISPOSABLE, World, world_of
from policy.suggestions import did_you_mean, nearest
from policy.tools import limits as tool_limits
from policy.tools.calls import Sandboxes, canonical_service, canonical_target
from policy.tools.diff import TooManyError
from policy.tools.effective import EffectiveCall
from policy.tools.linting.unknown import meant_service
from policy.tools.qubes.world_json import WorldError, world_from_json

POLICY = click.option(
    "--policy",
    "policy",
    multiple=True,
    type=NamedPath(exists=True, file_okay=False, path_type=Path),
    help="Directory of rules, or settings directory with rules and records, to use "
    "instead of the broker's; may be repeated, the first file of a name takes "
    "precedence.",
)
WORLD = click.option(
    "--world",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="JSON file of sandboxes (as Qubes' --system-info) to use instead of the records.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def rules_of(
    policy: tuple[Path, ...], *, compat: bool = False, alone: bool = False
) -> RuleSet:
    """Return the rules of these directories, or those that the broker reads.

    Of directories that were named, owner and mode do not matter.  The rules
    that came with the program are last in either case, as in the broker, but
    not for Qubes' parser (``compat``), and not where the directories are to be
    looked at ``alone``.  Raises RefusedError if a named one has nothing to read.
    """
    if policy:
        shipped = None if compat or alone else SHIPPED
        named = contents(policy).rules
        return load_rules(named, check_owner=False, compat=compat, shipped=shipped)
    return load_rules(rule_directories(), compat=compat, shipped=SHIPPED)


def rule_directories() -> tuple[Path, ...]:
    """The directories of rules, the first wins."""
    paths = offline_paths()
    return rule_path(paths.runtime, paths.config)


def record_directories() -> tuple[Path, ...]:
    """The directories of records, the first wins."""
    paths = offline_paths()
    return search_path(paths.runtime, paths.config)


def records_of(directories: tuple[Path, ...]) -> RecordSet:
    """Return the records of these directories, or those that the broker reads."""
    return load_records(directories or record_directories())


def records_beside(policy: tuple[Path, ...]) -> RecordSet:
    """Return the records of named settings directories, or those the broker reads."""
    return records_of(contents(policy).records)


def world_from(file: Path | None, policy: tuple[Path, ...] = ()) -> World:
    """Return the world of a file, or of the records; raises RefusedError.

    The records are those of the directories in ``policy`` that have some.
    """
    if file is None:
        return world_of(records_beside(policy))
    try:
        with file.open("rb") as opened:
            content = opened.read(tool_limits.WORLD_BYTES + 1)
        if len(content) > tool_limits.WORLD_BYTES:
            raise WorldError(f"more than {tool_limits.WORLD_BYTES} bytes")
        return world_from_json(json.loads(content))
    except OSError as error:
        raise RefusedError(
            f"cannot read {printable(str(file), 200)}: {error.strerror}",
            hint="specify a file that you can read with --world",
        ) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            f"{printable(str(file), 200)} does not describe sandboxes: "
            f"{printable(str(error), 200)}",
            hint='write the file as {"domains": {"work": {"tags": [], "type": '
            '"AppVM"}}}',
        ) from error


@dataclass(frozen=True)
class Situation:
    """Records and world that calls are asked in.

    ``sandboxes`` is None if the world is a file's: it says nothing of
    records, so the rules alone are asked.
    """

    world: World
    sandboxes: Sandboxes | None

    def decide(self, call: PolicyCall, rules: Callable[[], PolicyAnswer]) -> Verdict:
        """Return what the broker would decide."""
        if self.sandboxes is None:
            return Verdict(None, rules())
        return self.sandboxes.decide(call, rules)

    def permitted(self, found: list[EffectiveCall]) -> list[EffectiveCall]:
        """Return those of the rules' grants that the records permit, too."""
        made = []
        for grant in found:
            answer = self.decide(grant.call, grant.answer_of_rules).answer
            if answer.verdict != "deny":
                made.append(grant._replace(answer=answer))
        return made

    def has_broken_record(self, source: str) -> bool:
        """Return whether the record of a sandbox is there and has a mistake."""
        if self.sandboxes is None:
            return False
        record = self.sandboxes.record_of.get(source, source)
        return record in self.sandboxes.records.broken

    def calling(self, names: AbstractSet[str]) -> Situation:
        """Return the situation with disposables of these names added."""
        if self.sandboxes is None:
            return self
        records = self.sandboxes.records
        # The class of a record with a mistake is not known.
        disposables = [
            *(
                n
                for n, r in records.records.items()
                if r.viewer.sandbox_class == DISPOSABLE
            ),
            *records.broken,
        ]
        record_of = {
            sandbox: name
            for name in disposables
            for sandbox in names - records.records.keys()
            if is_disposable_of(sandbox, name)
        }
        if not record_of:
            return self
        world = world_of(records, record_of.items())
        return Situation(world, Sandboxes(records, record_of))


def situation_from(file: Path | None, *, policy: tuple[Path, ...] = ()) -> Situation:
    """Return the world of a file, or of the records that the broker reads.

    Settings directories in ``policy`` have their own records.  Raises RefusedError when
    the file is not a world.
    """
    if file is not None:
        return Situation(world_from(file), None)
    records = records_beside(policy)
    return Situation(world_of(records), Sandboxes(records, {}))


@contextmanager
def refusing_too_many() -> Iterator[None]:
    """Raise RefusedError where a tool has too many calls to compare."""
    try:
        yield
    except TooManyError as error:
        raise RefusedError(
            f"too many calls to compare: {error}",
            hint="write a file that lists fewer sandboxes, and pass this file with "
            "--world",
        ) from error


def refuse_unknown_source(call: PolicyCall, known: Situation, rules: RuleSet) -> None:
    """Raise UsageError for a source that is not a sandbox; note other typos."""
    world = known.world
    services = {*SERVICES, *(rule.service for rule in rules.rules if rule.service)}
    meant = canonical_service(call.source)
    if meant in services and call.service in world.domains:
        words = printable(f"{meant} {call.service}", 120)
        raise click.UsageError(f"specify the service before the sandbox: {words}")
    there = call.source in world.domains or known.has_broken_record(call.source)
    if not there and not call.source.startswith("@"):
        hint = did_you_mean(call.source, world.names)
        text = f"no sandbox and no record is named '{printable(call.source, 60)}'"
        raise click.UsageError(text + (f": {hint}" if hint else ""))
    if call.service not in services:
        _note_typo("service", call.service, meant_service(call.service))
    special = not call.target or call.target.startswith(("@", "uuid:"))
    if not special and call.target not in world.domains:
        _note_typo("sandbox", call.target, nearest(call.target, world.names))


def _note_typo(kind: str, word: str, near: str | None) -> None:
    shown = f"no {kind} is named '{printable(word, 60)}'"
    render.note(f"warning: {shown}{f': did you mean {near!r}?' if near else ''}")


def split_service(text: str) -> tuple[str, str]:
    """``SERVICE+ARG`` to service and ``+ARG``; ``+`` if none exists."""
    service, plus, argument = text.partition("+")
    return service, "+" + argument if plus else "+"


def call_of(
    service: str,
    source: str,
    target: str,
    *,
    mime: str | None,
    scheme: str | None,
    host: str | None,
    size: int | None,
    device: str | None,
    protocol: str | None,
    port: int | None,
    key: str | None,
) -> PolicyCall:
    """Return the call that the words of a command line describe."""
    name, argument = split_service(service)
    name = canonical_service(name)
    source, target = canonical_target(source), canonical_target(target)
    facts = None if device is None else _device(device)
    told = (mime, scheme, host, size, facts, protocol, port, key)
    return PolicyCall(name, argument, source, target, *told)


def _device(text: str) -> DeviceFacts:
    try:
        return device_text(text)
    except DeviceError as error:
        raise click.BadParameter(str(error), param_hint="--device") from error


def require_sandbox(known: World, name: str) -> None:
    """Raise RefusedError where no sandbox of a world has this name."""
    if name not in known.domains:
        raise RefusedError(
            f"no sandbox is named '{printable(name, 60)}'",
            hint=did_you_mean(name, known.names)
            or "add a record for the sandbox, or add the sandbox to the file of --world",
        )
