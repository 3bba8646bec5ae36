"""The ELF kernel in a bzImage: each compression, and images that are none."""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import io
import lzma
import os
import struct

import pytest

from broker.core import limits
from broker.core.errors import SetupError
from broker.host.images.bzimage import unpack
from broker.host.images.vmlinux import boot_kernel, find_vmlinux, has_pvh_entry
from broker.host.vmm.qemu_arguments import Accel

ELF = b"\x7fELF" + bytes(range(256)) * 40_000
SIZE = struct.pack("<I", len(ELF))


def image(payload, *, version=0x20F, sectors=39, magic=b"HdrS"):
    made = bytearray((sectors + 1) * 512)
    made[0x1F1] = sectors
    made[0x202:0x206] = magic
    struct.pack_into("<H", made, 0x206, version)
    struct.pack_into("<II", made, 0x248, 100, len(payload))
    return bytes(made) + bytes(100) + payload


def zstd(data):
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compress.restype = ctypes.c_size_t
    room = ctypes.create_string_buffer(len(data) + 1000)
    done = library.ZSTD_compress(
        room, ctypes.c_size_t(len(room)), data, ctypes.c_size_t(len(data)), 3
    )
    return room.raw[:done]


def lz4(data):
    """Its legacy format, in blocks of 8 MiB."""
    library = ctypes.CDLL("liblz4.so.1")
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = data[at : at + (8 << 20)]
        room = ctypes.create_string_buffer(len(block) + len(block) // 200 + 1000)
        done = library.LZ4_compress_default(block, room, len(block), len(room))
        out += struct.pack("<I", done) + room.raw[:done]
    return out


PACKED = {
    "gzip": lambda: gzip.compress(ELF, 1),
    "xz": lambda: lzma.compress(ELF, preset=0) + SIZE,
    "zstd": lambda: zstd(ELF) + SIZE,
    "lz4": lambda: lz4(ELF) + SIZE,
}


@pytest.mark.parametrize("how", PACKED)
def test_each_compression_of_the_kernels_build_is_unpacked(how):
    assert unpack(image(PACKED[how]())) == ELF


@pytest.mark.parametrize("how", PACKED)
def test_a_payload_that_is_cut_short_is_refused(how):
    packed = PACKED[how]()
    with pytest.raises(SetupError, match="this kernel"):
        unpack(image(packed[: len(packed) // 2] + SIZE))
    with pytest.raises(SetupError, match="truncated"):
        unpack(image(packed)[:-1])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither an ELF file nor a bzImage"),
        (b"MZ" * 500, "neither an ELF file nor a bzImage"),
        (image(b"xxxxxxxx", magic=b"HdrX"), "neither an ELF file nor a bzImage"),
        (image(b"xxxxxxxx", version=0x207), "too old"),
        (image(b"xxxxxxxx" + SIZE), "not compressed with gzip, xz, lz4 or zstd"),
        (image(b"xx"), "truncated"),
        (
            image(b"\x1f\x8b" + struct.pack("<I", limits.VMLINUX_BYTES + 1)),
            "is too large",
        ),
        (image(gzip.compress(b"no ELF")), "not an ELF file"),
        (image(b"\x02\x21\x4c\x18\xff\xff\xff\xff" + SIZE), "invalid lz4 data"),
    ],
)
def test_a_file_that_is_not_a_kernel_is_refused(data, why):
    with pytest.raises(SetupError, match=why):
        unpack(data)


async def test_a_kernel_is_unpacked_once(tmp_path):
    kernel, cache = tmp_path / "kernel", tmp_path / "cache"
    kernel.write_bytes(image(PACKED["zstd"]()))
    found = await find_vmlinux(kernel, cache)
    assert found.read_bytes() == ELF
    stamp = found.stat()
    assert await find_vmlinux(kernel, cache) == found
    assert found.stat().st_ino == stamp.st_ino
    assert await find_vmlinux(found, cache) == found, "ELF already"


async def test_a_kernel_that_was_read_is_not_read_again(tmp_path, monkeypatch):
    kernel, cache = tmp_path / "kernel", tmp_path / "cache"
    kernel.write_bytes(image(PACKED["gzip"]()))
    found = await find_vmlinux(kernel, cache)

    def read_again(_data):
        raise AssertionError("the kernel was read again")

    monkeypatch.setattr(hashlib, "sha256", read_again)
    assert await find_vmlinux(kernel, cache) == found


async def test_a_kernel_that_was_replaced_is_not_taken_for_the_old_one(tmp_path):
    """Also where the new file has the inode, the size and the time of the old one."""
    kernel, cache = tmp_path / "kernel", tmp_path / "cache"
    kernel.write_bytes(image(gzip.compress(ELF + b"old", 0)))
    os.utime(kernel, (1, 1))
    found, before = await find_vmlinux(kernel, cache), kernel.stat()
    kernel.write_bytes(image(gzip.compress(ELF + b"new", 0)))
    os.utime(kernel, (1, 1))
    after = kernel.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert after.st_mtime_ns == before.st_mtime_ns
    assert found.read_bytes() == ELF + b"old"
    assert (await find_vmlinux(kernel, cache)).read_bytes() == ELF + b"new"


async def test_a_kernel_is_found_again_whose_unpacked_file_was_removed(tmp_path):
    kernel, cache = tmp_path / "kernel", tmp_path / "cache"
    kernel.write_bytes(image(PACKED["gzip"]()))
    (await find_vmlinux(kernel, cache)).unlink()
    assert (await find_vmlinux(kernel, cache)).read_bytes() == ELF


async def test_the_error_names_the_kernel(tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"none")
    with pytest.raises(SetupError, match=str(kernel)):
        await find_vmlinux(kernel, tmp_path)


# -- the kernel of an emulated machine ---------------------------------------------


def note(kind, name=b"Xen\0", content=bytes(8)):
    return struct.pack("<III", len(name), len(content), kind) + name + content


def elf(notes, *, kind=4, count=1):
    """A 64-bit ELF file of one segment, which has the notes."""
    head = struct.pack("<4s28xQ14xHH6x", b"\x7fELF", 64, 56, count)
    segment = struct.pack("<I4xQ16xQ16x", kind, 120, len(notes))
    return head + segment + notes


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (elf(note(6, content=b"linux\0\0\0") + note(18)), True),
        (elf(note(6, name=b"abc\0\0\0\0\0") + note(18)), True),
        (elf(note(6)), False),
        (elf(note(18, name=b"GNU\0")), False),
        (elf(note(18), kind=1), False),
        (elf(note(18), count=0), False),
        (elf(note(18))[:100], False),
        (elf(note(18)[:10]), False),
        (b"\x7fELF", False),
    ],
)
def test_the_entry_for_qemu_is_found_in_the_notes(data, has):
    assert has_pvh_entry(io.BytesIO(data)) is has


