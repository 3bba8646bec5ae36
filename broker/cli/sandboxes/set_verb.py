"""``brokerctl set``: change one setting of a sandbox."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click as plain_click
import rich_click as click
from click.shell_completion import CompletionItem

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.policy.edit import (
    Edit,
    beginning,
    confirm_seconds,
    follow_record,
    one_at_a_time,
    show_lines,
)
from broker.cli.policy.install import new_problems, put, sets_with, show_changes
from broker.cli.policy.load import JSON
from broker.cli.policy.records import print_problems, read_records, require_own
from broker.cli.policy.trial import LINES, on_trial, refuse_trial
from broker.cli.run.connect import ask_status, broker_runs, offline_paths
from broker.cli.sandboxes.settings import (
    SETTINGS,
    Setting,
    changed,
    setting_of,
    words_of,
)
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy.records.field_types import Field
from policy.records.kinds import KINDS
from policy.records.launch_table import LAUNCH
from policy.records.loader import FOLDER
from policy.records.model import Record
from policy.suggestions import did_you_mean

_BROKEN = 3
_AT_ONCE = frozenset(
    {
        *("autostart", "audio", "clipboard", "display", "label", "logs", "looks"),
        *("tags", "transfer", "window"),
    }
)
"""Tables and keys of a record that a running sandbox takes at once."""


def _settings(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a setting."""
    del ctx, param
    return [
        CompletionItem(name, help=setting.help)
        for name, setting in SETTINGS.items()
        if name.startswith(incomplete)
    ]


def _values(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the values of the setting that was named."""
    del param
    setting = SETTINGS.get(ctx.params.get("setting") or "")
    words = words_of(setting) if setting is not None else []
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def record_named(name: str) -> Record:
    """Return the user's record of a name.  Raises RefusedError."""
    records = read_records(offline_paths())
    record = records.records.get(name)
    if record is not None:
        return record
    if name in records.broken:
        raise RefusedError(
            f"the record '{printable(name, 60)}' has an error",
            hint="to see it, run 'brokerctl policy check'; to correct it, run "
            f"'brokerctl policy edit {name}.toml'",
        )
    raise RefusedError(
        f"no record is named '{printable(name, 60)}'",
        hint=did_you_mean(name, records.records)
        or "to list the records, run 'brokerctl list'",
    )


@click.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("setting", required=False, shell_complete=_settings)
@click.argument("values", nargs=-1, required=False, shell_complete=_values)
@click.option(
    "--confirm",
    metavar="TIME",
    callback=confirm_seconds,
    help="Revert the change after this time, such as 60s, unless it is confirmed.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--check", is_flag=True, help="Show the changes, and change nothing.")
@JSON
def command(
    sandbox: str,
    setting: str | None,
    values: tuple[str, ...],
    *,
    confirm: int | None,
    yes: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Change SETTING of SANDBOX to VALUES, for example: brokerctl set work sound on.

    'brokerctl get SANDBOX' lists all settings with their values.  An array is changed
    by +NAME and -NAME: brokerctl set work packages +gimp.  A whole key of the record is
    possible as well: brokerctl set work launch.open_files 4096.

    The changed lines and the decisions that would change are shown first.

    Exit code: 0 changed or unchanged, 1 not changed, 3 not changed because the record
    would have an error.
    """
    if setting is None:
        raise click.UsageError(f"SETTING is missing: one of {', '.join(SETTINGS)}")
    chosen = setting_of(setting)  # before anything is read
    if not values:
        words = " or ".join(words_of(chosen)) or chosen.help or "a value"
        raise click.UsageError(
            f"the value is missing: '{setting}' takes {words}; to see the present "
            f"one, run 'brokerctl get {sandbox} {setting}'"
        )
    record = record_named(sandbox)
    refuse_other_kinds(setting, chosen, record)
    paths = offline_paths()
    base = paths.config[0]
    require_own(paths, sandbox)
    with one_at_a_time(base):
        file = base / FOLDER / f"{sandbox}.toml"
        job = Edit.of(base, file)
        if confirm is not None:
            refuse_trial(job.base, job.file)
        text = beginning(job, FOLDER).decode()
        new = changed(text, record, setting, values).encode()
        if new == job.old:
            render.note(f"{setting} has this value already; nothing was changed")
            _say(file, as_json=as_json)
            return
        _checked(job, new, yes=yes or check)
        if check:
            _say(file, as_json=as_json)
            return
        job.refuse_changed()
        if confirm is not None:
            on_trial(file, new, confirm, job.refuse_changed)
        else:
            put(file, new)
            render.note(f"changed {file}")
            if record_named(sandbox).values.get("launch.packages") != record.values.get(
                "launch.packages"
            ):
                render.note(
                    f"the next 'brokerctl run {sandbox}' builds an image with these "
                    "packages"
                )
            follow_record(job)
        outdated = _keeping(sandbox, chosen.key)
        if outdated:
            render.note(
                f"{' '.join(outdated)} runs with the old value of {setting} until "
                f"it is stopped: 'brokerctl stop {' '.join(outdated)}'"
            )
        _say(file, changed=True, outdated=outdated, as_json=as_json)


def _keeping(record: str, key: str) -> list[str]:
    """Return the running sandboxes that keep the old value of a key until they stop."""
    at_once = key.partition(".")[0] in _AT_ONCE and key != "window.x11"
    if at_once or not broker_runs(offline_paths()):
        return []
    rows = ask_status().sandboxes
    return [row.name for row in rows if row.record == record]


def refuse_other_kinds(name: str, setting: Setting, record: Record) -> None:
    """Raise RefusedError for a setting that sandboxes of the record's kind lack."""
    table, _, key = setting.key.partition(".")
    field = LAUNCH.by_key.get(key) if table == "launch" else None
    kind = record.host.launch.kind.name
    if field is not None and not field.belongs_to(kind):
        raise RefusedError(
            f"'{record.name}' cannot have the setting '{name}': its launch.kind is "
            f"'{kind}'",
            hint=_hint_of_kind(name, record, field),
        )


def _hint_of_kind(name: str, record: Record, field: Field) -> str:
    """Return which kinds have a setting, and what such a record has instead."""
    kinds = ", ".join(one for one in KINDS if field.belongs_to(one))
    hint = f"kinds with this setting: {kinds}"
    if name == "memory":
        hint += "; programs of a box use this machine's memory without a limit of their own, and are ended first when it ends"
    return f"{hint}; to see what '{record.name}' has, run 'brokerctl get {record.name}'"


def _checked(job: Edit, new: bytes, *, yes: bool) -> None:
    """Show what would change, and ask.  Leaves with a code if it is not to be."""
    old, would = sets_with(job.base, {}), job.with_content(new)
    problems = new_problems(old, would)
    if problems:
        print_problems(problems, stderr=True)
        render.note("the record would have an error; nothing was changed")
        sys.exit(_BROKEN)
    show_lines(job, new)
    show_changes(old, would)
    if yes or not sys.stdin.isatty():
        return
    render.note("change it? (y/N)")
    line = LINES.next()
    if line is None or line.lower()[:1] != "y":
        render.note("nothing was changed")
        sys.exit(1)


def _say(
    file: Path, *, as_json: bool, changed: bool = False, outdated: Sequence[str] = ()
) -> None:
    if as_json:
        render.json_line({"file": str(file), "changed": changed, "restart": outdated})
