"""Fuzz target: everything that ``policy`` reads.

Invariant: any bytes give a policy or a list of problems, never an exception.
A problem lies inside its file.  A set has a barrier where, and only where, it
has a problem; every call has an answer, and with a barrier for everything in
front that answer is deny.  What was aligned means the same.  Records either
are one or have problems; worlds and expectations likewise.  A recorded
decision is asked again or counted, one or the other.

The first byte of an input picks the door, the rest is what is read; in rule
files a NUL byte alone on a line begins the next file of the set.

    python fuzz/policy.py [--seconds N] [--seed N] [CORPUS_DIR]
    python fuzz/policy.py --atheris CORPUS_DIR [libFuzzer options]

Without atheris a plain mutator works from the seeds below and prints how many
inputs got past the framing (*deep*), and branch coverage with 'coverage'.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Admission, Meter

_METER = Meter(__name__, "policy/**/*.py")


from policy import limits  # noqa: E402
from policy.records.globals import OPTIONS  # noqa: E402
from policy.records.loader import SUFFIX, CollectedRecords  # noqa: E402
from policy.records.model import RecordSet  # noqa: E402
from policy.rules.engine import Engine, PolicyCall  # noqa: E402
from policy.rules.ruleset import RuleSet  # noqa: E402
from policy.rules.world import (  # noqa: E402
    Domain,
    World,
    world_of,
)
from policy.tools.cases import parse_cases, run_cases, tap  # noqa: E402
from policy.tools.explain import as_json, explain  # noqa: E402
from policy.tools.files_in_memory import (  # noqa: E402
    rules_of_map,
)
from policy.tools.fmt import fmt  # noqa: E402
from policy.tools.linting.lint import lint  # noqa: E402
from policy.tools.linting.lint_records import lint_records  # noqa: E402
from policy.tools.qubes import compat  # noqa: E402
from policy.tools.qubes.differences import differences  # noqa: E402
from policy.tools.qubes.world_json import WorldError, world_from_json  # noqa: E402
from policy.tools.record_files import parse_record  # noqa: E402
from policy.tools.replay import simulate  # noqa: E402

WORLD = World(
    {
        "dom0": Domain("dom0", "AdminVM", power_state="Running"),
        "work": Domain("work", "persistent", frozenset({"job"}), "web", uuid="1"),
        "vault": Domain("vault", "persistent", frozenset({"safe"}), uuid="2"),
        "web": Domain("web", "disposable", template_for_dispvms=True, uuid="3"),
    }
)
CALLS = [
    PolicyCall("a", "+", "work", "vault", "image/png", "https", "a.example.org", 10),
    PolicyCall("a", "+x", "work", "", None, None, None),
    PolicyCall("b", "+", "web", "@dispvm"),
    PolicyCall("a", "+", "vault", "dom0"),
]
ROOM = 20000
"""Bytes of one input: what a mutation changes should matter."""


def _files(data: bytes) -> dict[str, str]:
    parts = data.decode("utf-8", "surrogateescape").split("\n\0\n")
    names = ["10-a.policy", "b", "sub/c.policy", "90-z.policy"]
    return dict(zip(names, parts, strict=False))


def _check(rules: RuleSet, files: dict[str, str]) -> None:
    barriers = [rule for rule in rules.rules if rule.broken is not None]
    assert bool(barriers) == bool(rules.problems)
    for problem in rules.problems:
        assert problem.message
        lines = files[problem.file].split("\n")
        assert 1 <= problem.span.line <= len(lines) + 1
        assert 1 <= problem.span.column <= limits.LINE_CHARS + 2
        assert problem.span[:2] <= problem.span[2:]
        assert problem.render().isprintable() or "\n" in problem.render()


def door_rules(data: bytes) -> str:
    """A set of rules, and a request to it."""
    files = _files(data)
    rules = rules_of_map(files)
    _check(rules, files)
    engine = Engine(rules)
    verdicts = []
    for call in CALLS:
        answer = engine.answer(call, WORLD)
        assert answer.verdict in {"allow", "ask", "deny"}
        if answer.rule is not None and answer.rule.broken is not None:
            assert answer.verdict == "deny"
        json.dumps(as_json(explain(rules, call, WORLD)))
        verdicts.append(answer.verdict)
    lint(rules, WORLD)
    return (
        f"{'deep ' if rules.rules else ''}{sorted(set(verdicts))} {len(rules.problems)}"
    )


def door_compat(data: bytes) -> str:
    """The same as Qubes reads it."""
    files = _files(data)
    rules = rules_of_map(files, compat=True)
    differences(rules_of_map(files), rules)
    verdicts = {compat.answer(rules, call, WORLD).verdict for call in CALLS}
    return f"{'deep ' if rules.rules else ''}{sorted(verdicts)}"


def door_fmt(data: bytes) -> str:
    """Aligned, it means the same."""
    text = data.decode("utf-8", "replace")
    new = fmt(text)
    before, after = (rules_of_map({"1.policy": one}) for one in (text, new))
    assert before.digest == after.digest
    assert fmt(new) == new
    return f"{'deep ' if before.rules else ''}{new == text}"


def door_record(data: bytes) -> str:
    """A record in TOML."""
    record, problems = parse_record("x", Path("x.toml"), data)
    assert (record is None) == bool(problems)
    return "deep a record" if record else problems[0].message[:30]


def door_world(data: bytes) -> str:
    """A world in JSON."""
    try:
        world = world_from_json(json.loads(data))
    except (WorldError, RecursionError, ValueError) as error:
        return str(error)[:20]
    rules = rules_of_map(
        {"1.policy": "a * @tag:x @anyvm ask\na * * @default allow target=work\n"}
    )
    for name in [*world.names[:5], "work"]:
        for target in ("", "work", "@dispvm", f"uuid:{name}", f"@dispvm:{name}"):
            Engine(rules).answer(PolicyCall("a", "+", name, target), world)
            compat.answer(rules, PolicyCall("a", "+", name, target), world)
    lint(rules, world)
    return f"deep {len(world.domains)}"


def door_cases(data: bytes) -> str:
    """Expectations."""
    cases, problems = parse_cases("x", data)
    rules = rules_of_map({"1.policy": "a * work vault allow\n"})
    tap(run_cases(cases, partial(Engine(rules).answer, world=WORLD)))
    return f"{'deep ' if cases else ''}{len(problems)}"


def parse_record_set(files: Mapping[str, str]) -> RecordSet:
    """Return the records that files in memory make, by base name (``NAME.toml``)."""
    collected = CollectedRecords()
    for file, text in sorted(files.items()):
        name = file.removesuffix(SUFFIX)
        collected.add_content(name, Path(file), text.encode("utf-8", "surrogatepass"))
    return collected.finish()


def door_records(data: bytes) -> str:
    """Records that inherit from each other, and what lint says of them."""
    parts = data.decode("utf-8", "surrogateescape").split("\n\0\n")
    files = dict(zip(("a.toml", "b.toml", "c.toml"), parts, strict=False))
    found = parse_record_set(files)
    assert not found.records.keys() & found.broken.keys()
    assert {f"{name}.toml" for name in (*found.records, *found.broken)} == set(files)
    assert bool(found.broken) == bool(found.problems)
    for record in found.records.values():
        view = record.viewer
        assert view.audio.playback == "allow" or view.audio.microphone == "deny"
        assert not view.window.allow - OPTIONS.keys()
        assert len(record.inherits) <= limits.INHERITS
        for place in record.places.values():
            assert place.split(":")[0] in files
    rules = rules_of_map({"1.policy": "vitrail.AudioInput * a @adminvm ask\n"})
    for one in lint_records(found, rules, world_of(found)):
        assert one.problem.render()
    return f"{'deep ' if found.records else ''}{len(found.records)} {len(found.broken)}"


def door_event(data: bytes) -> str:
    """A recorded decision, asked again."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(event, dict):
        return "no object"
    rules = rules_of_map(
        {"1.policy": "a * work vault deny\n* * * @anyvm ask host=x.y\n"}
    )
    found = simulate([event], rules, WORLD)
    assert found.same + found.changed + found.skipped.total() + found.others.total()
    return f"{'deep ' if found.same + found.changed else ''}{[*found.skipped, *found.others]}"


