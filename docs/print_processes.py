"""Print which processes import what, in pages.

``python -m docs.print_processes`` writes the table of programs in
``docs/threat-model.md``, and ``docs/modules.md``; with ``--check`` it compares and
returns 1 when one of them is old.
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
    """Return the table: a row for each program and each phase, and all together."""
    lines = [
        "| program | rights | modules | lines | lines of code |",
        "| --- | --- | --- | --- | --- |",
    ]
    for program in PROGRAMS:
        rights = program.rights + (", of two machines" if program.linked else "")
        size = Size(program.modules, program.lines, program.code)
        name = f"… {program.name}" if not program.is_kind else program.name
        lines.append(_row(name, rights, size))
    lines.append(_row("all with the user's rights on one machine", "", TOGETHER))
    return "\n".join(lines) + "\n"


def modules_table() -> str:
    """Return the folders of one set of processes, then a line for each other folder."""
    whole: dict[tuple[str, ...], list[str]] = {}
    lines = []
    for package, groups in processes_of_packages().items():
        folder = f"`{package.replace('.', '/')}`"
        if len(groups) == 1:
            [runs] = groups
            whole.setdefault(runs, []).append(folder)
            continue
        parts = (f"{', '.join(names)} ({_who(runs)})" for runs, names in groups.items())
        lines.append(f"* {folder}: {'; '.join(parts)}")
    first = [f"* all of {', '.join(f)}: {_who(runs)}" for runs, f in whole.items()]
    return "\n".join(first + lines) + "\n"


def _who(runs: tuple[str, ...]) -> str:
    return f"*{', '.join(runs) or 'none'}*"


def processes_of_packages() -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Return each package's modules by the processes that import them."""
    programs: dict[str, frozenset[str]] = {}
    for one in PROGRAMS:
        name = one.phase_of or one.name
        name = _SAME.get(name, name)
        programs[name] = programs.get(name, frozenset()) | one.closure()
    # Their verbs and programs are named by words.
    names = ("files", "guest", "usb", "wayland", "x11")
    guests = tuple(f"shims.{name}." for name in names)
    for name, tops in (("brokerctl", "broker.cli."), ("programs in sandboxes", guests)):
        entry = tuple(module for module in modules() if module.startswith(tops))
        programs[name] = closure(entry)
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for module, path in sorted(modules().items()):
        if path.name != "__init__.py":
            package, _, name = module.rpartition(".")
            runs = tuple(one for one, known in programs.items() if module in known)
            found.setdefault(package, {}).setdefault(runs, []).append(name)
    return found


def page(text: str, made: str) -> str:
    """Return a page with a table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, "the page has no marks"
    return before + BEGIN + made + END + after


def main(words: list[str]) -> int:
    """Write the page, or compare it with the table; return the exit code."""
    result = 0
    wanted = {
        place: page(place.read_text(), made)
        for place, made in ((PAGE, table()), (MODULES_PAGE, modules_table()))
    }
    for place, new in wanted.items():
        old = place.read_text()
        if "--check" in words:
            result |= new != old
        else:
            place.write_text(new)
    return int(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
