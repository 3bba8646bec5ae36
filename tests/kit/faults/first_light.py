"""First light while one call fails: what has to continue, and what may end.

The path is a box that opens a window and ends.  One stream or one start may end with
the fault.  The broker's processes, the fork servers, the next start and a sandbox that
was there before continue.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.helpers.process.spawn import Child
from tests.kit.brokerctl import Answer, brokerctl, running
from tests.kit.eventually import NeverError, eventually
from tests.kit.faults.plan import ERRORS, Fault, FaultPlan, faults
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, world

_BOX = ("run", "-q", "--bwrap", "--", "foot", "-T")
SHOWN = (*_BOX, "shown", "true")
NEIGHBOUR = (*_BOX, "neighbour", "sleep", "1000")
SUPERVISORS = frozenset(
    {
        *("vitrail-author", "vitrail-pump", "vitrail-forks", "vitrail-helpers"),
        "vitrail-host",
    }
)
"""Processes that all sandboxes need, by their names; and the broker's first one."""
_DEADLINE = 20


@dataclass
class FirstLight:
    """A broker with one sandbox that stays."""

    world: World
    plan: FaultPlan
    environ: dict[str, str]
    neighbour: Child
    processes: dict[int, str]

    async def problems(self, fault: Fault) -> list[str]:
        """Start a box while the fault comes; return what ended and should not have."""
        self.plan.arm(fault)
        answer = await self._run()
        hit = self.plan.disarm()
        found = [] if answer else ["the start does not end"]
        again = await self._run()
        if again is None or again.code != 0:
            found.append(f"the next start fails: {again}")
        now = supervisors(self.world)
        if gone := {p: name for p, name in self.processes.items() if p not in now}:
            found.append(f"ended: {gone}")
        try:
            await eventually(lambda: len(self._directories()) < 2)
        except NeverError:
            found.append(f"left: {self._directories()}")
        if self.neighbour.popen.poll() is not None:
            found.append("the other sandbox has ended")
        print(
            f"{fault}: pid {hit}, code {answer.code if answer else None} {found}",
            flush=True,
        )
        return found

    def _directories(self) -> list[Path]:
        """Those of sandboxes; the neighbour has one."""
        return list((self.world.paths.runtime / "sandboxes").glob("*"))

    async def _run(self) -> Answer | None:
        with suppress(trio.TooSlowError):
            return await brokerctl(*SHOWN, env=self.environ, deadline=_DEADLINE)
        return None


def supervisors(w: World) -> dict[int, str]:
    """Pids and names of the processes that all sandboxes need."""
    found = {}
    for pid, words in w.processes().items():
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in SUPERVISORS or (w.program in words and name == "python"):
                found[pid] = name
    return found


@asynccontextmanager
async def first_light() -> AsyncIterator[FirstLight]:
    """Run a broker that can fail, warm, with a sandbox that stays."""
    with (
        tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name,
        faults(Path(name)) as (plan, env),
    ):
        program = "tests.kit.faults.broker"
        async with world(image=False, program=program, extra=env) as w:
            # Of the broker's processes alone: brokerctl has no faults.
            environ = {k: v for k, v in w.environ.items() if k not in env}
            async with running(*NEIGHBOUR, env=environ) as neighbour:
                await wait_window(w.comp, title="neighbour")
                for _ in range(2):
                    answer = await brokerctl(*SHOWN, env=environ)
                    assert answer.code == 0, answer
                yield FirstLight(w, plan, environ, neighbour, supervisors(w))


async def all_faults() -> list[Fault]:
    """Return every fault of one start, by the calls that it made just now."""
    async with first_light() as light:
        before = light.plan.counts()
        answer = await brokerctl(*SHOWN, env=light.environ)
        assert answer.code == 0, answer
        after = light.plan.counts()
    return sorted(
        Fault(role, call, nth, error)
        for (role, call), count in after.items()
        for nth in range(1, count - before.get((role, call), 0) + 1)
        for error in ERRORS.get(call, ())
    )
