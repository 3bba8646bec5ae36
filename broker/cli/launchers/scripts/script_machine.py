"""Prepare a machine that the user's script starts, as its record promises.

    python broker broker.cli.launchers.scripts.script_machine RECORD LEADER FORMAT BUS FD

This process outlives brokerctl, as the shell that called it becomes QEMU: it holds the
home and its lock, runs vhost-device-vsock and has the lease, until LEADER has ended.
At FD it writes one JSON object: the words, or why there are none.
"""

from __future__ import annotations

import os
import random
import stat
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from broker.cli.launchers.scripts.script_arguments import (
    ScriptMachine,
    as_json,
    firecracker_configuration,
    qemu_words,
    split_words,
)
from broker.cli.policy.records import read_records
from broker.cli.run.connect import open_client
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.files.trees import remove_tree
from broker.core.names import SandboxName
from broker.core.paths import Paths, find_paths
from broker.core.stderr_log import log_stderr
from broker.helpers.process.identity import open_pidfd
from broker.helpers.process.spawn import wait_ended
from broker.host.folders.folder_server import start_folder_server_at
from broker.host.homes.home import open_home
from broker.host.homes.store import HomeStore
from broker.host.images.store import SHARED_IMAGE_ALIGN, find_image
from broker.host.processes.ready import wait_listening
from broker.host.vmm.arena import ARENA_BYTES, make_arena
from broker.host.vmm.hosttools import find_vhost_device_vsock
from broker.host.vmm.vsock_backend import open_kernel_vsock, spawn_backend_at
from broker.ipc.control.api import HeldDescriptor, LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from policy.records.model import (
    CidPeer,
    CidRangePeer,
    External,
    HybridDirectoryPeer,
    HybridPeer,
    LibvirtPeer,
    Record,
    State,
)
from policy.records.places import folder_places

BACKEND = "vhost"
"""Of vhost-device-vsock's socket for QEMU, beside the hybrid one."""


class ScriptReport(msgspec.Struct, frozen=True):
    """The report of the process: the text, or an error."""

    text: str = ""
    error: str = ""
    hint: str = ""
    where: str = ""


@dataclass(frozen=True)
class ScriptRequest:
    """A script's request for arguments."""

    record: Record
    launch: External
    format: str
    bus: str

    @property
    def own_backend(self) -> bool:
        """Return whether our process serves QEMU's vsock."""
        hybrid = HybridPeer | HybridDirectoryPeer
        return self.format in {"qemu", "json"} and isinstance(self.launch.peer, hybrid)


def script_record(
    paths: Paths, name: str, *, domain: bool = False
) -> tuple[Record, External]:
    """Return the record of a machine that a script starts.  Raises RefusedError.

    ``domain``: or of a domain that libvirt starts.
    """
    record = read_records(paths).records[name]
    launch = record.host.launch
    if domain and isinstance(launch, External) and isinstance(launch.peer, LibvirtPeer):
        return record, launch
    peers = HybridPeer | HybridDirectoryPeer | CidPeer | CidRangePeer
    if not isinstance(launch, External) or not isinstance(launch.peer, peers):
        raise RefusedError(
            f"cannot print arguments for '{name}': its record does not say that a "
            "script of yours starts it",
            where=record.where("launch.kind"),
            hint='set kind = "external" in [launch], and hybrid, '
            "hybrid_directory, cid or cids in [peer], or libvirt for --format "
            "libvirt; a machine of another kind is started by 'brokerctl run "
            f"{name}'",
        )
    return record, launch


def planned(paths: Paths, wanted: ScriptRequest, number: int) -> ScriptMachine:
    """Return the machine of a record without its home: nothing is made or started.

    ``number``: of the process that serves it, for the names of several machines.
    Raises SetupError without the image.
    """
    launch, name = wanted.launch, wanted.record.name
    machine = ScriptMachine(name, launch.memory_mib, launch.huge_pages)
    match launch.peer:
        case CidPeer(cid):
            machine = replace(machine, cid=cid)
        case CidRangePeer(first, last):
            machine = replace(machine, cid=random.SystemRandom().randint(first, last))
        case HybridPeer(path):
            machine = replace(machine, uds=path)
        case HybridDirectoryPeer(path):
            machine = replace(machine, uds=path / f"{name}-{number}" / "vm.vsock")
        case _:
            pass  # script_record has refused others
    if wanted.own_backend and machine.uds is not None:
        backend = machine.uds.with_name(f"{machine.uds.name}.{BACKEND}")
        machine = replace(machine, backend=backend)
    if launch.shared_image:
        image, size = _image(paths, launch)
        machine = replace(machine, image=image, image_bytes=size)
    if launch.pixel_arena:
        machine = replace(machine, arena_bytes=ARENA_BYTES, holder=str(number))
    room = paths.runtime / f"script-{number}"
    places = range(folder_places(wanted.record))
    return replace(machine, folders=tuple(room / f"folder-{n}" for n in places))


