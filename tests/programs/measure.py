"""Print the result of each program as a line of JSON, for ``docs/print_programs.py``.

``.ci/as-user tests.programs.measure > results; .venv/bin/python -m docs.print_programs results``
Words are names of programs, ``--places=A,B`` are places.  Without them it is all of both,
and needs the image of ``python -m tests.programs.image``; ``--places=machine`` is run by
hand alone, as emulated micro VMs are slow.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import trio

from tests.programs.machine import in_machines
from tests.programs.places import BOXES, batches, desk
from tests.programs.table import PROGRAMS


async def main() -> None:
    """Run each program in each place."""
    places, names = (*BOXES, "podman"), set()
    for word in sys.argv[1:]:
        if word.startswith("--places="):
            places = tuple(word.partition("=")[2].split(","))
        else:
            names.add(word)
    programs = [one for one in PROGRAMS if not names or one.name in names]
    machines = "machine" in places
    async with desk(containers="podman" in places, machines=machines) as d:
        boxes = [place for place in places if place in BOXES]
        for program in programs if boxes else ():
            _tell(program.name, await d.measured(program, tuple(boxes)))
        for together in batches(programs) if "podman" in places else ():
            for name, why in (await d.contained(together)).items():
                _tell(name, {"podman": why})
        if machines:
            async for name, why in in_machines(d, programs):
                _tell(name, {"machine": why})


def _tell(name: str, row: dict[str, str]) -> None:
    date = datetime.now(UTC).date().isoformat()
    print(json.dumps({"date": date, "name": name, "row": row}), flush=True)


if __name__ == "__main__":
    trio.run(main)
