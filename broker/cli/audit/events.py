"""Format a recorded event: as a line of text, or as a JSON object.

Works on plain fields, not on our types, so that the log of a later version
is still shown, its unknown kinds by their fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from types import MappingProxyType

from rich.text import Text

from broker.cli import render
from broker.cli.audit.query.times import rfc3339
from broker.core.escape import printable
from broker.core.prompt_words import VIEWER_NAMES
from broker.ipc.audit.filters import Found

Fields = Mapping[str, object]

_STAMP = frozenset(
    {"kind", "version", "sequence", "time_ns", "boot", "monotonic_ns", "broker"}
)
# Shown elsewhere in a line, or meant for programs only.
_SHOWN = frozenset(
    {"sandbox", "lease", "generation", "service", "stream", "peer", "verdict"}
    | {"rule", "policy", "reason", "outcome", "count", "detail", "note"}
)
_NAMES = frozenset({"target", "opened_in", "source"})
"""Fields that name a sandbox, or the user."""
_ANSWERED_BY = frozenset({"answered_by", "granted_by"})
"""Fields that name who decided; in the log the user is ``person``."""
_BAD = ("refused", "failed", "died")


def as_object(found: Found) -> dict[str, object]:
    """Return the event as a JSON object: its fields, and its time as RFC 3339."""
    whose: dict[str, object] = {}
    if found.log:
        whose = {"machine": found.machine, "log": found.log}
    if found.time_after_arrival:
        whose["time_after_arrival"] = True
    return {"time": rfc3339(found.time_ns), **whose, **found.fields()}


def as_line(found: Found, zone: tzinfo | None = None) -> Text:
    """Return the event as a line: time, sandbox, what, verdict, reason, rule.

    The time is in ``zone``, or in the system's.
    """
    fields = found.fields()
    when = datetime.fromtimestamp(found.time_ns // 1_000_000_000, tz=zone)
    millis = found.time_ns // 1_000_000 % 1000
    line = Text(f"{when:%m-%d %H:%M:%S}.{millis:03d}  ", style="dim")
    line.append(f"{found.sequence:>6}  ", style="dim")
    if found.machine:
        line.append(f"{printable(found.machine)} ", style="cyan")
    if found.time_after_arrival:
        line.append("(the event's time is after its arrival) ", style="yellow")
    line.append_text(as_message(found, fields))
    return line


def as_message(found: Found, fields: Fields | None = None) -> Text:
    """Return the line of an event without its time and machine."""
    fields = found.fields() if fields is None else fields
    line = Text()
    line.append(f"{printable(found.sandbox) or '-':<15} ", style="bold")
    line.append(f"{printable(found.kind):<16} ", style=_style(found.kind, fields))
    line.append(_what(found.kind, fields))
    if _text(fields, "outcome"):
        line.append(f" [{_text(fields, 'outcome')}]")
    if _text(fields, "reason"):
        line.append(f": {_text(fields, 'reason')}")
    # The reason of most decisions names the rule already.
    lines = (_record_line(fields), _text(fields, "rule"))
    why = [one for one in dict.fromkeys(lines) if one not in _text(fields, "reason")]
    if why:
        line.append(f"  ({', '.join(why)})", style="dim")
    if _number(fields, "count") > 1:
        line.append(f"  {fields['count']} times", style="bold")
    return line


def _style(kind: str, fields: Fields) -> str:
    verdict = fields.get("verdict")
    if verdict == "deny" or kind.endswith(_BAD):
        return "red"
    return "green" if verdict == "allow" else ""


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    return "" if value is None else printable(str(value))


def _record_line(fields: Fields) -> str:
    """Return the record's line on which a decision depends, besides the rule's."""
    detail = fields.get("detail")
    value = detail.get("record") if isinstance(detail, dict) else None
    return printable(str(value)) if isinstance(value, str) else ""


def _number(fields: Fields, name: str) -> float:
    value = fields.get(name, 0)
    return value if isinstance(value, int | float) else 0


def _what(kind: str, fields: Fields) -> str:
    """Describe what an event was about, by its kind."""
    special = _KINDS.get(kind)
    if special is not None:
        return special(fields)
    words = [_stream(fields)] if fields.get("service") else []
    words += [
        f"{printable(name)}={_value(name, value)}"
        for name, value in fields.items()
        if name not in _STAMP | _SHOWN
    ]
    return " ".join(words)


def _value(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if name in _ANSWERED_BY and value == "person":
        return "you"
    return printable(shown_target(str(value)) if name in _NAMES else str(value))


def _stream(fields: Fields) -> str:
    number = f" #{_text(fields, 'stream')}" if fields.get("stream") else ""
    return f"{_text(fields, 'service')}{number}"


def _from(fields: Fields) -> str:
    peer = _text(fields, "peer")
    if not peer and fields.get("sandbox"):
        return _stream(fields)  # one of its connections, or several
    return f"{_stream(fields)} from {peer or 'an unknown peer'}".strip()


def _decision(fields: Fields) -> str:
    target = f" to {_target(fields)}" if fields.get("target") else ""
    return f"{_stream(fields)}{_key(fields)}{target}: {_text(fields, 'verdict')}"


def _key(fields: Fields) -> str:
    """Return what an ssh key is used for: the kind with the user, the host, the key."""
    detail = fields.get("detail")
    key = detail.get("key") if isinstance(detail, dict) else None
    if not isinstance(key, str) or key == "*":
        return ""
    host = f" for {_text(fields, 'object')}" if fields.get("object") else ""
    return f" {_text(fields, 'argument')}{host} with {printable(key)}"


def _target(fields: Fields) -> str:
    return shown_target(_text(fields, "target"))


def shown_target(name: str) -> str:
    """The name of a source or target in output: the user is ``you``.

    Rules have ``@adminvm``, the log Qubes' name.
    """
    return "you" if name in VIEWER_NAMES else name


def _closed(fields: Fields) -> str:
    out = render.size(int(_number(fields, "bytes_from_sandbox")))
    back = render.size(int(_number(fields, "bytes_to_sandbox")))
    took = render.seconds(_number(fields, "seconds"))
    return f"{_stream(fields)} {out} out, {back} in, {took}"


def _lease(fields: Fields) -> str:
    generation = f", launch {fields['generation']}" if fields.get("generation") else ""
    peer = f" for {_text(fields, 'peer')}" if fields.get("peer") else ""
    return f"{_text(fields, 'lease')}{peer}{generation}".strip()


def _problems(fields: Fields) -> str:
    problems = fields.get("problems")
    if not isinstance(problems, list) or not problems:
        return "files refused"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{printable(str(problems[0]))}{more}"


def _clipboard(fields: Fields) -> str:
    """Describe an event of the clipboard: size, types, target."""
    mimes = fields.get("mimes")
    types = mimes if isinstance(mimes, list) else [fields.get("mime") or ""]
    size = render.size(int(_number(fields, "bytes"))) if fields.get("bytes") else ""
    words = [size, ", ".join(printable(str(one)) for one in types if one)]
    if fields.get("target"):
        words.append(f"to {_target(fields)}")
    if fields.get("digest"):
        words.append(_text(fields, "digest"))
    return " ".join(word for word in words if word)


def _code(fields: Fields) -> str:
    code = int(_number(fields, "code"))
    return f"by signal {-code}" if code < 0 else f"with code {code}"


def _died(fields: Fields) -> str:
    pid = f" (pid {_text(fields, 'pid')})" if fields.get("pid") else ""
    how = f" {_code(fields)}" if fields.get("code") is not None else ""
    return f"{_text(fields, 'process')}{pid} died{how}"


_KINDS: Mapping[str, Callable[[Fields], str]] = MappingProxyType(
    {
        "broker.start": lambda f: (
            f"Vitrail {_text(f, 'software')} ({_text(f, 'broker')}), "
            f"pid {_text(f, 'pid')}"
        ),
        "broker.stop": lambda f: _text(f, "broker"),
        "policy.loaded": lambda f: f"digest {_text(f, 'policy')[:12]} is in force",
        "policy.refused": _problems,
        "lease.begin": _lease,
        "lease.end": _lease,
        "lease.refused": _lease,
        "decision": _decision,
        "stream.opened": _stream,
        "stream.refused": _from,
        "stream.closed": _closed,
        "sandbox.failed": lambda f: f"at {_text(f, 'step')}",
        "sandbox.stop": lambda f: f"after {render.seconds(_number(f, 'seconds'))}",
        "program.started": lambda f: f"#{_text(f, 'program')} {_text(f, 'name')}",
        "program.exited": lambda f: f"#{_text(f, 'program')} ended {_code(f)}",
        "process.died": _died,
        "window.hop-failed": lambda f: f"at {_text(f, 'hop')}",
        "window.killed": lambda f: (
            f"{_text(f, 'window')} by process {_text(f, 'pid')} of yours"
        ),
        "clipboard.offered": _clipboard,
        "clipboard.pasted": _clipboard,
        "clipboard.ended": _clipboard,
        "link.up": lambda f: f"{_text(f, 'name')}, epoch {_text(f, 'epoch')}",
        "link.down": lambda f: (
            f"{_text(f, 'name')}, after {render.seconds(_number(f, 'seconds'))}"
        ),
        "link.refused": lambda f: f"from {_text(f, 'peer') or 'an unknown peer'}",
    }
)
