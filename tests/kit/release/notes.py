"""Print a release's notes: ``python -m tests.kit.release.notes VERSION``.

They are the section of the version in CHANGELOG.md, with links into the release's tree.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEADING = re.compile(r"^## \[([^\]]+)\]", re.MULTILINE)


def extract_section(changelog: str, version: str) -> str:
    """Return the text below the heading of a version.  Raises LookupError without it."""
    parts = HEADING.split(changelog)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if version not in sections:
        raise LookupError(
            f"CHANGELOG.md has no section '## [{version}]'; it has those of "
            f"{', '.join(sections)}: rename [Unreleased] and give it a date"
        )
    # The rest of the heading's line is the date.
    date, _, text = sections[version].partition("\n")
    return f"# Vitrail {version}{date.replace(' - ', ', ')}\n\n{text.strip()}\n"


def main(version: str) -> int:
    """Print the notes; return 1 if the changelog has none."""
    try:
        sys.stdout.write(extract_section((ROOT / "CHANGELOG.md").read_text(), version))
    except LookupError as error:
        sys.stderr.write(f"notes: {error.args[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
