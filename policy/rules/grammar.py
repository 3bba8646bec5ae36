"""Parse the lines of a rule file into rules and directives.

The authority runs this at each load of the rules, brokerctl to check or edit them.

Every problem of a line is found in one reading; a line with a problem yields a
barrier (see ``rule``) in its place.  With ``compat`` a line is read exactly as
Qubes' parser reads it, also where we are stricter; then none of our extensions is
understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from broker.core.escape import hidden
from policy import limits
from policy.destinations import EXPECTED, NETWORK, pattern_of
from policy.errors import Problem, Span
from policy.rules.checks import DEVICE, SERVICES
from policy.rules.conditions import (
    MATCH,
    MODE,
    NO_LIMITS,
    NO_MATCH,
    ConditionKey,
    Match,
    keys_of,
    limits_of,
    match_of,
)
from policy.rules.rule import ACTIONS, ANY_SOURCE, ANY_TARGET, Action, Rule, barrier
from policy.rules.tokens import Place, Token, TokenError, parse_token
from policy.suggestions import did_you_mean

_FIELD = re.compile(r"[^ \t]+")
_NOT_SERVICE = re.compile(r"[^A-Za-z0-9._-]")
_NOT_ARGUMENT = re.compile(r"[^A-Za-z0-9+._-]")
_COLUMNS = "SERVICE ARGUMENT SOURCE TARGET ACTION [key=value …]"
_YES_NO = {"yes": True, "no": False}

QUBES_KEYS: dict[str, tuple[Action, ...]] = {
    "target": ("allow", "ask"),
    "default_target": ("ask",),
    "user": ("allow", "ask"),
    "notify": ("allow", "ask", "deny"),
    "autostart": ("allow", "ask"),
}
DIRECTIVES = {
    "!include": "PATH",
    "!include-dir": "DIRECTORY",
    "!include-service": "SERVICE ARGUMENT PATH",
    "!compat-4.0": "",
}


class GrammarField(NamedTuple):
    """A word of a line; ``column`` counts from 1."""

    text: str
    column: int

    @property
    def end(self) -> int:
        """The first column after it."""
        return self.column + len(self.text)


@dataclass(frozen=True)
class Directive:
    """A line that begins with ``!``; its parameters are those it may have."""

    name: str
    parameters: tuple[str, ...]
    line: int
    text: str


Problems = Callable[[Problem], None]


class Form(NamedTuple):
    """How a file is written: for ``!include-service``, in the old form.

    ``old`` is None, or the service and the argument of every line.
    """

    compat: bool = False
    old: tuple[str, str] | None = None


class _Line:
    """One line: collects its problems."""

    def __init__(self, file: str, number: int, text: str, form: Form) -> None:
        self.file, self.number, self.text, self.form = file, number, text, form
        self.problems: list[Problem] = []

    @property
    def keys(self) -> Mapping[str, ConditionKey]:
        """Our keys, for the service that the line begins with."""
        return keys_of((self.text.split(maxsplit=1) or [""])[0])

    def complain(
        self,
        field: GrammarField | None,
        message: str,
        expected: str = "",
        hint: str = "",
    ) -> None:
        """Add a problem at a field of the line, by default at the whole line."""
        begin = field.column if field else 1
        end = field.end if field else len(self.text) + 1
        span = Span(self.number, begin, self.number, max(end, begin + 1))
        self.problems.append(
            Problem(self.file, span, message, expected, hint, self.text)
        )


def parse_lines(
    file: str, content: bytes, form: Form, report: Problems
) -> Iterator[Rule | Directive]:
    """Yield the rules and directives of a file in order.

    Each problem is reported before the barrier that it leaves is yielded.
    """
    for number, raw in enumerate(_split(content, form), 1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = _Line(file, number, raw.decode("utf-8", "replace"), form)
            column = len(raw[: error.start].decode("utf-8")) + 1
            byte = f"byte 0x{raw[error.start]:02x} is not UTF-8"
            line.complain(GrammarField(" ", column), byte, "UTF-8 text")
            item: Rule | Directive | None = _barrier(line)
        else:
            line = _Line(file, number, text, form)
            item = _item(line)
        for problem in line.problems:
            report(problem)
        if item is not None:
            yield item


def _split(content: bytes, form: Form) -> list[bytes]:
    if form.compat:
        # Text files of Python have universal line ends.
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [line.removesuffix(b"\r") for line in content.split(b"\n")]


def _item(line: _Line) -> Rule | Directive | None:
    """Parse a line to a rule or directive; None for an empty one or a comment."""
    if not line.form.compat and not _readable(line):
        return _barrier(line)
    text = line.text.strip() if line.form.compat else line.text.strip(" \t")
    if not text or text.startswith("#"):
        return None
    fields = _fields(line)
    if fields and fields[0].text.startswith("!"):
        return _directive(line, fields)
    if line.form.old is not None:
        service, argument = line.form.old
        fields = [GrammarField(service, 1), GrammarField(argument, 1), *fields]
    return _rule(line, fields)


def _barrier(line: _Line) -> Rule:
    """Return a barrier for the line's first service, else for all services.

    Only the first word is read, because no other column has a service's name, and only
    where the line is one line for a reader, too.
    """
    form = line.form
    service = form.old[0] if form.old else (line.text.split() or [""])[0]
    known = service in SERVICES and len(line.text.splitlines()) == 1 and not form.compat
    return barrier(line.problems[0], service if known else None)


def _readable(line: _Line) -> bool:
    """Return whether a reader sees what the parser sees; complain otherwise."""
    if len(line.text) > limits.LINE_CHARS:
        message = f"the line has {len(line.text)} characters"
        line.text = line.text[: limits.LINE_CHARS]
        line.complain(None, message, f"at most {limits.LINE_CHARS}")
        return False
    if line.text.isascii() and line.text.isprintable():
        return True
    for column, char in enumerate(line.text, 1):
        # guard: no character of a rule is hidden
        if char not in " \t" and (char.isspace() or hidden(char)):
            line.complain(
                GrammarField(char, column),
                f"hidden character U+{ord(char):04X}",
                "visible characters",
                "remove it",
            )
    return not line.problems


def _fields(line: _Line) -> list[GrammarField]:
    """Split a line into its fields, with their columns."""
    text = line.text
    if line.form.old is not None:
        text = text.replace("$include:", "!include ")
        text = text.replace("$", "@").replace(",", " ")
    if not line.form.compat:
        return [GrammarField(f[0], f.start() + 1) for f in _FIELD.finditer(text)]
    found: list[GrammarField] = []
    at = 0
    for word in text.split():
        at = text.index(word, at)
        found.append(GrammarField(word, at + 1))
        at += len(word)
    return found


# -- directives ------------------------------------------------------------------------


def _directive(line: _Line, fields: list[GrammarField]) -> Rule | Directive:
    """Parse a directive; complain and return a barrier for an unknown one."""
    name, parameters = fields[0], fields[1:]
    known = ["!include"] if line.form.old is not None else list(DIRECTIVES)
    if name.text not in known:
        expected = ", ".join(f"{word} {DIRECTIVES[word]}".strip() for word in known)
        hint = did_you_mean(name.text, known)
        line.complain(name, f"unknown directive '{name.text[:40]}'", expected, hint)
    elif len(parameters) != len(DIRECTIVES[name.text].split()):
        words = DIRECTIVES[name.text] or "nothing"
        line.complain(None, f"'{name.text}' takes {words}", words)
    elif name.text == "!compat-4.0" and not line.form.compat:
        line.complain(
            name,
            "'!compat-4.0' is not supported: the old policy directory is not read",
            "",
            "name the files with !include-service SERVICE ARGUMENT PATH",
        )
    elif name.text == "!include-service":
        _service(line, parameters[0], parameters[1])
    if line.problems:
        return barrier(line.problems[0])
    words_of = tuple(field.text for field in parameters)
    return Directive(name.text, words_of, line.number, line.text)


# -- rules ---------------------------------------------------------------------------


def _rule(line: _Line, fields: list[GrammarField]) -> Rule:
    """Parse a rule; complain and return a barrier if it is malformed."""
    if len(fields) < 5:
        least = 3 if line.form.old is not None else 5
        have = len(fields) - (5 - least)
        columns = _COLUMNS if least == 5 else _COLUMNS.removeprefix("SERVICE ARGUMENT ")
        line.complain(None, f"{have} fields; expected at least {least}", columns)
        return _barrier(line)
    service, argument = _service(line, fields[0], fields[1])
    source = _token(line, fields[2], Place.SOURCE)
    target = _token(line, fields[3], Place.TARGET)
    action = _action(line, fields[4])
    made: dict[str, Any] = {}
    if action is not None:
        made = _parameters(line, action, fields[5:])
        bare = target is not None and target.text == "@default"
        if bare and action == "allow" and not made.get("redirect"):
            line.complain(
                fields[3],
                "'allow' for '@default' needs the parameter target=",
                "target=NAME",
            )
    if line.problems or action is None or source is None or target is None:
        problem = line.problems[0]
        if action is None or not fields[0].text:
            # Perhaps a column was forgotten: then none is where it seems to be.
            return _barrier(line)
        return barrier(
            problem, service, argument, source or ANY_SOURCE, target or ANY_TARGET
        )
    if service == DEVICE and action != "deny" and made["match"] is NO_MATCH:
        # Not unconditional: a grant is never about an unnamed keyboard, so a
        # later rule that names one still decides.
        made["match"] = Match()
    made.setdefault("notify", action == "deny")
    return Rule(
        line.file,
        line.number,
        service,
        argument,
        source,
        target,
        action,
        **made,
        text=line.text,
    )


def _service(
    line: _Line, service: GrammarField, argument: GrammarField
) -> tuple[str | None, str | None]:
    """Parse service and argument, None for ``*``; complain, ``*`` if malformed."""
    before = len(line.problems)
    if service.text != "*" and (bad := _NOT_SERVICE.search(service.text)):
        hint = "write the argument in the next column" if "+" in service.text else ""
        if service.text.endswith(","):
            hint = "separate the columns with blanks, not with commas"
        line.complain(
            GrammarField(bad[0], service.column + bad.start()),
            f"'{bad[0]}' is not allowed in a service's name",
            "A-Z, a-z, 0-9, '.', '_' and '-', or * alone",
            hint,
        )
    if argument.text != "*" and service.text == NETWORK and not line.form.compat:
        argument = _destination(line, argument)
    elif argument.text != "*":
        if not argument.text.startswith("+"):
            line.complain(argument, "an argument must begin with '+'", "* or +ARGUMENT")
        elif bad := _NOT_ARGUMENT.search(argument.text):
            line.complain(
                GrammarField(bad[0], argument.column + bad.start()),
                f"'{bad[0]}' is not allowed in an argument",
                "A-Z, a-z, 0-9, '+', '.', '_' and '-', or * alone",
            )
        elif service.text == "*":
            line.complain(argument, "service * allows only argument *", "*")
    if len(line.problems) > before:
        return None, None
    return (
        None if service.text == "*" else service.text,
        None if argument.text == "*" else argument.text,
    )


def _destination(line: _Line, argument: GrammarField) -> GrammarField:
    """Parse the argument of a rule about destinations to its canonical form."""
    if not argument.text.startswith("+"):
        line.complain(argument, "an argument must begin with '+'", EXPECTED)
        return argument
    try:
        return argument._replace(text=f"+{pattern_of(argument.text[1:])}")
    except ValueError as error:
        line.complain(argument, str(error), EXPECTED)
        return argument


def _token(line: _Line, field: GrammarField, place: Place) -> Token | None:
    try:
        return parse_token(field.text, place, compat=line.form.compat)
    except TokenError as error:
        line.complain(field, str(error), error.expected, error.hint)
        return None


def _action(line: _Line, field: GrammarField) -> Action | None:
    """Parse a rule's action; complain and return None for another word."""
    for action in ACTIONS:
        if field.text == action:
            return action
    words = ", ".join(ACTIONS)
    hint = did_you_mean(field.text, ACTIONS)
    line.complain(field, f"'{field.text[:40]}' is not an action", words, hint)
    return None


