"""``brokerctl policy lint``, ``test``, ``diff``, ``effective`` and ``fmt``."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.completion import sandboxes
from broker.cli.policy.directories import beside, contents
from broker.cli.policy.install import changed_records, put
from broker.cli.policy.load import (
    JSON,
    POLICY,
    WORLD,
    records_of,
    refusing_too_many,
    require_sandbox,
    rule_directories,
    rules_of,
    situation_from,
    world_from,
)
from broker.cli.policy.records import end_by_problems
from broker.cli.policy.show import print_change, short_answer
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy import limits
from policy.errors import Problem
from policy.files import read_file
from policy.names import ADMIN_NAMES
from policy.records.device_json import device_json
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.rule import Rule
from policy.rules.rulefiles import SHIPPED, DirectoryTree, load_rules
from policy.rules.ruleset import RuleSet, Tree, assemble, is_rule_file
from policy.tools.calls import canonical_target
from policy.tools.cases import (
    Case,
    Result,
    covered,
    junit,
    parse_cases,
    run_cases,
    tap,
)
from policy.tools.diff import Change
from policy.tools.diff import diff as compare
from policy.tools.effective import EffectiveCall, grants, grants_to, told_facts
from policy.tools.explain import answer_json, call_json
from policy.tools.files_in_memory import MapTree
from policy.tools.fmt import fmt as even
from policy.tools.record_files import CASES_SUFFIX


@click.command("test")
@click.argument("files", nargs=-1, type=NamedPath(exists=True, path_type=Path))
@POLICY
@WORLD
@click.option(
    "--junit", "as_junit", is_flag=True, help="Print JUnit XML instead of TAP."
)
@click.option(
    "--min-coverage",
    type=click.IntRange(0, 100),
    default=0,
    help="Percentage of the rules that must decide at least one case.",
)
@JSON
def test_policy(
    files: tuple[Path, ...],
    *,
    policy: tuple[Path, ...],
    world: Path | None,
    as_junit: bool,
    min_coverage: int,
    as_json: bool,
) -> None:
    """Test the expectations in FILES (*.policytest), or in the files beside the rules.

    A line is 'SERVICE[+ARG] SOURCE TARGET [mime= …] -> allow|ask|deny
    [target= targets= default_target= rule=FILE:LINE]'.

    Rules and records decide each case, as in the broker; with --world FILE, which has no
    records, only the rules decide.

    Exit code: 0 all cases passed, 1 a case failed, too few rules are covered or there
    are no cases, 3 rules or expectations have an error.
    """
    rules = rules_of(policy)
    cases, problems = _cases(files or _beside(policy))
    problems = [*rules.problems, *problems]
    end_by_problems(problems)
    own = _own(rules, policy)
    _refuse_nothing(cases, own, policy or rule_directories())
    names = {name for case in cases for name in (case.call.source, case.call.target)}
    engine, known = Engine(rules), situation_from(world, policy=policy).calling(names)

    def decide(call: PolicyCall) -> PolicyAnswer:
        return known.decide(call, lambda: engine.answer(call, known.world)).answer

    results = run_cases(cases, decide)
    missed, share = covered(results, own)
    if as_json:
        uncovered = [rule.where for rule in missed]
        made = [_result_json(result) for result in results]
        render.json_line({"cases": made, "coverage": share, "uncovered": uncovered})
    else:
        sys.stdout.write(junit(results) if as_junit else tap(results))
        for rule in missed:
            render.note(f"no test case covers {rule.where}: {rule.text.strip()}")
        bad = sum(1 for result in results if result.wrong)
        covered_by = f"{share:.0%} of {render.count(len(own), 'rule')} are covered"
        tried = render.count(len(results), "case")
        render.note(f"{tried}, {bad} failed; {covered_by}")
    sys.exit(any(result.wrong for result in results) or share * 100 < min_coverage)


def _own(rules: RuleSet, policy: tuple[Path, ...]) -> list[Rule]:
    """Return the rules that need a case: not the shipped ones after named directories."""
    shipped = str(SHIPPED) if policy else None
    return [
        r for r in rules.rules if shipped is None or not r.where.startswith(shipped)
    ]


def _refuse_nothing(
    cases: list[Case], own: list[Rule], directories: tuple[Path, ...]
) -> None:
    """Raise RefusedError if there are no cases or no rules to try."""
    where = ", ".join(map(str, directories))
    if not own:
        raise RefusedError(
            f"there are no rules to test in {where}",
            hint="specify the directory that contains policy.d, or policy.d itself",
        )
    if not cases:
        raise RefusedError(
            f"there are no expectations (*{CASES_SUFFIX}) to test in {where}",
            hint="write a file of expectations beside the rules, or specify one",
        )


def _beside(policy: tuple[Path, ...]) -> tuple[Path, ...]:
    return beside(policy or rule_directories())


def _cases(files: tuple[Path, ...]) -> tuple[list[Case], list[Problem]]:
    """Parse the expectations in files; return cases and problems."""
    cases: list[Case] = []
    problems: list[Problem] = []
    for file in files:
        content = _read(file)
        found, wrong = parse_cases(str(file), content)
        cases += found
        problems += wrong
    return cases, problems


def _read(file: Path) -> bytes:
    """Read a file that the user named, whoever owns it.  Raises RefusedError."""
    content = read_file(file, check_owner=False, most=limits.RULE_FILE_BYTES)
    if isinstance(content, Problem):
        raise RefusedError(
            content.first_line(), hint="correct the file, or specify another one"
        )
    return content


def _result_json(result: Result) -> dict[str, object]:
    case = result.case
    place = {"file": case.file, "line": case.line, "text": case.text.strip()}
    return {**place, "wrong": list(result.wrong), "answer": answer_json(result.answer)}


@click.command()
@click.argument("old", type=NamedPath(exists=True, path_type=Path))
@click.argument("new", type=NamedPath(exists=True, path_type=Path))
@WORLD
@JSON
def diff(old: Path, new: Path, *, world: Path | None, as_json: bool) -> None:
    """Show the decisions that change from OLD to NEW.

    OLD and NEW are directories of rules, settings directories, or single files.  The
    sandboxes are those of --world, of the records in NEW, or of the records that the
    broker reads.  For two settings directories, changed keys of records are listed, too.

    Exit code: 0 no decision changes, 1 decisions change, 3 the rules have an error.
    """
    sets = one_set(old), one_set(new)
    problems = [problem for one in sets for problem in one.problems]
    end_by_problems(problems)
    with refusing_too_many():
        changes = compare(*sets, world_from(world, _directories(new)))
    records = _changed_records(old, new)
    if as_json:
        made = [_change_json(change) for change in changes]
        render.json_line({"changes": made, "records": records})
    else:
        for change in changes:
            print_change(change)
        for line in records:
            render.note(line)
        render.note(
            f"decisions about {render.count(len(changes), 'class', 'classes')} of "
            "calls change"
        )
    sys.exit(bool(changes or records))


def _directories(*paths: Path) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_dir())


def _changed_records(old: Path, new: Path) -> list[str]:
    """Return a line for each record that differs, where both sides have records."""
    before, after = (contents(_directories(path)).records for path in (old, new))
    if not (before and after):
        return []
    return changed_records(records_of(before), records_of(after))


def one_set(path: Path, *, shipped: bool = False) -> RuleSet:
    """Return the rules of a directory or of a single file.

    With ``shipped`` those that came with the program are after them, as they
    are in the broker.
    """
    if path.is_dir():
        last = SHIPPED if shipped else None
        return load_rules(contents((path,)).rules, check_owner=False, shipped=last)
    text = _read(path).decode("utf-8", "surrogateescape")
    name = _rule_file_name(path)
    names: list[tuple[Tree, str]] = [(MapTree({name: text}), name)]
    if not shipped:
        return assemble(names)
    tree = DirectoryTree(SHIPPED, check_owner=False)
    names += [(tree, name) for name in tree.entries(".") if is_rule_file(name)]
    return assemble(names)


def _rule_file_name(path: Path) -> str:
    """Return a file's name as one of rules: a single file may have any name."""
    name = re.sub("[^0-9a-z_.-]", "_", path.name.lower()).lstrip(".")
    return name if is_rule_file(name) else f"{name}.policy"


