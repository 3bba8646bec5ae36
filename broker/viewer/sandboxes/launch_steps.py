"""The steps from "run this" to a window, so that a missing one has a name.

Pure: time is passed in (seconds, monotonic).  A step is reached once, in the
order of ``Step``; a run waits for the next one with that step's deadline, and
when it passes, or a step reports a failure, the answer names it and says where
to look.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from policy.records.model import Record, is_of_others


class Step(enum.IntEnum):
    """Each place that the way to a window passes, first to last."""

    MACHINE = 1
    """The VMM runs."""
    AGENT = 2
    """The guest booted, and its agent has sent its hello."""
    PROGRAM = 3
    """The guest has started the program."""
    STREAM = 4
    """The guest's waypipe server has opened a display stream, and it is allowed."""
    WAYPIPE = 5
    """The worker took the stream."""
    COMPOSITOR = 6
    """The worker's connection to the compositor is up, and the compositor answered."""
    WINDOW = 7
    """A window of the sandbox is on the screen."""


@dataclass(frozen=True)
class StepText:
    """How a step is called, how long it may take, and where to look."""

    title: str
    seconds: float
    hint: str


# The deadline of AGENT is the record's boot deadline; it is here for the
# type only.  The others are generous for an emulated CPU.
TEXTS: Mapping[Step, StepText] = MappingProxyType(
    {
        Step.MACHINE: StepText(
            "start the machine",
            20.0,
            "to find problems of this machine, run 'brokerctl doctor'",
        ),
        Step.AGENT: StepText(
            "boot the guest",
            60.0,
            "to see the guest's console, run 'brokerctl logs {sandbox} --console'",
        ),
        Step.PROGRAM: StepText(
            "start the program in the guest",
            20.0,
            "check that the sandbox's image contains the program; to add a package, list it in "
            "the record",
        ),
        Step.STREAM: StepText(
            "open the display stream",
            30.0,
            "to see the output of the program and waypipe, run 'brokerctl logs {sandbox}'; to "
            "see refused streams, run 'brokerctl audit --sandbox {sandbox}'; to run a program "
            "without windows, use --no-window",
        ),
        Step.WAYPIPE: StepText(
            "reach the worker",
            10.0,
            "to see whether the sandbox's worker runs, run 'brokerctl status {sandbox}'; to see "
            "refused or ended streams, run 'brokerctl audit --sandbox {sandbox}'",
        ),
        Step.COMPOSITOR: StepText(
            "reach the compositor",
            10.0,
            "to check the compositor, run 'brokerctl doctor'; to use another compositor, run "
            "'brokerctl restart' in its session; to run a program without windows, use "
            "--no-window",
        ),
        Step.WINDOW: StepText(
            "show a window",
            240.0,
            "to see the program's output, run 'brokerctl logs {sandbox}'; to run a program "
            "without windows, use --no-window",
        ),
    }
)


_NO_ANSWER = (
    "the guest does not answer; to see its console, run 'brokerctl logs {sandbox} --console'; "
    "to start it anew, run 'brokerctl stop {sandbox}', then this command again"
)


AGENTLESS_SECONDS = 5.0
"""Time for the agent of a machine of another program that has had time to boot."""


def agentless_seconds(since: float) -> float:
    """Return how long to wait for an agent that has never connected.

    ``since``: when the lease began, as time.time() returns it.
    """
    limit = TEXTS[Step.AGENT].seconds
    return max(AGENTLESS_SECONDS, min(limit, limit - (time.time() - since)))


@dataclass(frozen=True)
class Failure:
    """A step that was not reached, and its known reason."""

    step: Step
    reason: str
    silent: bool = False
    """Nothing came within the step's time."""

    def hint(self, sandbox: str, *, console: bool = True) -> str:
        """Where a user should look.  ``console``: we keep one of its machine."""
        hint = TEXTS[self.step].hint
        if self.step is Step.AGENT and not console:
            return ""  # its reason has the remedy
        # A guest that lacks the program says so.
        if self.silent and self.step is Step.PROGRAM:
            hint = _NO_ANSWER
        return hint.format(sandbox=sandbox)


class LaunchProgress:
    """How far one program's way to a window has come."""

    def __init__(self, now: float) -> None:
        self._reached: dict[Step, float] = {}
        self._began = now
        self.failure: Failure | None = None

    @property
    def next(self) -> Step | None:
        """The step that is waited for; None when all are reached."""
        return next((step for step in Step if step not in self._reached), None)

    @property
    def complete(self) -> bool:
        """Return whether the last step is reached."""
        return self.next is None

    def reach(self, step: Step, now: float) -> list[tuple[Step, float]]:
        """Record that a step, and so all before it, is reached.

        Returns the newly reached steps with the seconds each took.  A step that
        comes out of order proves those before it: a stream cannot come from a
        program that does not run.
        """
        new: list[tuple[Step, float]] = []
        for earlier in Step:
            if earlier <= step and earlier not in self._reached:
                last = max(self._reached.values(), default=self._began)
                self._reached[earlier] = now
                new.append((earlier, now - last))
        return new

    def fail(
        self, reason: str, step: Step | None = None, *, silent: bool = False
    ) -> Failure | None:
        """Record that a step failed; the first failure stays.

        Without ``step`` it is the one waited for.  None when the window is up
        already: what ends then is not the way to it.
        """
        where = step or self.next
        if where is not None and self.failure is None and not self.complete:
            self.failure = Failure(where, reason, silent)
        return self.failure


def boot_state(record: Record | None, since: float, *, had_agent: bool) -> str:
    """Return the state of a machine whose agent is not connected.

    A viewer does not know whether its host starts the machine: ``starting`` has an end.
    """
    launch = None if record is None else record.host.launch
    late = time.time() - since > getattr(launch, "boot_deadline", math.inf)
    return "no agent yet" if late and not had_agent else "starting"


def without_agent(sandbox: str, record: Record | None, *, seen: bool) -> str:
    """Return what a user should know of a machine of another program without our agent.

    Such a guest may boot still, and may also never have one.  ``seen``: it has had one.
    """
    launch = None if record is None else record.host.launch
    if seen or launch is None or not is_of_others(launch) or not launch.peer.machine:
        return ""
    return (
        f"no agent in {sandbox} has ever connected (vitrail.Agent); to install one, run "
        "'brokerctl guest install', or with --minimal"
    )