def _parameters(
    line: _Line, action: Action, fields: list[GrammarField]
) -> dict[str, Any]:
    """Parse the parameters into keyword arguments of Rule."""
    parameters: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    seen: set[str] = set()
    known = line.keys
    for field in fields:
        key, equals, value = field.text.partition("=")
        at = GrammarField(value, field.column + len(key) + 1)
        if field.text.startswith("#"):
            hint = "write the comment on a separate line"
            behind = GrammarField(line.text[field.column - 1 :], field.column)
            line.complain(behind, "a comment cannot follow a rule", "key=value", hint)
            break
        if not equals:
            line.complain(field, f"'{field.text[:40]}' is not key=value", "key=value")
        elif key in seen:
            line.complain(field, f"'{key}' is set twice", "", "remove one of the two")
        elif key in QUBES_KEYS and action in QUBES_KEYS[key]:
            _qubes_key(line, key, at, parameters)
        elif key in known and action in known[key].actions and not line.form.compat:
            _our_key(line, key, at, ours)
        else:
            _foreign_key(line, action, GrammarField(key, field.column))
        seen.add(key)
    match = {key: value for key, value in ours.items() if known[key].kind == MATCH}
    rest = {
        key: value
        for key, value in ours.items()
        if key not in match and known[key].kind != MODE
    }
    parameters["match"] = match_of(match) if match else NO_MATCH
    parameters["limits"] = limits_of(rest) if rest else NO_LIMITS
    parameters["observe"] = ours.get("mode") == "observe"
    parameters["attach"] = ours.get("attach")
    return parameters


