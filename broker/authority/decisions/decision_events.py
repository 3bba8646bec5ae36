"""Decisions as events: the whole request, and its outcome.

The authority words each decision by this; the viewer takes from it the subject of a
transfer's event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import trio

from broker.authority.audit import event_log
from broker.authority.audit.event_log import EventLog
from broker.authority.permit import Asked, Permit, Request
from broker.core.question import untrusted_word
from broker.ipc.audit import schema

if TYPE_CHECKING:
    from policy.records.device import DeviceFacts
    from policy.rules.conditions import RuleLimits
    from policy.rules.engine import PolicyAnswer

_OBSERVED = 16
_INTERFACES = 64


class Digests(TypedDict):
    """Which rules and which records have decided."""

    rules: str
    records: str


def decision(
    request: Request,
    answer: PolicyAnswer | None,
    verdict: schema.EventVerdict,
    digests: Digests,
    *,
    where: str = "",
    target: str = "",
    reason: str = "",
    asked: Asked | None = None,
    grant: str = "",
    brief: bool = False,
    record: str = "",
) -> schema.Decision:
    """Return the event of a decision; ``answer`` is None if a record denied it.

    ``brief`` leaves out what differs from call to call: a sandbox that asks a
    thousand things a second is refused in events that are equal, and counted.
    """
    detail: dict[str, schema.Scalar] = {"records": digests["records"]}
    argument = host = ""
    if record:
        detail["record"] = record  # its line; ``rule`` is the rule's
    if request.source:
        detail["source"] = request.source  # the sandbox of the event receives
    if not brief:
        detail["asked"] = untrusted_word(request.target)
        detail.update(_attributes(request))
        # Not among the details: the setting ``names`` hashes or drops it.  An
        # empty one stays out, so that it is not hashed and can be asked again.
        if request.argument != "+":
            argument = untrusted_word(request.argument)
        host = untrusted_word(request.host) if request.host else ""
    if answer is not None:
        detail.update(shown(answer.limits))
        observed = [f"{rule.action} by {rule.where}" for rule in answer.observed]
        if observed:
            detail["observed"] = observed[:_OBSERVED]
        allows = answer.rule is not None and answer.rule.action == "allow"
        if answer.verdict == "ask" and allows and not request.asks:
            detail["record-asks"] = True  # the record made an ask of it
        where, target = where or answer.where, target or answer.target or ""
        reason = reason or answer.reason
    if grant:
        detail["grant"] = grant
    return schema.Decision(
        **subject(request),
        argument=argument,
        object=host,
        verdict=verdict,
        rule=where,
        policy=digests["rules"],
        target=target,
        reason=reason,
        question=0 if asked is None else asked.number,
        answered_by="grant" if grant else "" if asked is None else asked.said.by,
        answer_seconds=0.0 if asked is None else asked.seconds,
        detail=detail,
    )


def opened(request: Request) -> list[schema.StreamOpened]:
    """Return the event of a stream that begins with its permission, if one does."""
    if not request.opens:
        return []
    return [schema.StreamOpened(**subject(request), mode="worker")]


async def not_opened(log: EventLog, request: Request, reason: str = "") -> None:
    """Record the end of a stream that is on record as opened, and never began."""
    if not request.opens:
        return
    event = schema.StreamClosed(
        **subject(request),
        outcome="closed",
        reason=reason or "the request was given up before it began",
        bytes_from_sandbox=None,
        bytes_to_sandbox=None,
        seconds=0.0,
    )
    with trio.CancelScope(shield=True):
        await log.note(event)


def cut(permit: Permit, reason: str, digests: Digests) -> schema.Decision:
    """Return the event of a permit that was cut."""
    return schema.Decision(
        **subject(permit.request),
        verdict=schema.EventVerdict.DENY,
        rule=permit.where,
        policy=digests["rules"],
        target=permit.target,
        outcome="cut",
        reason=reason,
    )


def notice(request: Request, outcome: str, how: str) -> tuple[str, str]:
    """Return title and text of a notification; ``how`` follows the service's name."""
    title = f"Vitrail: a request of {request.lease.sandbox} was {outcome}"
    return title, f"{untrusted_word(request.service)}{how}"


def shown(held: RuleLimits) -> dict[str, schema.Scalar]:
    """Return limits as an event has them: ``rate`` as ``3/60s``."""
    found: dict[str, schema.Scalar] = held.as_json()
    if held.rate is not None:
        found["rate"] = f"{held.rate.calls}/{held.rate.seconds}s"
    return found


def _attributes(request: Request) -> dict[str, schema.Scalar]:
    """Return types and sizes.

    A host is the event's object, by the setting ``names``.
    """
    found: dict[str, schema.Scalar] = {}
    for name in ("mime", "scheme", "size", "protocol", "port", "key"):
        value = getattr(request, name)
        if value is not None:
            found[name] = untrusted_word(value) if isinstance(value, str) else value
    if request.write:
        found["write"] = True
    if request.device is not None:
        found.update(_device(request.device))
    return found


def _device(device: DeviceFacts) -> dict[str, schema.Scalar]:
    """Return the event's fields about a device, without its serial number.

    A serial number identifies an object that belongs to the user.
    """
    return {
        "device-id": device.id,
        "device-port": device.port,
        "device-hash": device.hash,
        "device-interfaces": [str(i) for i in device.interfaces[:_INTERFACES]],
        "device-serial-dropped": bool(device.serial),
    }


def subject(request: Request) -> event_log.StreamSubject:
    """Return the event fields that identify a request's lease, service and stream."""
    return event_log.StreamSubject(
        **event_log.of(request.lease),
        service=untrusted_word(request.service),
        stream=request.stream,
        peer=request.peer,
        link="",  # the stream's other events have it
    )
