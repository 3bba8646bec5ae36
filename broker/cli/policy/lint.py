"""``brokerctl policy lint``: mistakes in valid rules and records."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

from broker import __version__
from broker.cli import render
from broker.cli.policy.directories import contents
from broker.cli.policy.load import (
    JSON,
    POLICY,
    WORLD,
    record_directories,
    records_of,
    rule_directories,
    rules_of,
    world_from,
)
from broker.cli.policy.records import print_problems, with_check
from broker.cli.transfer.named_path import NamedPath
from policy.rules.checks import CHECKS
from policy.rules.world import world_of
from policy.tools.linting.finding import problem_json
from policy.tools.linting.lint import lint as find
from policy.tools.linting.lint_records import lint_records
from policy.tools.linting.sarif import LintFinding, sarif
from policy.tools.permissions import look_at

_BROKEN = 3
"""Exit code: rules or records have an error."""


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    type=NamedPath(exists=True, file_okay=False, path_type=Path),
)
@POLICY
@WORLD
@click.option(
    "--records",
    multiple=True,
    type=NamedPath(exists=True, file_okay=False, path_type=Path),
    help="Directory of records to use instead of the broker's.",
)
@JSON
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0.")
def lint(
    directories: tuple[Path, ...],
    *,
    policy: tuple[Path, ...],
    world: Path | None,
    records: tuple[Path, ...],
    as_json: bool,
    as_sarif: bool,
) -> None:
    """Find mistakes in valid rules and records.

    DIRECTORIES are those of --policy; without one, the broker's are read.

    In rules: rules that never decide or match, with the lines that cause this; names,
    tags and types that no sandbox has; an 'ask' without targets; targets that include the
    viewer.  In records: keys that grant access, with the effect of each; names that look
    alike; colours that are too similar or faint.  Also files that are not read, and
    directories that other users can change.

    With only --policy or --world, records are not checked, unless --policy names a
    settings directory that contains records.

    Exit code: 0 no problems (there may be notes), 1 warnings or errors, 3 rules or
    records cannot be read.
    """
    found, broken = _find((*policy, *directories), world, records)
    if as_sarif:
        render.json_line(sarif(found, __version__, CHECKS))
    elif as_json:
        render.json_line({"findings": [_finding_json(one) for one in found]})
    else:
        print_problems(map(with_check, found))
        render.note(_summary(found))
    if broken:
        sys.exit(_BROKEN)
    sys.exit(any(one.level != "note" for one in found))


def _find(
    policy: tuple[Path, ...], world: Path | None, records: tuple[Path, ...]
) -> tuple[list[LintFinding], bool]:
    """Return all findings about rules and records, and whether rules are broken."""
    rules = rules_of(policy, alone=True)
    named = contents((*policy, *records))
    of_settings = contents(policy).records
    read = records_of(contents(records).records or of_settings)
    ours = bool(records or of_settings) or not (policy or world)
    known = world_from(world) if world is not None else world_of(read)
    found = find(rules, known, instances=world is None)
    if ours:
        found += lint_records(read, rules, known)
    folders = [*(contents(policy).rules or rule_directories())]
    folders += [*(named.records or record_directories())] if ours else []
    found += look_at(folders, rules.files)
    return found, bool(rules.problems or (ours and read.problems))


def _summary(found: list[LintFinding]) -> str:
    counts = [
        render.count(sum(1 for one in found if one.level == level), level)
        for level in ("error", "warning", "note")
    ]
    return ", ".join(counts)


def _finding_json(one: LintFinding) -> dict[str, object]:
    return {"check": one.check, "level": one.level, **problem_json(one.problem)}