def _change_json(change: Change) -> dict[str, object]:
    """Return a changed decision as a JSON object."""
    return {
        "service": change.call.service,
        "argument": change.call.argument,
        "sources": list(change.sources),
        "targets": list(change.targets),
        "call": call_json(change.call),
        "old": answer_json(change.old),
        "new": answer_json(change.new),
    }


@click.command()
@click.argument("sandbox", shell_complete=sandboxes)
@POLICY
@WORLD
@JSON
def effective(
    sandbox: str, *, policy: tuple[Path, ...], world: Path | None, as_json: bool
) -> None:
    """Show every call that SANDBOX may make, and that others may make to SANDBOX.

    SANDBOX may be 'you', for the user's own calls.

    Services that the record denies are omitted, even if rules allow them.

    Calls that are not listed are denied.  Calls that no rule distinguishes are listed once.

    Exit code: 0 done, 1 the sandbox does not exist, 3 the rules have an error.
    """
    rules, situation = rules_of(policy), situation_from(world, policy=policy)
    known = situation.world
    end_by_problems(rules.problems)
    sandbox = "dom0" if canonical_target(sandbox) in ADMIN_NAMES else sandbox
    require_sandbox(known, sandbox)
    with refusing_too_many():
        mine = situation.permitted(grants(rules, known, sandbox))
        others = situation.permitted(grants_to(rules, known, sandbox))
    if as_json:
        made = {
            "from": [_grant_json(g) for g in mine],
            "to": [_grant_json(g) for g in others],
        }
        render.json_line(made)
        return
    rows = [_row(g) for g in (*mine, *others)]
    render.table(["SERVICE", "FROM", "TO", "TOLD", "DECISION", "RULE"], rows)


