"""Drags from one sandbox to another, by rule: real pointer, compositor, workers.

Dragged content is shown to no client before it was dropped, read and allowed; who
takes part in a drag does not tell alone what became of it.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.ipc import clipboard as messages
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.client import (
    FROM,
    TEXT,
    Drag,
    Guest,
    dragging,
    gives_drop,
    guest,
    let_go,
    shown,
    takes_drop,
)
from tests.kit.clipboard.stand import Desk, desk
from tests.kit.wayland.client import ServerError

SECRET = b"nobody's business"
DRAGS = w.CopyTerms()


def overs(it: Desk, name: str) -> list[messages.DragOverMessage]:
    """What a sandbox's worker said of drags over its windows."""
    return [
        said
        for who, said in it.said
        if who == name and isinstance(said, messages.DragOverMessage)
    ]


async def came_over(it: Desk, name: str) -> messages.DragOverMessage:
    return (await it.until(lambda: overs(it, name)))[-1]


def may_drop(c: Guest, drag: Drag) -> None:
    """Wait until the compositor reports to the source that the drop is accepted.

    A sandboxed source receives this for windows of its sandbox, and where a rule
    lets the person's own programs know of its types.
    """
    c.wait(lambda e: e[0] == drag.source and e[2] == "action" and e[3] == [1])


def blue_accepts(c: Guest, drag: Drag) -> None:
    """Wait until blue's window takes the drag; its source is not informed of that."""
    trio.from_thread.run(c.it.accepts_drag, "blue")
    c.roundtrip()
    told = [e for e in c.events if e[0] == drag.source and e[2] in {"action", "target"}]
    assert told == [], "the source is not informed of other sandboxes' windows"


def red(c: Guest, act, *types: bytes, wait=None, direct: bool = False):
    """From the target's thread: have red drag over it, and ``act`` in red."""
    wait = wait or (may_drop if direct else blue_accepts)

    def inside(r: Guest):
        with dragging(r, "target", *types) as drag:
            wait(r, drag)
            return act(r, drag)

    name = "" if direct else "red"
    run = partial(guest, c.it, name, inside, title="from", direct=direct)
    return trio.from_thread.run(run)


def just_dropped(c: Guest, drag: Drag) -> str:
    return gives_drop(c, drag, SECRET)


async def test_dropped_content_goes_to_the_window_under_the_pointer():
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> tuple[list[str], str, bytes]:
            before: list[str] = []

            def act(r: Guest, drag: Drag) -> str:
                before.extend(shown(c))
                return just_dropped(r, drag)

            end = red(c, act)
            return before, end, takes_drop(c)

        before, end, found = await guest(it, "blue", target, title="target")
        assert before == [], "while it is dragged it sees nothing"
        assert end == "dnd_finished"
        assert found == SECRET
        (record,) = it.records
        assert (record.outcome, record.selection) == (Outcome.PASTED, "drag")
        assert (record.source, record.target) == ("red", "blue")
        assert record.size == len(SECRET)
        ended = await it.until(
            lambda: [s for _, s in it.said if isinstance(s, messages.OfferEnded)]
        )
        assert len(ended) == 1, "it is over with the client's finish"


async def test_a_denied_drag_is_shown_to_no_window():
    async with desk("red", "blue", drags=DRAGS, policy=lambda *_: None) as it:

        def target(c: Guest) -> list[str]:
            red(c, just_dropped)
            trio.from_thread.run(it.record_after, 0)
            return shown(c)

        assert await guest(it, "blue", target, title="target") == []
        (record,) = it.records
        assert (record.outcome, record.selection) == (Outcome.REFUSED, "drag")
        assert it.offers == []


async def test_while_the_person_is_asked_the_window_sees_nothing():
    async with desk("red", "blue", drags=DRAGS, policy=None) as it:

        def target(c: Guest) -> tuple[list[str], bytes]:
            red(c, just_dropped)
            (question,) = trio.from_thread.run(it.until, lambda: it.questions)
            before = shown(c)
            terms = w.Decided(question, w.PasteTerms())
            trio.from_thread.run(it.feed, "", terms)
            return before, takes_drop(c)

        before, found = await guest(it, "blue", target, title="target")
        assert before == []
        assert found == SECRET, "red's program has gone meanwhile"


