"""Decisions as the log recorded them, as questions that rules can answer again.

A record of a decision has the question, except for values that were hashed or dropped
on purpose.  Missing attributes are not guessed: such a decision counts as not
replayable, and says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from policy.records.device import DeviceFacts, take_interface
from policy.rules.engine import PolicyCall

_HASHED = "hmac:"
_DROPPED = "(dropped)"
_OF_RULES = re.compile(
    r"denied by |no rule matches, so|[0-9]+ bytes; .* allows [0-9]+$|"
    r"'.*' is not a (?:valid target|target to call)$|"
    r"an argument (?:must begin|begins) with '\+'$|"
    r".*:[0-9]+ (?:allows, but |asks, but there is no target |has an error, so )",
    re.DOTALL,
)


_OF_LIMITS = re.compile(
    r"more than [0-9]+ calls? in [0-9]+ s$|no input in a window of the sandbox within |"
    r"max-size= cannot be enforced for "
)


def of_limits(reason: str) -> bool:
    """Return whether a deny came from a limit of a rule, judging by its recorded reason."""
    return _OF_LIMITS.match(reason) is not None


def of_rules(reason: str) -> bool:
    """Return whether a deny came from the rules, judging by its recorded reason.

    Other reasons come from limits, records and questions.
    """
    return _OF_RULES.match(reason) is not None


class NotReplayableError(Exception):
    """The event lacks attributes; the text names them."""


class NoRuleError(NotReplayableError):
    """Not the rules decided, but a record, a limit or a grant's end."""


class LimitError(NoRuleError):
    """A limit of a rule was reached."""


@dataclass(frozen=True)
class Recorded:
    """A decision as it was recorded.

    ``verdict`` is that of the rules: ask where the user was asked then.
    ``rule`` is its place, ``policy`` the digest of the rules, ``count`` how
    many equal ones the event represents.
    """

    sequence: int
    call: PolicyCall
    verdict: str
    target: str
    rule: str
    policy: str
    reason: str
    count: int
    host_dropped: bool
    write: bool = False
    """Whether the rule needs ``write=yes``."""


def recorded(event: Mapping[str, object], *, limits_of: str = "") -> Recorded:
    """Return the decision of an event's fields; raises NotReplayableError.

    ``limits_of`` is a file of rules whose limits are taken for denials of rules.
    """
    if event.get("kind") != "decision":
        raise NoRuleError("not a decision")
    raw = event.get("detail")
    detail: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}
    rule, reason = _text(event, "rule"), _text(event, "reason")
    verdict = _text(event, "verdict")
    if event.get("outcome") == "cut":
        raise NoRuleError("the end of a permitted stream")
    if event.get("answered_by") or event.get("question"):
        # If the record made an ask of it, the rules had allowed.
        verdict = "allow" if detail.get("record-asks") else "ask"
    elif (
        verdict == "deny"
        and not of_rules(reason)
        and not (limits_of and f"/{limits_of}:" in rule)
    ):
        if of_limits(reason):
            raise LimitError("denied by a limit of a rule")
        raise NoRuleError("denied by a record or a limit")
    if "asked" not in detail:
        raise NoRuleError("decided only by a record")
    size = detail.get("size")
    host = _text(event, "object")
    # Older logs say only that there was a host.
    dropped = bool(detail.get("host-dropped"))
    dropped = dropped or host.startswith(_HASHED) or host == _DROPPED
    call = PolicyCall(
        _known(_text(event, "service"), "service"),
        _known(
            _text(event, "argument") or _text(detail, "argument") or "+", "argument"
        ),
        # What the user gives has the user as its source; the sandbox receives it.
        _known(_text(detail, "source") or _text(event, "sandbox"), "sandbox"),
        _known(_text(detail, "asked"), "target"),
        _maybe(detail, "mime"),
        _maybe(detail, "scheme"),
        None if dropped or not host else _known(host, "host"),
        size if isinstance(size, int) else None,
        _device(detail),
        _maybe(detail, "protocol"),
        port if isinstance(port := detail.get("port"), int) else None,
        _maybe(detail, "key"),
    )
    return Recorded(
        number_of(event, "sequence"),
        call,
        verdict,
        _text(event, "target"),
        rule,
        _text(event, "policy"),
        reason,
        number_of(event, "count") or 1,
        dropped,
        detail.get("write") is True,
    )


def _device(detail: Mapping[str, object]) -> DeviceFacts | None:
    """Return the device of a recorded decision, if it was about one."""
    if "device-port" not in detail:
        return None
    kinds = detail.get("device-interfaces")
    found = (
        [take_interface(str(kind)) for kind in kinds] if isinstance(kinds, list) else []
    )
    return DeviceFacts(
        id=_text(detail, "device-id"),
        port=_text(detail, "device-port"),
        hash=_text(detail, "device-hash"),
        interfaces=tuple(kind for kind in found if kind is not None),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""


def number_of(fields: Mapping[str, object], key: str) -> int:
    """Return a number of an event's fields, 0 without one."""
    value = fields.get(key, 0)
    return value if isinstance(value, int) else 0


def _maybe(fields: Mapping[str, object], key: str) -> str | None:
    return _known(_text(fields, key), key) if key in fields else None


def _known(text: str, what: str) -> str:
    """Return a recorded word; raises NotReplayableError where it was changed."""
    if text.startswith(_HASHED):
        raise NotReplayableError(f"the {what} was stored as a hash")
    if text == _DROPPED:
        raise NotReplayableError(f"the {what} was not stored")
    # How hostile text is made printable and short where it is recorded.
    if "\\" in text or text.endswith(("...", "…")):
        raise NotReplayableError(f"the {what} was stored shortened or escaped")
    return text
