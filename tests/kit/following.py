"""docs/examples/follow.py, the subscriber that docs/api.md shows, beside a broker."""

from __future__ import annotations

import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from broker.helpers.process.spawn import PIPE, spawn
from tests.kit.brokerctl import lines_of

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "follow.py"


@asynccontextmanager
async def follow(w, *words):
    """Run the example; yields its lines."""
    argv = [sys.executable, "-I", str(EXAMPLE), *words]
    child = spawn(argv, env=w.environ, stdout=PIPE)
    try:
        async with aclosing(lines_of(child)) as lines:
            yield lines
    finally:
        await child.kill_and_wait()
        child.popen.stdout.close()


async def until(lines, start):
    """Return lines up to the first that begins so; it is the last one."""
    seen = [await anext(lines)]
    while not seen[-1].startswith(start):
        seen.append(await anext(lines))
    return seen
