"""``brokerctl policy eval``: decide one call or many."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import rich_click as click
from rich.text import Text

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.completion import sandboxes, services
from broker.cli.policy.load import (
    JSON,
    POLICY,
    WORLD,
    Situation,
    call_of,
    refuse_unknown_source,
    rules_of,
    situation_from,
)
from broker.core.escape import printable
from broker.core.parts.absent import needed
from policy.records.device_json import device_from
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.ruleset import RuleSet
from policy.rules.verdict import Verdict
from policy.rules.world import World
from policy.tools import limits as tool_limits
from policy.tools.calls import canonical_service, canonical_target
from policy.tools.explain import answer_json
from policy.tools.files_in_memory import rules_of_map
from policy.tools.qubes.world_json import WorldError, world_from_json

EXIT = {"allow": 0, "ask": 0, "deny": 1, "error": 3}
_ATTRIBUTES = ("mime", "scheme", "host", "size", "protocol", "port", "key")


def told_of(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a call is about to a verb."""
    for option in (
        click.option("--key", help="SSH key: its fingerprint or its comment."),
        click.option("--port", type=click.IntRange(1, 65535), help="Port of a flow."),
        click.option(
            "--protocol",
            help="Protocol of a flow: tcp, udp, icmp, or dns for a lookup.",
        ),
        click.option(
            "--size", type=click.IntRange(0), help="Size of the data, in bytes."
        ),
        click.option("--host", help="Host of the address; '' for none."),
        click.option("--scheme", help="Scheme of the address; '' for none."),
        click.option("--mime", help="Type that the source claims for its data."),
        click.option(
            "--device",
            metavar="JSON",
            help='Device, such as {"id": "0951:1666", "interfaces": ["08:06:50"]}.',
        ),
    ):
        command = option(command)
    return command


@click.command("eval")
@click.argument("service", required=False, shell_complete=services)
@click.argument("source", required=False, shell_complete=sandboxes)
@click.argument("target", required=False, shell_complete=sandboxes)
@told_of
@POLICY
@WORLD
@click.option("--compat", is_flag=True, help="Answer as the parser of Qubes does.")
@click.option(
    "--batch", is_flag=True, help="Read calls as JSON lines from standard input."
)
@JSON
def evaluate(
    service: str | None,
    source: str | None,
    target: str | None,
    *,
    policy: tuple[Path, ...],
    world: Path | None,
    compat: bool,
    batch: bool,
    as_json: bool,
    **told: Any,  # noqa: ANN401 -- click has typed them
) -> None:
    """Decide one call, SERVICE[+ARG] SOURCE TARGET, or many with --batch.

    TARGET may be '' or '@default' for a call without a target.  If the rules have an
    error, the decision is 'error', with the position of the first error.

    With --batch, each line is an object with service, argument ("+x"), source and target,
    and optionally policy (file name to text), world, mime, scheme, host, size and device;
    answers are printed in the same order.

    Exit code: 0 allow or ask, 1 deny, 2 usage error, 3 the rules have an error.
    With --batch, 0, or 1 if a line was malformed.
    """
    if batch:
        if service is not None:
            raise click.UsageError(
                "--batch cannot be used with a call; it reads calls from standard input"
            )
        sys.exit(_batch(sys.stdin.buffer, _Asker(policy, world, compat=compat)))
    if service is None or source is None or target is None:
        raise click.UsageError("specify SERVICE[+ARG] SOURCE TARGET, or --batch")
    call = call_of(service, source, target, **told)
    asker = _Asker(policy, world, compat=compat)
    if world is None and not compat:
        asker.refuse_typos(call)
    verdict = asker.ask(call)
    if as_json:
        render.json_line(verdict_json(verdict))
    else:
        print_verdict(verdict)
    sys.exit(EXIT[verdict.answer.verdict])


class _Asker:
    """Answers calls; sets and worlds of the calls before are kept."""

    def __init__(
        self,
        policy: tuple[Path, ...],
        world: Path | None,
        *,
        compat: bool,
    ) -> None:
        self._compat = compat
        self._policy = policy
        self._world_file = world
        self._rules: RuleSet | None = None
        self._situation: Situation | None = None
        self._called: dict[frozenset[str], Situation] = {}
        self._files: object = None
        self._files_rules: RuleSet | None = None
        self._data: object = None
        self._data_world: World | None = None
        self._engine: tuple[RuleSet, Engine] | None = None

    def refuse_typos(self, call: PolicyCall) -> None:
        """Raise UsageError for a source that is not a sandbox; note other typos."""
        refuse_unknown_source(
            call, self._situation_for(call, None), self._rules_for(None)
        )

    def ask(
        self, call: PolicyCall, files: object = None, world: object = None
    ) -> Verdict:
        """Decide a call.  Raises WorldError or ValueError for invalid files."""
        rules = self._rules_for(files)
        known = self._situation_for(call, world)
        if self._compat:
            with needed("--compat"):
                from policy.tools.qubes.compat import answer as qubes_answer

            return Verdict(None, qubes_answer(rules, call, known.world))
        if rules.problems:
            problem = rules.problems[0]
            broken = next((r for r in rules.rules if r.broken is problem), None)
            answer = PolicyAnswer("error", problem.first_line(), broken, notify=True)
            return Verdict(None, answer)
        if self._engine is None or self._engine[0] is not rules:
            self._engine = (rules, Engine(rules))
        engine = self._engine[1]
        return known.decide(call, lambda: engine.answer(call, known.world))

    def _rules_for(self, files: object) -> RuleSet:
        """Return the rules of a call's own files, or of the command line."""
        if files is None:
            if self._rules is None:
                self._rules = rules_of(self._policy, compat=self._compat)
            return self._rules
        if self._files_rules is None or files != self._files:
            if not isinstance(files, Mapping) or not all(
                isinstance(text, str) for text in files.values()
            ):
                raise ValueError("'policy' must map file names to text")
            self._files_rules = rules_of_map(files, compat=self._compat)
            self._files = files
        return self._files_rules

    def _situation_for(self, call: PolicyCall, data: object) -> Situation:
        """Return the world of a call's own data, or of the command line."""
        if data is None:
            if self._situation is None:
                self._situation = situation_from(self._world_file, policy=self._policy)
            # Disposables that the call names need not run.
            names = frozenset({call.source, call.target})
            if names not in self._called:
                self._called[names] = self._situation.calling(names)
            return self._called[names]
        if self._data_world is None or data != self._data:
            self._data_world = world_from_json(data)
            self._data = data
        return Situation(self._data_world, None)


