"""Print the results of all programs as JSON, for ``docs/tables/programs.json``.

``.ci/as-user tests.programs.measure > results; .venv/bin/python -m docs.print_programs results``
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import trio

from tests.programs.places import desk
from tests.programs.table import PROGRAMS


async def main() -> None:
    """Run each program in each place."""
    rows: dict[str, dict[str, str]] = {}
    async with desk() as d:
        for program in PROGRAMS:
            sys.stderr.write(f"{program.name}\n")
            rows[program.name] = await d.measured(program)
    date = datetime.now(UTC).date().isoformat()
    json.dump({"date": date, "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    trio.run(main)