def _grant_json(grant: EffectiveCall) -> dict[str, object]:
    call = call_json(grant.call)
    # Beside the answer's own "targets", which a question offers.
    return {"call": call, "called": list(grant.targets), **answer_json(grant.answer)}


def _row(grant: EffectiveCall) -> tuple[str, ...]:
    """Return a permission as a row of a table."""
    call = grant.call
    told = told_facts(call)
    if call.device is not None:
        told.append(f"device={json.dumps(device_json(call.device))}")
    targets = ", ".join(map(shown_target, grant.targets[:6]))
    targets += " …" if len(grant.targets) > 6 else ""
    source = shown_target(call.source)
    words = (call.service + call.argument, source, targets, " ".join(told))
    decision = short_answer(grant.answer).partition("   [")[0]
    if grant.answer.target in grant.targets:
        decision = decision.replace(
            f"allow to {shown_target(grant.answer.target)}", "allow"
        )
    return tuple(
        printable(word, 200) for word in (*words, decision, grant.answer.where)
    )


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--write", is_flag=True, help="Write the files instead of printing them.")
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="List files that would change; write nothing.",
)
@JSON
def fmt(
    files: tuple[Path, ...], *, write: bool, only_check: bool, as_json: bool
) -> None:
    """Align the columns of rule FILES; their meaning does not change.

    With --json, print only which files change (with --write: which files were changed).

    Exit code: 0 done, 1 --check found a file that would change.
    """
    changed: list[str] = []
    for file in files:
        try:
            text = _read(file).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RefusedError(
                f"{file} is not UTF-8", hint="save the file as UTF-8"
            ) from error
        new = even(text)
        if new != text:
            changed.append(str(file))
        if write and not only_check and new != text:
            whole, mode = file.resolve(), stat.S_IMODE(file.stat().st_mode)
            # guard: a file of rules is formatted whole or not at all
            put(whole, new.encode(), mode=mode)
        elif not (write or only_check or as_json):
            sys.stdout.write(new)
    if as_json:
        render.json_line({"changed": changed})
    elif only_check:
        for name in changed:
            render.note(name)
    sys.exit(only_check and bool(changed))
