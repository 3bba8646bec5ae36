"""Pointer constraints and shortcut inhibitors: only by record, inside the content."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.handlers.constraints import INHIBIT_MANAGER, INHIBITOR, MANAGER
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

LOCKED, CONFINED = "zwp_locked_pointer_v1", "zwp_confined_pointer_v1"
ONESHOT, PERSISTENT = 1, 2


@pytest.fixture
def talk():
    rules = WindowRules("work", allow=frozenset({MANAGER, INHIBIT_MANAGER}))
    with Talk(rules) as it:
        it.start()
        it.seat = it.bind("wl_seat")
        it.pointer = it.make(it.seat, "get_pointer", "wl_pointer")
        it.win, it.xdg, it.top = it.show(200, 100, 0)
        it.manager = it.bind(MANAGER)
        yield it
    assert it.machine.leaked() == []


def constrain(
    talk: Talk, name: str, region: int = 0, lifetime: int = PERSISTENT
) -> int:
    return talk.make(
        talk.manager,
        f"{name}_pointer",
        LOCKED if name == "lock" else CONFINED,
        None,
        talk.win,
        talk.pointer,
        region,
        lifetime,
    )


def crop(talk: Talk, x: int, y: int) -> None:
    talk.send(talk.xdg, "set_window_geometry", x, y, 100, 50)
    talk.send(talk.win, "commit")


def region(talk: Talk, *rect: int) -> int:
    made = talk.make(talk.compositor, "create_region", "wl_region")
    talk.send(made, "add", *rect)
    return made


def test_both_are_hidden_without_a_word_in_the_record():
    with Talk() as it:
        it.start()
        assert MANAGER not in it.globals
        assert INHIBIT_MANAGER not in it.globals


@pytest.mark.parametrize("name", ["lock", "confine"])
def test_a_constraint_is_on_the_clients_surface_with_its_region_where_it_shows(
    talk, name
):
    crop(talk, 20, 10)
    before = len(talk.told("wl_region", "add"))
    constrain(talk, name, region(talk, 30, 30, 40, 40))
    said = talk.told(MANAGER, f"{name}_pointer")[0]
    assert said[1] is talk.server_side(talk.win)
    assert talk.told("wl_region", "add")[before] == [10, 20, 40, 40]


def locks(talk: Talk) -> tuple[list, list]:
    """Locks at clients' surfaces, and those at frames' roots."""
    roots = talk.model.roots()
    every = talk.told(MANAGER, "lock_pointer")
    return [s for s in every if s[1] not in roots], [s for s in every if s[1] in roots]


def test_a_persistent_lock_is_at_the_frame_too_and_the_client_hears_of_both_as_one(
    talk,
):
    """sway activates the lock of the surface with the keyboard: the frame's root."""
    lock = constrain(talk, "lock")
    (at_client,), (at_frame,) = locks(talk)
    first, second = at_client[0], at_frame[0]
    for constraint, event in (
        (second, "locked"),
        (first, "locked"),
        (second, "unlocked"),
        (first, "unlocked"),
        (second, "locked"),
    ):
        talk.model.tell(constraint, event)
        talk.pump()
    names = [e[2] for e in talk.events if e[0] == lock]
    assert names == ["locked", "unlocked", "locked"]
    talk.send(lock, "destroy")
    assert len(talk.told(LOCKED, "destroy")) == 2
    constrain(talk, "lock")
    assert [len(found) for found in locks(talk)] == [2, 2]


@pytest.mark.parametrize(("name", "lifetime"), [("confine", 2), ("lock", ONESHOT)])
def test_others_are_at_the_clients_surface_alone(talk, name, lifetime):
    """sway holds the pointer still for a confinement at another surface than its own."""
    constrain(talk, name, lifetime=lifetime)
    assert len(talk.told(MANAGER, f"{name}_pointer")) == 1


def test_a_frame_has_one_lock(talk):
    """A second one at a surface ends the connection."""
    child = talk.surface()
    talk.child(child, talk.win, 0, 0)
    first = constrain(talk, "lock")
    talk.make(
        talk.manager, "lock_pointer", LOCKED, None, child, talk.pointer, 0, PERSISTENT
    )
    assert [len(found) for found in locks(talk)] == [2, 1]
    talk.send(first, "destroy")
    assert len(talk.told(LOCKED, "destroy")) == 2


