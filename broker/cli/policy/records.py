"""Records as brokerctl's verbs see them: read offline, explained to a user.

The broker reads the same files; they are read here for messages only.  So a misspelt
name or record costs no start of a broker, and the message can show the line itself.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeGuard

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.paths import Paths
from policy.errors import Problem
from policy.records.loader import FOLDER, load_records, search_path
from policy.records.model import Launch, MicroVM, RecordSet
from policy.suggestions import did_you_mean, nearest

if TYPE_CHECKING:
    from policy.tools.linting.sarif import LintFinding

IMPORTED = ".imported"
"""Ends the name of a backup's record that was not trusted."""
BROKEN = 3
"""The exit code where rules have an error."""
EXAMPLES = Path(__file__).parent.parent.parent / "data" / FOLDER
"""Records that came with the program; only the demo also reads them as records."""

SCHEMA = (EXAMPLES.parent / "schema" / "sandbox.json").as_uri()
"""Where editors find the schema of a record, by its first line ``#:schema``."""


def example_text(name: str) -> str:
    """Return the text of a shipped record as a user's: it leads to the schema."""
    text = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    return text.replace("#:schema ../schema/sandbox.json", f"#:schema {SCHEMA}", 1)


def temporary_records(paths: Paths) -> Path:
    """Return the directory of records that runs without one make for themselves."""
    return paths.runtime / FOLDER


def read_records(paths: Paths) -> RecordSet:
    """Read the files that a broker with these paths would read."""
    return load_records(search_path(paths.runtime, paths.config))


def require_own(paths: Paths, name: str) -> None:
    """Raise RefusedError for the record that a run without one made for itself."""
    if not any((folder / FOLDER / f"{name}.toml").exists() for folder in paths.config):
        raise RefusedError(
            f"the record '{name}' is not yours to change: it ends with its run",
            hint="for a sandbox that stays, run 'brokerctl new NAME'",
        )


def is_micro_vm(launch: Launch) -> TypeGuard[MicroVM]:
    """Return whether the broker starts a micro VM of it, with a home on a disk."""
    return launch.kind.homes


def record_file(where: str) -> str:
    """The file of a place ``file:line:column``."""
    return where.rsplit(":", 2)[0]


def tell_problems(problems: Sequence[Problem]) -> None:
    """Print a line for each problem beside an answer, and how to see them whole."""
    from broker.cli import render  # late, as below

    for problem in problems:
        render.note(f"error: {problem.first_line()}")
    if problems:
        render.note("  hint: to see the lines, run 'brokerctl policy check'")


def print_problems(problems: Iterable[Problem], *, stderr: bool = False) -> None:
    """Print each problem with its line and a caret."""
    # Late: where all is well, nothing is printed.
    from rich.text import Text

    from broker.cli import render

    out = render.plain_console(stderr=stderr, soft_wrap=True)
    for problem in problems:
        first, *rest = problem.render().split("\n")
        out.print(Text(first, style="bold"))
        for line in rest:
            out.print(Text(line))


def end_by_problems(problems: Collection[Problem]) -> None:
    """Print the mistakes on standard error and exit with 3, if there are any."""
    if problems:
        print_problems(problems, stderr=True)
        sys.exit(BROKEN)


def refuse_broken(found: RecordSet, problem: Problem, *, stderr: bool) -> NoReturn:
    """Print every problem in the file that ``problem`` is in.  Raises RefusedError."""
    of_file = [p for p in found.problems if p.file == problem.file]
    print_problems(of_file or [problem], stderr=stderr)
    name = Path(problem.file).stem
    raise RefusedError(
        f"the record '{printable(name, 60)}' has an error, so it denies everything",
        where=problem.where,
        hint="correct the record; to list every error, run 'brokerctl policy check'",
    )


def require_correct(records: RecordSet, name: str, *, stderr: bool = True) -> None:
    """Print the problems of a record that has an error.  Raises RefusedError."""
    problem = records.broken.get(name)
    if problem is not None:
        refuse_broken(records, problem, stderr=stderr)


def copy_example(name: str, paths: Paths) -> str:
    """The command that makes an example a record of this user's."""
    target = shlex.quote(str(paths.config[0] / FOLDER))
    example = shlex.quote(str(EXAMPLES / f"{name}.toml"))
    return f"install -D -m 644 -t {target} {example}"


def take_imported(record: Path) -> str:
    """Return the command by which a backup's record that was set aside is used."""
    kept = shlex.quote(f"{record}{IMPORTED}")
    return f"mv {kept} {shlex.quote(str(record))} && brokerctl menu refresh"


def hint_for_unknown(name: str, known: Iterable[str], paths: Paths) -> str:
    """Return a hint for a name that is not a record: a similar name, or an example."""
    known = sorted(known)
    place = paths.config[0] / FOLDER / f"{name}.toml"
    if "/" not in name and place.with_name(f"{place.name}{IMPORTED}").is_file():
        return (
            "the record of its backup was not used; if you wrote the backup, run: "
            f"{take_imported(place)}"
        )
    examples = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
    if name not in examples:
        near = did_you_mean(name, known)
        if near:
            return near
    example = name if name in examples else nearest(name, examples)
    there = (
        f"use one of the records: {', '.join(known)}; "
        if known
        else "there are no records yet; "
    )
    shown = printable(name, 31)
    if example:
        made = f"brokerctl new {shown} --from {example}"
        return f"to create a sandbox from the example '{example}', run: {made}"
    return f"{there}to create a record, run: brokerctl new {shown}"


def with_check(one: LintFinding) -> Problem:
    """The problem of a finding, with its level and the name of its check."""
    p = one.problem
    text = f"{one.level}: {p.message} [{one.check}]"
    return Problem(p.file, p.span, text, p.expected, p.hint, p.source_line)
