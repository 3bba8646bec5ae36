"""``brokerctl machine``: what a record promises, for machines that scripts start."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click
import trio

from broker.cli.completion import sandboxes
from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError
from broker.core.parts.absent import needed
from broker.core.paths import Paths, find_paths
from broker.helpers.process.popen import STDOUT, our_program
from broker.helpers.process.spawn import spawn

if TYPE_CHECKING:
    from broker.cli.launchers.scripts.script_machine import ScriptReport

_FAILED = "--vitrail-has-failed"
"""Printed after an error: 'exec qemu … $(…)' goes on, and QEMU refuses this word."""
_REPORT_BYTES = 1 << 20
_PROGRAM = "broker.cli.launchers.scripts.script_machine"


@click.group("machine")
def command() -> None:
    """Help scripts that start machines themselves."""


@command.command("arguments")
@click.argument("record", shell_complete=sandboxes)
@click.option(
    "--format",
    "form",
    type=click.Choice(("qemu", "firecracker", "libvirt", "json")),
    default="qemu",
    show_default=True,
    help="Words for QEMU's command line, Firecracker's configuration, a libvirt domain for "
    "'virsh define', or QEMU's words as JSON.",
)
@click.option(
    "--bus",
    type=click.Choice(("pci", "device")),
    default="pci",
    show_default=True,
    help="Bus of QEMU's virtio devices: 'device' is MMIO, for '-machine microvm'.",
)
@click.option(
    "--leader",
    type=click.IntRange(min=2),
    help="ID of the process with which all of it ends [default: the one that called, "
    "which becomes QEMU by 'exec'].",
)
@click.option(
    "--kernel",
    is_flag=True,
    help="Print the words for the kernel's command line instead; start nothing.",
)
@click.option(
    "--initrd",
    is_flag=True,
    help="Print the path of the image's initramfs instead, with the drivers and the agent "
    "for what the record promises; start nothing.",
)
@click.option("--dry-run", is_flag=True, help="Print; create and start nothing.")
def arguments(
    *,
    record: str,
    form: str,
    bus: str,
    leader: int | None,
    kernel: bool,
    initrd: bool,
    dry_run: bool,
) -> None:
    """Print the arguments that a script adds to its VMM for what RECORD promises.

    Creates and locks the home of [state], starts vhost-device-vsock and a virtiofsd for
    each folder, and acquires the lease; starts the broker if none runs.  All of it ends with the process that called, so
    a script ends with: exec qemu-system-x86_64 … $(brokerctl machine arguments RECORD)

    After an error, the word that is printed makes QEMU refuse to start.

    Exit code: 0 done, 1 refused, 2 usage error.
    """
    try:
        if kernel and initrd:
            raise click.UsageError("--kernel and --initrd exclude each other")
        # libvirt starts its machine later, so there is no process to wait for.
        if initrd:
            text = _initrd(record)
        elif kernel or dry_run or form == "libvirt":
            text = _plan(record, form, bus, kernel=kernel)
        else:
            text = _start(record, form, bus, leader)
    except VitrailError:
        # guard: a machine does not start without what its record promises
        sys.stdout.write(f"{_FAILED}\n")
        sys.stdout.flush()  # an output that takes nothing is reported here, not at Python's end
        raise
    sys.stdout.write(text)


def _plan(name: str, form: str, bus: str, *, kernel: bool) -> str:
    """Return what would be printed."""
    from broker.cli.launchers.scripts import script_machine
    from broker.cli.run.request import require_record
    from broker.host.homes.store import HomeStore
    from broker.host.vmm.qemu_arguments import HomeDisk

    paths = find_paths()
    require_record(name, paths)
    domain = form == "libvirt"
    record, launch = script_machine.script_record(paths, name, domain=domain)
    wanted = script_machine.ScriptRequest(record, launch, form, bus)
    if domain and not kernel:
        with needed("a domain of libvirt"):
            from broker.cli.launchers.scripts.script_domain import describe_domain
        return trio.run(describe_domain, paths, wanted)
    machine = script_machine.planned(paths, wanted, os.getpid())
    state = record.host.state
    if state is not None and state.keep:
        disk = HomeStore(paths.homes).root / name / "current" / "disk"
        key = 0 if state.encrypted else -1
        home = HomeDisk(disk, state.keep, lock=-1, key=key, holder="0")
        machine = replace(machine, home=home)
    return (
        f"{machine.kernel_words()}\n"
        if kernel
        else script_machine.printed(machine, wanted, "")
    )


def _initrd(name: str) -> str:
    """Write the initramfs of a record's machine; return its path, as one word."""
    from broker.cli.launchers.scripts import script_machine
    from broker.cli.launchers.scripts.script_arguments import split_words
    from broker.cli.run.request import require_record

    paths = find_paths()
    require_record(name, paths)
    record, launch = script_machine.script_record(paths, name)
    return split_words([str(script_machine.write_initrd(paths, record, launch))]) + "\n"


def _start(name: str, form: str, bus: str, leader: int | None) -> str:
    """Start the process that holds what the machine needs; return its words."""
    from broker.cli.launchers.scripts.script_machine import script_record
    from broker.cli.run.request import ensure_broker_for_lease, require_record

    if leader is None and sys.stdout.isatty():
        raise RefusedError(
            f"cannot prepare '{name}' for a terminal: the machine would be held as "
            "long as this shell",
            hint="in a script: exec qemu-system-x86_64 … $(brokerctl machine "
            f"arguments {name}); to see the words, pass --dry-run; or name a "
            "process with --leader",
        )
    paths = find_paths()
    require_record(name, paths)
    # Refused here: an error of the process would be that it has ended.
    script_record(paths, name)
    trio.run(ensure_broker_for_lease, name)
    made = trio.run(_spawn, paths, name, leader or os.getppid(), form, bus)
    if made.error:
        raise RefusedError(made.error, hint=made.hint, where=made.where)
    return made.text


async def _spawn(
    paths: Paths, name: str, leader: int, form: str, bus: str
) -> ScriptReport:
    """Start the process of a machine, and read its report."""
    from broker.cli.launchers.scripts.script_machine import ScriptReport

    log = _log(paths, name)
    read, write = os.pipe()
    try:
        words = (name, str(leader), form, bus, str(write))
        spawn(
            our_program(_PROGRAM, *words),
            name="script-machine",
            pass_fds=(write,),
            stdout=log,
            stderr=STDOUT,
            outlive_us=True,
        )
    finally:
        os.close(write)
        os.close(log)
    with os.fdopen(read, "rb") as file:
        data = file.read(_REPORT_BYTES)
    if not data:
        raise UpstreamError(
            f"the process that prepares '{name}' has ended",
            hint=f"its last words are in {paths.logs(name) / 'arguments.log'}",
        )
    return msgspec.json.decode(data, type=ScriptReport)


def _log(paths: Paths, name: str) -> int:
    """Open the log of the process, emptied: it outlives the terminal."""
    file: Path = paths.logs(name) / "arguments.log"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(file, flags, 0o600)
    except OSError as error:
        raise SetupError(f"cannot write {file}: {error.strerror}") from error
