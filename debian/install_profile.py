"""Install the AppArmor profiles for the Python of this release.

Run by debian/rules: ``install_profile.py ROOT``, the package's tree.  Debian 12 gets none:
its AppArmor 3 does not know the permission "userns".
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROFILES = Path(__file__).resolve().parents[1] / "broker/data/security/apparmor/vitrail"
FIRST_PYTHON = (3, 12)
"""The version of Ubuntu 24.04, the first release with AppArmor 4."""


def profiles(minor: int) -> str:
    """Return the file's text for Python 3.MINOR."""
    text, changes = re.subn(
        r"^(@{vitrail_python} = /usr/bin/python3\.)\d+$",
        rf"\g<1>{minor}",
        PROFILES.read_text(),
        flags=re.MULTILINE,
    )
    if changes != 1:
        sys.exit(f"install_profile: {PROFILES} names the interpreter {changes} times")
    return text


def main(root: Path) -> None:
    """Entry point."""
    if sys.version_info >= FIRST_PYTHON:
        target = root / "etc/apparmor.d/vitrail"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(profiles(sys.version_info.minor))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
