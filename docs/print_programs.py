"""Print the table of programs in ``docs/programs.md`` from their measured results.

``python -m docs.print_programs RESULTS`` takes new ones (``tests/programs/measure.py``);
without an argument the page is printed again, and with ``--check`` it is compared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.programs.table import PROGRAMS, Program

PAGE = Path(__file__).with_name("programs.md")
RESULTS = Path(__file__).with_name("tables") / "programs.json"
BEGIN, END = "<!-- programs: begin -->\n", "<!-- programs: end -->"


def page(text: str) -> str:
    """Return the page with the table of the stored results."""
    results = json.loads(RESULTS.read_text())
    lines = [
        f"Measured on {results['date']}; a program that this machine lacked has no result.",
        "",
        "| program | package | what it did | directly | box without a record | box of a record |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(program, results["rows"].get(program.name, {})) for program in PROGRAMS),
        "",
    ]
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{chr(10).join(lines)}{END}{after}"


def _row(program: Program, row: dict[str, str]) -> str:
    cells = [_cell(row, "directly"), _cell(row, "box"), _cell(row, "record")]
    if program.record_only:
        wants = program.of_record or f"needs `{program.setting}` of a record"
        cells[1] = f"no: {wants}"
    if program.setting:
        cells[2] += f", with `{program.setting}`"
    return f"| {program.name} | `{program.package}` | {program.does} | {' | '.join(cells)} |"


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
        RESULTS.write_text(
            f"{json.dumps(json.loads(Path(words[0]).read_text()), indent=1)}\n"
        )
    text = page(PAGE.read_text())
    if "--check" in sys.argv:
        return int(text != PAGE.read_text())
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
