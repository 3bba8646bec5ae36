"""Reading records from directories: the only input of this package.

Directories are searched in order and the first file of a base name wins, as
with systemd's units, also when that file is broken: a record with a problem
denies, it is never replaced by an older one after it.

The authority reads all records, session children and brokerctl those that they need;
the host and the viewer never.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

from policy import limits
from policy.errors import Problem, Span
from policy.files import (
    NOTHING,
    Overlay,
    overlaid,
    problem_of_file,
    read_file,
    unreadable,
    wrong_owner,
)
from policy.names import ADMIN_NAMES
from policy.records import folder
from policy.records.build import Draft, build_record, take_draft
from policy.records.document import read_document
from policy.records.model import Record, RecordSet
from policy.records.patterns import NAME
from policy.records.record_schema import INHERITS_KEY
from policy.suggestions import did_you_mean

SUFFIX = ".toml"
FOLDER = folder.FOLDER


def search_path(runtime: Path, config: Iterable[Path]) -> tuple[Path, ...]:
    """Return the directories of records in the order in which they win."""
    return tuple(base / FOLDER for base in (runtime, *config))


def load_records(
    directories: Sequence[Path],
    *,
    shipped: Path | None = None,
    overlay: Overlay = NOTHING,
) -> RecordSet:
    """Read all records; never raises for their content.

    ``shipped`` is a directory of records that came with the program, searched
    last; owner and mode are not looked at there, because a user who may write to
    it may write the program too.
    """
    collected = CollectedRecords(overlay=overlay)
    for directory in directories:
        collected.add_directory(directory, check_owner=True)
    if shipped is not None:
        collected.add_directory(shipped, check_owner=False)
    return collected.finish()


class _Report:
    """Collects the problems of one file."""

    def __init__(self, source: Path) -> None:
        self._file = str(source)
        self.lines: list[str] = []
        self.problems: list[Problem] = []

    def complain(self, span: Span, message: str, expected: str, hint: str) -> None:
        line = self.lines[span.line - 1] if span.line <= len(self.lines) else ""
        self.problems.append(Problem(self._file, span, message, expected, hint, line))

    def sorted(self) -> list[Problem]:
        """Return the problems in the order of their places, up to a limit."""
        found = sorted(self.problems, key=lambda problem: problem.span)
        beyond = len(found) - limits.PROBLEMS_PER_FILE
        if beyond > 0:
            first = found[limits.PROBLEMS_PER_FILE]
            found = found[: limits.PROBLEMS_PER_FILE]
            found.append(Problem(self._file, first.span, f"{beyond} more problems"))
        return found


def _decode(content: bytes, report: _Report) -> str:
    r"""Return the text with ``\n`` line ends; undecodable lines are left empty."""
    raw = content.replace(b"\r\n", b"\n").split(b"\n")
    report.lines = [line.decode("utf-8", "replace") for line in raw]
    kept: list[str] = []
    for number, line in enumerate(raw, 1):
        try:
            kept.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            column = len(line[: error.start].decode("utf-8")) + 1
            kept.append("")
            report.complain(
                Span(number, column, number, column + 1),
                f"byte 0x{line[error.start]:02x} is not UTF-8",
                "UTF-8 text",
                "save the file as UTF-8",
            )
    return "\n".join(kept)


class CollectedRecords:
    """Records gathered so far; the first file of a name wins."""

    def __init__(
        self, behind: CollectedRecords | None = None, overlay: Overlay = NOTHING
    ) -> None:
        """Set up an empty collection.

        ``behind`` has records that these may inherit from.
        """
        self._drafts: dict[str, tuple[Draft, _Report]] = {}
        self._broken: dict[str, Problem] = {}
        self._problems: list[Problem | _Report] = []
        self._blind: Problem | None = None
        self._built: dict[str, Record | None] = {}
        self._behind = behind
        self._overlay = overlay

    def add_directory(self, directory: Path, *, check_owner: bool) -> None:
        """Read all records of a directory; problems are collected."""
        new = overlaid(directory, self._overlay)
        info = None
        try:
            found = {entry.name for entry in directory.iterdir()}
            info = directory.stat()
        except FileNotFoundError:
            found = set()
        except OSError as error:
            # A record in it might shadow any record after it, so none of
            # those can be trusted to be what the admin meant.
            self._blind = unreadable(directory, error)
            self._problems.append(self._blind)
            return
        wrong = wrong_owner(directory, info) if check_owner and info else None
        if wrong is not None:
            self._problems.append(wrong)
        found = (found - new.keys()) | {name for name, there in new.items() if there}
        files = sorted(filter(_is_record, found))
        for count, name in enumerate(files):
            path = directory / name
            if wrong is not None:
                self._refuse(path, wrong, report=False)
            elif count >= limits.RECORDS:
                text = f"more than {limits.RECORDS} records in one directory"
                self._refuse(path, problem_of_file(path, text))
            else:
                self.add_file(path, check_owner=check_owner)

    def add_file(self, path: Path, *, check_owner: bool) -> None:
        """Read one record's file; collect its problems."""
        name = path.name.removesuffix(SUFFIX)
        if self._blind is not None:
            self._refuse(path, self._blind, report=False)
            return
        if name in self._drafts or name in self._broken:
            return
        if not is_name(name):
            text = f"'{path.name}' is not a sandbox's name followed by '{SUFFIX}'"
            hint = f"rename the file; a sandbox's name has {NAME.words}"
            self._refuse(path, problem_of_file(path, text, hint))
            return
        # guard: no sandbox has the user's name
        if name in ADMIN_NAMES:
            text = f"no sandbox can be named '{name}': in rules that is you, the user"
            self._refuse(path, problem_of_file(path, text, "rename the file"))
            return
        content = self._overlay.get(os.path.normpath(path))
        if content is None:
            read = read_file(path, check_owner=check_owner)
            if isinstance(read, Problem):
                self._refuse(path, read)
                return
            content = read
        if len(content) > limits.FILE_BYTES:
            most = problem_of_file(path, f"has more than {limits.FILE_BYTES} bytes")
            self._refuse(path, most)
        else:
            self.add_content(name, path, content)

    def add_content(self, name: str, path: Path, content: bytes) -> None:
        """Parse the content of a record's file into a draft; problems are collected."""
        report = _Report(path)
        document = read_document(_decode(content, report), report.complain)
        draft = take_draft(name, path, document, report.complain, report.lines)
        self._drafts[name] = (draft, report)
        self._problems.append(report)

    def _refuse(self, path: Path, problem: Problem, *, report: bool = True) -> None:
        name = path.name.removesuffix(SUFFIX)
        if name not in self._drafts:
            self._broken.setdefault(name, problem)
        if report:
            self._problems.append(problem)

    # -- inheritance --------------------------------------------------------------

    def find(self, name: str) -> tuple[CollectedRecords, Draft] | None:
        """A draft and whose it is."""
        if name in self._drafts:
            return self, self._drafts[name][0]
        return self._behind.find(name) if self._behind else None

    def _chain(
        self, draft: Draft
    ) -> tuple[list[tuple[CollectedRecords, Draft]], str, str]:
        """Return the drafts that a draft inherits from.

        If that fails, why, and a hint.
        """
        names = [draft.name]
        chain: list[tuple[CollectedRecords, Draft]] = []
        while (name := (chain[-1][1] if chain else draft).inherits) is not None:
            names.append(name)
            if name in names[:-1]:
                wrong = f"the record inherits from itself: {' → '.join(names)}"
                return chain, wrong, "remove one 'inherits'"
            if len(chain) == limits.INHERITS:
                most = f"more than {limits.INHERITS} records inherit from each other"
                return chain, most, "set the keys in this record"
            if name in self._broken:
                where = self._broken[name].first_line()
                return chain, f"the record '{name}' has an error: {where}", ""
            found = self.find(name)
            if found is None:
                hint = did_you_mean(name, self._drafts)
                return chain, f"no record is named '{name}'", hint
            chain.append(found)
        return chain, "", ""

    def _parents(self, draft: Draft, report: _Report) -> list[Draft]:
        """Return the drafts that a draft inherits from, or report why it cannot."""
        chain, wrong, hint = self._chain(draft)
        for owner, parent in chain if not wrong else ():
            if owner.build(parent.name) is None:
                wrong = f"the record '{parent.name}' has an error"
                where = owner.first_problem(parent.name)
                wrong += f": {where.first_line()}" if where else ""
                break
        if wrong:
            span = draft.document.span((INHERITS_KEY,))
            report.complain(span, wrong, "", hint)
        return [] if wrong else [parent for _, parent in chain]

    def first_problem(self, name: str) -> Problem | None:
        """The first problem of a draft."""
        problems = self._drafts[name][1].sorted()
        return problems[0] if problems else None

    def build(self, name: str) -> Record | None:
        """Build the record of a name once, with all that it inherits.

        None if broken.
        """
        if name not in self._built:
            draft, report = self._drafts[name]
            made = build_record(draft, self._parents(draft, report), report.complain)
            assert made is not None or report.problems
            self._built[name] = None if report.problems else made
        return self._built[name]

    def finish(self) -> RecordSet:
        """Build every record that was read; return the set of them."""
        records: dict[str, Record] = {}
        broken = dict(self._broken)
        for name, (_, report) in self._drafts.items():
            record = self.build(name)
            if record is not None:
                records[name] = record
            else:
                broken[name] = report.sorted()[0]
        problems: list[Problem] = []
        for one in self._problems:
            problems += one.sorted() if isinstance(one, _Report) else [one]
        return _set(records, broken, tuple(problems))