def write_initrd(paths: Paths, record: Record, launch: External) -> Path:
    """Return the initramfs of the record's image, with what its machine loads.

    Raises SetupError.
    """
    image = find_image(paths, launch.image)
    if launch.pixel_arena:
        image.arena_bytes()  # refuses an image without the drivers
    directory = paths.cache / "script-initrd"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory) as made:
        written = image.write_initrd(
            Path(made),
            folders=folder_places(record) > 0,
            shared_image=launch.shared_image,
            arena=launch.pixel_arena,
        )
        if written == image.initrd:
            return written
        # A machine that starts just now has the whole old file, or the new one.
        return written.replace(directory / record.name)


def _image(paths: Paths, launch: External) -> tuple[Path, int]:
    """Return the root file system that machines map, and its size.  Raises SetupError."""
    if launch.image_file is None:
        found = find_image(paths, launch.image)
        return found.root.resolve(), found.shared_bytes()
    try:
        size = launch.image_file.stat().st_size
    except OSError as error:
        raise SetupError(
            f"cannot share the image {launch.image_file}: {error.strerror}",
            hint="correct image_file in [launch] of the record",
        ) from error
    if not size or size % SHARED_IMAGE_ALIGN:
        whole = -(-max(size, 1) // SHARED_IMAGE_ALIGN) * SHARED_IMAGE_ALIGN
        raise SetupError(
            f"cannot share the image {launch.image_file}: its size is not a "
            f"multiple of {SHARED_IMAGE_ALIGN >> 20} MiB, so a guest's kernel "
            "refuses it as memory",
            hint=f"run 'truncate --size {whole} {launch.image_file}'",
        )
    return launch.image_file, size


def printed(machine: ScriptMachine, wanted: ScriptRequest, lease: str) -> str:
    """Return what the verb prints.  Raises RefusedError."""
    match wanted.format:
        case "firecracker":
            made = firecracker_configuration(machine)
            return msgspec.json.format(msgspec.json.encode(made)).decode() + "\n"
        case "json":
            return as_json(machine, wanted.bus, lease)
        case _:
            return split_words(qemu_words(machine, wanted.bus)) + "\n"


async def _prepare(
    paths: Paths, wanted: ScriptRequest, leader: int, stack: AsyncExitStack
) -> str:
    """Open the home, start the vsock and folder servers, and take the lease from the broker.

    Returns the words.  ``stack`` stops the started processes.
    """
    machine = planned(paths, wanted, os.getpid())
    held = stack.enter_context(ExitStack())
    machine = await _with_home(paths, wanted, machine, held)
    printed(machine, wanted, "")  # refuses before anything runs
    if machine.uds is not None:
        make_room(machine.uds.parent)
    if wanted.launch.peer.several and machine.uds is not None:
        stack.callback(_remove_room, machine.uds)
    elif isinstance(wanted.launch.peer, CidPeer | CidRangePeer):
        # Tried here: QEMU's own error would come after the lease.
        open_kernel_vsock(machine.cid).close()
    servers = await _serve_folders(machine, stack)
    if machine.arena_bytes:
        arena = make_arena(machine.arena_bytes)
        stack.callback(os.close, arena)
        machine = replace(machine, arena=arena)
    connectors = []
    if machine.backend is not None and machine.uds is not None:
        connectors = [await _serve(paths, machine, machine.backend, stack)]
    request = LeaseRequest(
        record=wanted.record.name,
        cid=machine.cid if machine.uds is None else None,
        hybrid=None if machine.uds is None else str(machine.uds),
        leader=leader,
        connectors=connectors or None,
        folder_servers=servers or None,
        arena=HeldDescriptor(pid=os.getpid(), number=machine.arena)
        if machine.arena_bytes
        else None,
    )
    async with open_client(paths) as client:
        lease = (await client.call(LEASE_ACQUIRE, request)).lease
    assert lease is not None
    if lease.sandbox != machine.name:
        machine = replace(machine, name=lease.sandbox)
    return printed(machine, wanted, lease.id)


async def _with_home(
    paths: Paths, wanted: ScriptRequest, machine: ScriptMachine, held: ExitStack
) -> ScriptMachine:
    """Lock the record's machine, and open its home; several have none."""
    name = SandboxName(wanted.record.name)
    state: State | None = wanted.record.host.state
    if wanted.launch.peer.several:
        return machine
    if state is None or not state.keep:
        # guard: a script's second start leaves the sockets of the first
        held.enter_context(HomeStore(paths.homes).lock(name))
        return machine
    home = await open_home(
        paths.homes, name, state.keep, state.size, held, encrypted=state.encrypted
    )
    return replace(machine, home=replace(home, holder=str(os.getpid())))


def make_room(directory: Path) -> None:
    """Make the directory of a machine's sockets, or check that it has nothing else.

    vhost-device-vsock, which a guest may take over, can write to all of it.
    Raises SetupError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.lstat()
        private = info.st_uid == os.getuid() and not info.st_mode & 0o077
        strange = [
            path.name
            for path in directory.iterdir()
            if not stat.S_ISSOCK(path.lstat().st_mode)
        ]
    except OSError as error:
        raise SetupError(
            f"cannot use {directory} for a machine's sockets: {error.strerror}",
            hint="correct the path in [peer] of the record",
        ) from error
    # guard: a script's vsock is served from a directory of its own
    if not stat.S_ISDIR(info.st_mode) or not private or strange:
        what = (
            f"it contains {strange[0]}"
            if private and strange
            else "others may enter it"
        )
        raise SetupError(
            f"cannot use {directory} for a machine's sockets: {what}, and the "
            "process that serves the vsock can write to all of it",
            hint="name a directory in [peer] of the record that contains nothing "
            f"else, with mode 700: install -d -m 700 {directory}",
        )


def _remove_room(uds: Path) -> None:
    """Remove a machine's vsock sockets and their directory."""
    for path in uds.parent.glob(f"{uds.name}*"):
        path.unlink(missing_ok=True)
    uds.parent.rmdir()


async def _serve(
    paths: Paths, machine: ScriptMachine, backend: Path, stack: AsyncExitStack
) -> int:
    """Start vhost-device-vsock for a machine; return its process."""
    tool = find_vhost_device_vsock(paths)
    if tool is None:
        raise SetupError(
            "vhost-device-vsock is not installed",
            hint="'brokerctl demo' fetches it; with /dev/vhost-vsock, set cid in "
            "[peer] of the record in place of hybrid",
        )
    assert machine.uds is not None
    process = await spawn_backend_at(tool, machine.cid, backend, machine.uds)
    stack.push_async_callback(process.end, 0)
    await wait_listening(backend, process)
    return process.pid


async def _serve_folders(machine: ScriptMachine, stack: AsyncExitStack) -> list[int]:
    """Start the virtiofsd of each place, with nothing to serve; return their pids."""
    found: list[int] = []
    for place, path in enumerate(machine.folders):
        if not place:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            stack.callback(remove_tree, path.parent)
        process = await start_folder_server_at(
            path, place, folders=len(machine.folders)
        )
        stack.push_async_callback(process.end, 0)
        found.append(process.pid)
    return found


async def serve(
    paths: Paths,
    wanted: ScriptRequest,
    leader: int,
    report: Callable[[ScriptReport], None],
) -> None:
    """Prepare a machine, report its words, and hold it until its leader has ended."""
    async with AsyncExitStack() as stack:
        try:
            pidfd = open_pidfd(leader)
            stack.callback(os.close, pidfd)
            text = await _prepare(paths, wanted, leader, stack)
        except VitrailError as error:
            report(ScriptReport("", error.message, error.hint, error.where))
            return
        except OSError as error:
            report(ScriptReport("", f"cannot prepare '{wanted.record.name}': {error}"))
            return
        report(ScriptReport(text))
        await wait_ended(pidfd)


def main() -> None:
    """Run the process for one machine."""
    name, leader, form, bus, fd = sys.argv[1:]
    paths = find_paths()

    def report(made: ScriptReport) -> None:
        with os.fdopen(int(fd), "wb") as file:
            file.write(msgspec.json.encode(made))

    record, launch = script_record(paths, name)
    trio.run(
        serve, paths, ScriptRequest(record, launch, form, bus), int(leader), report
    )
    log_stderr(f"{name}: process {leader} has ended")


if __name__ == "__main__":
    main()
