"""The first engine, which says whether a sandbox may have a service.

Pure: records in, a decision out.  What no line here allows is denied, and
every decision names its reason and the place of the key that decided.

The authority asks it at each request, the viewer before it starts a sandbox for a run,
brokerctl for its tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.destinations import NETWORK
from policy.errors import visible
from policy.records.kinds import KIND_KEY
from policy.records.model import Record, RecordSet, is_of_others

AGENT = "vitrail.Agent"
DISPLAY = "vitrail.Display"
AUDIO = "vitrail.Audio"
PLAYBACK = "vitrail.AudioOutput"
MICROPHONE = "vitrail.AudioInput"
DISPLAY_KEY = "display"
AUDIO_KEY = "audio.playback"
MICROPHONE_KEY = "audio.microphone"
NETWORK_KEY = "launch.network"
_OF_RECORDS = frozenset({AGENT, DISPLAY, AUDIO, PLAYBACK, MICROPHONE, NETWORK})
NO_RULE = "default: deny"

Verdict = Literal["allow", "deny"]


@dataclass(frozen=True)
class RecordRequest:
    """A request: ``sandbox`` is the running one, ``record`` its record.

    ``raw``: for sound without a filter, which only ``audio = "raw"`` allows.
    """

    sandbox: str
    record: str
    service: str
    raw: bool = False


@dataclass(frozen=True)
class GateStep:
    """One question on the way to a decision, for ``explain``."""

    question: str
    answer: str
    where: str


@dataclass(frozen=True)
class RecordDecision:
    """The answer.

    ``where`` is ``file:line:column`` of the key that decided, or says which
    default did.  ``digest`` is that of the record set that was asked.
    """

    verdict: Verdict
    reason: str
    where: str
    digest: str
    trace: tuple[GateStep, ...]

    @property
    def allowed(self) -> bool:
        """Return whether the verdict is allow."""
        return self.verdict == "allow"


class _Trace:
    """Collects steps and closes them into a decision."""

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._steps: list[GateStep] = []

    def step(self, question: str, answer: str, where: str) -> None:
        self._steps.append(GateStep(question, answer, where))

    def end(self, verdict: Verdict, reason: str, where: str) -> RecordDecision:
        self.step("verdict", verdict, where)
        return RecordDecision(verdict, reason, where, self._digest, tuple(self._steps))


def decide(records: RecordSet, request: RecordRequest) -> RecordDecision:
    """Return the decision; never raises, whatever the request holds."""
    return _decide(records, request, own=True)


def record_allows(records: RecordSet, request: RecordRequest) -> RecordDecision:
    """Decide whether the record lets a sandbox ask at all, for a service.

    A service that no record has a key for is decided by rules alone; but a sandbox
    without a valid record, or under a name that is not its own, has nothing.
    """
    return _decide(records, request, own=request.service in _OF_RECORDS)


def _decide(records: RecordSet, request: RecordRequest, *, own: bool) -> RecordDecision:
    """Decide by the sandbox's record; deny if it is broken or missing."""
    trace = _Trace(records.digest)
    name = visible(request.record)
    problem = records.broken.get(request.record)
    if problem is not None and request.record not in records.records:
        trace.step("record", "has an error", problem.where)
        reason = f"the record '{name}' has an error: {visible(problem.message)}"
        return trace.end("deny", reason, problem.where)
    record = records.records.get(request.record)
    if record is None:
        trace.step("record", "none", NO_RULE)
        return trace.end("deny", f"no record is named '{name}'", NO_RULE)
    trace.step("record", "found", str(record.source))
    if not _may_be(request.sandbox, record, records):
        reason = (
            f"'{visible(request.sandbox)}' is not the sandbox of the "
            f"{record.viewer.sandbox_class} record '{name}'"
        )
        return trace.end("deny", reason, record.where("class"))
    if not own:
        return trace.end("allow", f"the record '{name}' is valid", str(record.source))
    if request.service in {AUDIO, PLAYBACK}:
        return _audio(record, trace, raw=request.raw)
    return _service(request.service, record, trace)


def _may_be(sandbox: str, record: Record, records: RecordSet) -> bool:
    """Return whether a sandbox of a record may have its name.

    Rules about a name would be about a disposable that has the name of a record.
    """
    if sandbox == record.name:
        return True
    # guard: a disposable is no other record's sandbox
    taken = sandbox in records.records or sandbox in records.broken
    return record.viewer.sandbox_class == "disposable" and not taken


def _service(service: str, record: Record, trace: _Trace) -> RecordDecision:
    """Decide by the record's key for a service, if it has one."""
    if service == AGENT:
        ours = record.host.launch.kind.agent
        where = record.where(KIND_KEY)
        trace.step(KIND_KEY, type(record.host.launch).__name__, where)
        if ours:
            reason = f"Vitrail launches '{record.name}', so its agent may report"
            return trace.end("allow", reason, where)
        launch = record.host.launch
        if is_of_others(launch) and launch.peer.machine:
            reason = f"'{record.name}' is a VM whose guest may contain Vitrail's agent"
            return trace.end("allow", reason, where)
        reason = f"'{record.name}' is not a machine with Vitrail's agent"
        return trace.end("deny", reason, where)
    if service == DISPLAY:
        way = record.viewer.display
        where = record.where(DISPLAY_KEY)
        trace.step(DISPLAY_KEY, way, where)
        reason = f"the record '{record.name}' has display = \"{way}\""
        return trace.end("deny" if way == "none" else "allow", reason, where)
    if service == NETWORK:
        way = getattr(record.host.launch, "network", "none")
        where = record.where(NETWORK_KEY)
        trace.step(NETWORK_KEY, way, where)
        reason = f"the record '{record.name}' has network = \"{way}\""
        if way == "user":
            # The rule for a flow is denied; its packets go out all the same.
            reason += ": it reaches the network without a rule, and no rule is asked"
        # guard: a network that no rule is about asks for nothing
        return trace.end("allow" if way == "rules" else "deny", reason, where)
    if service == MICROPHONE:
        return _microphone(record, trace)
    trace.step("service", "unknown", NO_RULE)
    return trace.end("deny", f"no service is named '{visible(service)}'", NO_RULE)


def _microphone(record: Record, trace: _Trace) -> RecordDecision:
    """Return the most that a rule may grant of the microphone."""
    if record.viewer.audio.playback == "none":
        # Without a sound connection there is nothing to record with.
        return _audio(record, trace, raw=False)
    most = record.viewer.audio.microphone
    where = record.where(MICROPHONE_KEY)
    trace.step(MICROPHONE_KEY, most, where)
    reason = f"the record '{record.name}' has microphone = \"{most}\""
    return trace.end("deny" if most == "deny" else "allow", reason, where)


def _audio(record: Record, trace: _Trace, *, raw: bool) -> RecordDecision:
    """Decide about sound; ``raw``: without the filter."""
    way = record.viewer.audio.playback
    where = record.where(AUDIO_KEY)
    trace.step(AUDIO_KEY, way, where)
    reason = f"the record '{record.name}' has audio = \"{way}\""
    # Unfiltered sound that runs is another thing than filtered sound.
    # guard: unfiltered sound ends with its record
    if raw and way != "raw":
        return trace.end("deny", reason, where)
    return trace.end("deny" if way == "none" else "allow", reason, where)
