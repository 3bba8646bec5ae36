"""docs/examples/follow.py, the example program of docs/api.md, beside a real broker."""

from __future__ import annotations

import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import trio

from broker.helpers.process.spawn import PIPE, spawn
from tests.kit.brokerctl import brokerctl, lines_of, running
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = PID_NAMESPACES
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
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()
        child.popen.stdout.close()


async def test_events_are_sent_as_they_are_recorded_and_only_those_asked_for():
    async with world(image=False) as w:
        async with follow(w, "lease", "decision") as lines:
            assert await anext(lines) == "following"
            words = ("run", "-q", "--bwrap", "--", "true")
            answer = await brokerctl(*words, env=w.environ)
            assert answer.code == 0, answer
            seen = [await anext(lines)]
            while not seen[-1].startswith("lease.end"):
                seen.append(await anext(lines))
            assert seen[0].startswith("lease.begin box-")
            kinds = {line.split()[0] for line in seen}
            assert kinds <= {"lease.begin", "decision", "lease.end"}
        # The subscriber has gone; the broker serves others.
        answer = await brokerctl(*words, env=w.environ)
        assert answer.code == 0, answer


async def test_windows_are_sent_again_when_they_change():
    words = ("run", "-q", "--bwrap", "--", "foot", "-T", "boxed", "sleep", "1000")
    async with world(image=False) as w, follow(w, "windows") as lines:
        assert await anext(lines) == "no windows"
        async with running(*words, env=w.environ):
            await wait_window(w.comp, title="boxed")
            line = ""
            while "boxed" not in line:
                line = await anext(lines)
            assert line.startswith("box-")
        while line != "no windows":
            line = await anext(lines)
