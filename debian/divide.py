"""Divide the package's tree: move each part's files to its own package.

Run by debian/rules after ``install.py``: ``divide.py DEBIAN``, the directory that has a
tree for each package.  Which files a part has is in ``broker.core.parts.table``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE))

from broker.core.parts.table import PARTS, package, part_of_file  # noqa: E402

UNITS = "broker/data/systemd/system"
ENTRIES = "broker/data/desktop"
PROGRAMS = {name: part for part, row in PARTS.items() for name in row.programs}


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of parts in the tree, and the part of each."""
    (site,) = root.glob("usr/lib/vitrail/lib/python3*/site-packages")
    for path in site.rglob("*"):
        part = part_of_file(str(path.relative_to(site)))
        if part and not path.is_dir():
            yield path, part
    for unit in (root / "usr/lib/systemd/system").iterdir():
        if part := part_of_file(f"{UNITS}/{unit.name}"):
            yield unit, part
    for entry in (root / "usr/share/applications").iterdir():
        if part := part_of_file(f"{ENTRIES}/{entry.name}"):
            yield entry, part
    for directory in ("usr/lib/vitrail/bin", "usr/bin"):
        for path in (root / directory).iterdir():
            if path.name in PROGRAMS:
                yield path, PROGRAMS[path.name]


def main(debian: Path) -> None:
    """Entry point."""
    root = debian / "vitrail"
    for path, part in [*files(root)]:
        target = debian / package(part) / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        folder = path.parent
        while not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


if __name__ == "__main__":
    main(Path(sys.argv[1]))
