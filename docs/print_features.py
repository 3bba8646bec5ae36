"""Print the matrix of features and processes, and the parts, in ``docs/features.md``.

``python -m docs.print_features`` writes it; with ``--check`` it compares and returns 1
when the page is old.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from broker.core.parts.table import PARTS, part_of
from docs.tables.features import FEATURES, FRAME, ROWS, by_feature, place_of, row_of
from docs.tables.imports import modules, size

PAGE = Path(__file__).with_name("features.md")
MARKS = "<!-- {}: begin -->\n", "<!-- {}: end -->"
COLUMNS: Final = (
    *("authority", "host", "viewer", "session", "jail", "worker's shell"),
    *("helpers", "root", "brokerctl", "guest", "records and rules"),
)
"""Processes, in the order of their trust; then the guest, and what files may say."""


def table() -> str:
    """Return the matrix: a row for each feature, the frame last."""
    lines = [
        f"| feature | {' | '.join(COLUMNS)} | code | imports |",
        "|" + " --- |" * (len(COLUMNS) + 3),
    ]
    lines += [_row(name) for name in sorted(FEATURES)]
    lines.append(f"| *frame* |{' |' * len(COLUMNS)} {_code(by_feature()[FRAME])} | |")
    return "\n".join(lines) + "\n"


def _row(name: str) -> str:
    members = by_feature()[name]
    cells = " | ".join(_cell(members, row) for row in COLUMNS)
    feature = FEATURES[name]
    used = ", ".join(sorted(feature.uses))
    return f"| **{name}**: {feature.title} | {cells} | {_code(members)} | {used} |"


def _code(members: tuple[str, ...]) -> str:
    """Return lines of code in hundreds, so that a line more changes no page."""
    return f"{round(size(members).code / 100) / 10:.1f}k"


def _cell(members: tuple[str, ...], row: str) -> str:
    places = {place_of(module)[1] for module in members if row_of(module) == row}
    return ", ".join(f"`{_short(place)}`" for place in sorted(places))


def _short(place: str) -> str:
    """Return a place without its row's folder; a package ends with a slash."""
    prefix = max((p for p in ROWS if f"{place}.".startswith(f"{p}.")), key=len)
    path = place.removeprefix(f"{prefix}.").replace(".", "/")
    return f"{path}/" if modules()[place].name == "__init__.py" else path


def parts() -> str:
    """Return the table of the packages: the core, then what few need."""
    members: dict[str, list[str]] = {"": [], **{name: [] for name in PARTS}}
    for module in modules():
        members[part_of(module) or ""].append(module)
    lines = ["| package | what | code |", "| --- | --- | --- |"]
    for name, found in members.items():
        title = f"vitrail-{name}" if name else "vitrail"
        about = PARTS[name].about if name else "the core: all else"
        lines.append(f"| `{title}` | {about} | {_code(tuple(found))} |")
    lines.append(f"| *all* | | {_code(tuple(modules()))} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with the present tables in place of those in ``text``."""
    for name, made in (("matrix", table()), ("parts", parts())):
        begin, end = (mark.format(name) for mark in MARKS)
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}{made}{end}{after}"
    return text


def main() -> int:
    """Write the page, or compare it with the code."""
    text = PAGE.read_text()
    made = page(text)
    if "--check" in sys.argv[1:]:
        return int(made != text)
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
