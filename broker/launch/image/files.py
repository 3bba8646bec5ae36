"""An image's files, made from what mmdebstrap handed out.

``root`` from ``root.tar``; ``kernel`` and ``initrd`` from the packages in
``boot.tar``; a digest over all three.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.launch.image.build_room import which
from broker.launch.image.initramfs import boot_modules, build_initramfs
from broker.launch.process.spawn import run_tool

_BLOCK = 4096
_INODE = 128


@dataclass(frozen=True)
class _Need:
    blocks: int
    inodes: int


def _measure(path: Path) -> _Need:
    """Return the blocks and inodes that an archive's members need in ext2."""
    blocks = 0
    inodes = 16
    with tarfile.open(path) as archive:
        for member in archive:
            inodes += 1
            if member.isdir():
                blocks += 1
            elif member.isreg():
                data = -(-member.size // _BLOCK)
                # One pointer block for each 1024, and at most three above them.
                blocks += data + (data // 1024 + 3 if data > 12 else 0)
    return _Need(blocks, inodes)


async def make_root(work: Path, least: int) -> None:
    """Make ``root`` from ``root.tar``."""
    tar = work / "root.tar"
    need = await trio.to_thread.run_sync(_measure, tar)
    inodes = need.inodes + need.inodes // 10
    # Directories of more than one block and the group tables are in the slack;
    # free blocks are holes in the file and take no room.
    blocks = need.blocks + need.blocks // 16 + inodes * _INODE // _BLOCK + 2048
    blocks = max(blocks, -(-least // _BLOCK))
    await run_tool(
        [
            *(
                "genext2fs",
                "--block-size",
                str(_BLOCK),
                "--size-in-blocks",
                str(blocks),
            ),
            *("--number-of-inodes", str(inodes), "--reserved-percentage", "0"),
            *("--faketime", "--allow-holes", "--volume-label", "vitrail"),
            *("--tarball", str(tar), str(work / "root")),
        ],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        deadline=limits.IMAGE_BUILD_SECONDS,
    )
    tar.unlink()
    await run_tool([which("e2fsck") or "e2fsck", "-f", "-n", str(work / "root")])


async def make_boot(work: Path) -> str:
    """Make ``kernel`` and ``initrd`` from ``boot.tar``; return the release."""
    boot = work / "boot"
    boot.mkdir()
    tar = work / "boot.tar"
    await run_tool(
        ["tar", "-xf", str(tar), "-C", str(boot), "--strip=1", "--no-same-owner"]
    )
    tar.unlink()
    for package in sorted(boot.glob("*.deb")):
        await run_tool(["dpkg-deb", "-x", str(package), str(boot / "unpacked")])
    return await trio.to_thread.run_sync(_make_initrd, work, boot / "unpacked")


def _make_initrd(work: Path, unpacked: Path) -> str:
    kernel = _find(unpacked, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
    builtin = _find(
        unpacked, "lib/modules/*/modules.builtin", "usr/lib/modules/*/modules.builtin"
    )
    release = builtin.parent.name
    modules = boot_modules(builtin.parent)
    busybox = _find(unpacked, "bin/busybox", "usr/bin/busybox")
    init = (resources.files("broker") / "data/image/init").read_bytes()
    initramfs = build_initramfs(busybox.read_bytes(), modules, init)
    (work / "initrd").write_bytes(initramfs)
    shutil.copyfile(kernel, work / "kernel")
    return release


def _find(directory: Path, *patterns: str) -> Path:
    """Return the file; Debian's suites differ in where it is."""
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            return path
    raise UpstreamError(
        f"the kernel's packages have no {patterns[0]}",
        hint="choose another kernel package with --kernel",
    )


def digest(work: Path) -> str:
    """Return the SHA-256 over the digests of all three files."""
    total = hashlib.sha256()
    for name in ("kernel", "initrd", "root"):
        with (work / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def read_versions(path: Path) -> dict[str, str]:
    """Read lines of package, tab, version."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, version = line.partition("\t")
        found[name] = version
    return found
