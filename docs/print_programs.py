"""Print the table of programs in ``docs/programs.md`` from their measured results.

``python -m docs.print_programs RESULTS`` takes new ones (``tests/programs/measure.py``),
which replace those of the same program and place; without an argument the page is printed again, and with ``--check`` it is compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.programs.table import PROGRAMS, Program

PAGE = Path(__file__).with_name("programs.md")
RESULTS = Path(__file__).with_name("tables") / "programs.json"
BEGIN, END = "<!-- programs: begin -->\n", "<!-- programs: end -->"


_COLUMNS = {
    "directly": "directly",
    "box": "box without a record",
    "persistent": "persistent box of a record",
    "podman": "Podman, an image of Debian",
    "machine": "micro VM, an image of Debian 13, emulated",
}


def page(text: str) -> str:
    """Return the page with the table of the stored results."""
    results = json.loads(RESULTS.read_text())
    found = results["rows"]
    cells = [_cells(program, found.get(program.name, {})) for program in PROGRAMS]
    inside = [cell for row in cells for cell in row[1:] if not cell.startswith("not ")]
    work = sum(cell.startswith("works") for cell in inside)
    part = work / max(len(inside), 1)
    count = f"{work} of {len(inside)} cells of boxes, containers and micro VMs work ({part:.1%})"
    rows = list(zip(PROGRAMS, cells, strict=True))
    dates = dict(results["dates"])
    machine = dates.pop("machine")
    lines = [
        f"Measured on {max(dates.values())}, the micro VM on {machine}: {len(PROGRAMS)} programs, {count}.",
        "A program that this machine lacked has no result.",
        "",
        "These work directly and in each of the four kinds of sandboxes:",
        "",
        *(f"* {_name(program)}: {program.does}" for program, row in rows if _all(row)),
        "",
        f"| program | what it did | {' | '.join(_COLUMNS.values())} |",
        f"|{'---|' * (2 + len(_COLUMNS))}",
        *(_row(program, row) for program, row in rows if not _all(row)),
        "",
    ]
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{chr(10).join(lines)}{END}{after}"


def take(results: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Put a line of ``tests/programs/measure.py`` into the stored results."""
    row = results["rows"].setdefault(new["name"], {})
    if "directly" in new["row"]:
        # What does not work directly any more was tried in no box.
        for place in ("box", "persistent"):
            row.pop(place, None)
    row.update(new["row"])
    for place in new["row"]:
        results["dates"][place] = max(results["dates"].get(place, ""), new["date"])


def _all(cells: list[str]) -> bool:
    return set(cells) == {"works"}


def _name(program: Program) -> str:
    packages = ", ".join(f"`{name}`" for name in program.package.split())
    return f"{program.name} ({packages})"


def _row(program: Program, cells: list[str]) -> str:
    return f"| {_name(program)} | {program.does} | {' | '.join(cells)} |"


def _cells(program: Program, row: dict[str, str]) -> list[str]:
    cells = {place: _cell(row, place) for place in _COLUMNS}
    if program.x11:
        record = dict.fromkeys(("persistent", "podman", "machine"), "x11 = true")
        for place, words in {"box": "--x11", **record}.items():
            if cells[place] == "works":
                cells[place] = f"works, with `{words}`"
    if program.setting and cells["persistent"] == "works":
        cells["persistent"] = f"works, with `{program.setting}`"
    cells |= {place: f"no: {why}" for place, why in program.reasons.items()}
    return [*cells.values()]


def _cell(row: dict[str, str], place: str) -> str:
    if place not in row:
        return "not measured"
    if row[place].startswith("needs "):
        return "not installed"
    return f"no: {row[place]}" if row[place] else "works"


def main() -> int:
    """Write the page, or compare it."""
    words = [word for word in sys.argv[1:] if word != "--check"]
    if words:
        results = json.loads(RESULTS.read_text())
        for line in Path(words[0]).read_text().splitlines():
            take(results, json.loads(line))
        RESULTS.write_text(f"{json.dumps(results, indent=1)}\n")
    text = page(PAGE.read_text())
    if "--check" in sys.argv:
        return int(text != PAGE.read_text())
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
