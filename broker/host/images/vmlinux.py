"""The uncompressed kernel in a bzImage: for a VMM that takes ELF only, and for TCG.

A bzImage unpacks itself, which takes an emulated processor more than a second of each
boot, and this machine a quarter of one, once: ``broker.host.images.unpack``.

Source: Xen's public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY); elf(5).
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import BinaryIO

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.tools import profiles
from broker.host.vmm.qemu_arguments import Accel
from broker.ipc.in_thread import in_thread

_ELF = b"\x7fELF"
_ELF_HEADER = struct.Struct("<32xQ14xHH")
"""e_phoff, e_phentsize and e_phnum of a 64-bit file."""
_SEGMENT = struct.Struct("<I4xQ16xQ")
"""p_type, p_offset and p_filesz."""
_NOTE = struct.Struct("<III")
_PT_NOTE = 4
_PVH_ENTRY = 18
_NOTES_BYTES = 1 << 16
"""In which the entry is looked for; Debian's kernel has less than 1 KiB of notes."""
_KNOWN = 16
_DIGESTS: dict[tuple[int, ...], str] = {}
"""Digests of the last kernels by their files' identities: to read one takes 20 ms."""


async def boot_kernel(kernel: Path, accel: Accel, cache: Path) -> Path:
    """Return the kernel file that QEMU boots fastest: for TCG the unpacked ELF file.

    QEMU enters an ELF kernel by its PVH note; a kernel without that, or packed in a way
    that we cannot unpack or keep (a full disk), is returned as it is.  Unpacks that
    once into ``cache``, in a jailed process.
    """
    if accel is not Accel.TCG:
        return kernel
    try:
        unpacked = await find_vmlinux(kernel, cache)
        with unpacked.open("rb") as file:
            return unpacked if has_pvh_entry(file) else kernel
    except (SetupError, OSError):
        return kernel  # it unpacks itself, only slower


def has_pvh_entry(file: BinaryIO) -> bool:
    """Return whether an ELF file names its first instruction, as QEMU needs it."""
    head = file.read(_ELF_HEADER.size)
    if len(head) < _ELF_HEADER.size:
        return False
    table, unit, count = _ELF_HEADER.unpack(head)
    for at in range(count):
        file.seek(table + at * unit)
        segment = file.read(_SEGMENT.size)
        if len(segment) < _SEGMENT.size:
            return False
        kind, offset, size = _SEGMENT.unpack(segment)
        if kind == _PT_NOTE:
            file.seek(offset)
            if _has_pvh_note(file.read(min(size, _NOTES_BYTES))):
                return True
    return False


def _has_pvh_note(notes: bytes) -> bool:
    """Return whether an ELF note names a PVH entry point."""
    at = 0
    while at + _NOTE.size <= len(notes):
        name, content, kind = _NOTE.unpack_from(notes, at)
        at += _NOTE.size
        if kind == _PVH_ENTRY and notes[at : at + name] == b"Xen\0":
            return True
        at += -(-name // 4) * 4 + -(-content // 4) * 4
    return False


async def find_vmlinux(kernel: Path, cache: Path) -> Path:
    """Return the ELF kernel of a bzImage, unpacked once into ``cache``.

    A kernel that is ELF already is returned as it is.  Raises SetupError when it is
    neither, OSError when it cannot be read or the cache not written.  The unpacking is
    done by a jailed process.
    """
    with kernel.open("rb") as file:
        if file.read(len(_ELF)) == _ELF:
            return kernel
        digest = await in_thread(_digest, file)
        target = cache / "vmlinux" / digest
        try:
            os.utime(target)  # its last use, by which unpack._drop_oldest() chooses
        except FileNotFoundError:
            await _unpack(kernel, file.fileno(), target)
    return target


def _digest(file: BinaryIO) -> str:
    """Return the digest of a kernel; each kernel is read once.

    Its file is recognised by the time of its last change too, which no program sets: an
    image that is built again may have the inode, the size and the time of the old one.
    """
    status = os.fstat(file.fileno())
    times = (status.st_mtime_ns, status.st_ctime_ns)
    identity = (status.st_dev, status.st_ino, status.st_size, *times)
    found = _DIGESTS.get(identity)
    if found is None:
        file.seek(0)
        found = hashlib.sha256(file.read()).hexdigest()
        if len(_DIGESTS) >= _KNOWN:
            _DIGESTS.clear()
        _DIGESTS[identity] = found
    return found


async def _unpack(kernel: Path, fd: int, target: Path) -> None:
    """Unpack a kernel into the cache by the tool ``unpack``.  Raises SetupError."""
    # In a separate process, so that what decompresses a kernel holds no machines.
    argv = our_program(*profiles.UNPACK.start, str(fd), str(target))
    try:
        await run_tool(argv, name="unpacking", pass_fds=(fd,), env={})
    except UpstreamError as error:
        raise SetupError(
            f"{kernel}: {error.message}",
            hint="to use another kernel, run 'brokerctl image build IMAGE --kernel PACKAGE --force'",
        ) from error
