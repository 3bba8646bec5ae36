"""What a worker tells of its sandbox's windows: lists, limits, traces; all bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from broker.core import limits
from broker.core.limits import wayland as wayland_limits
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import worker as messages
from broker.ipc.wayland_rules import order_of
from broker.jail.wayland import listing
from broker.jail.worker.wayland.sandbox_windows import SandboxWindows, Trace
from tests.broker.jail.wayland.scene.test_frame import popup
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk

RULES = WindowRules("work")


def windows_of(monkeypatch, count):
    found = [
        listing.WindowInfo(n, "t" * 160, "a" * 100, 10, 20, focused=False)
        for n in range(1, count + 1)
    ]
    monkeypatch.setattr(listing, "windows_of", lambda sandbox: found)
    return SandboxWindows(order_of(RULES))


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (0, [0]),
        (
            wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE,
            [wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE],
        ),
        (
            wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE + 1,
            [wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE, 1],
        ),
        (
            wayland_limits.WAYLAND_WINDOWS,
            [wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE] * 4,
        ),
    ],
)
def test_a_list_comes_in_messages_that_fit(monkeypatch, count, parts):
    mine = windows_of(monkeypatch, count)
    said = list(mine.obey(messages.AskWindows(7)))
    assert [len(m.windows) for m in said] == parts
    assert [m.last for m in said] == [False] * (len(parts) - 1) + [True]
    assert {m.ask for m in said} == {7}
    for message in said:
        assert messages.decode_from_worker(messages.encode(message)) == message


@pytest.mark.parametrize("cut", [True, False])
def test_a_window_that_is_not_there_is_a_problem_and_no_error(cut):
    mine = SandboxWindows(order_of(RULES))
    (said,) = mine.obey(messages.CloseWindow(3, 9, cut))
    assert said.ask == 3
    assert "no window 9" in said.problem


def test_limits_are_told_once_with_how_often():
    mine = SandboxWindows(order_of(RULES))
    refused = mine._sandbox.refused
    assert mine.limited() == []
    refused["windows"] += 3
    assert mine.limited() == [messages.LimitHit("windows", 3)]
    assert mine.limited() == []
    refused["windows"] += 1
    refused["rate"] += 1
    assert set(mine.limited()) == {
        messages.LimitHit("windows", 1),
        messages.LimitHit("rate", 1),
    }


async def test_a_limit_is_told_within_a_second(autojump_clock):
    mine = SandboxWindows(order_of(RULES))
    sender, receiver = trio.open_memory_channel[messages.FromWorker](4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.tell_limits, sender)
        mine._sandbox.refused["popups"] += 2
        assert await receiver.receive() == messages.LimitHit("popups", 2)
        assert trio.current_time() == pytest.approx(
            wayland_limits.WAYLAND_LIMITED_SECONDS
        )
        nursery.cancel_scope.cancel()


def test_every_counter_has_its_ceiling_and_a_rate_has_none():
    order = order_of(WindowRules("work", ceilings={"windows": 3}))
    mine = SandboxWindows(order)
    mine._sandbox.refused["rate"] += 5
    uses = {u.what: u for u in mine.uses()}
    assert uses["windows"] == messages.Use("windows", 0, 3, 0)
    assert uses["rate"] == messages.Use("rate", 0, 0, 5)
    assert uses["copied_bytes"].most == limits.WAYLAND_COPIED_BYTES


def test_inhibitors_are_counted_where_the_record_allows_them():
    assert "inhibitors" not in {u.what for u in SandboxWindows(order_of(RULES)).uses()}
    allowed = WindowRules("work", allow=frozenset({"zwp_idle_inhibit_manager_v1"}))
    uses = {u.what: u for u in SandboxWindows(order_of(allowed)).uses()}
    assert uses["inhibitors"].now == 0
    assert uses["inhibitors"].most > 0


# -- the trace -----------------------------------------------------------------------


async def told(trace, count):
    """The first ``count`` messages."""
    sender, receiver = trio.open_memory_channel[messages.FromWorker](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trace.tell, sender)
        found = [await receiver.receive() for _ in range(count)]
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("extra", [0, 1])
async def test_lines_come_in_messages_that_fit(autojump_clock, extra):
    trace = Trace()
    for n in range(wayland_limits.WAYLAND_TRACE_LINES + extra):
        trace.note(4, f"line {n}")
    found = await told(trace, 1 + extra)
    assert [len(m.lines) for m in found] == [wayland_limits.WAYLAND_TRACE_LINES, 1][
        : 1 + extra
    ]
    assert found[0].lines[0] == "#4 line 0"
    assert all(m.lost == 0 for m in found)


@pytest.mark.parametrize("extra", [0, 1])
async def test_beyond_what_may_wait_the_oldest_are_lost_and_counted(
    autojump_clock, extra
):
    trace = Trace()
    for n in range(wayland_limits.WAYLAND_TRACE_WAITING + extra):
        trace.note(1, str(n))
    (first,) = await told(trace, 1)
    assert first.lost == extra
    assert first.lines[0] == f"#1 {extra}"


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_line_ends_somewhere(autojump_clock, extra):
    trace = Trace()
    trace.note(1, "x" * (wayland_limits.WAYLAND_TRACE_CHARS - 3 + extra))
    (said,) = await told(trace, 1)
    assert len(said.lines[0]) == wayland_limits.WAYLAND_TRACE_CHARS


async def test_a_trace_is_slower_than_the_broker_s_limit_of_messages(autojump_clock):
    trace = Trace()
    for n in range(10 * wayland_limits.WAYLAND_TRACE_LINES):
        trace.note(1, str(n))
    began = trio.current_time()
    await told(trace, 10)
    took = trio.current_time() - began
    assert 10 / took < limits.WORKER_MESSAGES_PER_SECOND


# -- a record that allows less -------------------------------------------------------

INHIBITS = "zwp_keyboard_shortcuts_inhibit_manager_v1"


@pytest.fixture
def allowed():
    """The windows of a sandbox that may inhibit shortcuts, and an application of it."""
    rules = WindowRules("work", allow=frozenset({INHIBITS}))
    windows = SandboxWindows(order_of(rules))
    with Talk(rules, sandbox=windows.sandbox) as talk:
        yield windows, talk.start()


def less(windows):
    assert list(windows.obey(order_of(RULES))) == []


def test_what_a_record_takes_away_is_not_bound_later(allowed):
    windows, talk = allowed
    name, version = talk.globals[INHIBITS]
    less(windows)
    talk.pump()
    assert [name] in talk.heard("global_remove")
    with pytest.raises(ServerError, match="no global"):
        talk.send(
            talk.registry, "bind", name, INHIBITS.encode(), version, talk.new(INHIBITS)
        )


def test_what_a_record_takes_away_ends_who_made_something_of_it(allowed):
    """The inhibitor lives on without its manager."""
    windows, talk = allowed
    win, _, _ = talk.show(10, 10, 0)
    manager, seat = talk.bind(INHIBITS), talk.bind("wl_seat")
    made = "zwp_keyboard_shortcuts_inhibitor_v1"
    talk.make(manager, "inhibit_shortcuts", made, None, win, seat)
    talk.send(manager, "destroy")
    less(windows)
    with pytest.raises(ServerError, match="now allows less"):
        talk.pump()


def test_what_a_record_takes_away_does_not_disturb_others(allowed):
    windows, talk = allowed
    less(windows)
    talk.show(10, 10, 0)
    assert INHIBITS not in {e[3][1].decode() for e in seen_again(talk)}


# -- a record with another colour ------------------------------------------------------

BLUE, RED = 0x0072B2, 0xD55E00


def pixel(talk):
    """The colour of new pictures of frames, as bytes."""
    (paint,) = talk.machine.paints
    return bytes(paint.pixels[16384:16388])


def shown_pools(talk):
    """Pools of our pictures in windows and menus, one for each picture."""
    shown = []
    for thing in talk.model.things.values():
        buffer = thing.now.get("buffer") if thing.kind == "wl_surface" else None
        if buffer is not None and not talk.core.by_server[thing.oid].cid:
            shown.append(buffer.state["pool"])
    return shown


@pytest.mark.parametrize("translucent", [False, True])
def test_open_windows_and_menus_change_to_the_record_s_colour(translucent):
    rules = WindowRules("work", BLUE, top=20, label=True, translucent=translucent)
    windows = SandboxWindows(order_of(rules))
    with Talk(rules, sandbox=windows.sandbox) as talk:
        talk.start()
        _, xdg, _ = talk.show(100, 50, 0)
        talk.show(300, 50, 0)
        menu, shell, _ = popup(talk, xdg, (20, 20))
        talk.configured(shell)
        talk.paint(menu, 20, 20, 0)
        talk.send(menu, "commit")
        before = {*shown_pools(talk)}
        count = len(shown_pools(talk))
        assert count == 3 * 5 + 2, "frames, and two names"
        objects = set()
        for color in (RED, BLUE, BLUE, RED):
            list(windows.obey(order_of(replace(rules, color=color))))
            talk.pump()
            assert pixel(talk) == color.to_bytes(4, "little")[:3] + b"\xff"
            objects.add(len(talk.model.things))
        assert len(objects) == 1, "pictures of former colours are given back"
        after = shown_pools(talk)
        assert len(after) == count
        assert not before & {*after}
        # A window that opens later, and one that is drawn again.
        talk.show(10, 10, 0)
        assert not before & {*shown_pools(talk)}
    assert talk.machine.leaked() == []


def test_a_colour_before_the_first_window_is_that_of_the_first_window():
    rules = WindowRules("work", BLUE)
    windows = SandboxWindows(order_of(rules))
    with Talk(rules, sandbox=windows.sandbox) as talk:
        list(windows.obey(order_of(replace(rules, color=RED))))
        talk.start().show(100, 50, 0)
        assert pixel(talk) == b"\x00\x5e\xd5\xff"


def seen_again(talk):
    """What a second registry lists."""
    registry = talk.make(1, "get_registry", "wl_registry")
    return [e for e in talk.events if e[0] == registry and e[2] == "global"]
