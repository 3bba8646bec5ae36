"""``brokerctl adopt``: make a sandbox of a domain that libvirt has already.

The record, its rules and the domain's change are shown together and written after one
confirmation.  The data for ``--undo`` is saved first.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import rich_click as click
import tomlkit

from broker.cli import render
from broker.cli.completion import colours
from broker.cli.launchers.adoption.domain_folders import runs_as_us, with_places
from broker.cli.launchers.adoption.domains import (
    CONNECTIONS,
    DefinedDomain,
    confirmed,
    define,
    description,
    domain_vsock_usable,
    is_systems,
    list_domains,
    show_change,
    virsh,
)
from broker.cli.launchers.libvirt import record_of
from broker.cli.policy.install import put
from broker.cli.policy.records import SCHEMA, read_records
from broker.cli.policy.starter import offer_starter
from broker.cli.run.connect import broker_runs, offline_paths
from broker.cli.sandboxes.look_alikes import unlike
from broker.cli.sandboxes.new import (
    checked_record,
    other_records,
    usable_rules,
    write_record,
)
from broker.cli.sandboxes.presets import (
    PRESETS,
    record_text,
    rules_file,
    rules_text,
)
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.names import take_new_name, take_sandbox_name
from broker.core.paths import Paths
from broker.host.launchers.libvirt.domain import (
    SERIAL,
    DomainError,
    with_installer,
    without_vsock,
)
from broker.host.launchers.libvirt.hook import (
    FOLDER,
    SETTINGS,
    hook_program,
    hook_source,
)
from broker.host.vmm.hosttools import VSOCK_COMMANDS, find_vhost_device_vsock
from policy.limits import SHARED_FOLDERS
from policy.records.loader import FOLDER as RECORDS
from policy.records.model import Record
from policy.records.patterns import PALETTE
from shims.bundle import guest_installer

_PURPOSE = "untrusted"
_SECTOR = 512
_INSTALL = f"sudo sh /dev/disk/by-id/virtio-{SERIAL}"
_HEAD = "# Written by 'brokerctl adopt'; it is yours to edit."


class _Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stored data for ``--undo``; ``files`` has the SHA-256 of each written file."""

    connect: str
    uuid: str
    before: str
    """The domain's XML, without its passwords."""
    files: dict[str, str]


@dataclass(frozen=True)
class _Plan:
    """Everything that is to be written; ``disk`` is None without an installer's disk."""

    domain: DefinedDomain
    name: str
    record: str
    rules: list[str]
    old: str
    new: str
    disk: Path | None


@click.command("adopt")
@click.argument("domain", required=False)
@click.option(
    "--connect",
    help="Connection URI of libvirt, as for 'virsh --connect' [default: the session's and the system's].",
)
@click.option("--name", help="Name of the sandbox.")
@click.option(
    "--colour",
    shell_complete=colours,
    help="Colour of the label: a name or #rrggbb.",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(list(PRESETS)),
    help=f"What the sandbox may do: the rules of this purpose [default: {_PURPOSE}].",
)
@click.option(
    "--folders",
    type=click.IntRange(*SHARED_FOLDERS),
    default=0,
    help="How many folders 'brokerctl share' can add; such a domain starts only while the broker runs.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: use defaults, and write.")
