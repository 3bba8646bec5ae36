"""After any change of rules, exactly the streams that the current rules permit continue."""

from __future__ import annotations

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.authority.decisions.evaluator import call_of
from broker.core.errors import RefusedError
from broker.core.question import PersonAnswer
from policy.rules.engine import Engine
from policy.rules.last_good import choose
from policy.tools.files_in_memory import rules_of_map
from tests.kit.rulebook import VAULT, WORK, rulebook

LINES = st.lists(
    st.builds(
        "{} * {} {} {}\n".format,
        st.sampled_from(["a", "b", "*"]),
        st.sampled_from(["work", "vault", "@anyvm", "*", "@type:persistent"]),
        st.sampled_from(["@adminvm", "work", "vault", "@anyvm", "*"]),
        st.sampled_from(
            [
                *(
                    "allow",
                    "deny",
                    "ask",
                    "ask remember=session",
                    "ask remember=stream",
                ),
                *("ask ttl=1h", "allow ttl=1h", "allow target=vault", "nonsense"),
                *("deny mode=observe", "ask default_target=vault", "allow max-size=1M"),
            ]
        ),
    ),
    max_size=6,
).map("".join)
CALLS = [
    (lease, service, target)
    for lease in (WORK, VAULT)
    for service in ("a", "b")
    for target in ("@adminvm", "work", "vault")
]


async def use(b, call, live):
    """Ask, and use the permitted stream until it is cut."""
    lease, service, target = call
    request = b.request(service, lease=lease, target=target)
    try:
        async with b.decider.permit(request) as permit:
            live[call] = permit
            await trio.sleep_forever()
    except RefusedError:
        return
    finally:
        live.pop(call, None)


async def swapped(first, second, answers):
    """Everything is asked under the first rules; then come the second."""
    said = iter(answers * 40)

    def person(question):
        if next(said):
            return PersonAnswer(allow=True, target=question.targets[0], by="person")
        return PersonAnswer(allow=False, by="person")

    async with rulebook(first) as b:
        b.person.says = person
        live = {}
        async with trio.open_nursery() as nursery:
            for call in CALLS:
                nursery.start_soon(use, b, call, live)
            with trio.fail_after(60):
                while len(b.events("decision")) < len(CALLS):
                    await trio.testing.wait_all_tasks_blocked(0.005)
            await trio.testing.wait_all_tasks_blocked(0.005)
            await b.change("50-test.policy", second)
            await trio.testing.wait_all_tasks_blocked(0.005)
            check(b, live)
            nursery.cancel_scope.cancel()


def check(b, live):
    """The oracle asks a separate engine about each that is live still."""
    world = b.decider._judge.world()
    for (lease, service, target), permit in live.items():
        call = call_of(b.request(service, lease=lease, target=target))
        answer = Engine(b.rules.now.rules).answer(call, world)
        assert answer.verdict in {"allow", "ask"}
        offered = answer.targets or (answer.target,)
        assert permit.target in offered
        if answer.verdict == "ask":
            assert permit.answered, "no yes was given"
    assert len(b.decider.live()) == len(live)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(LINES, LINES, st.lists(st.booleans(), min_size=1, max_size=7))
def test_only_currently_permitted_streams_continue(first, second, answers):
    trio.run(swapped, first, second, answers)


@given(LINES, LINES)
def test_a_set_with_a_mistake_is_never_what_decides(first, second):
    """The oracle of the live one: keep's own choice, from the same files."""
    good, read = rules_of_map({"a.policy": first}), rules_of_map({"a.policy": second})
    kept = None if good.problems else good
    chosen = choose(read, kept)
    if not read.problems:
        assert chosen.rules is read
    elif kept is not None:
        assert chosen.rules is kept
    else:
        assert all(rule.broken for rule in chosen.rules.rules)
