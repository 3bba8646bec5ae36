"""Print the table of programs in ``docs/threat-model.md``, and ``docs/modules.md``.

``python -m docs.print_processes`` writes each between its marks; with ``--check`` it
compares and returns 1 when a page is older than its table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docs.tables.imports import Size, closure, modules
from docs.tables.processes import PROGRAMS, TOGETHER

PAGE = Path(__file__).with_name("threat-model.md")
MODULES_PAGE = Path(__file__).with_name("modules.md")
_SAME = {
    "vitrail-local, viewer": "viewer",
    "vitrail-viewer": "viewer",
    "vitrail-local, host": "host",
    "vitrail-host": "host",
}
"""Programs with the same code on one machine and on two."""
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


def modules_table() -> str:
    """Return a row for the modules of each folder that the same processes import."""
    programs: dict[str, frozenset[str]] = {}
    for one in PROGRAMS:
        name = _SAME.get(one.name, one.name)
        programs[name] = programs.get(name, frozenset()) | one.closure()
    # Their verbs and programs are named by words.
    guests = ("shims.files.", "shims.guest.", "shims.wayland.", "shims.x11.")
    for name, tops in (("brokerctl", "broker.cli."), ("programs in sandboxes", guests)):
        entry = tuple(module for module in modules() if module.startswith(tops))
        programs[name] = closure(entry)
    rows: dict[tuple[str, str], list[str]] = {}
    for module, path in sorted(modules().items()):
        if path.name != "__init__.py":
            folder, _, name = module.rpartition(".")
            runs = ", ".join(
                one for one, imported in programs.items() if module in imported
            )
            rows.setdefault((folder, runs), []).append(name)
    lines = ["| folder | modules | processes |", "| --- | --- | --- |"]
    for (folder, processes), names in rows.items():
        place = folder.replace(".", "/")
        lines.append(f"| `{place}` | {', '.join(names)} | {processes or 'none'} |")
    return "\n".join(lines) + "\n"


def page(text: str, made: str) -> str:
    """Return a page with a table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, "the page has no marks"
    return before + BEGIN + made + END + after


def main(words: list[str]) -> int:
    """Write the page, or compare it with the table; return the exit code."""
    result = 0
    for place, made in ((PAGE, table()), (MODULES_PAGE, modules_table())):
        old = place.read_text()
        new = page(old, made)
        if "--check" in words:
            result |= new != old
        else:
            place.write_text(new)
    return int(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
