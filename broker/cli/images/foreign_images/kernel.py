"""Take kernel and initramfs of an imported image from a tree of files.

Standard library only, and what else it imports as well: this runs in the jail of a merge.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from broker.cli.images.building.initramfs_build import (
    build_initramfs,
    select_modules,
    unpack_module,
)
from broker.cli.images.foreign_images.layers import apply_layer
from broker.cli.images.foreign_images.tree import FileTree, HostFile, Node, TreeError
from broker.host.images.initramfs import module_name

_MODULES = ("usr/lib/modules", "lib/modules")
_BUSYBOX = (
    "bin/busybox",
    "usr/sbin/busybox",
    "usr/bin/busybox.static",
    "bin/busybox.static",
)
_FILE_BYTES = 256 << 20
_INTERPRETER = 3
"""PT_INTERP of elf(5): the program needs a dynamic loader."""


def write_boot(image: FileTree, request: dict[str, Any], work: Path) -> str:
    """Write ``kernel`` and ``initrd`` below ``work``; return the kernel's release.

    ``request`` has ``packages`` (archives to take the kernel from), ``directory`` (one
    with files of this machine), ``busybox`` (of this machine) and ``init``; without
    packages and directory, the kernel is the image's own.  Raises TreeError,
    UpstreamError if a module is absent.
    """
    with ExitStack() as files:
        tree = image
        if request["packages"]:
            tree = FileTree(request["limit"])
            for path in request["packages"]:
                tar = files.enter_context(tarfile.open(path))
                apply_layer(tree, tar, Counter())
        elif request["directory"]:
            tree = _directory_tree(Path(request["directory"]), request["limit"])
        busybox = _busybox(image, request["busybox"])
        release, directory = _modules_directory(tree)
        kernel = _kernel(tree, release, directory)
        modules = _modules(tree, directory)
        initramfs = build_initramfs(
            busybox, modules, Path(request["init"]).read_bytes()
        )
    (work / "kernel").write_bytes(kernel)
    (work / "initrd").write_bytes(initramfs)
    return release


def _directory_tree(root: Path, limit: int) -> FileTree:
    """Return a tree of the regular files below a directory."""
    tree = FileTree(limit)
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                node = Node("file", size=path.stat().st_size, content=HostFile(path))
                tree.put(str(path.relative_to(root)), node)
    return tree


def _modules_directory(tree: FileTree) -> tuple[str, str]:
    """Return the release of the tree's one kernel, and the path of its modules."""
    directories: dict[str, str] = {}
    for path in _MODULES:
        node = tree.find(path)
        for release in node.children if node else ():
            if tree.find(f"{path}/{release}/modules.builtin"):
                directories.setdefault(release, f"{path}/{release}")
    if not directories:
        raise TreeError("no kernel with its modules is in /usr/lib/modules")
    if len(directories) > 1:
        raise TreeError(f"several kernels are there: {', '.join(sorted(directories))}")
    return directories.popitem()


def _kernel(tree: FileTree, release: str, directory: str) -> bytes:
    for path in (f"{directory}/vmlinuz", f"boot/vmlinuz-{release}"):
        kernel = tree.read(path, _FILE_BYTES)
        if kernel:
            return kernel
    raise TreeError(f"/boot/vmlinuz-{release} and /{directory}/vmlinuz are missing")


def _busybox(image: FileTree, local: str) -> bytes:
    """Return a busybox that needs no library, of the image or of this machine."""
    programs = [image.read(path, _FILE_BYTES) for path in _BUSYBOX]
    programs += [Path(local).read_bytes()] if local else []
    for program in programs:
        if is_static(program):
            return program
    raise TreeError(
        "a statically linked busybox, which the initramfs needs, is neither in the "
        "image (Debian: busybox-static, Fedora: busybox) nor on this machine"
    )


def is_static(program: bytes) -> bool:
    """Return whether a program is a 64-bit ELF file that needs no dynamic loader."""
    if program[:6] != b"\x7fELF\x02\x01" or len(program) < 64:
        return False
    (start,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    offsets = range(start, start + size * count, size) if size else ()
    headers = [program[offset : offset + 4] for offset in offsets]
    return struct.pack("<I", _INTERPRETER) not in headers


def _modules(tree: FileTree, directory: str) -> dict[str, bytes]:
    """Return the modules that a guest needs, in loading order."""
    paths = {}
    todo = [f"{directory}/kernel"]
    while todo:
        path = todo.pop()
        node = tree.find(path)
        todo += [f"{path}/{name}" for name in node.children] if node else []
        if node and node.kind == "file" and ".ko" in path:
            paths[module_name(path.rpartition("/")[2])] = path
    builtin = tree.read(f"{directory}/modules.builtin", _FILE_BYTES)

    def read(name: str) -> bytes | None:
        path = paths.get(name)
        return unpack_module(path, tree.read(path, _FILE_BYTES)) if path else None

    return select_modules(
        read, builtin.decode("utf-8", "replace"), usb="vhci_hcd" in paths
    )