async def test_a_dragged_file_is_refused_and_its_name_is_not_read():
    """The text beside it is its name, too."""
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> tuple[str, int, list[str]]:
            asked: list[int] = []

            def act(r: Guest, drag: Drag) -> str:
                let_go(r, drag)
                ends = {"cancelled", "dnd_finished", "send"}
                last = r.wait(lambda e: e[0] == drag.source and e[2] in ends)[2]
                asked.append(sum(e[2] == "send" for e in r.events))
                return last

            end = red(c, act, b"x-special/gnome-copied-files", TEXT)
            trio.from_thread.run(it.record_after, 0)
            return end, asked[0], shown(c)

        assert await guest(it, "blue", target, title="target") == ("cancelled", 0, [])
        (record,) = it.records
        assert (record.reason, record.selection) == (reasons.DRAG_FILES, "drag")


async def test_a_mark_that_a_client_makes_up_is_unknown_request():
    wide = ("text/plain", "application/*")
    async with desk("red", "blue", drags=w.CopyTerms(wide)) as it:
        it.policy = lambda *_: w.PasteTerms(wide)
        forged = b"application/x-vitrail-drag-" + b"0" * 32

        def target(c: Guest) -> None:
            red(c, just_dropped, forged, TEXT)

        await guest(it, "blue", target, title="target")
        (over,) = overs(it, "blue")
        assert over.mark != forged.decode()
        record = await it.record_after(0)
        assert record.source == "red"
        assert record.kinds == ("text/plain",), "no content is named as a mark is"


async def test_a_worker_that_claims_a_drop_alone_gets_nothing():
    """As one that was taken over could, while a drag is above its window."""
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> list[str]:
            def act(r: Guest, drag: Drag) -> list[str]:
                over = trio.from_thread.run(came_over, it, "blue")
                claim = messages.DragDropped(over.number)
                trio.from_thread.run(it.hears, "blue", claim)
                drag.mouse.move(1270, 790)
                assert let_go(r, drag) == "cancelled"
                r.roundtrip()
                return [e[2] for e in r.events if e[0] == drag.source]

            return red(c, act)

        told = await guest(it, "blue", target, title="target")
        assert "send" not in told
        assert it.offers == []
        assert it.questions == []


async def test_a_drop_that_another_worker_claims_too_is_neithers():
    """As one that was taken over could, when the drag has passed its window."""
    async with desk("red", "blue", "green", drags=DRAGS) as it:

        def target(c: Guest) -> list[str]:
            def act(r: Guest, drag: Drag) -> None:
                mark = trio.from_thread.run(came_over, it, "blue").mark
                for claim in (
                    messages.DragOverMessage(77, mark),
                    messages.DragDropped(77),
                ):
                    trio.from_thread.run(it.hears, "green", claim)
                let_go(r, drag)
                r.wait(lambda e: e[0] == drag.source and e[2] == "cancelled")

            red(c, act)
            return shown(c)

        assert await guest(it, "blue", target, title="target") == []
        assert {(r.target, r.reason) for r in it.records} == {
            ("blue", reasons.DRAG_TWICE),
            ("green", reasons.DRAG_TWICE),
        }
        assert it.offers == []


async def test_a_source_that_goes_while_it_is_read_gives_nothing():
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> list[str]:
            def act(r: Guest, drag: Drag) -> None:
                let_go(r, drag)
                with open(r.asked(drag.source), "wb") as out:
                    out.write(b"half of")
                    out.flush()
                    r.send(drag.source, "destroy")
                    r.roundtrip()

            red(c, act)
            trio.from_thread.run(it.record_after, 0)
            return shown(c)

        assert await guest(it, "blue", target, title="target") == []
        (record,) = it.records
        assert (record.outcome, record.selection) == (Outcome.DROPPED, "drag")


async def test_types_that_are_added_during_a_drag_are_policys_to_judge():
    """The content at the moment of the drop is read, and the question is about that."""
    async with desk("red", "blue", drags=w.CopyTerms(patterns=("text/plain",))) as it:
        asked: list[tuple] = []

        def policy(source: str, target: str, kinds: tuple):
            asked.append(kinds)
            return w.PasteTerms()

        it.policy = policy

        def target(c: Guest) -> bytes:
            def act(r: Guest, drag: Drag) -> str:
                r.send(drag.source, "offer", b"image/png")
                r.send(drag.source, "offer", b"application/x-secret")
                r.roundtrip()
                return just_dropped(r, drag)

            red(c, act)
            return takes_drop(c)

        assert await guest(it, "blue", target, title="target") == SECRET
        assert asked == [(("text/plain", len(SECRET)),)]