DOORS: list[Callable[[bytes], str]] = [
    door_rules,
    door_compat,
    door_fmt,
    door_record,
    door_world,
    door_cases,
    door_records,
    door_event,
]


_RULES = [
    (
        b"a * work vault allow scheme=https,http host=*.example.org rate=3/min ttl=10m\n"
        b"a +x @tag:job @default allow target=@dispvm:web notify=yes autostart=no user=x\n"
        b"* * @anyvm @anyvm deny\n"
    ),
    (
        b"# words\na * work @anyvm ask default_target=vault remember=session gesture=5s mode=observe\n"
        b"!include b\n!include-service a +x sub/c.policy\n!include-dir sub\n"
        b"\n\0\na * @type:disposable @dispvm:@tag:job ask mime=image/* max-size=10M\n"
        b"\n\0\n$anyvm $adminvm ask,default_target=dom0\n$include:b\n"
    ),
    b"a\xc2\xa0* work vault deny\na * \xff b allow\n!compat-4.0\n!include 10-a.policy\n",
    b"a * uuid:2 @dispvm deny\r\na * @dispvm:web @adminvm allow\r\n",
]


_RECORDS = b"""class = "template"
display = "allow"
audio = "allow"
[label]
colour = "red"
[window]
border = 3
name_strip = true
allow = ["zwp_idle_inhibit_manager_v1"]
[launch]
memory = "1G"

\0
class = "disposable"
inherits = "a"
default_disposable = "b"
[audio]
microphone = "ask"
idle = "3s"
[clipboard]
types = ["text/*"]
max_size = "1K"
[transfer]
keep_free = 0

\0
class = "persistent"
inherits = "b"
launch.kind = "external"
peer.cid = 7
"""


