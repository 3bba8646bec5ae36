"""Follow a run from step to step, report each step and name a failed one."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.ipc.control import api
from broker.viewer.sandboxes.guest import Guest
from broker.viewer.sandboxes.launch_steps import (
    TEXTS,
    Failure,
    LaunchProgress,
    Step,
    agentless_seconds,
)
from broker.viewer.sandboxes.program_output import ProgramOutput
from broker.viewer.sandboxes.programs import LeaseProgram, wait_ended
from policy.records.model import Record, boots

_TELL_EVERY = 0.2
_REFUSALS = 16
"""Different refusals that one run reports; a sandbox can cause any number."""


class Follower:
    """Reports the progress of a run to its client."""

    def __init__(self, emit: api.Emit[api.RunItem], record: Record) -> None:
        self._emit = emit
        self._record = record
        self._told: list[str] = []
        self.failure: Failure | None = None
        """Set when ``follow`` has raised."""
        self._output: ProgramOutput | None = None
        self._refused: set[tuple[str, str]] = set()
        self._refusals: deque[tuple[str, str]] = deque()
        self._more_refusals = trio.Event()
        self._watched: list[Callable[[str, str], None]] = []

    async def say(self, step: str, state: str, detail: str = "", s: float = 0) -> None:
        """Send one line of progress."""
        progress = api.Progress(step=step, state=state, detail=detail, seconds=s)
        await self._emit(api.RunItem(progress=progress))

    def tell(self, detail: str) -> None:
        """Note a detail of the step that runs; sent when it can be."""
        self._told.append(detail)

    @asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[None]:
        """Report a step before the launch's own: begun, its details as they come, done."""
        began = trio.current_time()
        await self.say(title, "begun")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, title, began)
            yield
            nursery.cancel_scope.cancel()
        await self._flush(title, began)
        await self.say(title, "done", s=trio.current_time() - began)

    async def _pass_on(self, title: str, began: float) -> None:
        while True:
            await trio.sleep(_TELL_EVERY)
            await self._flush(title, began)

    async def _flush(self, title: str, began: float) -> None:
        while self._told:
            await self.say(title, "begun", self._told[0], trio.current_time() - began)
            del self._told[0]  # it was sent: a step's end gives up unsent updates

    async def follow(
        self, guest: Guest, program: LeaseProgram, *, last: Step = Step.COMPOSITOR
    ) -> None:
        """Report the steps of a program's window until ``last`` is reached.

        Raises UpstreamError that names the step (``where``), the reason and
        where to look.
        """
        way = program.way
        while not self._over(program, last):
            step = way.next
            assert step is not None
            began = trio.current_time()
            await self.say(TEXTS[step].title, "begun")
            await self._say_what_starts(step, program)
            deadline, reason = self._deadline(step), ""
            if step is Step.AGENT and (reason := guest.without_agent):
                await self.say(TEXTS[step].title, "begun", reason)
                deadline = agentless_seconds(guest.since)
            with trio.move_on_after(deadline) as patience:
                while way.next is step and way.failure is None and not program.ended:
                    await program.changed.wait()
                    if guest.programs.asking:
                        # A user takes longer, and the question has its end.
                        until = trio.current_time() + limits.QUESTION_MOST_SECONDS
                        patience.deadline = until + deadline
                        await self.say(
                            TEXTS[step].title, "begun", "waiting for your answer"
                        )
            took = trio.current_time() - began
            if way.next is step and way.failure is None and not program.ended:
                reason = reason or f"nothing happened within {deadline:.0f} s"
                way.fail(reason, silent=True)
            if way.failure is None:
                await self.say(TEXTS[step].title, "done", s=took)
        # One without a display that has ended already was on the way to no window.
        failure = way.failure
        if failure is not None and (program.display or failure.step <= Step.PROGRAM):
            await self._raise_failure(guest, way)

    async def _say_what_starts(self, step: Step, program: LeaseProgram) -> None:
        """Name the application where the rest is its time."""
        if step is Step.WINDOW:
            name = printable(program.name, 60)
            await self.say(TEXTS[step].title, "begun", f"{name} is starting")

    def _over(self, program: LeaseProgram, last: Step) -> bool:
        """Return whether the run has reached ``last``, or has ended."""
        way = program.way
        if way.failure is not None or program.ended:
            return True
        if way.next is None or way.next > last:
            return True
        return not program.display and way.next > Step.PROGRAM

    def _deadline(self, step: Step) -> float:
        launch = self._record.host.launch
        if step is Step.AGENT and boots(launch):
            return float(launch.boot_deadline)
        return TEXTS[step].seconds

    async def _raise_failure(self, guest: Guest, way: LaunchProgress) -> NoReturn:
        """Report the failed step to the caller, then raise UpstreamError for it."""
        failure = way.failure
        assert failure is not None
        self.failure = failure
        title = TEXTS[failure.step].title
        await self.say(title, "failed", failure.reason)
        await self._drain()
        what = "no window: " if failure.step > Step.PROGRAM else ""
        launch = self._record.host.launch
        raise UpstreamError(
            f"{what}could not {title}: {failure.reason}",
            hint=failure.hint(guest.lease.sandbox, console=boots(launch)),
        )

    def listen(self, guest: Guest, program: LeaseProgram) -> None:
        """Begin to collect the program's output, for ``attend``."""
        self._output = ProgramOutput(partial(guest.take_more, program))
        program.listeners.append(self._output.put)

    def watch(self, guest: Guest) -> None:
        """Note refusals to the sandbox from now on, for ``attend``."""
        self.close()
        self._watched = guest.programs.refusal_listeners
        self._watched.append(self._note_refusal)

    def close(self) -> None:
        """Note nothing more."""
        if self._note_refusal in self._watched:
            self._watched.remove(self._note_refusal)

    def _note_refusal(self, service: str, reason: str) -> None:
        """Queue a refused stream for the report to the run's client, once."""
        refusal = (service, reason)
        if refusal in self._refused or len(self._refused) >= _REFUSALS:
            return
        self._refused.add(refusal)
        self._refusals.append(refusal)
        self._more_refusals.set()

    async def _tell_refusals(self) -> None:
        while True:
            self._more_refusals = trio.Event()
            await self._say_refusals()
            await self._more_refusals.wait()

    async def _say_refusals(self) -> None:
        while self._refusals:
            service, reason = self._refusals[0]
            await self.say(service, "failed", reason)
            del self._refusals[0]  # it was sent

    async def attend(self, program: LeaseProgram) -> int:
        """Send the program's output and refusals until it ends; return its exit code.

        Returns its exit code.
        """
        output = self._output
        assert output is not None  # ``listen`` comes first
        async with trio.open_nursery() as telling:
            telling.start_soon(self._tell_refusals)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.pass_on, self._emit)
                await wait_ended(program)
                output.end()
            telling.cancel_scope.cancel()
        await self._say_refusals()
        if output.lost:
            lost = f"{output.lost} bytes arrived faster than this command read them; "
            await self.say(
                "show the program's output",
                "failed",
                f"{lost}to see them, run 'brokerctl logs'",
            )
        return program.code or 0

    async def _drain(self) -> None:
        """Pass on its output so far; it may contain the reason."""
        if self._output is not None:
            await self._output.drain(self._emit)
