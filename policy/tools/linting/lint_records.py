"""Mistakes in valid records, and keys that deserve a second look.

A record may grant access that is denied by default; each such key is named with a
sentence on its meaning, so that a user reads it before granting it.
"""

from __future__ import annotations

from collections.abc import Iterator

from policy.destinations import NETWORK
from policy.errors import Problem
from policy.names import ADMIN
from policy.records.globals import OPTIONS
from policy.records.model import GPU_GLOBAL, Record, RecordSet
from policy.rules.checks import CHECKS
from policy.rules.engine import Engine, PolicyCall
from policy.rules.record_gate import NETWORK_KEY, RecordRequest, record_allows
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.world import World
from policy.suggestions import did_you_mean
from policy.tools import limits as tool_limits
from policy.tools.colours import Seen, faint
from policy.tools.linting.confusables import look, scripts
from policy.tools.linting.sarif import LintFinding

MICROPHONE = "vitrail.AudioInput"
_NAMED = 6
"""Other records that one finding names."""


def lint_records(records: RecordSet, rules: RuleSet, world: World) -> list[LintFinding]:
    """Return the findings, in the order of the files and their lines."""
    errors = [LintFinding("error", "error", problem) for problem in records.problems]
    good = [records.records[name] for name in sorted(records.records)]
    engine = None if rules.problems else Engine(rules)
    found = [
        finding
        for record in good
        for finding in (
            *_opened(record),
            *_faint(record),
            *_scripts(record),
            *_disposable(record, records),
            *_through(record, records),
            *_microphone(record, engine, world),
        )
    ]
    found += [*_colours(good), *_look_alikes(good), *_rules_in_vain(records, rules)]
    # A key that several records inherit is reported once.
    once = {(one.check, one.problem): one for one in found}
    return errors + sorted(
        once.values(), key=lambda one: (one.problem.file, one.problem.span)
    )


def _found(
    check: str, record: Record, key: str, message: str, hint: str = ""
) -> LintFinding:
    file, span, line = record.spot(key)
    problem = Problem(file, span, message, hint=hint, source_line=line)
    return LintFinding(check, CHECKS[check][0], problem)


# -- what a record opens ------------------------------------------------------------


def _opened(record: Record) -> Iterator[LintFinding]:
    """Yield a finding for each dangerous right that a record opens."""
    window = record.viewer.window
    launch = record.host.launch
    way = getattr(launch, "gpu", "none")
    gpu = way == "buffers"
    for name in sorted(window.allow - window.deny):
        text = f"{name} is allowed: {OPTIONS[name]}"
        key = "launch.gpu" if gpu and name == GPU_GLOBAL else "window.allow"
        yield _found("dangerous-global", record, key, text)
    for name in sorted(window.allow & window.deny):
        text = f"{name} is both allowed and denied; deny overrides allow"
        yield _found("dangerous-global", record, "window.allow", text)
    if gpu and record.host.launch.kind.whole_gpu:
        text = "Flatpak gives the application all of /dev/dri: with a card* device that no desktop uses, it can draw on the screen without a frame"
        yield _found("whole-gpu", record, "launch.gpu", text)
    if way == "render" and getattr(launch, "provides_network", False):
        text = "the sandbox provides the network of others: a program in it that takes over its GPU process can stop its machine"
        yield _found("drawn-provider", record, "launch.gpu", text)
    if window.fullscreen == "real":
        text = "a fullscreen application has no frame: it can imitate your desktop and any prompt"
        yield _found("unframed", record, "window.fullscreen", text)
    if window.translucent:
        text = "a translucent window can imitate an overlay on the content below it"
        yield _found("translucent", record, "window.translucent", text)
    if record.viewer.audio.playback == "raw":
        text = "the sandbox uses the sound server without a filter: it can record you and every other application, and load modules"
        hint = 'to play through the filter, set audio = "allow"'
        yield _found("unfiltered-sound", record, "audio.playback", text, hint)