def test_a_lock_at_a_frame_ends_with_it(talk):
    lock = constrain(talk, "lock")
    talk.send(talk.top, "destroy")
    talk.send(talk.xdg, "destroy")
    talk.send(lock, "destroy")
    talk.show(120, 90, 0)


def test_its_region_follows_the_crop_and_waits_for_the_commit(talk):
    constraint = constrain(talk, "lock")
    talk.send(constraint, "set_region", region(talk, 30, 30, 40, 40))
    assert talk.told(LOCKED, "set_region") == []
    talk.send(talk.win, "commit")
    assert talk.told("wl_region", "add")[-1] == [30, 30, 40, 40]
    crop(talk, 20, 10)
    followed, frame = talk.told("wl_region", "add")[-2:]
    assert followed == [10, 20, 40, 40]
    assert frame == [4, 4, 100, 50]
    assert len(talk.told(LOCKED, "set_region")) == 3


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ((30 * 256, 20 * 256), [10 * 256, 10 * 256]),
        ((-9000 * 256, 20 * 256), [0, 10 * 256]),
        ((9000 * 256, 9000 * 256), [100 * 256 - 1, 50 * 256 - 1]),
    ],
)
def test_a_hint_never_puts_the_pointer_outside_of_the_shown_part(talk, hint, told):
    """sway 1.7 warps to wherever a hint says."""
    crop(talk, 20, 10)
    constraint = constrain(talk, "lock")
    talk.send(constraint, "set_cursor_position_hint", *hint)
    assert talk.told(LOCKED, "set_cursor_position_hint") == []
    talk.send(talk.win, "commit")
    assert talk.told(LOCKED, "set_cursor_position_hint") == [told]


@pytest.mark.parametrize("extra", [0, 1])
def test_what_waits_for_a_commit_is_bounded(talk, extra):
    constraint = constrain(talk, "lock")

    def act() -> None:
        for n in range(limits.WAYLAND_SHELL_OPS + extra):
            talk.send(constraint, "set_cursor_position_hint", n, n)

    if extra:
        with pytest.raises(ServerError, match="pointer constraint"):
            act()
    else:
        act()


def test_a_second_constraint_on_a_surface_is_an_error(talk):
    constrain(talk, "lock")
    with pytest.raises(ServerError, match="is already constrained"):
        constrain(talk, "confine")


def test_after_its_end_another_one_may_follow(talk):
    first = constrain(talk, "lock")
    talk.send(first, "destroy")
    second = constrain(talk, "lock", lifetime=ONESHOT)
    talk.model.tell(talk.server_side(second), "unlocked")
    talk.pump()
    assert talk.heard("unlocked", second) == [[]]
    constrain(talk, "lock")


def test_a_constraint_outlives_its_surface_without_effect(talk):
    constraint = constrain(talk, "lock")
    talk.send(talk.top, "destroy")
    talk.send(talk.xdg, "destroy")
    talk.send(talk.win, "destroy")
    talk.send(constraint, "set_region", region(talk, 0, 0, 1, 1))
    talk.send(constraint, "set_cursor_position_hint", 0, 0)
    talk.send(constraint, "destroy")


def test_shortcuts_are_inhibited_for_the_window(talk):
    manager = talk.bind(INHIBIT_MANAGER)
    talk.make(manager, "inhibit_shortcuts", INHIBITOR, None, talk.win, talk.seat)
    (said,) = talk.told(INHIBIT_MANAGER, "inhibit_shortcuts")
    assert said[1] is talk.model.roots()[0]
    with pytest.raises(ServerError, match="has an inhibitor"):
        talk.make(manager, "inhibit_shortcuts", INHIBITOR, None, talk.win, talk.seat)


