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
        *("broker", "authority", "host", "pump", "fork server", "helper fork server"),
    }
)
"""Roles of the processes that all sandboxes need."""
_DEADLINE = 20


@dataclass
class FirstLight:
    """A broker with one sandbox that stays."""

    world: World
    plan: FaultPlan
    environ: dict[str, str]
    neighbour: Child
    supervisors: dict[str, tuple[int, int]]
    """Their roles, with pid and moment of their start."""

    async def problems(self, fault: Fault) -> list[str]:
        """Start a box while the fault comes; return what ended and should not have."""
        self.plan.arm(fault)
        answer = await self._run()
        hit = self.plan.disarm()
        found = [] if answer else ["the start does not end"]
        again = await self._run()
        if again is None or again.code != 0:
            found.append(f"the next start fails: {again}")
        for role, (pid, started) in self.supervisors.items():
            if _started(pid) != started:
                found.append(f"ended: {role}, pid {pid}")
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


async def supervisors(w: World) -> dict[str, tuple[int, int]]:
    """Return pid and start of the processes that all sandboxes need, by their roles.

    As the broker says them: a process that one of them has just forked has its name.
    """
    running = (await w.status()).processes
    found = {p.role: (p.pid, _started(p.pid)) for p in running if p.role in SUPERVISORS}
    assert found.keys() == SUPERVISORS, found
    return found


def _started(pid: int) -> int:
    """Return when a process started, in ticks since the boot; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    state, *fields = stat.rpartition(") ")[2].split()
    return 0 if state == "Z" else int(fields[18])


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
                yield FirstLight(w, plan, environ, neighbour, await supervisors(w))


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