def _set(
    records: dict[str, Record],
    broken: dict[str, Problem],
    problems: tuple[Problem, ...],
) -> RecordSet:
    """Build a record set with the digest of its meaning."""
    meaning = hashlib.sha256(b"vitrail records 1\n")
    for name in sorted({*records, *broken}):
        record = records.get(name)
        state = record.digest if record else "broken"
        meaning.update(f"{name!r} {state}\n".encode("utf-8", "backslashreplace"))
    return RecordSet(
        MappingProxyType(records),
        MappingProxyType(broken),
        problems,
        meaning.hexdigest(),
    )


def with_last_good(read: RecordSet, before: RecordSet) -> RecordSet:
    """Return the records read, with the last good one where the file is broken now.

    A typo takes nothing from a sandbox that runs and gives it nothing.  The
    name stays in ``broken`` too: a start by it reports the problem.  A
    record that was never good is only there, a removed record is gone.
    """
    mended = {
        name: before.records[name] for name in read.broken if name in before.records
    }
    if not mended:
        return read
    return _set({**read.records, **mended}, dict(read.broken), read.problems)


def _is_record(name: str) -> bool:
    """Editors leave NAME.toml~ and .NAME.toml.swp about; those are no records."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def is_name(name: str) -> bool:
    """Return whether a text may be the name of a record."""
    fits = len(name) <= NAME.max_length
    return fits and re.fullmatch(NAME.regex, name, re.ASCII) is not None
