"""``brokerctl sandbox``: the state of persistent sandboxes.

Works on files alone, with the lock that a running sandbox holds: no broker is needed.
If a broker runs, it is queried for running sandboxes.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.homes.backups import backup as backups
from broker.cli.homes.backups.home_records import (
    record_of,
    write_backed_up_record,
)
from broker.cli.homes.home_copies import HomeCopies
from broker.cli.homes.new_name import clone, rename
from broker.cli.homes.unlock import lock, unlock
from broker.cli.late_group import LateGroup
from broker.cli.policy.named_rules import (
    files_naming,
    lines_naming,
)
from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.consent import (
    JSON,
    NAME,
    Consent,
    confirm,
    count_passed,
    home_store,
    print_result,
    progress_bar,
    refuse_running,
    report_home,
)
from broker.cli.sandboxes.desktop_entry import remove_entry
from broker.cli.sandboxes.leftovers import (
    Leftovers,
    find_leftovers,
    imported_record,
)
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError
from broker.core.names import take_new_name, take_sandbox_name
from broker.core.paths import Paths
from broker.host.homes.disk import make_disk
from broker.host.homes.store import DISK, Home, full_disk_reported
from policy.records.model import Record

_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
_CHECK = click.option(
    "--check", is_flag=True, help="Show what would be lost, and change nothing."
)
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="File with the passphrase [default: gpg asks for it].",
)


@click.group("sandbox", cls=LateGroup)
def command() -> None:
    """Manage persistent sandboxes: copies, names, snapshots and backups.

    A running sandbox is refused; stop it first.
    """


command.add_command(clone)
command.add_command(rename)
command.add_command(unlock)
command.add_command(lock)


# -- looking -------------------------------------------------------------------------


@command.command("list")
@JSON
def list_homes(*, as_json: bool) -> None:
    """List homes: sizes, snapshots, and whether a record uses them."""
    store = home_store()
    rows = [_facts(store, home) for home in store.all()] if store.root.is_dir() else []
    if as_json:
        render.json_line({"sandboxes": rows})
        return
    if not rows:
        render.note(
            "no sandbox has a home; the first run of a sandbox of class "
            "'persistent' creates one"
        )
        return
    render.table(
        ["NAME", "SIZE", "ON DISK", "SNAPSHOTS", "STATE"],
        [
            (
                str(row["name"]),
                # A directory has no limit.
                render.size(size) if (size := int(str(row["size"]))) else "-",
                render.size(int(str(row["used"]))),
                ", ".join(row["snapshots"]) or "-",  # type: ignore[arg-type]
                _state(row),
            )
            for row in rows
        ],
    )


def _facts(store: HomeCopies, home: Home) -> dict[str, object]:
    """Return a home's fields as a JSON object."""
    return {
        "name": home.name,
        "kind": home.meta.kind,
        "size": home.size(),
        "used": home.used(),
        "made": home.meta.made,
        "snapshots": [s.name for s in store.snapshots(home.name)],
        "in_use": store.in_use(home.name),
        "record": record_of(home.name) is not None,
    }


def _state(row: dict[str, object]) -> str:
    if row["in_use"]:
        return "in use"
    return "stopped" if row["record"] else "no record"


# -- content ---------------------------------------------------------------------------


