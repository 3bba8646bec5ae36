"""Print the table of programs in ``docs/threat-model.md``.

``python -m docs.print_processes`` writes it between its marks; with ``--check`` it
compares and returns 1 when the page is older than the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docs.tables.imports import Size
from docs.tables.processes import PROGRAMS, TOGETHER

PAGE = Path(__file__).with_name("threat-model.md")
BEGIN, END = "<!-- sizes: begin -->\n", "<!-- sizes: end -->"


def _row(name: str, rights: str, size: Size) -> str:
    figures = " | ".join(f"{n:,}" for n in (size.modules, size.lines, size.code))
    return f"| {name} | {rights} | {figures} |"


def table() -> str:
    """Return the table: a row for each program, and all together."""
    lines = [
        "| program | rights | modules | lines | lines of code |",
        "| --- | --- | --- | --- | --- |",
    ]
    for program in PROGRAMS:
        rights = program.rights + (", of two machines" if program.linked else "")
        size = Size(program.modules, program.lines, program.code)
        lines.append(_row(program.name, rights, size))
    lines.append(_row("all with the user's rights on one machine", "", TOGETHER))
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return a page with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, f"no marks in {PAGE.name}"
    return before + BEGIN + table() + END + after


def main(words: list[str]) -> int:
    """Write the page, or compare it with the table; return the exit code."""
    old = PAGE.read_text()
    new = page(old)
    if "--check" in words:
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
