"""``brokerctl policy explain``: which rule decides, and why no other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click
from rich.text import Text

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.completion import sandboxes, services
from broker.cli.policy.ask import (
    EXIT,
    print_answer,
    print_verdict,
    told_of,
    verdict_json,
)
from broker.cli.policy.load import (
    JSON,
    POLICY,
    WORLD,
    call_of,
    refuse_unknown_source,
    rules_of,
    situation_from,
    split_service,
)
from broker.cli.sandboxes.settings import change_for
from broker.core.escape import printable
from broker.core.prompt_words import VIEWER
from broker.core.services import OPEN_FILE, OPEN_URL
from policy.errors import visible
from policy.rules.rulefiles import SHIPPED
from policy.rules.ruleset import RuleSet
from policy.rules.verdict import Verdict
from policy.rules.wording import wording
from policy.rules.world import DEFAULT, World
from policy.tools.calls import canonical_service
from policy.tools.explain import Explanation, as_json, call_json, explain
from policy.tools.linting.finding import problem_json
from policy.tools.linting.unknown import meant_service
from policy.tools.recorded import Recorded


@click.command("explain")
@click.argument("service", required=False, shell_complete=services)
@click.argument("source", required=False, shell_complete=sandboxes)
@click.argument("target", required=False, shell_complete=sandboxes)
@click.option(
    "--event",
    "number",
    type=click.IntRange(1),
    help="Explain the decision with this number in the audit log, instead of a call.",
)
@told_of
@POLICY
@WORLD
@click.option(
    "--all", "every", is_flag=True, help="Also show rules about other services."
)
@JSON
def explain_call(
    service: str | None,
    source: str | None,
    target: str | None,
    *,
    number: int | None,
    policy: tuple[Path, ...],
    world: Path | None,
    every: bool,
    as_json: bool,
    **told: Any,  # noqa: ANN401 -- click has typed them
) -> None:
    """Print which rule decides SERVICE[+ARG] SOURCE [TARGET], and why earlier rules do not.

    TARGET defaults to 'you', this desktop; for vitrail.OpenURL and vitrail.OpenFile to
    @default, so that a rule chooses.

    The output has the first column of each earlier rule that does not match, the closest
    rule with another verdict, and a line that would change the answer, which was tested.

    With --event, explain a recorded decision by the current rules, and report whether
    other rules decided it.

    Exit code: 0 allow or ask, 1 deny or no such decision, 2 usage error, 3 the rules
    have an error.
    """
    rules = rules_of(policy)
    then: Recorded | None = None
    if number is not None:
        if service is not None or any(value is not None for value in told.values()):
            raise click.UsageError(
                "--event cannot be used together with SERVICE, SOURCE, TARGET or "
                "options of a call"
            )
        # Late: it needs the audit log, and a call does not.
        from broker.cli.policy.recorded_decisions import event as recorded_event

        then, known = recorded_event(number)
        call, known = then.call, known if world is None else situation_from(world)
    elif service is None or source is None:
        raise click.UsageError("specify SERVICE[+ARG] SOURCE [TARGET], or --event")
    else:
        call = call_of(service, source, _target_of(service, target), **told)
        known = situation_from(world, policy=policy).calling({call.source, call.target})
        if world is None:
            refuse_unknown_source(call, known, rules)
    found = explain(rules, call, known.world)
    verdict = known.decide(found.call, lambda: found.answer)
    problems = [problem_json(problem) for problem in rules.problems]
    if as_json:
        event = {} if then is None else {"event": _event_json(then, rules)}
        said = {**as_json_of(found), **verdict_json(verdict), **event}
        render.json_line({**said, "problems": problems})
    else:
        if then is not None:
            _print_event(then, rules)
        _print_explanation(found, verdict, known.world, every=every)
        from broker.cli.policy.records import tell_problems  # late

        tell_problems(rules.problems)
    sys.exit(3 if rules.problems else EXIT[verdict.answer.verdict])


def _target_of(service: str, target: str | None) -> str:
    """Return the target of a call; without one, that of the sandbox's own program."""
    if target is not None:
        return target
    name, _ = split_service(service)
    opening = canonical_service(name) in {OPEN_URL, OPEN_FILE}
    return DEFAULT if opening else VIEWER