@command.command()
@NAME
@click.option(
    "--keep-record", is_flag=True, help="Remove only the home and its snapshots."
)
@click.option(
    "--keep-logs", is_flag=True, help="Keep the logs of the sandbox's programs."
)
@click.option(
    "--image",
    is_flag=True,
    help="Also remove the sandbox's image if no other record uses it.",
)
@_CHECK
@_YES
@JSON
def remove(
    name: str,
    *,
    keep_record: bool,
    keep_logs: bool,
    image: bool,
    check: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove a sandbox: home, snapshots, record, rules, menu entry, logs, parent machine.

    The rules are those that 'brokerctl new --for' wrote; an edited file of them stays.

    A disposable sandbox has no home and no snapshots.
    """
    sandbox = take_sandbox_name(name)
    store, paths = home_store(), offline_paths()
    consent = Consent(yes, check, as_json)
    record = None if keep_record else record_of(sandbox)
    left = Leftovers(imported=None if keep_record else imported_record(paths, sandbox))
    if record is not None:
        refuse_running(record)
        records = read_records(paths).records.values()
        left = find_leftovers(paths, sandbox, records, logs=not keep_logs, image=image)
        if image and not left.image:
            render.note(f"kept the image: '{sandbox}' does not have its own image")
    if record is not None and store.find(sandbox) is None:
        _remove_record(record, left, consent, paths)
        return
    with store.lock(sandbox):
        home = store.require(sandbox)
        count = len(store.snapshots(sandbox))
        goes = f"the home of '{sandbox}' ({render.size(home.used())})"
        goes += f", {render.count(count, 'snapshot')}" if count else ""
        goes += f", and {record.source}" if record else ""
        goes += left.describe()
        consent.ask(f"Remove {goes}?", goes)
        if record is not None:
            record.source.unlink()
            remove_entry(sandbox)
        store.remove(sandbox)
    files = [] if record is None else [str(record.source)]
    files += left.remove(paths)
    print_result(
        f"removed {goes}",
        {"name": sandbox, "removed": files},
        as_json=as_json,
    )
    left.tell_kept()


def _remove_record(
    record: Record, left: Leftovers, consent: Consent, paths: Paths
) -> None:
    """Remove a record without a home, its menu entry and leftovers, if the user consents."""
    goes = f"{record.source}{left.describe()}"
    consent.ask(f"Remove {goes}?", goes)
    record.source.unlink()
    remove_entry(record.name)
    files = [str(record.source), *left.remove(paths)]
    removed = {"name": record.name, "removed": files}
    print_result(f"removed {goes}", removed, as_json=consent.as_json)
    left.tell_kept()


@command.command()
@NAME
@_CHECK
@_YES
@JSON
def reset(name: str, *, check: bool, yes: bool, as_json: bool) -> None:
    """Empty the home of a sandbox; its snapshots are kept."""
    sandbox = take_sandbox_name(name)
    hint = (
        "to remove the home and its snapshots, run 'brokerctl sandbox remove "
        f"--keep-record {sandbox}'; the next start creates a new home"
    )
    store = home_store()
    with store.lock(sandbox):
        home = store.require(sandbox)
        if home.meta.kind != DISK:
            raise RefusedError(
                f"cannot empty the home of '{sandbox}': it is a directory, not a disk",
                hint=hint,
            )
        if home.meta.encrypted:
            raise RefusedError(
                f"cannot empty the home of '{sandbox}': a new home would not be "
                "encrypted",
                hint=hint,
            )
        goes = f"the content of the home of '{sandbox}' ({render.size(home.used())})"
        Consent(yes, check, as_json).ask(f"Remove {goes}?", goes)
        with store.new(DISK) as prepared:
            trio.run(make_disk, prepared / DISK, home.size())
            store.replace(prepared, sandbox)
    print_result(
        f"emptied the home of '{sandbox}'",
        {"name": sandbox},
        as_json=as_json,
    )


@command.command()
@NAME
@click.argument("label", required=False)
@click.option("--remove", is_flag=True, help="Remove the snapshot LABEL.")
@JSON
def snapshot(name: str, label: str | None, *, remove: bool, as_json: bool) -> None:
    """Save a copy of a sandbox's home as LABEL [default: the current time].

    With --remove, remove the snapshot LABEL.
    """
    sandbox = take_sandbox_name(name)
    chosen = take_sandbox_name(label or time.strftime("s%Y%m%d-%H%M%S"))
    store = home_store()
    with store.lock(sandbox):
        if remove:
            store.remove_snapshot(sandbox, chosen)
        else:
            with progress_bar(f"copy {sandbox}") as bar:
                store.snapshot(sandbox, chosen, bar)
    text = (
        f"saved the home of '{sandbox}' as snapshot '{chosen}'; to restore it, run "
        f"'brokerctl sandbox restore {sandbox} {chosen}'"
    )
    if remove:
        text = f"removed snapshot '{chosen}' of '{sandbox}'"
    print_result(text, {"name": sandbox, "snapshot": chosen}, as_json=as_json)


@command.command()
@NAME
@click.argument("label")
@_CHECK
@_YES
@JSON
def restore(name: str, label: str, *, check: bool, yes: bool, as_json: bool) -> None:
    """Replace a sandbox's home with a copy of a snapshot."""
    sandbox, chosen = take_sandbox_name(name), take_sandbox_name(label)
    store = home_store()
    with store.lock(sandbox):
        size = render.size(store.require(sandbox).used())
        store.require_snapshot(sandbox, chosen)  # before the question
        Consent(yes, check, as_json).ask(
            f"Replace the home of '{sandbox}' ({size}) with '{chosen}'?",
            f"all changes in the home of '{sandbox}' ({size}) since snapshot "
            f"'{chosen}'",
        )
        with progress_bar(f"copy {chosen}") as bar:
            store.restore(sandbox, chosen, bar)
    text = f"restored the home of '{sandbox}' from snapshot '{chosen}'"
    print_result(text, {"name": sandbox, "snapshot": chosen}, as_json=as_json)


# -- backups -----------------------------------------------------------------------------


@command.command("backup")
@NAME
@click.argument("file", type=NamedPath(path_type=Path))
@click.option(
    "-r",
    "--recipient",
    "recipients",
    multiple=True,
    help="Public key of gpg or age (age1…, ssh-…); may be repeated.",
)
@_PASSPHRASE
@JSON
def back_up(
    name: str,
    file: Path,
    *,
    recipients: tuple[str, ...],
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write the home, the record and the rules of a sandbox to an encrypted file.

    Without a recipient, gpg encrypts the file with a passphrase.
    """
    sandbox = take_sandbox_name(name)
    store = home_store()
    backups.check_programs(backups.Lock(recipients))
    record = record_of(sandbox)
    text = "" if record is None else record.source.read_text(encoding="utf-8")
    folders = offline_paths().config[:1]
    named = files_naming(folders, sandbox).values()
    rules = [line for text in named for line in lines_naming(text, sandbox)]
    with (
        backups.secret_of(passphrase_file) as secret,
        store.lock(sandbox),
        progress_bar(f"back up {sandbox}") as bar,
    ):
        how = backups.Lock(recipients, secret)
        home = store.require(sandbox)
        total = backups.bytes_of(home.directory)
        count = partial(count_passed, bar, total)
        with full_disk_reported():
            backed_up = backups.Texts(text, "\n".join(rules))
            trio.run(backups.back_up, home, backed_up, file, how, count)
    size = file.stat().st_size
    text = (
        f"wrote {file} ({render.size(size)}); to import it, run 'brokerctl sandbox "
        "import'"
    )
    print_result(
        text, {"name": sandbox, "file": str(file), "size": size}, as_json=as_json
    )


@command.command("import")
@click.argument("file", type=NamedPath(exists=True, dir_okay=False, path_type=Path))
@click.argument("name")
@click.option(
    "--identity",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="File with the private key of age, for a backup encrypted with age.",
)
@_PASSPHRASE
@click.option(
    "--trust-record",
    is_flag=True,
    help="Write the rules, and the record even if it allows access to files of this machine.",
)
@_YES
@JSON
def import_backup(
    file: Path,
    name: str,
    *,
    identity: Path | None,
    passphrase_file: Path | None,
    trust_record: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Create the sandbox NAME from a backup.

    First show the sandbox and the time of the backup, and ask if that sandbox is not NAME.

    The backup's record is written if there is no record NAME and the backup's is valid;
    check it before the first start.  A record that sets more than the sandbox itself
    (tags, files of this machine, unfiltered sound, windows without a frame, the name of
    another sandbox) requires --trust-record, because a backup is encrypted but not signed.
    So do its rules.
    """
    sandbox = take_new_name(name)
    store = home_store()
    size = file.stat().st_size
    with ExitStack() as held:
        secrets = (backups.secret_of(one) for one in (passphrase_file, identity))
        secret, key = (held.enter_context(one) for one in secrets)
        how = backups.Lock(passphrase=secret, identity=key)
        held.enter_context(store.lock(sandbox))
        prepared = held.enter_context(store.new(DISK))
        with progress_bar(f"read {file.name}") as bar:
            count = partial(count_passed, bar, size)
            found = trio.run(backups.unpack, file, prepared, how, count)
        render.note(f"{file} is {found.describe()}")
        # guard: another sandbox's backup is imported when the user says so
        if found.name != sandbox:
            confirm(
                f"Import this backup as the home of '{sandbox}'?",
                yes=yes,
            )
        home = store.publish(prepared, sandbox)
    files = write_backed_up_record(sandbox, found, trusted=trust_record, ask=not yes)
    told = {"name": found.name, "made": found.made, "kind": found.meta.kind}
    report_home(home, files, as_json=as_json, backup=told)
