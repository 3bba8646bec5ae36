"""Records of homes that were copied, renamed or restored: where and how they are written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.homes.backups.backup import Unpacked
from broker.cli.homes.backups.backup_record import reaching_keys
from broker.cli.policy.install import put
from broker.cli.policy.named_rules import name_only, text_with_name
from broker.cli.policy.records import IMPORTED, read_records, take_imported
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.desktop_entry import write_autostart, write_entry
from broker.cli.sandboxes.presets import rules_file
from broker.core.escape import displayed
from broker.core.files.replace_file import replace_file, whole_file
from broker.core.names import SandboxName
from policy.records.folder import FOLDER
from policy.records.model import Record
from policy.tools.record_files import parse_record


def record_of(name: str) -> Record | None:
    """Return the record of a name that a broker would read; None without a valid one."""
    return read_records(offline_paths()).records.get(name)


def record_path(name: str) -> Path:
    """Return the file of the user's record of a name."""
    return offline_paths().config[0] / FOLDER / f"{name}.toml"


def write_record(name: SandboxName, text: str) -> list[Path]:
    """Write a copied home's record and menu entry; return the files."""
    path = record_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    # guard: a copied record is written whole
    with whole_file(path, mode=0o644, replace=False) as file:
        file.write(text.encode())
    return [path, *write_record_entry(name, path, text)]


def write_record_entry(name: str, path: Path, text: str) -> list[Path]:
    """Write what the desktop has of a record's text; return the files."""
    record, _ = parse_record(name, path, text.encode())
    if record is None:  # it inherits; the menu is not worth more
        return []
    return [*write_entry(record), *write_autostart(record)]


def write_backed_up_record(
    sandbox: SandboxName, backup: Unpacked, *, trusted: bool, ask: bool
) -> list[Path]:
    """Write a backup's record and rules if the sandbox has none; return the files."""
    path, untrusted_text = record_path(sandbox), backup.untrusted_record
    if record_of(sandbox) is not None or path.exists() or not untrusted_text:
        return []
    files = _write_rules(sandbox, backup, trusted=trusted, ask=ask)
    untrusted_text = re.sub(r'(?m)^name = ".*"$', f'name = "{sandbox}"', untrusted_text)
    record, problems = parse_record(sandbox, path, untrusted_text.encode())
    render.note(f"the backup's record:\n{displayed(untrusted_text.rstrip())}")
    if record is None or problems:  # such as a record that inherits from another one
        why = "; ".join(problem.first_line() for problem in problems)
        _set_aside(path, untrusted_text, f"is not used alone ({why})")
        return files
    reaches = [] if trusted else reaching_keys(record)
    if reaches and ask and sys.stdin.isatty():
        render.note(f"it sets {', '.join(reaches)} to more than a new record has")
        trusted = click.confirm("Is this your record? Use it?", err=True)
    if reaches and not trusted:
        reason = (
            f"is not used without --trust-record, because it sets {', '.join(reaches)} to "
            "more than a new record has"
        )
        _set_aside(path, untrusted_text, reason)
        return files
    return [*write_record(sandbox, untrusted_text), *files]


def _write_rules(
    sandbox: SandboxName, backup: Unpacked, *, trusted: bool, ask: bool
) -> list[Path]:
    """Write a backup's rules if the user trusts them; return the file."""
    file = rules_file(offline_paths(), sandbox)
    untrusted_rules = backup.untrusted_rules
    if not untrusted_rules:
        render.note("the backup has no rules")
        return []
    if backup.name is not None:
        untrusted_rules = text_with_name(untrusted_rules, backup.name, sandbox)
    render.note(f"the backup's rules:\n{displayed(untrusted_rules.rstrip())}")
    if file.exists():
        render.note(f"{file} exists already and stays as it is")
        return []
    sandbox_only = name_only(untrusted_rules, sandbox)
    if sandbox_only and not trusted and ask and sys.stdin.isatty():
        trusted = click.confirm("Are these your rules? Use them?", err=True)
    text = f"{untrusted_rules.rstrip()}\n".encode()
    # guard: rules of a backup are in force if the user says so
    if sandbox_only and trusted:
        put(file, text)
        return [file]
    imported_file = file.with_name(f"{file.name}{IMPORTED}")
    put(imported_file, text)
    if sandbox_only:
        render.note(
            "the backup's rules are not used without --trust-record; if you wrote "
            f"the backup, run: {take_imported(file)}"
        )
    else:
        render.note(
            "the backup's rules are not used, because they have an error or name "
            f"other sandboxes alone; they are in {imported_file}"
        )
    return []


def _set_aside(path: Path, untrusted_text: str, reason: str) -> None:
    """Keep a backup's record in the folder of the records, and show how to put it in force."""
    imported_file = path.with_name(f"{path.name}{IMPORTED}")
    imported_file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(imported_file, untrusted_text.encode())
    render.note(
        f"the sandbox has its home and no record: the backup's record {reason}; if "
        f"you wrote the backup, run: {take_imported(path)}"
    )
