"""The ELF file in a bzImage, as the confined process of ``unpack`` reads it.

The kernel is the image's, which this machine's owner has built or chosen; what is
checked here is that it can be unpacked, not that it is harmless.  So the
process reads one descriptor and writes another, and has no other system calls.
``write_unpacked`` loads the libraries before the filter.

Source: the Linux kernel's Documentation/arch/x86/boot.rst (setup_sects, payload_*).
"""

from __future__ import annotations

import ctypes
import lzma
import os
import struct
import zlib
from functools import cache

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.helpers.filters.descriptor_filter import keep_descriptors_only

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
_PACKAGES = {"liblz4.so.1": "liblz4-1", "libzstd.so.1": "libzstd1"}
"""Libraries that dpkg, systemd or kmod use as well, and their packages."""


def write_unpacked(kernel: int, target: int) -> None:
    """Confine this process, write the ELF file of a bzImage to ``target``, and exit.

    The process's exit code is 1 after a sentence that says why it cannot.
    """
    for name in _PACKAGES:
        _loaded(name)
    # guard: the process that unpacks a kernel has two descriptors
    keep_descriptors_only("pread64")
    code = 0
    try:
        unpacked = memoryview(unpack(_content(kernel)))
        while unpacked:
            unpacked = unpacked[os.write(target, unpacked) :]
    except (SetupError, OSError) as error:
        text = "; ".join(filter(None, (str(error), getattr(error, "hint", ""))))
        os.write(2, text.encode())
        code = 1
    os._exit(code)  # the interpreter's own end needs system calls that it gave up


def _content(fd: int) -> bytes:
    content = bytearray()
    while data := os.pread(fd, 1 << 20, len(content)):
        content += data
    return bytes(content)


def unpack(image: bytes) -> bytes:
    """Return the ELF file in a bzImage.  Raises SetupError."""
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or len(image) < _PAYLOAD_AT + 8:
        raise SetupError("this kernel is neither an ELF file nor a bzImage")
    (version,) = struct.unpack_from("<H", image, _VERSION_AT)
    if version < _LEAST_VERSION:
        raise SetupError("this kernel is too old: its header has no payload offset")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    # 0 means 4, for the oldest boot protocols.
    begin = ((image[_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = image[begin : begin + length]
    if len(payload) != length or length < _SIZE.size:
        raise SetupError("this kernel is truncated")
    # The kernel's build appends the unpacked size.
    (size,) = _SIZE.unpack(payload[-_SIZE.size :])
    if size > limits.VMLINUX_BYTES:
        raise SetupError(f"this kernel unpacks to {size} bytes, which is too large")
    unpacked = _unpacked(payload, size)
    if len(unpacked) != size or not unpacked.startswith(_ELF):
        raise SetupError("this kernel's payload is not an ELF file")
    return unpacked


def _unpacked(payload: bytes, size: int) -> bytes:
    """Unpack a compressed kernel of at most ``size`` bytes.  Raises SetupError."""
    try:
        if payload.startswith(_GZIP):
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload, size)
        if payload.startswith(_XZ):
            return lzma.LZMADecompressor().decompress(payload, size)
    except (zlib.error, lzma.LZMAError) as error:
        raise SetupError(f"cannot decompress this kernel: {error}") from error
    if payload.startswith(_ZSTD):
        return _unpack_zstd(payload[: -_SIZE.size], size)
    if payload.startswith(_LZ4):
        return _unpack_lz4(payload[len(_LZ4) : -_SIZE.size], size)
    raise SetupError("this kernel is not compressed with gzip, xz, lz4 or zstd")


def _unpack_zstd(packed: bytes, size: int) -> bytes:
    """Unpack zstd.  Raises SetupError."""
    library = _zstd_typed()
    target = ctypes.create_string_buffer(size)
    done = library.ZSTD_decompress(target, size, packed, len(packed))
    if library.ZSTD_isError(done):
        raise SetupError("cannot decompress this kernel: invalid zstd data")
    return target.raw[:done]


def _unpack_lz4(packed: bytes, size: int) -> bytes:
    """Decompress lz4's legacy format: blocks, each after its packed size."""
    library = _lz4_typed()
    target = ctypes.create_string_buffer(min(size, _LZ4_BLOCK))
    unpacked = bytearray()
    while packed and len(unpacked) < size:
        (length,) = _SIZE.unpack_from(packed.ljust(_SIZE.size, b"\0"))
        block, packed = packed[4 : 4 + length], packed[4 + length :]
        room = len(target)
        done = library.LZ4_decompress_safe(block, target, len(block), room)
        if done <= 0 or len(block) != length:
            raise SetupError("cannot decompress this kernel: invalid lz4 data")
        unpacked += target.raw[:done]
    return bytes(unpacked)


@cache
def _loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _library(name: str) -> ctypes.CDLL:
    """Return a library that was loaded before the filter.  Raises SetupError."""
    library = _loaded(name)
    if library is None:
        raise SetupError(
            f"cannot decompress this kernel: {name} is not installed",
            hint=install_hint(_PACKAGES[name]),
        )
    return library


def _lz4_typed() -> ctypes.CDLL:
    """Return liblz4, with its function's types.  Raises SetupError if it is absent."""
    library = _library("liblz4.so.1")
    library.LZ4_decompress_safe.restype = ctypes.c_int
    library.LZ4_decompress_safe.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    ]
    return library


def _zstd_typed() -> ctypes.CDLL:
    """Return libzstd, with its functions' types.  Raises SetupError if it is absent."""
    library = _library("libzstd.so.1")
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    ]
    library.ZSTD_isError.restype = ctypes.c_uint
    library.ZSTD_isError.argtypes = [ctypes.c_size_t]
    return library
