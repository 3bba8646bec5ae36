"""Print the vulnerabilities of other programs that ``brokerctl doctor`` names.

``python -m docs.tables.advisories SECURITY.md`` writes the table between its markers;
with ``--check`` it compares, and returns 1 when the page is old.
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

from broker.cli.doctor.vulnerabilities import Advisory, load_table
from docs.tables.generated_section import replace_section, update_file

BEGIN, END = "<!-- advisories: begin -->", "<!-- advisories: end -->"


def print_table() -> str:
    """Return the table: a row for each entry of ``broker/data/advisories.toml``."""
    table = load_table()
    lines = [
        f"Last changed on {table.date}.",
        "",
        "| program | identifier | affected versions | fixed Debian packages | effect for you | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for program in table.program:
        for entry in program.advisory:
            packages = ", ".join(f"{r}: {v}" for r, v in sorted(entry.debian.items()))
            cells = (
                *(program.name, entry.id, _ranges(entry), packages or "-"),
                *(entry.meaning, _link(entry.source)),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ranges(entry: Advisory) -> str:
    ranges = (
        f"before {fixed}" if first == "0" else f"{first} to before {fixed}"
        for first, fixed in entry.affected
    )
    return ", ".join(ranges)


def _link(source: str) -> str:
    if source.startswith("https://"):
        return f"[{urlsplit(source).hostname}]({source})"
    return f"[boundaries]({source})" if source.startswith("docs/") else source


if __name__ == "__main__":
    sys.exit(
        update_file(
            lambda text: replace_section(text, BEGIN, END, print_table()), "advisories"
        )
    )
