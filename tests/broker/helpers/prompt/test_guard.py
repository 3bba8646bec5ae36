"""Nothing counts before a second of undisturbed focus: by example, and always."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.helpers.prompt.guard import Guard

HOLD = limits.PROMPT_GUARD_SECONDS


def ready(now=0.0):
    """A guard that is seen and has the focus since then."""
    guard = Guard()
    guard.visible(now)
    guard.focus(now, held=True)
    return guard


def armed(guard, now):
    """Whether input counts once the screen has shown how the guard is at ``now``."""
    guard.shown(guard.rest(now))
    return guard.armed


def test_after_a_second_in_front():
    guard = ready()
    assert not armed(guard, HOLD - 0.001)
    assert guard.remaining(0.25) == HOLD - 0.25
    assert armed(guard, HOLD)
    assert guard.press(1, HOLD + 5), "input from now on may be meant"
    assert armed(guard, HOLD + 5), "and does not disturb it"


def test_not_before_it_is_seen_and_not_without_focus():
    guard = Guard()
    guard.focus(0, held=True)
    assert not armed(guard, 100)
    guard.visible(100)
    assert not armed(guard, 100.5)
    assert armed(guard, 101)
    assert guard.remaining(101) == 0
    other = Guard()
    other.visible(0)
    assert not armed(other, 100)
    assert other.remaining(100) is None


def test_a_key_that_is_held_down_is_not_rest():
    """Also one that was down when the focus came (a key that repeats, say)."""
    guard = Guard()
    guard.visible(0)
    guard.focus(0, held=True, keys=frozenset({30}))
    assert not armed(guard, 10)
    assert not guard.release(30, 10)
    assert not armed(guard, 10.9)
    assert armed(guard, 11)


def test_a_key_that_goes_down_and_stays_down():
    guard = ready()
    assert not guard.press(30, 0.5)
    assert not armed(guard, 1.2)
    assert not armed(guard, 9)
    guard.release(30, 9)
    assert armed(guard, 10)


def test_a_rest_that_was_not_shown_is_not_over():
    """Nor one whose picture is shown after a press: the press was on its way."""
    guard = ready()
    assert not guard.press(30, 5)
    guard.release(30, 5)
    rest = guard.rest(7)
    assert rest
    guard.disturb(7.1)
    guard.shown(rest)
    assert not guard.armed
    guard.shown(0)
    assert not guard.armed
    assert not guard.rest(8)
    assert armed(guard, 8.2)


def test_losing_the_focus_begins_again():
    guard = ready()
    assert armed(guard, 2)
    guard.focus(2, held=False)
    assert not armed(guard, 50)
    guard.focus(50, held=True)
    assert not armed(guard, 50.9)
    assert armed(guard, 51)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["press", "release", "wheel", "focus", "blur", "see", "look"]),
        st.integers(0, 3),
        st.floats(0, 2, allow_nan=False),
    ),
    max_size=40,
)


@given(EVENTS)
def test_what_counts_came_after_a_second_of_nothing(events):
    """An oracle that knows only the list of events."""
    guard, now, past = Guard(), 0.0, []
    for kind, code, wait in events:
        now += wait
        counts = None
        armed(guard, now)
        match kind:
            case "press":
                counts = guard.press(code, now)
            case "release":
                counts = guard.release(code, now)
            case "wheel":
                counts = guard.disturb(now)
            case "focus":
                guard.focus(now, held=True)
            case "blur":
                guard.focus(now, held=False)
            case "see":
                guard.visible(now)
            case "look":
                counts = guard.armed
        if counts is not None:
            assert counts == expected(past, now), (past, now)
        past.append((kind, code, now))


def expected(past, now):
    """Whether it is armed at ``now``: there was a quiet second since the focus came."""
    seen = [at for kind, _, at in past if kind == "see"][:1]
    focus = [(kind, at) for kind, _, at in past if kind in {"focus", "blur"}]
    if not seen or not focus or focus[-1][0] == "blur":
        return False
    begin = max(focus[-1][1], seen[0])
    after = [
        (kind, code, at)
        for kind, code, at in past
        if at >= focus[-1][1] and kind != "look"
    ]
    place = max(i for i, item in enumerate(past) if item[0] == "focus")
    after = [
        item for item in past[place + 1 :] if item[0] in {"press", "release", "wheel"}
    ]
    down = set()
    quiet = begin
    for kind, code, at in [*after, ("end", 0, now)]:
        if not down and at >= begin and at - quiet >= HOLD:
            return True
        if kind == "press":
            down.add(code)
        elif kind == "release":
            down.discard(code)
        quiet = max(at, begin)
    return False
