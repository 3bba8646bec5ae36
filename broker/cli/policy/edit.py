"""``brokerctl policy edit``: edit rules and records; a file with errors is never installed.

The file is copied, edited, checked together with all others, its effect is shown, and
then it is installed whole.  With ``--confirm`` it is first put into the runtime
directory, before the permanent ones: so it is in force, and it is removed automatically
if it is not confirmed, if the terminal is closed, if brokerctl is killed (a separate
process removes it) or if the machine restarts.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess  # noqa: TID251 -- the editor has our terminal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.policy.install import (
    Sets,
    new_problems,
    open_lock,
    put,
    sets_with,
    show_changes,
)
from broker.cli.policy.load import JSON
from broker.cli.policy.records import print_problems
from broker.cli.policy.trial import LINES, on_trial, refuse_trial
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from policy import limits
from policy.errors import Problem
from policy.files import read_file
from policy.records.loader import FOLDER as RECORDS
from policy.records.loader import SUFFIX as RECORD
from policy.records.quantities import Seconds
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import SUFFIX as RULE
from policy.tools import limits as tool_limits
from policy.tools.record_files import is_policy_path, parse_record

_BROKEN = 3
_DEFAULT = "30-user.policy"
_NEW_RULES = """# SERVICE  ARGUMENT  SOURCE  TARGET  ACTION  [key=value ...]
# The first matching line decides; a call that no line allows is denied.
"""
_NEW_RECORD = """class = "disposable"
display = "allow"
"""
_EDITORS = ("sensible-editor", "editor", "vi", "nano")


def confirm_seconds(
    context: click.Context, option: click.Parameter, text: str | None
) -> int | None:
    """Parse a time as rules have it; None if none exists."""
    del context
    if text is None:
        return None
    kind = Seconds(*tool_limits.CONFIRM_SECONDS)
    made = kind.take(text, (), lambda *_: None)
    if not isinstance(made, int):
        raise click.BadParameter(f"expected {kind.words}", param=option)
    return made


@dataclass(frozen=True)
class Edit:
    """An edit of one file: ``file`` is where it belongs, ``old`` what stood there, None: nothing."""

    base: Path
    file: Path
    old: bytes | None

    @classmethod
    def of(cls, base: Path, file: Path) -> Edit:
        """Begin an edit of a file as it is now.  Raises RefusedError."""
        return cls(base, file, read_current(file) if os.path.lexists(file) else None)

    @property
    def before(self) -> bytes | None:
        """The file's current content; None: there is no file."""
        return read_current(self.file) if os.path.lexists(self.file) else None

    def with_content(self, new: bytes) -> Sets:
        """All rules and records, with this content in the file's place."""
        return sets_with(self.base, {os.path.normpath(self.file): new})

    def refuse_changed(self) -> None:
        """Raise RefusedError if another program has changed the file meanwhile."""
        if self.before != self.old:
            raise RefusedError(
                f"nothing was installed: another program changed {self.file} during "
                "the edit",
                hint="check the file, then edit it again",
            )


