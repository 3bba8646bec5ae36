"""The last good set of rules on disk, and which set is in force.

A set with an error never comes into force: the last good one stays, also over
a restart.  If none exists, everything is denied.

Kept is what the rules mean, one line for each in the form of the language,
with the place that it came from, and the digest of them all: a file that was
cut or changed is not used.  (A user who may write it may write the rules too, so
the digest is against accidents only.)

Only the authority runs it: it writes the file, and reads it at its start.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from policy import limits
from policy.errors import WHOLE_FILE, Problem
from policy.files import read_file
from policy.rules.grammar import Form, parse_lines
from policy.rules.rule import Rule, barrier
from policy.rules.ruleset import RuleSet, digest_of

_VERSION = 1
_YES_OR_NO = MappingProxyType({True: "yes", False: "no", None: None})


class InForce(NamedTuple):
    """The set that decides.

    ``why`` is the first problem of the version that was read and is not used; None
    when it is used.
    """

    rules: RuleSet
    why: Problem | None
    kept: bool


def choose(read: RuleSet, kept: RuleSet | None) -> InForce:
    """Return the set to use: the one read, else the kept one, else deny."""
    if not read.problems:
        return InForce(read, None, kept=False)
    why = read.problems[0]
    if kept is not None:
        return InForce(kept, why, kept=True)
    closed = (barrier(why),)
    return InForce(
        RuleSet(closed, read.problems, digest_of(closed), ()), why, kept=False
    )


def written(rule: Rule) -> str:
    """Return a rule as a line that means the same in any file."""
    fields = [rule.service or "*", rule.argument or "*", rule.source.text]
    fields += [rule.target.text, rule.action]
    if rule.redirect is not None:
        fields.append(f"target={rule.redirect.text}")
    if rule.default_target is not None:
        fields.append(f"default_target={rule.default_target.text}")
    if rule.user is not None:
        fields.append(f"user={rule.user}")
    if rule.notify != (rule.action == "deny"):
        fields.append(f"notify={'yes' if rule.notify else 'no'}")
    if not rule.autostart:
        fields.append("autostart=no")
    for key in ("mime", "scheme", "host", "port", "protocol", "key"):
        values: tuple[str, ...] = getattr(rule.match, key)
        if values:
            fields.append(f"{key}={','.join(values)}")
    if rule.match.device.conditions:
        fields.append(str(rule.match.device))
    more = rule.limits
    found = {
        "max-size": more.max_size,
        "rate": f"{more.rate.calls}/{more.rate.seconds}s" if more.rate else None,
        "ttl": f"{more.ttl}s" if more.ttl is not None else None,
        "gesture": f"{more.gesture}s" if more.gesture is not None else None,
        "remember": more.remember,
        "return": _YES_OR_NO[more.returns],
        "write": _YES_OR_NO[more.write],
        "printer": more.printer,
        "mode": "observe" if rule.observe else None,
        "attach": rule.attach,
    }
    fields += [f"{key}={value}" for key, value in found.items() if value is not None]
    return " ".join(fields)


def keep(rules: RuleSet, path: Path) -> None:
    """Write a good set, all or nothing (0600); raises OSError.

    The directory must be the broker's own (0700).
    """
    if rules.problems:
        raise ValueError("a set with problems cannot be saved")
    lines = [[rule.file, rule.line, written(rule)] for rule in rules.rules]
    content = json.dumps({"version": _VERSION, "digest": rules.digest, "rules": lines})
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept(path: Path) -> RuleSet | Problem | None:
    """Return the kept set, None if none exists, or why it cannot be used."""
    if not os.path.lexists(path):
        return None
    content = read_file(path, check_owner=True, most=limits.KEPT_BYTES)
    if isinstance(content, Problem):
        return content
    try:
        rules, digest = _decoded(json.loads(content))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return Problem(str(path), WHOLE_FILE, f"is not a saved set of rules: {error}")
    # guard: a kept set that was changed
    if digest_of(rules) != digest:
        return Problem(str(path), WHOLE_FILE, "has changed since it was saved")
    return RuleSet(rules, (), digest, ())


def _decoded(data: dict[str, object]) -> tuple[tuple[Rule, ...], object]:
    """Decode the rules in the file's JSON; raises ValueError, TypeError or KeyError."""
    if data["version"] != _VERSION:
        raise ValueError(f"version {data['version']}")
    lines = data["rules"]
    if not isinstance(lines, list) or len(lines) > limits.RULES:
        raise ValueError("it has no list of rules")
    made: list[Rule] = []
    for file, line, text in lines:
        if not (
            isinstance(file, str) and isinstance(line, int) and isinstance(text, str)
        ):
            raise TypeError("not a rule")
        problems: list[Problem] = []
        found = list(parse_lines(file, text.encode(), Form(), problems.append))
        if problems or len(found) != 1 or not isinstance(found[0], Rule):
            raise ValueError(f"cannot parse the rule of {file}:{line}")
        made.append(replace(found[0], line=line))
    return tuple(made), data["digest"]
