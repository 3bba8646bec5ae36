"""An image's files, made from what mmdebstrap handed out.

``root`` from ``root.tar``; ``kernel`` and ``initrd`` from the packages in
``boot.tar``; a digest over all three.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from importlib import resources
from pathlib import Path

from broker.cli.images.building import ext2
from broker.cli.images.building.build_tools import NATIVE_TOOLS, BuildTools
from broker.cli.images.building.initramfs_build import boot_modules, build_initramfs
from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.files.trees import remove_tree
from broker.helpers.process.spawn import run_tool
from broker.host.images.store import SHARED_IMAGE_ALIGN as _ALIGN
from broker.ipc.in_thread import in_thread

_GENEXT2FS = ("genext2fs",)
_E2FSCK = ("e2fsck",)
_EXT2 = "/ext2.py"


async def make_root(work: Path, least: int, tools: BuildTools = NATIVE_TOOLS) -> None:
    """Make ``root`` from ``root.tar``, in a jail: an archive may be a stranger's.

    Raises UpstreamError for an archive of which no file system can be made.
    """
    # A separate directory, as for a merge: a program that was taken over can leave
    # other files there, and later steps write to ``work``.
    room = Path(tempfile.mkdtemp(prefix="root-", dir=work))
    try:
        (work / "root.tar").rename(room / "root.tar")
        await _jailed(
            tools, room, [*tools.python_argv(), _EXT2, str(least), *_GENEXT2FS]
        )
        await _jailed(tools, room, [*_E2FSCK, "-f", "-n", "root"])
        made = room / "root"
        # A link, or the file that it names, would become the guest's disk.
        # guard: a file system is a file, and no link to one
        if not stat.S_ISREG(made.lstat().st_mode):
            raise UpstreamError(
                "cannot create the image: genext2fs did not write a regular file"
            )
        # A hole follows the file system: it costs nothing.
        os.truncate(made, -(-made.stat().st_size // _ALIGN) * _ALIGN)
        made.rename(work / "root")
    except FileNotFoundError as error:
        raise UpstreamError(
            "cannot create the image: genext2fs did not write a file system"
        ) from error
    finally:
        remove_tree(room)


async def _jailed(tools: BuildTools, room: Path, argv: list[str]) -> None:
    argv = tools.jailed_argv(room, {Path(ext2.__file__): _EXT2}, argv)
    await run_tool(argv, cwd=room, deadline=limits.IMAGE_BUILD_SECONDS)


async def make_boot(work: Path, tools: BuildTools = NATIVE_TOOLS) -> str:
    """Make ``kernel`` and ``initrd`` from ``boot.tar``; return the release.

    Runs tar and dpkg-deb in a jail to unpack it, and removes it.
    """
    boot = work / "boot"
    boot.mkdir()
    tar = work / "boot.tar"
    inside = "/boot.tar"
    argv = ["tar", "-xf", inside, "--strip=1", "--no-same-owner"]
    await run_tool(tools.jailed_argv(boot, {tar: inside}, argv), cwd=boot)
    tar.unlink()
    for package in sorted(boot.glob("*.deb")):
        argv = ["dpkg-deb", "-x", package.name, "unpacked"]
        await run_tool(tools.jailed_argv(boot, {}, argv), cwd=boot)
    await in_thread(_keep_plain_files, boot)
    return await in_thread(_make_initrd, work, boot / "unpacked")


def _keep_plain_files(directory: Path) -> None:
    """Remove links, devices and pipes below a directory.

    A link would bring a file of the user into the guest.
    """
    for path in list(directory.rglob("*")):
        # guard: a kernel is made of files of its packages, and of no links
        if not (path.is_dir() or path.is_file()) or path.is_symlink():
            path.unlink()


def take_archives(output: Path, work: Path) -> None:
    """Move the archives that mmdebstrap wrote from its directory to ``work``.

    Raises UpstreamError unless both are files.
    """
    for name in ("root.tar", "boot.tar"):
        try:
            mode = (output / name).lstat().st_mode
        except FileNotFoundError:
            mode = 0
        # guard: an archive of a container is a file, and no link to one
        if not stat.S_ISREG(mode):
            raise UpstreamError(
                f"cannot create the image: mmdebstrap did not write {name}"
            )
        (output / name).rename(work / name)
    remove_tree(output)


def _make_initrd(work: Path, unpacked: Path) -> str:
    """Write the image's kernel and initramfs; return the kernel's version."""
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
    """Return the one file that matches; Debian's suites differ in where it is."""
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            return path
    raise UpstreamError(
        f"the kernel's packages do not contain {patterns[0]}",
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
    """Read a file of lines "package, tab, version" into a dictionary."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, version = line.partition("\t")
        found[name] = version
    return found
