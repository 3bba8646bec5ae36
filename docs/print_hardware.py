"""Print ``docs/hardware.md`` from the reports of ``brokerctl doctor --report``.

``python -m docs.print_hardware`` writes the tables from ``docs/hardware/*.json``; with
``--check`` it compares and returns 1 if the page is old.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("hardware.md")
REPORTS = Path(__file__).with_name("hardware")
BEGIN, END = "<!-- hardware: begin -->\n", "<!-- hardware: end -->"
_CELL = re.compile(r"[^A-Za-z0-9 .,:;()/@+–-]")
_HEAD = (
    *("machine", "system", "graphics", "start, s", "film, frames/s"),
    *("scrolling, frames/s", "key to picture, ms", "sound, ms", "memory, MiB", "KVM"),
)


def page(text: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the page with a row for each report.  Raises ValueError for an unknown form."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    lines += [f"| {' | '.join(_cells(report))} |" for report in reports]
    reasons = sorted({reason for report in reports for reason in _reasons(report)})
    if reasons:
        lines += ["", "Reasons of figures that are missing (–):", ""]
    lines += [f"* {reason}" for reason in reasons]
    head, _, body = text.partition(BEGIN)
    _, _, after = body.partition(END)
    return head + BEGIN + "\n".join(lines) + "\n" + END + after


def _cells(report: Mapping[str, Any]) -> list[str]:
    if report["format"] != 1:
        raise ValueError(f"a report of the form {report['format']} is unknown")
    machine, rows = report["machine"], report["measurements"]
    virtual = ", virtual" if machine["virtual"] else ""
    gpu = ", ".join(machine["gpu"]) or "no GPU"
    memory = rows.get("memory", {})
    hardware = (
        f"{machine['processor']}, {machine['processors']} processors{virtual}, "
        f"{machine['memory_gib']} GiB"
    )
    system = (
        f"{machine['distribution']} {machine['distribution_version']}, Linux "
        f"{machine['kernel']}, {machine['desktop']}; Vitrail {report['version']}, "
        f"{report['date']}"
    )
    cells = [
        hardware,
        system,
        gpu,
        _pair(rows, "start", "seconds") + _machine(rows),
        _pair(rows, "film", "frames_per_second"),
        _pair(rows, "scroll", "frames_per_second"),
        _pair(rows, "key", "median_ms"),
        _pair(rows, "sound", "latency_ms", "jitter_ms"),
        f"{memory.get('broker_mib', '–')} + {memory.get('box_mib', '–')}",
        "yes" if rows["kvm"].get("usable") else "no",
    ]
    return [_CELL.sub("", cell) for cell in cells]


def _pair(rows: Mapping[str, Any], part: str, name: str, variation: str = "") -> str:
    """Return a figure directly and in a box."""
    cells = []
    for kind in ("directly", "box"):
        row = rows.get(kind, {}).get(part, {})
        figure = str(row.get(name, "–"))
        if variation in row:
            figure += f" (varies by {row[variation]})"
        cells.append(figure)
    return " / ".join(cells)


def _machine(rows: Mapping[str, Any]) -> str:
    start = rows.get("machine", {}).get("start")
    return f", micro VM {start['seconds']}" if start else ""


def _reasons(value: object) -> Iterator[str]:
    """Yield why rows are missing, here and below."""
    if isinstance(value, dict):
        if "missing" in value:
            yield value["missing"]
        for item in value.values():
            yield from _reasons(item)


def reports() -> list[dict[str, Any]]:
    """Return the stored reports, by the names of their files."""
    return [json.loads(path.read_text()) for path in sorted(REPORTS.glob("*.json"))]


def main() -> int:
    """Write the page, or compare it."""
    old = PAGE.read_text()
    new = page(old, reports())
    if "--check" in sys.argv:
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
