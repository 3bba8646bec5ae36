"""The stored state of a running machine, for a later broker.

One file, ``vm.json``, in the sandbox's runtime directory.  It is ours (0600
in a 0700 directory below XDG_RUNTIME_DIR, which ends with the session), and
still each process in it is proven again before it is touched.

The host writes and reads it; brokerctl reads it when no broker runs, to find a machine
that still does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.files.trees import remove_tree
from broker.helpers.process.identity import ProcessIdentity, boot_id
from broker.host.processes.tracked import Tracked, find
from broker.host.vmm.control import CONSOLE_SOCKET, QMP_SOCKET
from broker.host.vmm.qemu_arguments import Accel, Network, VmSpec
from broker.host.vmm.vsock_backend import (
    BACKEND_SOCKET,
    VSOCK_DIRECTORY,
)

STATE_FILE = "vm.json"
FOLDERS = "virtiofsd-"
"""Begins the role of what serves a folder; the number of its place follows."""
RENDERER = "vhost-user-gpu"
"""The role of what draws for a machine."""
QEMU = "QEMU"
"""Its role; the others are helpers."""


class VmProcesses(msgspec.Struct, frozen=True):
    """What is needed to end a machine: read from ``vm.json`` of any version.

    Other fields are ignored: each process is proven before it is touched.
    """

    boot: str
    helpers: dict[str, ProcessIdentity]
    """Role to process: vhost-device-vsock, passt."""
    vmm: ProcessIdentity | None = None
    """None while its helpers are being started."""


class VmState(VmProcesses, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``vm.json``."""

    name: str
    cid: Annotated[int, msgspec.Meta(ge=3, le=0xFFFFFFFE)]
    vsock: Literal["kernel", "hybrid"]
    accel: Accel
    network: Network
    disposable: bool
    logs: str
    monitor: Literal["qemu"] = "qemu"
    """Brokers of before wrote which program ``vmm`` is."""
    version: Literal[1] = 1


_State = TypeVar("_State", bound=VmProcesses)


def state_of(
    spec: VmSpec,
    *,
    cid: int,
    hybrid: bool,
    accel: Accel,
) -> VmState:
    """Return the stored state of a machine that has no process yet."""
    return VmState(
        boot=boot_id(),
        name=spec.name,
        cid=cid,
        vsock="hybrid" if hybrid else "kernel",
        accel=accel,
        network=spec.network,
        disposable=spec.disposable,
        logs=str(spec.logs),
        helpers={},
    )


def write_state(directory: Path, state: VmState) -> None:
    """Write the state file atomically.  Raises OSError when the disk is full."""
    target = directory / STATE_FILE
    fresh = target.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(msgspec.json.encode(state))
    fresh.replace(target)


def read_state(directory: Path) -> VmState | None:
    """Read the state of the machine in ``directory``; None without one.

    Raises UpstreamError when the file is not ours, or of another version.
    """
    return read_as(VmState, directory)


def read_as(kind: type[_State], directory: Path) -> _State | None:
    """Read as much of the state as ``kind`` has.  Raises as ``read_state``."""
    try:
        fd = os.open(directory / STATE_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UpstreamError(
            f"cannot read {directory / STATE_FILE}: {error.strerror}"
        ) from error
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise UpstreamError(f"{directory / STATE_FILE} belongs to another user")
        data = file.read(limits.VM_STATE_BYTES + 1)
    if len(data) > limits.VM_STATE_BYTES:
        raise UpstreamError(
            f"{directory / STATE_FILE} is larger than {limits.VM_STATE_BYTES} bytes"
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"invalid {directory / STATE_FILE}: {error}") from error


@dataclass(frozen=True)
class FoundState:
    """The living processes of a state; each is held by its pidfd."""

    vmm: Tracked | None
    helpers: tuple[Tracked, ...]

    @property
    def all(self) -> tuple[Tracked, ...]:
        """The VMM first."""
        return self.helpers if self.vmm is None else (self.vmm, *self.helpers)

    def complete(self, state: VmState) -> bool:
        """Return whether all needed helpers live.

        Folders' servers and GPU may be lost.
        """
        living = {process.role for process in self.helpers}
        return all(
            role in living or role.startswith((FOLDERS, RENDERER))
            for role in state.helpers
        )


def find_processes(state: VmProcesses) -> FoundState:
    """Return those processes of the state that are proven to live."""
    if state.boot != boot_id():
        return FoundState(None, ())
    role = QEMU if isinstance(state, VmState) else "VMM"
    vmm = find(role, state.vmm) if state.vmm is not None else None
    found = (find(role, process) for role, process in state.helpers.items())
    helpers = tuple(process for process in found if process is not None)
    for helper in helpers:
        if helper.role == RENDERER:
            helper.patience = limits.RENDERER_END_SECONDS
    return FoundState(vmm, helpers)


def move_files(source: Path, target: Path) -> None:
    """Move a machine's sockets to another directory on the same file system.

    A socket that is listened on, or a mount of the directory in a jail, continues
    after that.  The caller writes the state file again, before this.
    """
    (source / VSOCK_DIRECTORY).rename(target / VSOCK_DIRECTORY)
    for name in (QMP_SOCKET, CONSOLE_SOCKET, BACKEND_SOCKET):
        # The backend removes its own when QEMU has connected.
        with suppress(FileNotFoundError):
            (source / name).rename(target / name)
    remove_files(source)


def remove_files(directory: Path) -> None:
    """Remove what a machine leaves in its directory, and that if it is empty.

    The state file goes last: while it is there, a later broker looks here.
    """
    # A process in a jail writes to these, and may have made anything there.
    # guard: a jailed process leaves nothing that cannot be removed
    remove_tree(directory / VSOCK_DIRECTORY)
    for name in ("vm.new", QMP_SOCKET, CONSOLE_SOCKET, BACKEND_SOCKET, STATE_FILE):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is gone, or foreign files are still in it
        directory.rmdir()
