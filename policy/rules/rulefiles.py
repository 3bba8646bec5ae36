"""Reading files of rules from directories; with ``loader`` the only input.

The authority and brokerctl read by this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policy import limits
from policy.errors import WHOLE_FILE, Problem
from policy.files import NOTHING, Overlay, overlaid, read_file, wrong_owner
from policy.rules.ruleset import ReadError, RuleSet, Tree, assemble, is_rule_file

FOLDER = "policy.d"
SHIPPED = Path(__file__).parent.parent / "data"
"""The rules that come with the program, searched last."""


@dataclass(frozen=True)
class DirectoryTree:
    """Files of one directory; an included file must be as safe as the including one.

    ``overlay`` is what some files would be (see ``policy.files``).
    """

    directory: Path
    check_owner: bool = True
    overlay: Overlay = field(default_factory=lambda: NOTHING, compare=False)

    def show(self, path: str) -> str:
        """See ``Tree``."""
        return str(self.directory / path)

    def read(self, path: str) -> bytes:
        """Read a file below the directory; see ``Tree``."""
        full = self.directory / path
        if (key := os.path.normpath(full)) in self.overlay:
            new = self.overlay[key]
            if new is None:
                raise ReadError("there is no such file")
            return new
        content = read_file(
            full,
            check_owner=self.check_owner,
            most=limits.RULE_FILE_BYTES,
        )
        if isinstance(content, Problem):
            raise ReadError(content.message)
        return content

    def entries(self, path: str) -> list[str]:
        """List the directory's files, as ``overlay`` would leave them; see ``Tree``.

        Raises ReadError, also where the directory is another user's.
        """
        folder = self.directory / path
        new = overlaid(folder, self.overlay)
        if new and not folder.exists():
            return sorted(name for name, there in new.items() if there)
        try:
            with os.scandir(folder) as found:
                names = [entry.name for entry in found if not entry.is_dir()]
            info = folder.stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ReadError(f"cannot be read: {reason}") from None
        wrong = wrong_owner(folder, info) if self.check_owner else None
        if wrong is not None:
            raise ReadError(wrong.message)
        kept = [name for name in names if name not in new]
        return kept + [name for name, there in new.items() if there]


def rule_path(runtime: Path, config: Iterable[Path]) -> tuple[Path, ...]:
    """Return the directories of rules in the order in which they win."""
    return tuple(base / FOLDER for base in (runtime, *config))


def load_rules(
    directories: Sequence[Path],
    *,
    check_owner: bool = True,
    compat: bool = False,
    shipped: Path | None = None,
    overlay: Overlay = NOTHING,
) -> RuleSet:
    """Read all rules; never raises for their content.

    ``shipped`` is a directory that came with the program, searched last; owner
    and mode are not looked at there, because a user who may write to it may write
    the program too.

    The first file of a base name wins, then all are asked in the C order of
    their base names.  A directory that is missing is empty; a directory that cannot be
    read denies everything, because it may hold any rule.
    """
    trees: dict[str, Tree] = {}
    ahead: list[Problem] = []
    places = [(directory, check_owner) for directory in directories]
    if shipped is not None:
        places.append((shipped, False))
    for directory, check in places:
        if not os.path.lexists(directory) and not overlaid(directory, overlay):
            continue
        tree = DirectoryTree(directory, check, overlay)
        try:
            names = tree.entries(".")
        except ReadError as error:
            ahead.append(Problem(str(directory), WHOLE_FILE, str(error)))
            continue
        for name in filter(is_rule_file, names):
            trees.setdefault(name, tree)
    sources = [(tree, name) for name, tree in trees.items()]
    return assemble(sources, compat=compat, ahead=ahead)
