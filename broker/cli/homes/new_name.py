"""``brokerctl sandbox clone`` and ``rename``: a sandbox under another name."""

from __future__ import annotations

import re
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.homes.backups.home_records import (
    record_of,
    record_path,
    write_record,
    write_record_entry,
)
from broker.cli.policy.edit import one_at_a_time
from broker.cli.policy.named_rules import files_naming, text_with_name
from broker.cli.policy.records import read_records, require_correct, require_own
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.consent import (
    JSON,
    NAME,
    home_store,
    progress_bar,
    refuse_running,
    report_home,
)
from broker.cli.sandboxes.desktop_entry import remove_entry
from broker.cli.sandboxes.presets import rules_file
from broker.core.errors import RefusedError, SetupError
from broker.core.names import SandboxName, take_new_name, take_sandbox_name
from broker.core.paths import Paths
from broker.host.homes.renaming import Renaming, rename_sandbox
from broker.viewer.sound.levels import levels_folder
from policy.tools.record_files import parse_record


@click.command()
@NAME
@click.argument("new")
@JSON
def clone(name: str, new: str, *, as_json: bool) -> None:
    """Create the sandbox NEW with a copy of the record and home of NAME.

    Snapshots are not copied.
    """
    source, target = take_sandbox_name(name), take_new_name(new)
    store = home_store()
    text = _renamed(source, target)
    with store.lock(source), store.lock(target), progress_bar(f"copy {source}") as bar:
        home = store.clone(source, target, bar)
        files = write_record(target, text)
    report_home(home, files, as_json=as_json)


@click.command()
@NAME
@click.argument("new")
@JSON
def rename(name: str, new: str, *, as_json: bool) -> None:
    """Rename the sandbox NAME to NEW: home, snapshots, record, rules, menu entry, logs.

    The audit log keeps the old name for what happened before.
    """
    source, target = take_sandbox_name(name), take_new_name(new)
    store, paths = home_store(), offline_paths()
    text = _renamed(source, target)
    record = record_of(source)
    assert record is not None
    refuse_running(record)
    heirs = [
        other.name
        for other in read_records(paths).records.values()
        if source in other.inherits
    ]
    if heirs:
        raise RefusedError(
            f"cannot rename '{source}': other records inherit from it",
            hint=f"first change 'inherits' in these records: {', '.join(heirs)}",
        )
    with store.lock(source), store.lock(target), one_at_a_time(paths.config[0]):
        new_record = record_path(target)
        rules, removed_rules = _renamed_rules(paths, source, target)
        change = Renaming(
            source,
            target,
            str(record.source),
            str(new_record),
            text,
            rules,
            removed_rules,
        )
        rename_sandbox(store, change)
    remove_entry(source)
    files = [new_record, *map(Path, rules)]
    files += write_record_entry(target, new_record, text)
    levels = levels_folder()
    for old, moved in (
        (paths.logs(source), paths.logs(target)),
        (levels / f"{source}.json", levels / f"{target}.json"),
    ):
        if old.exists() and not moved.exists():
            old.rename(moved)
    if as_json:
        render.json_line({"name": target, "files": [str(file) for file in files]})
        return
    render.note(f"renamed '{source}' to '{target}'")
    for path in files:
        render.note(f"wrote {path}")
    for file in files_naming(paths.config, source):
        render.note(f"rules in {file} still name '{source}': change them yourself")


def _renamed_rules(
    paths: Paths, source: str, target: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the user's files of rules for a new name, and those to remove.

    Raises RefusedError if rules of the user's name the new sandbox already.
    """
    old, new = rules_file(paths, source), rules_file(paths, target)
    user_config = paths.config[:1]
    file = new if new.exists() else next(iter(files_naming(user_config, target)), None)
    # guard: a sandbox gets no rules of an earlier one by its new name
    if file is not None:
        raise RefusedError(
            f"cannot rename '{source}': there are rules for '{target}' already, in "
            f"{file}",
            hint="choose another name, or remove the file"
            if file == new
            else "choose another name",
        )
    files = {
        str(new if file == old else file): text_with_name(text, source, target)
        for file, text in files_naming(user_config, source).items()
    }
    return files, (str(old),) if str(new) in files else ()


def _renamed(name: SandboxName, new: SandboxName) -> str:
    """Return the record's text for another name.

    Raises SetupError without a record, RefusedError when the new name is taken.
    """
    records = read_records(offline_paths())
    require_correct(records, name)
    existing = records.records
    if name not in existing:
        raise SetupError(
            f"no record is named '{name}'",
            hint="to list the records, run 'brokerctl list'",
        )
    require_own(offline_paths(), name)
    if new in existing or record_path(new).exists():
        raise RefusedError(
            f"a record named '{new}' already exists",
            hint="choose another name",
        )
    text = existing[name].source.read_text(encoding="utf-8")
    text = re.sub(rf'(?m)^name = "{re.escape(name)}"', f'name = "{new}"', text)
    record, problems = parse_record(new, record_path(new), text.encode())
    if record is None and not existing[name].inherits:
        raise RefusedError(
            f"the record of '{name}' cannot be used under another name: "
            f"{problems[0].first_line()}",
            hint=f"to change the record, run 'brokerctl policy edit {name}'",
        )
    return text
