"""Divide the packages' tree: move each file to its own package.

Run by debian/rules after ``install.py``: ``divide.py DEBIAN``, the directory that has a
tree for each package.  Which package has a file is in ``.ci/packaging/tree.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".ci/packaging"))

import tree


def main(debian: Path) -> None:
    """Entry point."""
    usr = debian / tree.CORE / "usr"
    for path in [*tree.files(usr)]:
        name = tree.package_of(path)
        if name == tree.CORE:
            continue
        target = debian / name / "usr" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (usr / path).rename(target)
        folder = (usr / path).parent
        while not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


if __name__ == "__main__":
    main(Path(sys.argv[1]))
