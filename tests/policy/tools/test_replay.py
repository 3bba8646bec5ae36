"""Recorded decisions asked again: exactly those that say all that was asked."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.rules.engine import Engine
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from policy.tools.recorded import (
    NoRuleError,
    NotReplayableError,
    of_rules,
    recorded,
)
from policy.tools.replay import simulate
from tests.policy import strategies

_QUIET = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
WORLD = World(
    {
        "dom0": Domain("dom0", "AdminVM", power_state="Running"),
        "work": Domain("work", "persistent", frozenset({"job"}), "web"),
        "vault": Domain("vault", "persistent"),
        "web": Domain("web", "disposable", template_for_dispvms=True),
    }
)
EVENT = {
    "kind": "decision",
    "sequence": 7,
    "sandbox": "work",
    "service": "a",
    "verdict": "deny",
    "rule": "1.policy:1",
    "policy": "00",
    "reason": "denied by 1.policy:1",
    "detail": {"argument": "+", "asked": "vault", "records": "11"},
}


def _event(detail=None, **fields):
    made = {**EVENT, **fields}
    made["detail"] = {**EVENT["detail"], **(detail or {})}
    return made


def _simulate(rules, *events):
    return simulate(events, rules_of_map({"1.policy": rules}), WORLD)


def _as_recorded(answer, call, sequence=1):
    """An answer of the engine as the broker records it."""
    detail = {"argument": call.argument, "asked": call.target}
    detail |= {k: getattr(call, k) for k in ("mime", "scheme", "size") if getattr(call, k) is not None}  # fmt: skip
    if call.host is not None:
        detail["host-dropped"] = True
    verdict = answer.verdict
    event = {
        "kind": "decision",
        "sequence": sequence,
        "sandbox": call.source,
        "service": call.service,
        "verdict": "allow" if verdict == "ask" else verdict,
        "rule": answer.where,
        "reason": answer.reason,
        "target": answer.target or (answer.targets[0] if answer.targets else ""),
        "detail": detail,
    }
    if verdict == "ask":
        event |= {"question": 1, "answered_by": "person"}
    return event


@_QUIET
@given(
    strategies.policies(8),
    strategies.policies(8),
    strategies.worlds(),
    st.lists(strategies.calls, min_size=1, max_size=12),
)
def test_only_differences_are_counted(old, new, world, calls):
    """Recorded by one set and asked of another: as if asked of both directly.

    Of the same set nothing changes.
    """
    before, after = (rules_of_map({"1.policy": text}) for text in (old, new))
    engines = Engine(before), Engine(after)
    for asked in calls:
        call = asked._replace(source=world.name_of(asked.source))
        then, now = (engine.answer(call, world) for engine in engines)
        event = _as_recorded(then, call)
        same = simulate([event], before, world)
        assert not same.changes
        found = simulate([event], after, world)
        assert found.same + found.changed + found.skipped.total() == 1
        assert not found.others
        if found.skipped:
            continue
        differs = then.verdict != now.verdict or (
            now.verdict == "allow" and then.target != now.target
        )
        assert bool(found.changes) == differs


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (_event(argument="hmac:0123"), "the argument was stored as a hash"),
        (_event(argument="(dropped)"), "the argument was not stored"),
        (_event({"asked": "hmac:0123"}), "the target was stored as a hash"),
        (_event({"mime": "(dropped)"}), "the mime was not stored"),
        (_event({"argument": "+" + "x" * 80 + "..."}), "the argument was stored shortened or escaped"),
        (_event({"argument": "+\\x1b"}), "the argument was stored shortened or escaped"),
        (_event(sandbox="gone"), "the record of the sandbox no longer exists"),
        (_event({"asked": "gone"}), "the record of the target no longer exists"),
        (_event({"asked": "@dispvm:gone"}), "the record of the target no longer exists"),
    ],
)  # fmt: skip
def test_not_replayable(event, reason):
    """Counted by the missing fact, and never guessed."""
    found = _simulate("a * * * allow\n", event)
    assert dict(found.skipped) == {reason: 1}
    assert (found.same, found.changed) == (0, 0)


def test_a_host_that_was_dropped_matters_only_where_a_rule_asks_for_it():
    """Rules about other services, and without host=, do not look at it."""
    event = _event({"host-dropped": True})
    assert _simulate("a * * * deny\nb * * * deny host=x.org\n", event).same == 1
    for rule in ("a * * * allow host=x.org\n", "* * * * allow host=x.org\n"):
        assert _simulate(rule, event).skipped.total() == 1


def test_a_recorded_host_is_asked_about_again_and_a_hashed_one_is_not():
    rules = "a * * * allow host=x.org\na * * * deny\n"
    kept = _event(object="x.org", verdict="allow", rule="1.policy:1", reason="")
    assert _simulate(rules, kept).same == 1
    for name in ("hmac:00112233", "(dropped)"):
        assert _simulate(rules, _event(object=name)).skipped.total() == 1


def test_what_depends_on_what_ran_is_not_replayed():
    """autostart=no looks at the machine of then."""
    found = _simulate("a * * * allow autostart=no\n", _event())
    assert dict(found.skipped) == {
        "the rule depends on which sandboxes were running, which is not recorded": 1
    }


@pytest.mark.parametrize(
    "event",
    [
        _event(kind="stream.opened"),
        _event(outcome="cut"),
        _event(reason="more than 3 calls in 60 s"),
        _event(reason="the user said no"),
        _event(reason="no record is named 'x'"),
        _event(verdict="allow", detail=None) | {"detail": {}},
    ],
)
def test_not_decided_by_rules(event):
    """Records, limits and ends are no decisions of rules."""
    with pytest.raises(NoRuleError):
        recorded(event)
    found = _simulate("a * * * allow\n", event)
    assert (found.others.total(), found.skipped.total()) == (1, 0)


@pytest.mark.parametrize("by", ["person", "timeout", "grant"])
def test_a_prompted_request_counts_as_ask(by):
    """Whatever the answer was: the rules said ask."""
    event = _event(answered_by=by, reason="the user said no")
    assert _simulate("a * work vault ask\n", event).same == 1
    assert _simulate("a * work vault allow\n", event).changed == 1


@pytest.mark.parametrize("by", ["person", "timeout", "grant"])
def test_what_a_record_made_an_ask_of_counts_as_allow(by):
    event = _event({"record-asks": True}, answered_by=by, reason="the user said no")
    assert _simulate("a * work vault allow\n", event).same == 1
    assert _simulate("a * work vault ask\n", event).changed == 1


def test_counts_are_of_decisions():
    """An event may represent many; equal changes are one group."""
    found = _simulate("a * * * allow\n", _event(count=5), _event(sequence=9))
    ((group, (count, number)),) = found.changes.items()
    assert (count, number) == (6, 9)
    assert (group.then, group.now, group.where) == ("deny", "allow to vault", "1.policy:1")  # fmt: skip


def test_another_target_is_a_change():
    """Allowed before and now, but elsewhere."""
    event = _event(verdict="allow", target="vault", reason="allowed by x:1")
    assert _simulate("a * * * allow target=@adminvm\n", event).changed == 1
    event = _event(verdict="allow", target="@adminvm", reason="allowed by x:1")
    assert _simulate("a * * * allow target=dom0\n", event).same == 1


@_QUIET
@given(strategies.policies(8), strategies.worlds(), strategies.calls)
def test_every_no_of_the_rules_is_known_as_one(text, world, call):
    """The engine's own reasons, all of them."""
    answer = Engine(rules_of_map({"1.policy": text})).answer(call, world)
    if answer.verdict == "deny":
        assert of_rules(answer.reason)


@pytest.mark.parametrize(
    "text", ["a * work\n", "a * work vault allow max-size=1\n", "a * work vault deny\n"]
)
def test_more_reasons_of_rules(text):
    """A barrier, a size, a plain deny."""
    call = recorded(_event()).call._replace(size=2)
    answer = Engine(rules_of_map({"1.policy": text})).answer(call, WORLD)
    assert answer.verdict == "deny"
    assert of_rules(answer.reason)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from([*EVENT, "asked"]), x, max_size=9)))  # fmt: skip
def test_any_json_is_a_decision_or_none(value):
    """A log of another version raises nothing else."""
    if isinstance(value, dict):
        try:
            recorded({**value, "kind": "decision"})
        except NotReplayableError:
            return
