"""The file tree of merged layers, in memory: nothing is extracted.

Layers of a container image are tar archives of a stranger.  Unpacking them is how
links and ``..`` lead out of a directory; here they are merged into a tree of names
that exists in memory only, and that is written as one clean archive: no parent
directories in a name, no device, no link that is followed on this machine.

Rules of merging: the "Image Layer Filesystem Changeset" of the OCI image
specification.  Standard library only: brokerctl starts
this in a jail without our packages.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol

ENTRIES = 300_000
"""Files of a tree; a full desktop has 250,000."""
DEPTH = 128
NAME_BYTES = 255
PATH_BYTES = 4095
"""As Linux has them: a name, a path, the target of a link."""
HOPS = 40
"""Links that one name may lead through, as path_resolution(7) has it."""
OPAQUE = ".wh..wh..opq"
WHITEOUT = ".wh."
_MODE = 0o7777
_LAST_ID = 65534


class TreeError(Exception):
    """A layer that no honest tool writes, or that is too much."""


class FileContent(Protocol):
    """Where the bytes of a file are."""

    def open(self) -> IO[bytes]:
        """Open the content for reading from its beginning."""


@dataclass(frozen=True)
class WrittenContent:
    """Content that we wrote ourselves."""

    data: bytes

    def open(self) -> IO[bytes]:
        """Return a reader."""
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class HostFile:
    """A file of this machine."""

    path: Path

    def open(self) -> IO[bytes]:
        """Open the file.  Raises OSError."""
        return self.path.open("rb")


@dataclass(eq=False)
class Node:
    """A file, directory or symbolic link."""

    kind: Literal["file", "dir", "link"]
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0
    content: FileContent | None = None
    target: str = ""
    children: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep permission bits alone, and owners that an ext2 file system has."""
        self.mode &= _MODE
        self.uid = _owner(self.uid)
        self.gid = _owner(self.gid)


def _owner(number: int) -> int:
    return number if 0 <= number <= _LAST_ID else _LAST_ID


def parts_of(untrusted_name: str) -> tuple[str, ...]:
    """Return the components of a member's name; () for the root.

    Raises TreeError for ``..``, a NUL and names that Linux has no room for.
    """
    parts = tuple(p for p in untrusted_name.split("/") if p not in {"", "."})
    # guard: a layer's names stay below its root
    if ".." in parts:
        raise TreeError(f"the file name {untrusted_name[:100]!r} contains '..'")
    if "\0" in untrusted_name:
        raise TreeError(f"the file name {untrusted_name[:100]!r} contains a NUL byte")
    encoded = untrusted_name.encode("utf-8", "surrogateescape")
    if len(encoded) > PATH_BYTES or len(parts) > DEPTH:
        raise TreeError(f"the file name {untrusted_name[:100]!r}... is too long")
    if any(len(p.encode("utf-8", "surrogateescape")) > NAME_BYTES for p in parts):
        raise TreeError(f"the file name {untrusted_name[:100]!r}... is too long")
    return parts


