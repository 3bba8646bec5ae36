"""The uncompressed kernel in a bzImage: for a VMM that takes ELF only, and for TCG.

A bzImage unpacks itself, which takes an emulated processor more than a second of each
boot, and this machine a quarter of one, once.

The kernel is the image's, which this machine's owner has built or chosen; what is
checked here is that it is one that can be unpacked, not that it is harmless.

Source: the Linux kernel's Documentation/arch/x86/boot.rst (setup_sects, payload_*);
Xen's public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY); elf(5).
"""

from __future__ import annotations

import ctypes
import hashlib
import lzma
import os
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import BinaryIO

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.host.vmm.qemu_arguments import Accel

_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT, _LEAST_VERSION = 0x206, 0x0208
_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_SECTOR = 512
_ELF = b"\x7fELF"
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
"""What each block of lz4's legacy format holds, but the last."""
_SIZE = struct.Struct("<I")
_ELF_HEADER = struct.Struct("<32xQ14xHH")
"""e_phoff, e_phentsize and e_phnum of a 64-bit file."""
_SEGMENT = struct.Struct("<I4xQ16xQ")
"""p_type, p_offset and p_filesz."""
_NOTE = struct.Struct("<III")
_PT_NOTE = 4
_PVH_ENTRY = 18
_NOTES_BYTES = 1 << 16
"""In which the entry is looked for; Debian's kernel has less than 1 KiB of notes."""
_KEPT = 4
"""Unpacked kernels in the cache: a kernel that was dropped is unpacked again."""
_KNOWN = 16
_DIGESTS: dict[tuple[int, ...], str] = {}
"""Digests of the last kernels by their files' identities: to read one takes 20 ms."""


def boot_kernel(kernel: Path, accel: Accel, cache: Path) -> Path:
    """Return what QEMU boots fastest: in an emulated machine the ELF kernel.

    QEMU enters an ELF kernel by its PVH note; a kernel without that, or packed in a way
    that we cannot unpack or keep (a full disk), is returned as it is.
    """
    if accel is not Accel.TCG:
        return kernel
    try:
        unpacked = find_vmlinux(kernel, cache)
        with unpacked.open("rb") as file:
            return unpacked if has_pvh_entry(file) else kernel
    except (SetupError, OSError):
        return kernel  # it unpacks itself, only slower