@pytest.mark.parametrize("extra", [0, 1])
async def test_as_many_types_as_may_be_dragged_and_one_more(extra):
    async with desk("red", "blue", drags=DRAGS) as it:
        most = limits.WAYLAND_MIMES
        types = [TEXT, *(b"text/x-%d" % n for n in range(most - 1 + extra))]

        def target(c: Guest) -> bytes:
            red(c, just_dropped, *types)
            return takes_drop(c)

        if extra:
            with pytest.raises(ServerError, match="types"):
                await guest(it, "blue", target, title="target")
        else:
            assert await guest(it, "blue", target, title="target") == SECRET


async def test_a_drop_that_is_larger_than_may_cross_is_refused_whole():
    small = w.CopyTerms(max_bytes=len(SECRET) - 1)
    async with desk("red", "blue", drags=small) as it:

        def target(c: Guest) -> tuple[str, list[str]]:
            end = red(c, just_dropped)
            trio.from_thread.run(it.record_after, 0)
            return end, shown(c)

        assert await guest(it, "blue", target, title="target") == ("cancelled", [])
        assert it.records[0].reason == reasons.LARGE


async def test_a_drop_inside_of_a_sandbox_stays_in_it():
    """Also for a worker that saw the drag pass, and claims the drop."""
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> None:
            def act(r: Guest, drag: Drag) -> None:
                over = trio.from_thread.run(came_over, it, "blue")
                r.events.clear()
                drag.mouse.move(*FROM)
                entered = r.wait(lambda e: e[0] == r.device and e[2] == "enter")[3]
                r.send(entered[4], "accept", entered[0], TEXT)
                r.send(entered[4], "set_actions", 1, 1)
                r.roundtrip()
                may_drop(r, drag)
                assert let_go(r, drag) == "dnd_drop_performed"
                claim = messages.DragDropped(over.number)
                trio.from_thread.run(it.hears, "blue", claim)
                r.send(drag.source, "destroy")
                r.roundtrip()
                # Its worker has nothing more to say of it after that.
                trio.from_thread.run(it.until, ended)

            def ended() -> bool:
                return any(isinstance(s, messages.DragEnded) for _, s in it.said)

            red(c, act)

        await guest(it, "blue", target, title="target")
        asked = [o for o in it.orders if isinstance(o.message, messages.AskTypes)]
        assert asked == []


async def test_the_persons_own_drag_comes_in_by_rule_only_after_the_drop():
    async with desk("blue", drags=DRAGS) as it:
        asked: list[tuple] = []

        def policy(*flow):
            asked.append(flow)
            return w.PasteTerms()

        it.policy = policy

        def target(c: Guest) -> tuple[list[str], str, bytes]:
            before: list[str] = []

            def act(r: Guest, drag: Drag) -> str:
                before.extend(shown(c))
                assert asked == [], "nothing is asked before it is dropped"
                return just_dropped(r, drag)

            end = red(c, act, direct=True)
            return before, end, takes_drop(c)

        before, end, found = await guest(it, "blue", target, title="target")
        assert (before, end, found) == ([], "dnd_finished", SECRET)
        assert asked == [(w.VIEWER, "blue", (("text/plain", None),))]
        (record,) = it.records
        assert (record.source, record.target) == (w.VIEWER, "blue")


async def test_the_persons_own_drag_that_policy_denies_is_not_read():
    async with desk("blue", drags=DRAGS, policy=lambda *_: None) as it:

        def target(c: Guest) -> tuple[list[str], list[str]]:
            def act(r: Guest, drag: Drag) -> list[str]:
                let_go(r, drag)
                r.wait(lambda e: e[0] == drag.source and e[2] == "cancelled")
                return [e[2] for e in r.events if e[0] == drag.source]

            return red(c, act, direct=True), shown(c)

        told, seen = await guest(it, "blue", target, title="target")
        assert "send" not in told
        assert seen == []


def takes_at_once(c: Guest, mime: bytes) -> tuple[list[bytes], bytes]:
    """As a program that is no sandbox's: accept, wait for the drop, read."""
    entered = c.wait(lambda e: e[0] == c.device and e[2] == "enter")[3]
    offer = entered[4]
    types = [e[3][0] for e in c.events if e[0] == offer and e[2] == "offer"]
    return types, takes_drop(c, mime)