class FileTree:
    """The merged layers.  ``limit`` is in bytes, over all files."""

    def __init__(self, limit: int) -> None:
        self.root = Node("dir")
        self._limit = limit
        self._entries = 0
        self._bytes = 0

    # -- looking ---------------------------------------------------------------

    def find(self, name: str, *, follow: bool = True) -> Node | None:
        """Return a node or None; links are followed inside the tree."""
        found = self._walk(parts_of(name), follow=follow)
        return found[-1] if found else None

    def read(self, name: str, most: int) -> bytes:
        """Return the first bytes of a file; b"" when none exists."""
        node = self.find(name)
        if node is None or node.content is None:
            return b""
        with node.content.open() as file:
            return file.read(most)

    def _walk(self, parts: tuple[str, ...], *, follow: bool) -> list[Node]:
        """Return the nodes from the root to the last one; [] when none exists."""
        todo = list(reversed(parts))
        path = [self.root]
        hops = 0
        while todo:
            part = todo.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                # The parent of a root is that root: path_resolution(7).
                path = path[:-1] or [self.root]
                continue
            node = path[-1].children.get(part)
            if node is None:
                return []
            if node.kind == "link" and (todo or follow):
                hops += 1
                if hops > HOPS:
                    raise TreeError("the image contains a loop of symbolic links")
                if node.target.startswith("/"):
                    path = [self.root]
                todo += reversed(node.target.split("/"))
                continue
            path.append(node)
        return path

    # -- changing --------------------------------------------------------------

    def parent(self, parts: tuple[str, ...]) -> Node:
        """Return the directory of a name; missing directories are made.

        Links on the way are followed, as a running container would, but only
        inside the tree.  Raises TreeError if a file is in the way.
        """
        found = self._walk(parts[:-1], follow=True)
        if not found:
            self._make_above(parts)
            found = self._walk(parts[:-1], follow=True)
        if not found or found[-1].kind != "dir":
            raise TreeError("the image contains a file in place of a directory")
        return found[-1]

    def _make_above(self, parts: tuple[str, ...]) -> None:
        for count in range(1, len(parts)):
            if not self._walk(parts[:count], follow=True):
                above = self._walk(parts[: count - 1], follow=True)
                self._link_in(above[-1], parts[count - 1], Node("dir"))

    def _link_in(self, directory: Node, name: str, node: Node) -> None:
        if directory.kind != "dir" or name in directory.children:
            # In the way is a link that leads nowhere.
            raise TreeError("the image contains a file whose parent is not a directory")
        self._count(node)
        directory.children[name] = node

    def put(self, name: str, node: Node) -> None:
        """Add a node, in place of an older one.  Raises TreeError."""
        parts = parts_of(name)
        if not parts:
            if node.kind != "dir":
                raise TreeError("the root of the image is not a directory")
            self.root.mode, self.root.uid, self.root.gid = node.mode, node.uid, node.gid
            return
        directory = self.parent(parts)
        old = directory.children.get(parts[-1])
        if old is not None and old.kind == node.kind == "dir":
            old.mode, old.uid, old.gid = node.mode, node.uid, node.gid
            return
        self._count(node)
        directory.children[parts[-1]] = node

    def put_hard_link(self, name: str, target: str) -> None:
        """Add a second name of a file that is in the tree.  Raises TreeError."""
        found = self._walk(parts_of(target), follow=False)
        # guard: a hard link is to a file of the tree
        if not found or found[-1].kind == "dir":
            raise TreeError("the target of a hard link does not exist")
        parts = parts_of(name)
        if not parts:
            raise TreeError("the root of the image is not a directory")
        self._entries_more()
        self.parent(parts).children[parts[-1]] = found[-1]

    def remove(self, name: str) -> None:
        """Remove a name, with all below it; nothing happens if none exists."""
        parts = parts_of(name)
        above = self._walk(parts[:-1], follow=True)
        if parts and above:
            above[-1].children.pop(parts[-1], None)

    def whiteout(self, name: str) -> bool:
        """Apply a whiteout; return whether the name was one."""
        parts = parts_of(name)
        if not parts or not parts[-1].startswith(WHITEOUT):
            return False
        above = "/".join(parts[:-1])
        if parts[-1] == OPAQUE:
            directory = self.find(above) if above else self.root
            if directory is not None:
                directory.children.clear()
            return True
        hidden = parts[-1].removeprefix(WHITEOUT)
        # '.wh..wh.' begins names of aufs's own, which mean nothing to others.
        if hidden and not hidden.startswith(WHITEOUT) and hidden not in {".", ".."}:
            self.remove(f"{above}/{hidden}")
        return True

    def _count(self, node: Node) -> None:
        self._entries_more()
        self._bytes += node.size
        # guard: a layer's files are within the limit
        if node.size < 0 or self._bytes > self._limit:
            raise TreeError(f"the files are larger than {self._limit >> 20} MiB")

    def _entries_more(self) -> None:
        self._entries += 1
        # guard: a layer has a limit of names
        if self._entries > ENTRIES:
            raise TreeError(f"the image contains more than {ENTRIES} files")

    # -- the result ------------------------------------------------------------

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Yield all names except the root, sorted, directories before their content."""
        stack = [("", self.root)]
        while stack:
            name, node = stack.pop()
            if name:
                yield name, node
            below = sorted(node.children.items(), reverse=True)
            stack += [(f"{name}/{part}" if name else part, n) for part, n in below]
