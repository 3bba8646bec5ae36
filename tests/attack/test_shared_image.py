"""Machines that map one image as memory cannot change it, for themselves or others.

Invariant: the file stays as it was, whatever a guest's root writes to the device and
however often it has it flushed, and whatever a QEMU that was taken over does with the
descriptor and the path that it has.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core.names import SandboxName
from broker.host.images.initramfs import ArchiveEntry, modules_overlay, write_cpio
from broker.host.vmm import qemu_arguments, vmm_jail
from broker.host.vmm.launcher import clean_leftovers, start_vm
from broker.host.vmm.qemu_arguments import VmSpec
from tests.kit.eventually import eventually
from tests.kit.needs import NEEDS_VM
from tests.kit.vm.machines import vm_tools
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import the_image

SIZE = 8 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_PIDFD_GETFD = 438
_KEEP_SIZE_PUNCH_HOLE = 3
FLUSHES = 200
_INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t devtmpfs devtmpfs /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module.ko; done
tries=0
until [ -b /dev/pmem0 ] || [ $tries = 200 ]; do tries=$((tries + 1)); $b usleep 50000; done
sum() {{ echo "$1 $($b dd if=/dev/pmem0 bs=1M 2>/dev/null | $b sha256sum)"; }}
sum before
$b dd if=/dev/urandom of=/dev/pmem0 bs=1M count=6 conv=fsync 2>/dev/null && echo written
# The guest's own cache has its writes; the device has not.
echo 3 > /proc/sys/vm/drop_caches
sum after
n=0; while [ $n -lt {FLUSHES} ]; do $b dd if=/dev/zero of=/dev/pmem0 bs=4k count=1 conv=fsync 2>/dev/null || break; n=$((n + 1)); done
echo "flushed $n"
$b dd if=/dev/urandom of=/dev/pmem0 bs=1M count=8 conv=fsync 2>/dev/null
echo attack over
while :; do $b sleep 100; done
"""
"""The first program of a guest, with all the rights that a guest can have."""


pytestmark = NEEDS_VM


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hostile_initrd(original: bytes) -> bytes:
    more = modules_overlay(original, folders=False, network=False, shared_image=True)
    init = ArchiveEntry(0o100755, _INIT.encode())
    return original + more + write_cpio({"init": init})


@asynccontextmanager
async def attacked(changed=None):
    """A machine whose guest attacks its image; yields machine, console and image.

    ``changed`` replaces parts of its specification.
    """
    image = await the_image()
    with short_directory() as place:
        root = place / "root"
        root.write_bytes(os.urandom(SIZE))
        (place / "initrd").write_bytes(hostile_initrd(image.initrd.read_bytes()))
        spec = VmSpec(
            name=SandboxName("hostile"),
            kernel=image.kernel,
            initrd=place / "initrd",
            root=root,
            directory=place / "run",
            logs=place / "logs",
            memory_mib=256,
            shared_image_bytes=SIZE,
        )
        spec = replace(spec, **(changed or {}))
        async with trio.open_nursery() as nursery:
            vm = await start_vm(spec, await vm_tools(), nursery=nursery)
            try:
                await vm.cont()
                yield vm, spec.logs, root
            finally:
                with trio.CancelScope(shield=True):
                    await vm.close()
                    await clean_leftovers(spec.directory)


async def attack(logs: Path) -> dict[str, str]:
    """Wait until the guest has done all; returns its output."""

    def said() -> str:
        return "".join(
            p.read_text(errors="replace") for p in logs.rglob("*") if p.is_file()
        )

    await eventually(lambda: "attack over" in said(), deadline=200)
    found = re.findall(r"(before|after|written|flushed) ?(\w*)", said())
    return dict(found)


def _duplicate(pidfd: int, number: int) -> int:
    """Duplicate a descriptor of another process: pidfd_getfd(2)."""
    fd = _LIBC.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _punch(fd: int) -> None:
    zero, whole = ctypes.c_long(0), ctypes.c_long(SIZE)
    if _LIBC.fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, zero, whole) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def descriptors_of(pid: int, path: Path) -> list[int]:
    """Duplicates of the descriptors that a process has of a file."""
    found, pidfd = [], os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.path.samefile(entry, path):
                    found.append(_duplicate(pidfd, int(entry.name)))
    finally:
        os.close(pidfd)
    return found


async def test_neither_a_guest_nor_its_qemu_writes_to_a_shared_image():
    async with attacked() as (vm, logs, root):
        before = digest(root)
        said = await attack(logs)
        assert said["before"] == before, "the guest sees the host's pages"
        assert "written" in said, "the guest's kernel takes the device for writable"
        assert said["after"] == before
        assert said["flushed"] == str(FLUSHES)
        assert digest(root) == before
        take_over(vm.vmm.pid, root)
        assert digest(root) == before


def take_over(pid: int, root: Path) -> None:
    """Do with a QEMU's descriptors and paths what QEMU itself could do."""
    fds = descriptors_of(pid, root)
    assert fds
    for fd in fds:
        for attempt in (
            lambda fd: os.pwrite(fd, b"x", 0),
            lambda fd: os.ftruncate(fd, 0),
            _punch,
            lambda fd: mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_WRITE),
            lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            with pytest.raises(OSError):
                attempt(fd)
        os.close(fd)
    # By its name, in the jail's own view of the file system.
    inside = Path(f"/proc/{pid}/root{root}")
    assert inside.stat().st_ino == root.stat().st_ino
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(inside, os.O_RDWR)


@pytest.mark.long
async def test_the_attack_is_a_real_one(monkeypatch):
    """Without the guard and with a jail that lets it write, the guest has its way."""
    args, view = qemu_arguments.shared_image_args, vmm_jail.qemu_view

    def writable(*given):
        return [
            word.replace('"readonly": true', '"readonly": false')
            for word in args(*given)
        ]

    def open_view(spec, *given, **more):
        made = view(spec, *given, **more)
        rest = tuple(path for path in made.readable if path != spec.root)
        return replace(made, readable=rest, writable=(spec.root,))

    monkeypatch.setattr(qemu_arguments, "shared_image_args", writable)
    monkeypatch.setattr(vmm_jail, "qemu_view", open_view)
    async with attacked() as (_vm, logs, root):
        before = digest(root)
        said = await attack(logs)
        assert said["before"] == before
        assert said["after"] != before
        assert digest(root) != before