@click.command()
@click.argument("name", default=_DEFAULT)
@click.option(
    "--to",
    type=NamedPath(file_okay=False, path_type=Path),
    help="Directory with policy.d and sandboxes.d, such as /etc/vitrail "
    "[default: your own].",
)
@click.option(
    "--confirm",
    metavar="TIME",
    callback=confirm_seconds,
    help="Revert the edit after this time, such as 60s, unless it is confirmed.",
)
@click.option("--yes", is_flag=True, help="Install without asking for confirmation.")
@JSON
def edit(
    name: str, *, to: Path | None, confirm: int | None, yes: bool, as_json: bool
) -> None:
    """Edit the rules (NAME.policy) or the record (NAME.toml) NAME.

    If NAME has no suffix, it is the existing record or file of rules; a new file contains
    rules if NAME begins with a digit, and a record otherwise.

    VISUAL or EDITOR edits a copy, which is checked together with all other files; a copy
    with an error is not installed.  The decisions that would change are shown first.
    With --confirm, the edit is reverted after this time unless you confirm it at the
    terminal; it is also reverted if the terminal is closed or the machine restarts.

    Exit code: 0 installed or unchanged, 1 not installed, 3 not installed because of an
    error.
    """
    base = Path.cwd() / (to or offline_paths().config[0])
    name = _whole_name(name, (base, *offline_paths().config))
    folder = _folder(name)
    with one_at_a_time(base):
        file = base / folder / name
        job = Edit.of(base, file)
        if confirm is not None:
            refuse_trial(job.base, job.file)
        new = _edited(job, folder, yes=yes)
        if new is None:
            render.note("nothing was changed")
            _say(job, installed=False, as_json=as_json)
            return
        job.refuse_changed()
        if confirm is None:
            put(job.file, new)
            render.note(
                f"installed {job.file}; a running broker reloads it automatically"
            )
            if folder == RECORDS:
                follow_record(job)
        else:
            on_trial(job.file, new, confirm, job.refuse_changed)
        _say(job, installed=True, as_json=as_json)


def follow_record(job: Edit) -> None:
    """Update the menu to a record's name and colour; warn of similar colours."""
    # Late: rules need neither.
    from broker.cli.menu.entries import follow_autostart, follow_windows
    from broker.cli.policy.records import read_records
    from broker.cli.sandboxes.look_alikes import alike

    records = read_records(offline_paths()).records
    follow_autostart(records)
    follow_windows()
    record = records.get(job.file.stem)
    if record is not None and record.viewer.label.colour != _colour_of(job):
        for text in alike(record, records.values()):
            render.note(text)


def _colour_of(job: Edit) -> str:
    """The colour of the record as it was; empty: it had none that can be used."""
    before, _ = parse_record(job.file.stem, job.file, job.old or b"")
    return "" if before is None else before.viewer.label.colour


def _say(job: Edit, *, installed: bool, as_json: bool) -> None:
    if as_json:
        render.json_line({"file": str(job.file), "installed": installed})


def _whole_name(name: str, bases: tuple[Path, ...]) -> str:
    """Return a file's name with its ending.

    Raises RefusedError where both files are there.
    """
    if name.endswith((RULE, RECORD)):
        return name
    rules, record = name + RULE, name + RECORD
    found = {
        whole
        for base in bases
        for folder, whole in ((RULES, rules), (RECORDS, record))
        if os.path.lexists(base / folder / whole)
    }
    if len(found) > 1:
        raise RefusedError(
            f"'{printable(name, 100)}' names both a record and a file of rules",
            hint=f"run 'brokerctl policy edit {record}' or 'brokerctl policy edit "
            f"{rules}'",
        )
    return found.pop() if found else rules if name[:1].isdigit() else record


def _folder(name: str) -> str:
    """Return the folder of a file's name: rules or records.  Raises RefusedError."""
    for folder in (RULES, RECORDS):
        if is_policy_path(f"{folder}/{name}"):
            return folder
    raise RefusedError(
        f"'{printable(name, 100)}' is not a valid name of a record or of a file of "
        "rules",
        hint="use a name such as 30-user.policy (0-9, a-z, '_', '.' and '-') or "
        "work.toml",
    )


def read_current(file: Path) -> bytes:
    """Return a file's content.  Raises RefusedError if it cannot be read, or is large."""
    content = read_file(file, check_owner=False, most=limits.RULE_FILE_BYTES)
    if isinstance(content, Problem):
        raise RefusedError(
            content.first_line(), hint="correct the file and run the command again"
        )
    return content


@contextlib.contextmanager
def one_at_a_time(base: Path) -> Iterator[None]:
    """Lock the settings for one edit at a time.  Raises RefusedError."""
    fd = open_lock(base / ".edit.lock", doing="edit the settings")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RefusedError(
            f"cannot edit the settings in {base}: another 'brokerctl policy edit' "
            "or 'brokerctl allow' is editing them",
            hint="wait until the other command has ended, and run this one again",
        ) from error
    finally:
        os.close(fd)


