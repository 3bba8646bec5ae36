"""``brokerctl policy check``: report all errors in records and rules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from broker import __version__
from broker.cli import render
from broker.cli.launchers.binds import bind_problems, hidden_binds
from broker.cli.policy.directories import holds, parts
from broker.cli.policy.load import POLICY, rule_directories
from broker.cli.policy.records import (
    copy_example,
    print_problems,
    temporary_records,
    with_check,
)
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core.parts.absent import needed
from broker.session.settings_files import settings_problems
from policy.errors import Problem
from policy.records.loader import load_records, search_path
from policy.records.model import RecordSet
from policy.rules.rulefiles import DirectoryTree, load_rules
from policy.rules.ruleset import SUFFIX, RuleSet, assemble
from policy.rules.world import world_of
from policy.tools.linting.finding import problem_json
from policy.tools.linting.lint_records import unasked_flows
from policy.tools.linting.sarif import LintFinding, sarif
from policy.tools.linting.unknown import unknown_names, unknown_services
from policy.tools.record_files import load_files

if TYPE_CHECKING:
    from policy.tools.qubes.differences import Difference


@click.command()
@click.argument("paths", nargs=-1, type=NamedPath(exists=True, path_type=Path))
@POLICY
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0.")
@click.option(
    "--compat", is_flag=True, help="Also show where Qubes would decide differently."
)
@click.option("--strict", is_flag=True, help="Also exit with 1 if there are warnings.")
def check(
    paths: tuple[Path, ...],
    *,
    policy: tuple[Path, ...],
    as_json: bool,
    as_sarif: bool,
    compat: bool,
    strict: bool,
) -> None:
    """Report all errors in records (*.toml), rules (*.policy) and settings.

    Without PATHS, check the directories that the broker reads.  A directory is checked as
    the broker would read it, including owner and mode; of a file, only the contents are
    checked.  In a settings directory, audit.toml, clipboard.toml, link.toml, ship.toml and
    the services in services.d are checked, too.  Unknown services in rules are warnings;
    without PATHS, so are sandboxes, tags and types that no record has.

    Exit code: 0 no errors (there may be warnings), 1 errors, 2 usage error.
    """
    paths = (*paths, *policy)
    named = tuple(path for path in paths if path.is_dir())
    paths = _inside(paths)
    records, rules = _records(paths), _rules(paths, compat=False)
    problems = [problem for one in records for problem in one.problems]
    problems += [problem for one in rules for problem in one.problems]
    if named or not paths:
        ours = offline_paths()
        problems += settings_problems(replace(ours, config=named) if named else ours)
    if not paths:
        for record in records[0].records.values():
            problems += bind_problems(ours, record, records[0])
    # A record that cannot be read has a name that rules may use.
    alone = bool(paths) or any(one.broken for one in records)
    warnings = _warnings(records, rules, alone=alone)
    other: list[Difference] = []
    if compat:
        with needed("--compat"):
            from policy.tools.qubes.differences import differences

        theirs = _rules(paths, compat=True)
        for mine, qubes in zip(rules, theirs, strict=True):
            other += differences(mine, qubes)
    if as_sarif:
        found = [
            LintFinding("error", "error", problem) for problem in problems
        ] + warnings
        found += [LintFinding(f"qubes-{o.row}", "note", o.problem) for o in other]
        render.json_line(sarif(found, __version__))
    elif as_json:
        made = _as_json(problems, records, rules, other, compat=compat)
        made["warnings"] = [
            {"check": one.check, **problem_json(one.problem)} for one in warnings
        ]
        render.json_line(made)
    else:
        print_problems([*problems, *map(with_check, warnings)])
        for one in other:
            print_problems([one.problem])
        summary = _summary(records, rules, problems, searched=not paths)
        render.note(f"{summary}; warnings: {len(warnings)}" if warnings else summary)
    if problems or (strict and warnings):
        sys.exit(1)


def _warnings(
    records: list[RecordSet], rules: list[RuleSet], *, alone: bool
) -> list[LintFinding]:
    """Return warnings about services and names that do not exist here.

    Valid rules use them.

    ``alone``: the rules may be for another machine, with other sandboxes.
    """
    found: list[LintFinding] = []
    for one in rules:
        found += unknown_services(one.rules)
        if not alone:
            found += unknown_names(one.rules, world_of(records[0]))
            found += unasked_flows(records[0], one)
    if not alone:
        found += _without_effect(records[0])
        for record in records[0].records.values():
            for problem in hidden_binds(record):
                found.append(LintFinding("hidden-bind", "warning", problem))
    return sorted(found, key=lambda f: (f.problem.file, f.problem.span))


def _without_effect(records: RecordSet) -> Iterator[LintFinding]:
    """Yield a warning for each setting of a record that does nothing on this machine."""
    standbys = [
        record
        for record in records.records.values()
        if record.values.get("launch.standby")
        and record.values.get("launch.fork") == "copy"
    ]
    if not standbys:
        return
    # Late: few records have it.
    from broker.host.vmm.accel import known_accel, why_not_copied
    from broker.host.vmm.hosttools import kernel_vsock_usable

    accel = known_accel(offline_paths().cache, os.environ)
    # guard: a standby that does nothing is a warning
    reason = why_not_copied(accel, kernel_vsock=kernel_vsock_usable())
    for record in standbys if reason else ():
        spot = record.spot("launch.standby")
        message = f"standby has no effect on this machine: {reason}"
        hint = 'set fork = "shared", or remove standby'
        problem = Problem(spot.file, spot.span, message, "", hint, spot.line)
        yield LintFinding("without-effect", "warning", problem)


def _inside(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the paths, with the parts of a settings directory in its place.

    Raises RefusedError for a directory in which nothing would be checked.
    """
    found: list[Path] = []
    for path in paths:
        found += parts(path) if path.is_dir() else (path,)
    return tuple(found)