@click.option("--dry-run", is_flag=True, help="Show the changes; write nothing.")
@click.option(
    "--undo",
    metavar="NAME",
    help="Remove what made a domain the sandbox NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="List the domains as JSON.")
def command(
    domain: str | None,
    *,
    connect: str | None,
    name: str | None,
    colour: str | None,
    purpose: str | None,
    folders: int,
    yes: bool,
    dry_run: bool,
    undo: str | None,
    as_json: bool,
) -> None:
    """Make the libvirt DOMAIN a sandbox: its programs' windows on your desktop, in a frame.

    Without DOMAIN, list the domains, and at a terminal ask for one.  Ask for a name, a
    colour and what the sandbox may do; show its record, its rules and the change of the
    domain's XML; ask before they are written.

    The domain gets a vsock, and a read-only disk with the guest's installer; both take
    effect at its next start.

    Exit code: 0 done, 1 refused.
    """
    paths = offline_paths()
    if undo is not None:
        _undo(paths, take_sandbox_name(undo), yes=yes, dry_run=dry_run)
        return
    domains = list_domains((connect,) if connect else CONNECTIONS)
    if domain is None:
        _list(paths, domains, as_json=as_json)
        if as_json or not domains or not sys.stdin.isatty():
            return
        domain = _asked("domain", domains[0].name, lambda one: _chosen(domains, one))
    chosen = _chosen(domains, domain)
    ask = sys.stdin.isatty() and not yes
    plan = _plan(paths, chosen, name, colour, purpose, folders=folders, ask=ask)
    _show(paths, plan)
    if dry_run or not confirmed("Write all this?", yes=yes):
        return
    _write(paths, plan)
    _tell_next(paths, plan)
    offer_starter(paths)


def _list(paths: Paths, domains: list[DefinedDomain], *, as_json: bool) -> None:
    rows = []
    for one in domains:
        sandbox = record_of(paths, one.name, f"<uuid>{one.uuid}</uuid>")
        state = "running" if one.running else "saved" if one.saved else "shut off"
        rows.append((one.shown, state, one.connect, sandbox or ""))
    if as_json:
        keys = ("domain", "state", "connect", "sandbox")
        render.json_line([dict(zip(keys, row, strict=True)) for row in rows])
    elif rows:
        render.table(["DOMAIN", "STATE", "LIBVIRT", "SANDBOX"], rows)
    else:
        render.note("libvirt has no domains")


def _chosen(domains: list[DefinedDomain], word: str) -> DefinedDomain:
    """Return the domain of a name or UUID.  Raises RefusedError."""
    found = [one for one in domains if word in {one.name, one.uuid}]
    if not found:
        raise RefusedError(
            f"libvirt has no domain '{printable(word, 60)}'",
            hint="to list the domains, run 'brokerctl adopt'",
        )
    if len(found) > 1:
        uris = " and ".join(one.connect for one in found)
        raise RefusedError(
            f"{uris} each have a domain '{printable(word, 60)}'",
            hint=f"say which: add '--connect {found[0].connect}', for example",
        )
    return found[0]


def _asked(what: str, default: str, check: Callable[[str], object]) -> str:
    """Ask at the terminal until the answer is valid."""

    def valid(word: str) -> str:
        try:
            check(word)
        except VitrailError as error:
            text = f"{error.message}; {error.hint}" if error.hint else error.message
            raise click.UsageError(text) from error
        return word

    answer: str = click.prompt(what, default=default, value_proc=valid, err=True)
    return answer


def _plan(
    paths: Paths,
    domain: DefinedDomain,
    name: str | None,
    colour: str | None,
    purpose: str | None,
    *,
    folders: int,
    ask: bool,
) -> _Plan:
    """Return the plan of an adoption; ask for missing values.  Raises RefusedError.

    Runs virsh(1) for the domain's XML; changes nothing.
    """
    old = description(domain.connect, domain.uuid)
    if (present := record_of(paths, domain.name, old)) is not None:
        raise RefusedError(
            f"domain '{domain.shown}' is the sandbox '{present}' already",
            hint="to give it the vsock, run 'brokerctl launcher prepare'; to undo "
            f"'adopt', 'brokerctl adopt --undo {present}'",
        )
    name = _name(paths, domain, name, ask=ask)
    purpose = _purpose(purpose, ask=ask)

    def with_colour(word: str | None) -> str:
        text = _record(domain, name, purpose, word, folders)
        checked_record(_record_file(paths, name), text)
        return text

    if colour is None:
        target = _record_file(paths, name)
        record = checked_record(target, with_colour(None))
        colour = unlike(record, other_records(paths, name)) or _colour_of(record)
        if ask:
            render.note(f"  {', '.join(PALETTE)}, or #rrggbb")
            colour = _asked("colour of its frame", colour, with_colour)
    text = with_colour(colour)
    rules = usable_rules(paths, name, PRESETS[purpose], quiet=False)
    record = checked_record(_record_file(paths, name), text)
    new, disk = _changed(paths, domain, record, old)
    return _Plan(domain, name, text, rules, old, new, disk)


def _name(paths: Paths, domain: DefinedDomain, given: str | None, *, ask: bool) -> str:
    """Return the sandbox's name: the given one, or the answer to a question."""

    def check(word: str) -> None:
        name = take_new_name(word)
        if name in read_records(paths).records or _record_file(paths, name).exists():
            raise RefusedError(
                f"a record named '{name}' already exists",
                hint="choose another name with --name",
            )

    name = given or _proposed_name(paths, domain.name)
    if given is None and ask:
        return _asked("name of the sandbox", name, check)
    check(name)
    return name


def _purpose(given: str | None, *, ask: bool) -> str:
    """Return the sandbox's purpose: the given one, or the answer to a question."""
    if given is not None or not ask:
        return given or _PURPOSE
    for word, preset in PRESETS.items():
        render.note(f"  {word:12} {preset.help}")
    render.note("what it may do is by the rules of a purpose; its network stays")
    choice = click.Choice(list(PRESETS))
    answer: str = click.prompt("purpose", default=_PURPOSE, type=choice, err=True)
    return answer


def _colour_of(record: Record) -> str:
    """Return the colour of a record's label by its name, where it has one."""
    used = record.viewer.label.colour
    return next((word for word, value in PALETTE.items() if value == used), used)


def _changed(
    paths: Paths, domain: DefinedDomain, record: Record, old: str
) -> tuple[str, Path | None]:
    """Return the domain's new XML and the installer's disk.  Raises RefusedError."""
    try:
        new = with_places(paths, record, domain.connect, old) or old
        # The system's QEMU is another user, who cannot read our files, unless it runs as us.
        readable = not is_systems(domain.connect) or runs_as_us(new)
        disk = paths.state / "guest-installer" if readable else None
        return new if disk is None else with_installer(new, disk), disk
    except DomainError as error:
        raise RefusedError(
            f"cannot adopt domain '{domain.shown}': {error}",
            hint="correct its XML with 'virsh edit', or adopt another domain",
        ) from error


def _proposed_name(paths: Paths, domain: str) -> str:
    """Return a free sandbox's name that resembles the domain's."""
    word = re.sub("[^a-z0-9]+", "-", domain.lower()).strip("-")
    word = word if re.match("[a-z]", word) else f"vm-{word}"
    word = word[:28].strip("-")
    used = {*read_records(paths).records, "dom0", "me", "you"}
    tries = (word, *(f"{word}-{number}" for number in range(2, 100)))
    return next((name for name in tries if name not in used), word)


def _record(
    domain: DefinedDomain, name: str, purpose: str, colour: str | None, folders: int = 0
) -> str:
    """Return the text of the record: a purpose's, with the domain as its machine."""
    document = tomlkit.parse(record_text(purpose).partition("\n\n")[2])
    document["class"] = "persistent"
    label = document["label"]
    assert isinstance(label, tomlkit.items.Table)
    label["name"] = name
    if colour is not None:
        label["colour"] = colour
    places = {"folders": folders} if folders else {}
    document["launch"] = {"kind": "external", **places}
    # The UUID: a domain may be renamed, and its name may have any characters.
    document["peer"] = {"libvirt": domain.uuid}
    # guard: a domain's name stays in its comment
    about = f"# The domain '{domain.shown}' of {printable(domain.connect, 100)}, for '{purpose}'."
    return f"#:schema {SCHEMA}\n{_HEAD}\n{about}\n\n{tomlkit.dumps(document)}"


def _record_file(paths: Paths, name: str) -> Path:
    return paths.config[0] / RECORDS / f"{name}.toml"


def _undo_file(paths: Paths, name: str) -> Path:
    return paths.state / "adopted" / f"{name}.json"


def _show(paths: Paths, plan: _Plan) -> None:
    render.note(f"to be written: {_record_file(paths, plan.name)}")
    for line in plan.record.splitlines():
        render.note(f"  {line}")
    if plan.rules:
        render.note(f"to be written: {rules_file(paths, plan.name)}")
    for line in plan.rules:
        render.note(f"  {line}")
    render.note(f"to be changed: domain '{plan.domain.shown}' of {plan.domain.connect}")
    show_change(plan.old, plan.new)


def _write(paths: Paths, plan: _Plan) -> None:
    """Write the undo file first, and the record, which is what takes effect, last."""
    record, rules = _record_file(paths, plan.name), rules_file(paths, plan.name)
    files = {str(record): _digest(plan.record.encode())}
    content = rules_text(plan.rules, _HEAD)
    if plan.rules and not rules.exists():
        files[str(rules)] = _digest(content)
    before = _without_passwords(plan.domain)
    undo = _Undo(plan.domain.connect, plan.domain.uuid, before, files)
    put(_undo_file(paths, plan.name), msgspec.json.encode(undo), mode=0o600)
    if plan.disk is not None:
        put(plan.disk, installer_disk())
    define(plan.domain.connect, plan.new)
    if str(rules) in files:
        put(rules, content)
    write_record(record, plan.record)


def _without_passwords(domain: DefinedDomain) -> str:
    """Return the domain's XML as libvirt prints it without --security-info."""
    return virsh(domain.connect, "dumpxml", "--inactive", "--", domain.uuid)


def installer_disk() -> bytes:
    """Return the guest's installer as a disk: text, filled with empty lines.

    A shell in the guest runs the device itself; no file system is needed.
    """
    text = guest_installer()
    return text + b"\n" * (-len(text) % _SECTOR)


def _tell_next(paths: Paths, plan: _Plan) -> None:
    """Print the steps from here to the first window."""
    domain = plan.domain
    render.note(f"domain '{domain.shown}' is the sandbox '{plan.name}'")
    steps = [*_missing(paths, domain)]
    if not broker_runs(paths):
        steps.append(
            "start the broker, which must run before the domain: vitrail-local"
        )
    command = f"virsh --connect {domain.connect}"
    if domain.running:
        steps.append("shut the guest down: a restart inside it is not enough")
    if domain.saved and not domain.running:
        steps.append(
            "its next start would resume a saved state, without the vsock; start it, shut "
            f"the guest down, or discard the state: {command} managedsave-remove {domain.uuid}"
        )
    steps.append(f"start the domain as always, or: {command} start {domain.uuid}")
    if plan.disk is not None:
        steps.append(f"in the guest, once, in a terminal: {_INSTALL}")
    else:
        steps.append(
            "in the guest, once, run the installer: see 'brokerctl guest install'"
        )
    steps.append(f"brokerctl run {plan.name} PROGRAM")
    render.note("next:")
    for number, step in enumerate(steps, 1):
        render.note(f"  {number}. {step}")
    render.note(f"to undo this, run: brokerctl adopt --undo {plan.name}")


def _missing(paths: Paths, domain: DefinedDomain) -> list[str]:
    """Return steps for what this machine lacks."""
    steps = []
    hook = hook_program(FOLDER)
    there = hook.is_file() and hook.read_bytes() == hook_source()
    if not there or (is_systems(domain.connect) and not _hook_is_ours()):
        steps.append("sudo brokerctl launcher install libvirt")
    usable = domain_vsock_usable(domain.connect)
    if not usable and find_vhost_device_vsock(paths) is None:
        steps.append(f"{VSOCK_COMMANDS}, and run this command again")
    return steps


def _hook_is_ours() -> bool:
    """Return whether the system's hook reports to this user's broker."""
    try:
        settings = msgspec.json.decode(SETTINGS.read_bytes(), type=dict[str, int])
    except (OSError, *UNREADABLE):
        return False
    return settings.get("uid") == os.getuid()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _undo(paths: Paths, name: str, *, yes: bool, dry_run: bool) -> None:
    """Remove what ``adopt`` wrote for a sandbox.  Raises RefusedError.

    Runs virsh(1) to define the domain without our parts.
    """
    file = _undo_file(paths, name)
    try:
        undo = msgspec.json.decode(file.read_bytes(), type=_Undo)
    except FileNotFoundError as error:
        raise RefusedError(
            f"'{name}' was not made by 'brokerctl adopt'",
            hint=f"to see adopted sandboxes, list {file.parent}",
        ) from error
    except (OSError, *UNREADABLE) as error:
        raise SetupError(f"cannot read {file}: {render.cause(error)}") from error
    new = _restored(undo)
    doomed = [Path(path) for path in undo.files if _is_unchanged(path, undo)]
    for path in doomed:
        render.note(f"to be removed: {path}")
    if dry_run or not confirmed("Undo all this?", yes=yes):
        return
    if new is not None:
        define(undo.connect, new)
    for path in (*doomed, file):
        path.unlink(missing_ok=True)
    render.note("done; a domain that runs is as it was at its next start")


def _restored(undo: _Undo) -> str | None:
    """Show and return the domain's XML without our parts; None: there is no domain."""
    domains = list_domains((undo.connect,))
    if not any(one.uuid == undo.uuid for one in domains):
        render.note(f"{undo.connect} has no domain {undo.uuid} any more")
        return None
    now = description(undo.connect, undo.uuid)
    try:
        new = without_vsock(now, undo.before)
    except DomainError as error:
        raise RefusedError(f"cannot restore domain {undo.uuid}: {error}") from error
    show_change(now, new)
    return new


def _is_unchanged(path: str, undo: _Undo) -> bool:
    """Return whether a file is as ``adopt`` wrote it; print that a changed one is kept."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return False
    # guard: what the user has written since is not removed
    if _digest(content) != undo.files[path]:
        render.note(f"kept, because it was changed since: {path}")
        return False
    return True