@pytest.mark.parametrize("out", [("text/plain",), ()], ids=["by rule", "by no rule"])
async def test_a_drag_goes_out_by_the_types_that_a_rule_names(out):
    async with desk("red", drags=DRAGS, drags_out=out) as it:
        done = trio.Event()

        def source(r: Guest) -> str:
            with dragging(r, "target", TEXT, b"text/html") as drag:
                if not out:
                    return let_go(r, drag)
                may_drop(r, drag)
                return just_dropped(r, drag)

        ends: list[str] = []

        async def drag() -> None:
            ends.append(await guest(it, "red", source, title="from"))
            done.set()

        def target(c: Guest):
            trio.from_thread.run_sync(nursery.start_soon, drag)
            if out:
                return takes_at_once(c, TEXT)
            trio.from_thread.run(done.wait)
            c.roundtrip()
            return [e[3][0] for e in c.events if e[2] == "offer"], b""

        async with trio.open_nursery() as nursery:
            run = partial(guest, it, "", target, direct=True, title="target")
            types, found = await run()
        real = [t for t in types if not t.startswith(b"application/x-vitrail-drag-")]
        assert len(types) == len(real) + 1
        if out:
            assert (real, found) == ([TEXT], SECRET)
            (record,) = it.records
            assert (record.outcome, record.target) == (Outcome.EXPORTED, w.VIEWER)
            assert ends == ["dnd_finished"]
        else:
            assert (real, ends) == ([], ["cancelled"])


async def test_a_file_that_is_dragged_out_shows_nothing_but_the_mark():
    """Nor the text beside it, which is its name."""
    async with desk("red", drags=DRAGS, drags_out=("text/plain",)) as it:

        def source(r: Guest) -> str:
            with dragging(r, "target", TEXT, b"text/uri-list") as drag:
                return let_go(r, drag)

        def target(c: Guest) -> tuple[str, list[bytes]]:
            run = partial(guest, it, "red", source, title="from")
            end = trio.from_thread.run(run)
            c.roundtrip()
            return end, [e[3][0] for e in c.events if e[2] == "offer"]

        run = partial(guest, it, "", target, direct=True, title="target")
        end, types = await run()
        assert end == "cancelled"
        (mark,) = types
        assert mark.startswith(b"application/x-vitrail-drag-")


async def test_a_drag_out_is_decided_again_when_it_is_taken():
    """The rule may be another one since the drag began."""
    out = ("text/plain",)
    none = lambda *_: None  # noqa: E731
    async with desk("red", drags=DRAGS, drags_out=out, policy=none) as it:

        def source(r: Guest) -> None:
            with dragging(r, "target") as drag:
                may_drop(r, drag)
                just_dropped(r, drag)

        def target(c: Guest):
            trio.from_thread.run_sync(
                nursery.start_soon, partial(guest, it, "red", source, title="from")
            )
            return takes_at_once(c, TEXT)

        async with trio.open_nursery() as nursery:
            run = partial(guest, it, "", target, direct=True, title="target")
            _, found = await run()
        assert found == b""
        assert it.records[0].outcome is Outcome.REFUSED


async def test_a_window_that_does_not_take_it_sees_it_go():
    async with desk("red", "blue", drags=DRAGS) as it:

        def target(c: Guest) -> list[str]:
            red(c, just_dropped)
            c.wait(lambda e: e[0] == c.device and e[2] == "enter")
            trio.from_thread.run(it.feed, "", w.Cleared())
            c.wait(lambda e: e[0] == c.device and e[2] == "leave")
            return shown(c)

        seen = await guest(it, "blue", target, title="target")
        assert "drop" not in seen
        assert it.records[-1].outcome is Outcome.CLEARED


async def test_a_drag_by_a_press_that_is_over_is_none():
    """No button is down: it follows no pointer and is dropped nowhere."""
    async with desk("red", "blue", drags=DRAGS) as it:

        def source(r: Guest) -> list[str]:
            with dragging(r, "target") as drag:
                blue_accepts(r, drag)
                assert just_dropped(r, drag) == "dnd_finished"
                trio.from_thread.run(it.record_after, 0)
                seen = len(overs(it, "blue"))
                pressed = [e[3][0] for e in r.events if e[2] == "button"]
                again = r.make(r.manager, "create_data_source", "wl_data_source")
                r.send(again, "offer", TEXT)
                r.send(again, "set_actions", 1)
                r.send(r.device, "start_drag", again, r.window, 0, pressed[0])
                r.wait(lambda e: e[0] == again and e[2] == "cancelled")
                for x in range(FROM[0], 800, 50):
                    drag.mouse.move(x, FROM[1])
                drag.mouse.button(True)
                drag.mouse.button(False)
                r.roundtrip()
                assert len(overs(it, "blue")) == seen
                return [e[2] for e in r.events if e[0] == again]

        def target(c: Guest) -> list[str]:
            return trio.from_thread.run(partial(guest, it, "red", source, title="from"))

        told = await guest(it, "blue", target, title="target")
        assert "send" not in told
        assert len(it.offers) <= 2, "the honest one, and its end"
        assert len(it.records) == 1
