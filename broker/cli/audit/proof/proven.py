"""The verified part of each log, stored by the verifier and not by the store."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.cli import render
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.ipc.audit.nodes import split
from broker.ipc.audit.tree import HASH_BYTES, Growing


class _Tree(msgspec.Struct):
    size: int
    edge: str


class Proven:
    """The file of ``verify --state``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._trees = msgspec.json.decode(path.read_bytes(), type=dict[str, _Tree])
            for name in self._trees:
                self.of(name)
        except FileNotFoundError:
            self._trees = {}
        except (OSError, ValueError, RecursionError) as error:
            raise SetupError(
                f"cannot read the results of earlier verifications in {path}: "
                f"{render.cause(error)}",
                hint="to verify the whole log again, remove the file",
            ) from error

    def of(self, name: str) -> Growing | None:
        """Return the verified tree of a log, or None."""
        tree = self._trees.get(name)
        if tree is None:
            return None
        peaks = bytes.fromhex(tree.edge)
        if tree.size < 0 or len(peaks) != HASH_BYTES * tree.size.bit_count():
            raise ValueError(
                f"the entry for log {name} is damaged: its hashes do not match {tree.size} events"
            )
        return Growing(tree.size, split(peaks))

    def move(self, name: str, tree: Growing) -> None:
        """Remember a log's tree."""
        self._trees[name] = _Tree(tree.size, b"".join(tree.peaks).hex())

    def save(self) -> None:
        """Write the file.  Raises OSError."""
        replace_file(self._path, msgspec.json.encode(self._trees) + b"\n")