def seeds() -> list[bytes]:
    """At least one input that goes all the way through each door."""
    world = {"domains": {"work": {"tags": ["x"], "uuid": "1", "default_dispvm": "work", "template_for_dispvms": True}, "uuid:1": {"name": "work"}}}  # fmt: skip
    record = b'class = "disposable"\ntags = ["a"]\n[label]\ncolour = "red"\n'
    event = {"kind": "decision", "sequence": 1, "sandbox": "work", "service": "a", "verdict": "deny", "reason": "denied by 1.policy:1", "detail": {"asked": "vault", "size": 3, "host-dropped": False}}  # fmt: skip
    cases = b"a+x work vault mime=a/b size=3 -> allow target=vault rule=1.policy:1\n"
    return [
        *(bytes([door]) + rules for door in range(3) for rules in _RULES),
        b"\x03" + record,
        b"\x04" + json.dumps(world).encode(),
        b"\x05" + cases,
        b"\x06" + _RECORDS,
        b"\x07" + json.dumps(event).encode(),
    ]


_WORDS = b"* @anyvm @tag: @dispvm: @default allow ask deny target= !include # + = , \n \0 uuid: host=*. \xff \xe2\x80\xae".split(
    b" "
)


def mutate(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """A few small changes; the door's number is kept."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randint(min(1, len(out)), len(out))
        choice = rng.randrange(6)
        if choice == 0 and 0 < at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            out[at:at] = rng.choice(_WORDS) + b" "
        elif choice == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            start = rng.randrange(1, len(out) + 1)
            out[at:at] = out[start : start + rng.randrange(1, 65)]
        elif choice == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            out[at:] = other[start:]
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 5))
    return bytes(out[:ROOM]) or b"\0"


TARGET = Admission("policy", DOORS, seeds, mutate, ROOM)
run_one, fuzz = TARGET.run_one, TARGET.fuzz

if __name__ == "__main__":
    TARGET.main(__doc__, _METER)