def has_pvh_entry(file: BinaryIO) -> bool:
    """Whether an ELF file has the note by which QEMU finds a kernel's first instruction."""
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
    at = 0
    while at + _NOTE.size <= len(notes):
        name, content, kind = _NOTE.unpack_from(notes, at)
        at += _NOTE.size
        if kind == _PVH_ENTRY and notes[at : at + name] == b"Xen\0":
            return True
        at += -(-name // 4) * 4 + -(-content // 4) * 4
    return False


def find_vmlinux(kernel: Path, cache: Path) -> Path:
    """Return the ELF kernel of a bzImage, unpacked once into ``cache``.

    A kernel that is ELF already is returned as it is.  Raises SetupError when it is
    neither, OSError when it cannot be read or the cache not written.
    """
    with kernel.open("rb") as file:
        if file.read(len(_ELF)) == _ELF:
            return kernel
        target = cache / "vmlinux" / _digest(file)
        try:
            os.utime(target)  # its last use, by which _drop_oldest() chooses
        except FileNotFoundError:
            file.seek(0)
            _keep_unpacked(kernel, file.read(), target)
    return target


def _digest(file: BinaryIO) -> str:
    """Return the digest of a kernel; one that was read before is not read again.

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


def _keep_unpacked(kernel: Path, data: bytes, target: Path) -> None:
    try:
        unpacked = unpack(data)
    except SetupError as error:
        raise SetupError(f"{kernel}: {error.message}", hint=error.hint) from error
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(target, unpacked)
    _drop_oldest(target.parent)


def _drop_oldest(folder: Path) -> None:
    # By their last use.  A machine that runs has read its kernel; one that starts this
    # moment and finds it gone says so, and its next start unpacks it.
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in kept[:-_KEPT]:
        path.unlink(missing_ok=True)


def unpack(image: bytes) -> bytes:
    """Return the ELF file in a bzImage.  Raises SetupError."""
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or len(image) < _PAYLOAD_AT + 8:
        raise SetupError("this kernel is neither ELF nor a bzImage")
    (version,) = struct.unpack_from("<H", image, _VERSION_AT)
    if version < _LEAST_VERSION:
        raise SetupError("this kernel is too old: it does not name its payload")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    # 0 means 4, for the oldest boot protocols.
    begin = ((image[_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = image[begin : begin + length]
    if len(payload) != length or length < _SIZE.size:
        raise SetupError("this kernel is cut short")
    # The kernel's build appends the unpacked size.
    (size,) = _SIZE.unpack(payload[-_SIZE.size :])
    if size > limits.VMLINUX_BYTES:
        raise SetupError(f"this kernel has more than {limits.VMLINUX_BYTES} bytes")
    unpacked = _unpacked(payload, size)
    if len(unpacked) != size or not unpacked.startswith(_ELF):
        raise SetupError("this kernel's payload is not an ELF file")
    return unpacked


def _unpacked(payload: bytes, size: int) -> bytes:
    try:
        if payload.startswith(_GZIP):
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload, size)
        if payload.startswith(_XZ):
            return lzma.LZMADecompressor().decompress(payload, size)
    except (zlib.error, lzma.LZMAError) as error:
        raise SetupError(f"this kernel cannot be unpacked: {error}") from error
    if payload.startswith(_ZSTD):
        return _unpack_zstd(payload[: -_SIZE.size], size)
    if payload.startswith(_LZ4):
        return _unpack_lz4(payload[len(_LZ4) : -_SIZE.size], size)
    raise SetupError(
        "this kernel is compressed with neither gzip, xz, lz4 nor zstd",
        hint="choose another kernel package with 'brokerctl image build --kernel'",
    )


def _unpack_zstd(packed: bytes, size: int) -> bytes:
    library = _zstd()
    target = ctypes.create_string_buffer(size)
    done = library.ZSTD_decompress(target, size, packed, len(packed))
    if library.ZSTD_isError(done):
        raise SetupError("this kernel cannot be unpacked: zstd refuses it")
    return target.raw[:done]


def _unpack_lz4(packed: bytes, size: int) -> bytes:
    """Unpack lz4's legacy format: blocks, each behind its packed size."""
    library = _lz4()
    target = ctypes.create_string_buffer(min(size, _LZ4_BLOCK))
    unpacked = bytearray()
    while packed and len(unpacked) < size:
        (length,) = _SIZE.unpack_from(packed.ljust(_SIZE.size, b"\0"))
        block, packed = packed[4 : 4 + length], packed[4 + length :]
        room = len(target)
        done = library.LZ4_decompress_safe(block, target, len(block), room)
        if done <= 0 or len(block) != length:
            raise SetupError("this kernel cannot be unpacked: lz4 refuses it")
        unpacked += target.raw[:done]
    return bytes(unpacked)


def _library(name: str, package: str) -> ctypes.CDLL:
    """Return a library that dpkg, systemd or kmod use as well."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise SetupError(
            f"this kernel is compressed, and {name} is missing",
            hint=f"'sudo apt install {package}'",
        ) from error


@cache
def _lz4() -> ctypes.CDLL:
    library = _library("liblz4.so.1", "liblz4-1")
    library.LZ4_decompress_safe.restype = ctypes.c_int
    library.LZ4_decompress_safe.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    ]
    return library


@cache
def _zstd() -> ctypes.CDLL:
    """Load libzstd, to unpack a compressed kernel."""
    library = _library("libzstd.so.1", "libzstd1")
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    ]
    library.ZSTD_isError.restype = ctypes.c_uint
    library.ZSTD_isError.argtypes = [ctypes.c_size_t]
    return library