def _disposable(record: Record, records: RecordSet) -> Iterator[LintFinding]:
    """Yield a finding where the default disposable is not a disposable record."""
    name = record.viewer.default_disposable
    if name is None:
        return
    other = records.records.get(name)
    if other is not None and other.viewer.sandbox_class == "disposable":
        return
    why = f"no record is named '{name}'"
    if other is not None:
        why = f"the record '{name}' is {other.viewer.sandbox_class}, not disposable"
    elif name in records.broken:
        why = f"the record '{name}' has an error"
    known = [
        n for n, r in records.records.items() if r.viewer.sandbox_class == "disposable"
    ]
    text = f"calls from this sandbox to '@dispvm' are always denied: {why}"
    hint = did_you_mean(name, known)
    yield _found("no-disposable", record, "default_disposable", text, hint)


def _through(record: Record, records: RecordSet) -> Iterator[LintFinding]:
    """Yield a finding for a network through a sandbox that has none, or leads on."""
    name = _provider(record)
    if not name:
        return
    other = records.records.get(name)
    provides = bool(getattr(other and other.host.launch, "provides_network", False))
    if other is not None and provides and not _provider(other):
        return
    why = f"no record is named '{name}'"
    if other is not None and not provides:
        why = f"the record '{name}' does not set provides_network = true"
    elif other is not None:
        why = f"'{name}' itself uses the network of another sandbox"
    elif name in records.broken:
        why = f"the record '{name}' has an error"
    hint = "" if other is not None else did_you_mean(name, records.records)
    text = f"this sandbox cannot start: {why}"
    yield _found("no-provider", record, "launch.network", text, hint)


def _provider(record: Record) -> str:
    network = str(getattr(record.host.launch, "network", ""))
    return network.removeprefix("through:") if network.startswith("through:") else ""


# -- record and rules -----------------------------------------------------------------


def _microphone(
    record: Record, engine: Engine | None, world: World
) -> Iterator[LintFinding]:
    """Yield a finding if a record allows the microphone and no rule grants it."""
    if record.viewer.audio.microphone == "deny" or engine is None:
        return
    call = PolicyCall(MICROPHONE, "+", record.name, ADMIN)
    if engine.answer(call, world).verdict == "deny":
        text = f"no rule for {MICROPHONE} allows the sandbox to use the microphone"
        hint = f"add a rule such as: {MICROPHONE} * {record.name} @adminvm ask"
        yield _found("rules-deny", record, "audio.microphone", text, hint)


def _rules_in_vain(records: RecordSet, rules: RuleSet) -> Iterator[LintFinding]:
    """Yield a finding for each rule that a record's key makes void."""
    yield from unasked_flows(records, rules)
    for rule in rules.rules:
        record = _record_of(rule, records)
        if record is None or rule.action == "deny" or rule.service != MICROPHONE:
            continue
        if record.viewer.audio.microphone == "deny":
            where = record.where("audio.microphone")
            text = f"the record of '{record.name}' denies the microphone: {where}"
            hint = 'to let rules decide, set microphone = "ask" in its [audio]'
            yield _of_rule("record-denies", rule, text, hint)


def unasked_flows(records: RecordSet, rules: RuleSet) -> Iterator[LintFinding]:
    """Yield a finding for each rule about flows of a record whose network has no rules.

    With ``network = "user"`` also a deny is void: the packets go out all the same.
    """
    for rule in rules.rules:
        record = _record_of(rule, records)
        if record is None or rule.service != NETWORK:
            continue
        request = RecordRequest(record.name, record.name, NETWORK)
        decision = record_allows(records, request)
        if decision.verdict == "allow":
            continue
        if rule.action != "deny" or record.values.get(NETWORK_KEY) == "user":
            settable = record.host.launch.kind.network
            hint = (
                f"to let rules decide, run 'brokerctl set {record.name} network rules'"
            )
            hint = hint if settable else ""
            yield _of_rule("network-unasked", rule, decision.reason, hint)