async def test_an_emulated_machine_gets_the_unpacked_kernel(tmp_path):
    kernel = tmp_path / "kernel"
    unpacked = elf(note(18))
    kernel.write_bytes(image(gzip.compress(unpacked)))
    found = await boot_kernel(kernel, Accel.TCG, tmp_path / "cache")
    assert found != kernel
    assert found.read_bytes() == unpacked
    assert await boot_kernel(kernel, Accel.KVM, tmp_path / "cache") == kernel


@pytest.mark.parametrize(
    "data", [image(gzip.compress(elf(note(6)))), image(b"xxxxxxxx" + SIZE), b""]
)
async def test_a_kernel_that_qemu_could_not_enter_boots_packed(tmp_path, data):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(data)
    assert await boot_kernel(kernel, Accel.TCG, tmp_path / "cache") == kernel


async def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(image(gzip.compress(elf(note(18)))))
    (tmp_path / "cache").write_bytes(b"a file")
    assert await boot_kernel(kernel, Accel.TCG, tmp_path / "cache") == kernel


async def test_the_cache_keeps_the_four_kernels_that_were_used_last(tmp_path):
    cache, kernels, found = tmp_path / "cache", [], []
    for number in range(6):
        kernels.append(tmp_path / f"kernel{number}")
        kernels[-1].write_bytes(image(gzip.compress(ELF + bytes([number]))))
        found.append(await find_vmlinux(kernels[-1], cache))
        os.utime(found[-1], (number, number))
        before = found[0].stat().st_ino
        assert (await find_vmlinux(kernels[0], cache)).stat().st_ino == before, "in use"
    assert [path.exists() for path in found] == [True, False, False, True, True, True]