def _batch(lines: Iterable[bytes], asker: _Asker) -> int:
    """Answer each line of a batch; return 1 when one was not understood."""
    code = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            answer = _verdict(line, asker)
        except (WorldError, ValueError, RecursionError) as error:
            reason = f"the line is malformed: {printable(str(error), 200)}"
            answer = Verdict(None, PolicyAnswer("error", reason, notify=True))
            code = 1
        sys.stdout.write(json.dumps(verdict_json(answer)) + "\n")
    sys.stdout.flush()
    return code


def verdict_json(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON values: the answer, and the record's line."""
    made = answer_json(verdict.answer)
    if verdict.record is not None:
        record = verdict.record
        made["record"] = {
            "decision": record.verdict,
            "reason": record.reason,
            "where": record.where,
        }
    return made


def print_verdict(verdict: Verdict) -> None:
    """Print an answer with both lines: the record's and the rule's."""
    print_answer(verdict.answer)
    if verdict.record is not None:
        record = verdict.record
        text = f"  record: {record.where}: {record.verdict}, {record.reason}"
        render.plain_console(soft_wrap=True).print(Text(printable(text, 1000)))
    if verdict.answer.rule is not None:
        rule = verdict.answer.rule
        text = f"  rule: {rule.where}: {rule.text.strip()}"
        render.plain_console(soft_wrap=True).print(Text(printable(text, 1000)))


def _verdict(line: bytes, asker: _Asker) -> Verdict:
    """Decide the call of one JSON line.  Raises ValueError."""
    if len(line) > tool_limits.WORLD_BYTES:
        raise ValueError(f"the line exceeds {tool_limits.WORLD_BYTES} bytes")
    asked = json.loads(line)
    if not isinstance(asked, dict):
        raise ValueError("a call must be a JSON object")  # noqa: TRY004 -- all are ValueError here
    fields: list[Any] = [asked.get("service"), asked.get("argument", "+")]
    fields += [asked.get("source"), asked.get("target", "")]
    attributes: dict[str, Any] = {name: asked.get(name) for name in _ATTRIBUTES}
    size = attributes["size"]
    if not all(isinstance(word, str) for word in fields):
        raise ValueError("service, argument, source and target must be text")
    if not all(isinstance(attributes[name], str | None) for name in _ATTRIBUTES[:3]):
        raise ValueError("mime, scheme and host must be text")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise ValueError("size must be a whole number")
    port = attributes["port"]
    if port is not None and (not isinstance(port, int) or isinstance(port, bool)):
        raise ValueError("port must be a whole number")
    if not all(
        isinstance(attributes[name], str | None) for name in ("protocol", "key")
    ):
        raise ValueError("protocol and key must be text")
    device = asked.get("device")
    attributes["device"] = None if device is None else device_from(device, "device")
    unknown = asked.keys() - {*_ATTRIBUTES, *_KNOWN}
    if unknown:
        raise ValueError(f"unknown key '{min(unknown)}'")
    fields[0] = canonical_service(fields[0])
    fields[2], fields[3] = (
        canonical_target(fields[2]),
        canonical_target(fields[3]),
    )
    call = PolicyCall(*fields, **attributes)
    return asker.ask(call, asked.get("policy"), asked.get("world"))


_KNOWN = ("service", "argument", "source", "target", "policy", "world", "device")


def print_answer(answer: PolicyAnswer) -> None:
    """Print an answer with its targets and limits."""
    out = render.plain_console(soft_wrap=True)
    head: str = answer.verdict
    if answer.target:
        head += f" to {shown_target(answer.target)}"
    out.print(Text(printable(f"{head}: {answer.reason}", 1000), style="bold"))
    if answer.verdict == "ask":
        targets = ", ".join(map(shown_target, answer.targets))
        out.print(Text(printable(f"  targets: {targets}", 4000)))
        if answer.default_target:
            default = shown_target(answer.default_target)
            out.print(Text(f"  default: {printable(default, 200)}"))
    if answer.verdict == "allow" and answer.rule is not None and answer.rule.attach:
        out.print(Text(f"  attach: {answer.rule.attach}"))
    for name, value in answer.limits.as_json().items():
        out.print(Text(f"  {name}: {value}"))
    for rule in answer.observed:
        out.print(Text(f"  would have decided without mode=observe: {rule.where}"))