# -- editing ------------------------------------------------------------------------


def _edited(job: Edit, folder: str, *, yes: bool) -> bytes | None:
    """Return the content to install; None: nothing.  May leave with a code."""
    first = beginning(job, folder)
    work = Path(tempfile.mkdtemp(prefix="vitrail-edit-"))
    try:
        copy = work / job.file.name
        copy.write_bytes(first)
        while True:
            code = run_in_foreground([*_editor(), copy])
            if code != 0:
                raise RefusedError(
                    f"nothing was installed: the editor exited with code {code}",
                    hint="run the command again, and exit the editor normally",
                )
            new = read_current(copy)
            if new == job.old or (job.old is None and new == first):
                return None
            choice = _choose(job, new, yes=yes)
            if choice == "i":
                return new
            if choice == "q":
                sys.exit(1)
    finally:
        shutil.rmtree(work)


def beginning(job: Edit, folder: str) -> bytes:
    """Return the initial content of an edit: the file, the one hidden, or a comment."""
    if job.old is not None:
        return job.old
    for base in offline_paths().config:
        hidden = base / folder / job.file.name
        if hidden != job.file and hidden.is_file():
            render.note(f"copied {hidden}; your copy takes precedence")
            return read_current(hidden)
    return (_NEW_RULES if folder == RULES else _NEW_RECORD).encode()


def _editor() -> list[str]:
    for name in ("VISUAL", "EDITOR"):
        words = shlex.split(os.environ.get(name, ""))
        if words:
            return words
    found = next((name for name in _EDITORS if shutil.which(name)), "vi")
    return [found]


def _choose(job: Edit, new: bytes, *, yes: bool) -> str:
    """Check and show; return i (install), e (edit again) or q (leave)."""
    old, would = sets_with(job.base, {}), job.with_content(new)
    problems = new_problems(old, would)
    if problems:
        print_problems(problems, stderr=True)
        found = render.count(len(problems), "problem")
        render.note(f"{found}; nothing was installed")
        if yes or not sys.stdin.isatty():
            sys.exit(_BROKEN)
        return asked("[e]dit again, or [q]uit without installing", "eq", "e")
    show_lines(job, new)
    show_changes(old, would)
    if yes:
        return "i"
    return asked("[i]nstall, [e]dit again, or [q]uit without installing", "ieq", "q")


def show_lines(job: Edit, new: bytes) -> None:
    """Print the changed lines of an edit."""
    before, after = (
        content.decode("utf-8", "replace").splitlines()
        for content in (job.old or b"", new)
    )
    for line in difflib.unified_diff(
        before, after, "before", "after", n=1, lineterm=""
    ):
        render.note(printable(line, 500))


def asked(question: str, letters: str, otherwise: str) -> str:
    """Ask until the answer is valid; the end of the input means ``q``."""
    while True:
        render.note(f"{question}? ({otherwise})")
        line = LINES.next()
        if line is None:
            return "q"
        choice = line.lower()[:1] or otherwise
        if choice in letters:
            return choice


def run_in_foreground(argv: Sequence[str | os.PathLike[str]]) -> int:
    """Run a program of the user's own (an editor) on our terminal, to its end.

    It has the terminal's signals; an interrupt ends it and not us.  Returns
    its exit code, or minus the signal's number.

    Raises SetupError when it is not installed.
    """
    words = [os.fspath(word) for word in argv]
    if shutil.which(words[0]) is None:
        raise SetupError(
            f"editor '{words[0]}' is not installed",
            hint="set VISUAL or EDITOR to an installed editor",
        )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # As the shell does it: the child must not ignore what we do.
        return subprocess.call(["env", "--default-signal=INT", *words])
    finally:
        signal.signal(signal.SIGINT, before)
