"""What the verbs of ``brokerctl policy`` read: rules, records, worlds, calls."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from broker.cli.connect import offline_paths
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy import limits
from policy.device import DeviceError, DeviceFacts
from policy.device_json import device_text
from policy.engine import Call
from policy.loader import RecordSet, load_records, search_path
from policy.rulefiles import SHIPPED, load_rules, rule_path
from policy.ruleset import RuleSet, is_rule_file
from policy.world import World, WorldError, world_from_json, world_of

POLICY = click.option(
    "--policy",
    "policy",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory of rules, instead of those that the broker reads; several "
    "shadow each other by base name, the first wins.",
)
WORLD = click.option(
    "--world",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sandboxes as JSON (Qubes' --system-info), instead of the records.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def rules_of(policy: tuple[Path, ...], *, compat: bool = False) -> RuleSet:
    """Return the rules of these directories, or those that the broker reads.

    Of directories that were named, owner and mode do not matter.
    """
    if policy:
        return load_rules(policy, check_owner=False, compat=compat)
    return load_rules(rule_directories(), compat=compat, shipped=SHIPPED)


def rule_directories() -> tuple[Path, ...]:
    """The directories of rules, the first wins."""
    paths = offline_paths()
    return rule_path(paths.runtime, paths.config)


def holds_rules(folder: Path) -> bool:
    """Whether a directory has files of rules."""
    try:
        return any(is_rule_file(entry.name) for entry in folder.iterdir())
    except OSError:
        return True  # reading it will say why not


def record_directories() -> tuple[Path, ...]:
    """The directories of records, the first wins."""
    paths = offline_paths()
    return search_path(paths.runtime, paths.config)


def records_of(directories: tuple[Path, ...]) -> RecordSet:
    """Return the records of these directories, or those that the broker reads."""
    return load_records(directories or record_directories())


def world_from(file: Path | None) -> World:
    """Return the world of a file, or of the records; raises RefusedError."""
    if file is None:
        return world_of(records_of(()))
    try:
        with file.open("rb") as opened:
            content = opened.read(limits.WORLD_BYTES + 1)
        if len(content) > limits.WORLD_BYTES:
            raise WorldError(f"more than {limits.WORLD_BYTES} bytes")
        return world_from_json(json.loads(content))
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError(
            f"{printable(str(file), 200)} is not a world: {printable(str(error), 200)}",
            hint='as {"domains": {"work": {"tags": [], "type": "AppVM"}}}',
        ) from error


def split_service(text: str) -> tuple[str, str]:
    """``SERVICE+ARG`` to service and ``+ARG``; ``+`` where there is none."""
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
) -> Call:
    """Return the call that the words of a command line describe."""
    name, argument = split_service(service)
    facts = None if device is None else _device(device)
    return Call(name, argument, source, target, mime, scheme, host, size, facts)


def _device(text: str) -> DeviceFacts:
    try:
        return device_text(text)
    except DeviceError as error:
        raise click.BadParameter(str(error), param_hint="--device") from error