def test_one_inhibitor_for_a_window_is_enough(talk):
    child = talk.surface()
    talk.child(child, talk.win, 0, 0)
    manager = talk.bind(INHIBIT_MANAGER)
    loose = talk.surface()
    for surface in (child, talk.win, loose):
        made = talk.make(
            manager, "inhibit_shortcuts", INHIBITOR, None, surface, talk.seat
        )
    assert len(talk.told(INHIBIT_MANAGER, "inhibit_shortcuts")) == 1
    talk.send(made, "destroy")


def test_a_second_constraint_is_not_forgotten_with_the_first(talk):
    """The first was for once and is over; it is given back later."""
    first = constrain(talk, "lock", lifetime=ONESHOT)
    talk.model.tell(talk.server_side(first), "unlocked")
    talk.pump()
    second = constrain(talk, "lock")
    talk.send(first, "destroy")
    surface = talk.core.by_client[talk.win]
    assert surface.constraint is talk.core.by_client[second]
    with pytest.raises(ServerError):
        constrain(talk, "lock")


# -- a pointer that its seat may have lost by now ------------------------------------


def names(talk: Talk, manager: str, request: str, ask) -> None:
    """The request names a wl_pointer that the compositor makes after ``ask`` began."""
    before = len(talk.model.requests)
    ask()
    said = [(k, n) for k, n, _ in talk.model.requests[before:]]
    made, used = said.index(("wl_seat", "get_pointer")), said.index((manager, request))
    assert made < used
    pointers = [t for t in talk.model.things.values() if t.kind == "wl_pointer"]
    named = talk.told(manager, request)[0]
    assert talk.server_side(talk.pointer) in pointers
    assert talk.server_side(talk.pointer) not in named


@pytest.mark.parametrize("name", ["lock", "confine"])
def test_a_constraint_names_a_new_pointer_that_is_given_back(talk, name):
    before = len(talk.told("wl_pointer", "release"))
    names(talk, MANAGER, f"{name}_pointer", lambda: constrain(talk, name))
    asked = len(talk.told(MANAGER, f"{name}_pointer"))
    assert len(talk.told("wl_pointer", "release")) == before + asked


def test_a_relative_pointer_keeps_its_new_pointer_until_it_ends():
    kind = "zwp_relative_pointer_manager_v1"
    with Talk(model=Model([*GLOBALS, (kind, 1)])) as it:
        it.start()
        it.pointer = it.make(it.bind("wl_seat"), "get_pointer", "wl_pointer")
        manager = it.bind(kind)
        made = []
        names(
            it,
            kind,
            "get_relative_pointer",
            lambda: made.append(
                it.make(
                    manager,
                    "get_relative_pointer",
                    "zwp_relative_pointer_v1",
                    None,
                    it.pointer,
                )
            ),
        )
        assert it.told("wl_pointer", "release") == []
        it.send(made[0], "destroy")
        assert len(it.told("wl_pointer", "release")) == 1
        assert it.told("zwp_relative_pointer_v1", "destroy")


@pytest.fixture
def relative():
    """Talk, and what requests one more relative pointer."""
    manager, kind = "zwp_relative_pointer_manager_v1", "zwp_relative_pointer_v1"
    with Talk(model=Model([*GLOBALS, (manager, 1)])) as it:
        it.start()
        pointer = it.make(it.bind("wl_seat"), "get_pointer", "wl_pointer")
        bound = it.bind(manager)
        yield it, lambda: it.make(bound, "get_relative_pointer", kind, None, pointer)


def test_a_relative_pointer_counts_with_its_new_pointer(relative):
    """The compositor sends each motion to both."""
    it, one_more = relative

    def until_refused() -> None:
        for _ in range(limits.WAYLAND_LISTENERS):
            one_more()

    with pytest.raises(ServerError, match="too many objects that receive input"):
        until_refused()
    kinds = {"wl_pointer", "zwp_relative_pointer_v1"}
    hear = [one for one in it.model.things.values() if one.kind in kinds]
    assert limits.WAYLAND_LISTENERS - 2 <= len(hear) <= limits.WAYLAND_LISTENERS


def test_as_many_relative_pointers_may_come_as_go(relative):
    it, one_more = relative
    for _ in range(2 * limits.WAYLAND_LISTENERS):
        it.send(one_more(), "destroy")