def _records(paths: tuple[Path, ...]) -> list[RecordSet]:
    """Load the records to be checked."""
    if not paths:
        searched = offline_paths()
        return [load_records(search_path(searched.runtime, searched.config))]
    files = [p for p in paths if not p.is_dir() and p.suffix != SUFFIX]
    paths_of_ours = offline_paths()
    around = [
        *dict.fromkeys(file.parent for file in files),
        *search_path(paths_of_ours.runtime, paths_of_ours.config),
    ]
    found = [load_records([p]) for p in paths if p.is_dir()]
    return [*found, load_files(files, around=around if files else ())]


def _rules(paths: tuple[Path, ...], *, compat: bool) -> list[RuleSet]:
    if not paths:
        return [load_rules(rule_directories(), compat=compat)]
    found = [
        load_rules([path], compat=compat)
        for path in paths
        if path.is_dir() and holds(path, SUFFIX)
    ]
    for path in paths:
        if not path.is_dir() and path.suffix == SUFFIX:
            tree = DirectoryTree(path.parent, check_owner=False)
            found.append(assemble([(tree, path.name)], compat=compat))
    return found


def _as_json(
    problems: list[Problem],
    records: list[RecordSet],
    rules: list[RuleSet],
    other: list[Difference],
    *,
    compat: bool,
) -> dict[str, object]:
    made: dict[str, object] = {
        "problems": [problem_json(problem) for problem in problems],
        "records": sorted({name for one in records for name in one.records}),
        "broken": sorted({name for one in records for name in one.broken}),
        "rules": sum(len(one.rules) for one in rules),
        "files": [file for one in rules for file in one.files],
    }
    if compat:
        made["compat"] = [{"row": o.row, **problem_json(o.problem)} for o in other]
    return made


def _summary(
    records: list[RecordSet],
    rules: list[RuleSet],
    problems: list[Problem],
    *,
    searched: bool,
) -> str:
    """Return the line that sums up the check."""
    made = temporary_records(offline_paths())
    temporary = [
        record
        for one in records
        for record in one.records.values()
        if record.source.parent == made
    ]
    good = sum(len(one.records) for one in records) - len(temporary)
    bad = sum(len(one.broken) for one in records)
    lines = sum(1 for one in rules for rule in one.rules if rule.broken is None)
    if not (good or bad or problems or lines):
        if not searched:
            return "no records in these paths"
        paths = offline_paths()
        where = ", ".join(map(str, search_path(paths.runtime, paths.config)))
        return (
            f"no records in {where}\n"
            f"to begin with an example: {copy_example('demo', paths)}"
        )
    text = f"problems: {len(problems)}; records: {good} can be used, {bad} cannot"
    if lines:
        text += f"; rules: {lines}"
    if temporary:
        text += f"; temporary records of runs: {len(temporary)}"
    return text