def _event_json(then: Recorded, rules: RuleSet) -> dict[str, object]:
    """Return a recorded decision as a JSON object."""
    return {
        "sequence": then.sequence,
        "decision": then.verdict,
        "rule": then.rule,
        "target": then.target,
        "reason": then.reason,
        "same_rules": then.policy == rules.digest,
        "host_dropped": then.host_dropped,
    }


def _print_event(then: Recorded, rules: RuleSet) -> None:
    """Print a recorded decision."""
    words = f"event {then.sequence}: {then.verdict}, by {then.rule or 'no rule'}"
    _line(f"{words} ({then.reason})" if then.reason else words)
    call = then.call
    asked = f"{call.service}{call.argument} {call.source} {call.target or '@default'}"
    _line(f"  call: {asked}")
    if then.policy != rules.digest:
        _line("  the rules have changed since; the current rules follow")
    if then.host_dropped:
        _line(
            "  the host of the address was not recorded; rules with a host do not match"
        )


def as_json_of(found: Explanation) -> dict[str, object]:
    """The explanation with the call that it is about."""
    empty = {k: v for k, v in found.call._asdict().items() if v == ""}
    return {"call": {**empty, **call_json(found.call)}, **as_json(found)}


def _print_explanation(
    found: Explanation, verdict: Verdict, world: World, *, every: bool
) -> None:
    print_verdict(verdict)
    if verdict.refused_by_record:
        change = change_for(found.call.service, found.call.source, world)
        _line(f"the record denies this call; to change the record: {change}")
        _line("without the record, the rules decide:")
        print_answer(found.answer)
        if found.answer.rule is not None:
            _line(f"  {found.answer.rule.where}: {found.answer.rule.text.strip()}")
    for step in found.answer.trace:
        _line(f"  {step.question}: {shown_target(step.answer)}")
    if verdict.answer.verdict == "ask":
        words, _ = wording(found.call)
        _line(f"  the question would be: {found.call.source} wants {words}")
    shown = [m for m in found.misses if every or m.column != "service"]
    if shown:
        _line("earlier rules, with the first column that did not match:")
    for miss in shown:
        _line(f"  {miss.rule.where}: {miss.rule.text.strip()}")
        _line(f"      {miss.column}: {miss.why}")
    hidden = len(found.misses) - len(shown)
    if hidden:
        _line(f"  (and {hidden} about other services; to show them, pass --all)")
    if found.nearest is not None and found.nearest not in shown:
        near_rule = found.nearest.rule
        _line(f"nearest match: {near_rule.where}: {near_rule.text.strip()}")
        _line(f"      {found.nearest.column}: {found.nearest.why}")
    _print_advice(found, verdict)


def _print_advice(found: Explanation, verdict: Verdict) -> None:
    """Print a line that would change the answer, and how to add it."""
    near = meant_service(found.call.service)
    if near is not None:
        service = visible(found.call.service)
        known = (
            f"did you mean '{near}'?"
            if near
            else "to list the services, run 'brokerctl policy check'"
        )
        _line(f"no service is named '{service}': {known}")
    if found.flip is None or verdict.refused_by_record:
        return
    # The rules ask, and the call is denied, because no target can take a file.
    if found.flip.verdict == verdict.answer.verdict:
        return
    before = found.flip.before
    ours = before is not None and Path(before.file).parent != SHIPPED
    verdict_word = found.flip.verdict
    if before is not None and ours:
        text = f"to change the decision to {verdict_word}, add before {before.where}:"
    else:
        text = f"to change the decision to {verdict_word}, add:"
    _line(text)
    _line(f"      {found.flip.text}")
    name = Path(before.file).stem if before is not None and ours else ""
    _line(f"  to edit the rules, run: {f'brokerctl policy edit {name}'.rstrip()}")


def _line(text: str) -> None:
    render.plain_console(soft_wrap=True).print(Text(printable(text, 5000)))
