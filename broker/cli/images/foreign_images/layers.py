"""Read layers into a tree, and write the tree as one archive.

Standard library only; the layers are a stranger's, and brokerctl
starts this in a jail.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from dataclasses import dataclass
from typing import IO

from broker.cli.images.foreign_images.tree import (
    ENTRIES,
    PATH_BYTES,
    FileContent,
    FileTree,
    Node,
    TreeError,
    parts_of,
)

EPOCH = 1_600_000_000
"""Time of every file: equal layers give equal bytes."""


@dataclass(frozen=True)
class Member:
    """A file inside a layer."""

    archive: tarfile.TarFile
    info: tarfile.TarInfo

    def open(self) -> IO[bytes]:
        """Return a reader, while ``archive`` is open.  Raises TreeError if it has no data."""
        file = self.archive.extractfile(self.info)
        if file is None:
            raise TreeError("a file in the layer has no content")
        return file


def apply_layer(
    tree: FileTree, archive: tarfile.TarFile, dropped: Counter[str]
) -> None:
    """Apply a layer to the tree; ``dropped`` counts members that it cannot have.

    Whiteouts hide lower layers only, wherever in the archive they are, so they
    come first.  Raises TreeError.
    """
    members = _members(archive)
    rest = [info for info in members if not tree.whiteout(info.name)]
    for info in rest:
        _add(tree, archive, info, dropped)


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return a layer's members.  Raises TreeError for too many."""
    found = []
    for info in archive:
        found.append(info)
        if len(found) > ENTRIES:
            raise TreeError(f"the layer contains more than {ENTRIES} files")
    return found


def _add(
    tree: FileTree,
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    dropped: Counter[str],
) -> None:
    """Add a layer's member to the tree by its type, or count it as dropped."""
    if info.isdir():
        tree.put(info.name, _node("dir", info))
    elif info.isreg():
        node = _node("file", info)
        node.size = info.size
        node.content = Member(archive, info)
        tree.put(info.name, node)
    elif info.issym():
        node = _node("link", info)
        node.target = _checked_target(info.linkname)
        tree.put(info.name, node)
    elif info.islnk():
        tree.put_hard_link(info.name, info.linkname)
    else:
        # A device of a stranger's in a guest would be the guest's, not ours; but
        # genext2fs makes each named device, and no image needs any.
        dropped["devices" if info.isdev() else "others"] += 1
    if any(key.startswith("SCHILY.xattr.") for key in info.pax_headers):
        dropped["extended attributes"] += 1


def _node(kind: str, info: tarfile.TarInfo) -> Node:
    match kind:
        case "dir":
            return Node("dir", info.mode, info.uid, info.gid)
        case "file":
            return Node("file", info.mode, info.uid, info.gid)
        case _:
            return Node("link", 0o777, info.uid, info.gid)


def _checked_target(untrusted_target: str) -> str:
    """Return the target of a link.  Raises TreeError when no file can have it."""
    encoded = untrusted_target.encode("utf-8", "surrogateescape")
    if not encoded or len(encoded) > PATH_BYTES or b"\0" in encoded:
        raise TreeError("a link in the layer has no usable target")
    return untrusted_target


def write_tree(tree: FileTree, out: IO[bytes]) -> int:
    """Write the tree as a tar archive; return the number of its entries."""
    first: dict[int, str] = {}
    count = 0
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name, node in tree.entries():
            parts_of(name)
            count += 1
            _write(archive, name, node, first)
    return count


def _write(
    archive: tarfile.TarFile, name: str, node: Node, first: dict[int, str]
) -> None:
    """Write one node as a member of the tar archive; hard links to an earlier one."""
    info = tarfile.TarInfo(f"./{name}")
    info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, EPOCH
    if node.kind == "dir":
        info.type = tarfile.DIRTYPE
    elif node.kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, node.target
    elif id(node) in first:
        info.type, info.linkname = tarfile.LNKTYPE, first[id(node)]
    else:
        first[id(node)] = info.name
        _write_file(archive, info, node)
        return
    archive.addfile(info)


def _write_file(archive: tarfile.TarFile, info: tarfile.TarInfo, node: Node) -> None:
    content: FileContent | None = node.content
    if content is None:
        archive.addfile(info)
        return
    info.size = node.size
    with content.open() as file:
        archive.addfile(info, file)