def _qubes_key(line: _Line, key: str, at: GrammarField, made: dict[str, Any]) -> None:
    """Parse the value of a key of Qubes into ``made``, or complain."""
    if key in {"target", "default_target"}:
        token = _token(line, at, Place.REDIRECT)
        made["redirect" if key == "target" else key] = token
    elif key == "user":
        made[key] = at.text
    elif at.text in _YES_NO:
        made[key] = _YES_NO[at.text]
    else:
        line.complain(at, f"'{key}' must be yes or no", "yes, no")


def _our_key(line: _Line, key: str, at: GrammarField, ours: dict[str, object]) -> None:
    """Parse the value of a key of ours into ``ours``, or complain."""
    one = line.keys[key]
    value = one.take(at.text)
    if value is None:
        hint = _shorter(one.take, at.text)
        line.complain(at, f"invalid value of '{key}'", one.expected, hint)
    else:
        ours[key] = value


def _shorter(take: Callable[[str], object], text: str) -> str:
    """A hint for ``10MB``, ``3/minute`` or ``5 sec`` written out."""
    short = re.sub(r"(?<=[0-9KMGT])i?B$", "", text, flags=re.IGNORECASE)
    short = re.sub(r"(?<=[0-9/])(s|m|h|d)(ec|in|our|ay)[a-z]*$", r"\1", short)
    return f"write {short}" if short != text and take(short) is not None else ""


def _foreign_key(line: _Line, action: Action, key: GrammarField) -> None:
    """Complain about a key that the rule's action does not have."""
    known = [word for word, actions in QUBES_KEYS.items() if action in actions]
    if not line.form.compat:
        known += [word for word, one in line.keys.items() if action in one.actions]
    expected = ", ".join(f"{word}=" for word in known)
    if key.text == "mime" and action == "deny" and not line.form.compat:
        hint = "allow the permitted types, and deny the rest in a later rule"
        text = "a deny cannot depend on 'mime', which the sandbox claims itself"
        line.complain(key, text, expected, hint)
        return
    every = [*QUBES_KEYS] if line.form.compat else [*QUBES_KEYS, *line.keys]
    if key.text in every:
        line.complain(key, f"'{action}' does not support '{key.text}'", expected)
        return
    hint = did_you_mean(key.text, known)
    line.complain(key, f"unknown key '{key.text[:40]}'", expected, hint)
