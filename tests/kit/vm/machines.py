"""Tiny micro VMs in a separate directory, cleaned up whatever happens."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.helpers.console_log import ConsoleLog
from broker.host.vmm.accel import VARIABLE
from broker.host.vmm.hosttools import fetch_vhost_device_vsock
from broker.host.vmm.launcher import Tools, clean_leftovers, start_vm
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from broker.host.vmm.running import Vm
from tests.kit.eventually import eventually
from tests.kit.vm.tinyguest import PORT, ordinary_user, tiny_guest


def require_vm() -> Tools:
    """Skip a test on a machine that cannot run one; call it in a sync fixture.

    (A skip inside an async test loses its reason.)
    """
    ordinary_user()
    try:
        return trio.run(vm_tools)
    except SetupError as error:
        pytest.skip(f"needs a micro VM: {error}")


async def vm_tools() -> Tools:
    """Return this machine's VM tools.  Raises SetupError without QEMU or a vsock."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise SetupError("qemu-system-x86 is not installed")
    paths = find_paths({**os.environ, "XDG_RUNTIME_DIR": "/tmp"})
    vhost = await fetch_vhost_device_vsock(paths, print)
    passt = shutil.which("passt")
    accel = Accel(os.environ.get(VARIABLE, Accel.TCG))
    return Tools(Path(qemu), accel, vhost, Path(passt) if passt else None)


def allow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let machines be copies of a parent, which only TCG's machines can be."""
    monkeypatch.delenv("VITRAIL_FORK", raising=False)
    monkeypatch.setenv(VARIABLE, "tcg")


def tiny_spec(directory: Path, **changes) -> VmSpec:
    guest = tiny_guest()
    spec = VmSpec(
        name=SandboxName("tiny"),
        kernel=guest.kernel,
        initrd=guest.initrd,
        root=None,
        directory=directory / "tiny",
        logs=directory / "logs",
        memory_mib=192,
        kernel_args=(f"vitrail.shell={PORT}",),
    )
    return replace(spec, **changes)


def boot_of(image, place: Path, *, memory_mib=512, **initrd) -> dict:
    """Changes of ``tiny_spec`` by which a machine runs an image."""
    return {
        "kernel": image.kernel,
        "initrd": image.write_initrd(place, **initrd),
        "root": image.root,
        "memory_mib": memory_mib,
        "kernel_args": (),
    }


@asynccontextmanager
async def machine(directory: Path, **changes):
    """A started, paused machine; gives it and closes it."""
    tools = await vm_tools()
    extra = {key: changes.pop(key) for key in ("cid", "on_loss") if key in changes}
    spec = tiny_spec(directory, **changes)
    async with trio.open_nursery() as nursery:
        vm = await start_vm(spec, tools, nursery=nursery, **extra)
        try:
            yield vm
        finally:
            await vm.close()
            await clean_leftovers(spec.directory)


async def console_says(console: ConsoleLog, needle: bytes) -> None:
    """Wait until a machine's console, as it is kept, has ``needle`` in it."""
    await eventually(lambda: needle in console.path.read_bytes())


def alive(vm: Vm) -> list[str]:
    """Roles of the machine's processes that still run (a zombie does not)."""
    return [process.role for process in vm.processes if _runs(process.pid)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    except FileNotFoundError:
        return False


def leftovers(directory: Path) -> list[str]:
    """Files below a runtime directory."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))
