"""Rules of files in memory: of an import, a change that is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policy.rules.ruleset import MAIN, ReadError, RuleSet, assemble, is_rule_file


@dataclass(frozen=True)
class MapTree:
    """Files in memory."""

    files: Mapping[str, str]

    def show(self, path: str) -> str:
        """See ``Tree``."""
        return path

    def read(self, path: str) -> bytes:
        """See ``Tree``."""
        try:
            return self.files[path].encode("utf-8", "surrogatepass")
        except KeyError:
            raise ReadError("there is no such file") from None

    def entries(self, path: str) -> list[str]:
        """List the files of a directory in memory; see ``Tree``."""
        folder = "" if path == "." else path + "/"
        inside = [name for name in self.files if name.startswith(folder)]
        if folder and not inside:
            raise ReadError("there is no such directory")
        names = [name.removeprefix(folder) for name in inside]
        return [name for name in names if "/" not in name]


def rules_of_map(files: Mapping[str, str], *, compat: bool = False) -> RuleSet:
    """Return the set that files in memory make.

    As in a directory: names that end in ``.policy`` in C order; with a file
    ``__main__`` that one alone.
    """
    tree = MapTree(files)
    names = (
        [MAIN] if MAIN in files else [n for n in tree.entries(".") if is_rule_file(n)]
    )
    return assemble([(tree, name) for name in names], compat=compat)
