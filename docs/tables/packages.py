"""The page of package names by distribution (``python -m docs.tables.packages FILE``)."""

from __future__ import annotations

import sys
from functools import partial

from broker.core.distribution import PACKAGES
from docs.tables.generated_section import replace_section, update_file

BEGIN, END = "<!-- packages: begin -->", "<!-- packages: end -->"


def table() -> str:
    """Return a row for each package; a dash if the distribution does not have it."""
    heads = ("Debian, Ubuntu", "Fedora", "openSUSE", "Arch", "NixOS", "project")
    rows = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    rows += [f"| {name} | {' | '.join(row)} |" for name, row in PACKAGES.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    update = partial(replace_section, begin=BEGIN, end=END, section=table())
    sys.exit(update_file(update, "package names"))