def _record_of(rule: Rule, records: RecordSet) -> Record | None:
    """Return the record that a rule names as its source."""
    return records.records.get(rule.source.value) if rule.source.literal else None


def _of_rule(check: str, rule: Rule, text: str, hint: str) -> LintFinding:
    return LintFinding(check, CHECKS[check][0], rule.problem(text, hint))


# -- what a user sees ----------------------------------------------------------------


def _shows(record: Record) -> bool:
    return record.viewer.display != "none"


def _faint(record: Record) -> Iterator[LintFinding]:
    beside = faint(record.viewer.label.colour)
    if beside and _shows(record):
        text = f"a frame of {record.viewer.label.colour} is hard to see beside {beside}"
        yield _found("colour-faint", record, "label.colour", text)


def _colours(good: list[Record]) -> Iterator[LintFinding]:
    """Yield a finding for each label whose colour is close to another record's."""
    shown = [record for record in good if _shows(record)]
    by: dict[str, list[Record]] = {}
    for record in shown:
        by.setdefault(record.viewer.label.colour, []).append(record)
    colours = list(by)[: tool_limits.LINT_COLOURS]
    sights = Seen(colours)
    for record in shown:
        mine = record.viewer.label.colour
        if mine not in colours:
            continue
        for other in colours:
            sight = sights.alike(mine, other)
            near = [r for r in by[other] if sight and not _family(record, r)]
            if near:
                yield _close(record, other, sight, near)


def _close(record: Record, other: str, sight: str, near: list[Record]) -> LintFinding:
    """Return the finding that a record's colour looks like others'."""
    names = ", ".join(f"'{r.name}'" for r in near[:_NAMED])
    more = f" and {len(near) - _NAMED} more" if len(near) > _NAMED else ""
    mine = record.viewer.label.colour
    how = (
        "the same colour as"
        if other == mine
        else f"{mine}, which looks like {other} of"
    )
    by = "" if sight == "usual sight" else f" for people with {sight}"
    text = f"the frame has {how} {names}{more}{by}"
    hint = "" if "label.colour" in record.spots else "set colour in [label]"
    return _found("colours-close", record, "label.colour", text, hint)


def _family(one: Record, other: Record) -> bool:
    """One record, or two that share the line which sets the colour: on purpose."""
    spots = one.spots.get("label.colour"), other.spots.get("label.colour")
    return one is other or (spots[0] is not None and spots[0] == spots[1])


def _scripts(record: Record) -> Iterator[LintFinding]:
    for key, text in _names(record)[1:]:
        found = scripts(text)
        if len(found) > 1:
            words = f"'{text}' has letters of {' and '.join(map(str.title, found))}"
            yield _found("mixed-scripts", record, key, words)


def _names(record: Record) -> list[tuple[str, str]]:
    """Return texts that a user may read as the sandbox's name, with their keys."""
    view = record.viewer
    found = [("name", record.name)]
    if view.label.name != record.name:
        found.append(("label.name", view.label.name))
    if view.window.title_prefix not in {record.name, view.label.name}:
        found.append(("window.title_prefix", view.window.title_prefix))
    return found


def _look_alikes(good: list[Record]) -> Iterator[LintFinding]:
    """Yield a finding for names that a reader takes for another record's.

    The later one is reported.
    """
    looks: dict[str, tuple[Record, str]] = {}
    for record in good:
        for _, text in _names(record):
            looks.setdefault(look(text), (record, text))
    for record in good:
        for key, text in _names(record):
            other, theirs = looks[look(text)]
            if other is record:
                continue
            words = f"'{text}' looks like '{theirs}' (the record '{other.name}')"
            if text == theirs:
                words = f"the record '{other.name}' has the same name '{text}'"
            yield _found("look-alike", record, key, words)
