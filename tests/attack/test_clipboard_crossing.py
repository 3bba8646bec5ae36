"""Hostile clients against what crosses: real compositor, jailed workers, real chords.

The person's own keyboard presses chords; a client claims anything.  Which
guard stops each attack is in ``tests/kit/guards/clipboard.py``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

import pytest
import trio

from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as limits
from broker.ipc import clipboard as messages
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.client import TEXT, Guest, guest
from tests.kit.clipboard.stand import DEADLINE, A, Desk, desk
from tests.kit.wayland.client import ServerError, Window, memfd
from tests.kit.wayland.compositor import wait_window
from tests.kit.workers import worker_memory

SECRET = b"nobody's business"
DEVICES = ("wl_data_device_manager", "get_data_device", "wl_data_device")
PRIMARY = (
    "zwp_primary_selection_device_manager_v1",
    "get_device",
    "zwp_primary_selection_device_v1",
)


@pytest.mark.parametrize("made_up", [0, 1, 100_000, 0xFFFFFFFF])
async def test_a_selection_without_a_delivered_serial_is_none(made_up):
    async with desk("red") as it:

        def act(c: Guest) -> w.RecordCrossing:
            source = c.select(TEXT, serial=made_up)
            assert c.cancelled(source)
            return c.copy()

        record = await guest(it, "red", act)
        assert (record.outcome, record.reason) == (Outcome.DROPPED, reasons.EMPTY)


async def test_a_window_in_the_background_changes_no_selection():
    """Or it could put its own in the place of what the person just copied."""
    async with desk("red", "blue") as it:

        def act(c: Guest) -> bool:
            serial = c.entered()
            trio.from_thread.run(other, "red")
            # Or its worker may not have heard of it yet, which is another process
            # than the one that told of the new window.
            c.wait(lambda e: e[1:3] == ("wl_keyboard", "leave"))
            return c.cancelled(c.select(TEXT, serial=serial))

        async def other(_name: str) -> None:
            it.run("blue", "foot", "-T", "front", "sleep", "1000")
            await wait_window(it.comp, title="front", deadline=DEADLINE)
            await it.focus("blue", "front")

        assert await guest(it, "red", act)


async def person_copies(it: Desk, text: bytes) -> None:
    with trio.fail_after(DEADLINE):
        await trio.run_process(["wl-copy"], stdin=text, env=it.comp.environment)


def looks_for_selections(c: Window, seat: int) -> list[bytes]:
    """Make every device there is, and list the types that any of them tells."""
    for manager, get, kind in (DEVICES, DEVICES, PRIMARY):
        if manager in c.globals:
            c.make(c.bind(manager), get, kind, None, seat)
    c.roundtrip()
    c.roundtrip()
    return [e[3][0] for e in c.events if e[2] == "offer"]


async def test_the_persons_own_selection_is_neither_told_nor_read():
    async with desk("red") as it:
        await person_copies(it, SECRET)

        def act(c: Guest) -> list[bytes]:
            found = looks_for_selections(c, c.seat)
            # An offer that it was never given, by the number it would have.
            c.kinds[0xFF000000] = "wl_data_offer"
            theirs, ours = os.pipe()
            try:
                c.send(0xFF000000, "receive", TEXT, fds=[ours])
                assert isinstance(c.until_error(), ServerError)
            finally:
                os.close(ours)
            assert os.read(theirs, 100) == b""
            os.close(theirs)
            return found

        assert await guest(it, "red", act) == []


async def test_another_sandboxes_selection_is_neither_told_nor_read():
    async with desk("red", "blue") as it:
        assert await copied_and_looked(it, "red", "blue") == []


async def test_without_the_filter_it_is_read():
    """So the test above is known to bite."""
    async with desk() as it:
        assert TEXT in await copied_and_looked(it, "", "")


async def copied_and_looked(it: Desk, source: str, target: str) -> list[bytes]:
    """One client copies, another one looks: types that it sees."""

    def copies(c: Guest) -> list[bytes]:
        c.select(TEXT)
        looks = partial(guest, it, target, lambda g: looks_for_selections(g, g.seat))
        return trio.from_thread.run(partial(looks, direct=not target))

    return await guest(it, source, copies, direct=not source)


async def test_ten_thousand_types_end_the_client_alone():
    async with desk("red") as it:

        def act(c: Guest) -> str:
            source = c.make(c.manager, "create_data_source", "wl_data_source")
            with suppress(OSError):
                for number in range(10_000):
                    c.send(source, "offer", b"text/x-%d" % number)
            error = c.until_error()
            return error.text if error else ""

        assert "types" in await guest(it, "red", act)
        # The worker continues, for the sandbox's other applications.
        await hold(it, SECRET)


def test_what_the_worker_may_tell_of_types_is_what_a_client_may_offer():
    assert limits.WAYLAND_MIMES == 128


def copies(it: Desk, c: Guest) -> tuple[int, int]:
    """Copy; returns the number of records before, and the pipe that it is to fill."""
    source = c.select(TEXT)
    before = len(it.records)
    c.press_copy()
    return before, c.asked(source)


async def test_an_endless_pipe_is_cut_at_the_limit_and_refused_whole():
    async with desk("red") as it:

        def act(c: Guest) -> w.RecordCrossing:
            before, fd = copies(it, c)
            written = 0
            try:
                while written < 2 << 30:
                    written += os.write(fd, b"x" * 65536)
            except BrokenPipeError:
                pass
            finally:
                os.close(fd)
            assert written < clipboard_limits.CLIPBOARD_BYTES + (1 << 20)
            return c.outcome(before)

        memory = worker_memory(it.rooms["red"].worker).private
        record = await guest(it, "red", act)
        assert (record.outcome, record.reason) == (Outcome.DROPPED, reasons.LARGE)
        assert worker_memory(it.rooms["red"].worker).private < memory + (8 << 20)


@pytest.mark.long
async def test_a_source_that_never_writes_is_given_up_and_holds_up_nothing():
    async with desk("red") as it:

        def act(c: Guest) -> w.RecordCrossing:
            before, fd = copies(it, c)
            try:
                trio.from_thread.run(it.press, A)
                c.wait(lambda e: e[2] == "key" and e[3][2:] == [A, 0])
                return c.outcome(before)
            finally:
                os.close(fd)

        record = await guest(it, "red", act)
        assert record.outcome is Outcome.DROPPED


async def test_a_source_that_changes_while_it_is_read_gives_nothing():
    async with desk("red") as it:

        def act(c: Guest) -> w.RecordCrossing:
            before, fd = copies(it, c)
            os.write(fd, b"half of")
            c.select(TEXT)
            os.close(fd)
            return c.outcome(before)

        record = await guest(it, "red", act)
        assert record.outcome is Outcome.DROPPED
        assert "another selection replaced it" in record.reason


async def test_a_source_that_dies_while_it_is_read_gives_nothing():
    """The kernel closes its pipe, so half of it looks like all."""
    async with desk("red") as it:
        before = []

        def act(c: Guest) -> None:
            source = c.select(TEXT)
            before.append(len(it.records))
            c.press_copy()
            fd = c.asked(source)
            os.write(fd, b"half of")
            os.close(fd)
            c.sock.close()

        await guest(it, "red", act)
        record = await it.record_after(before[0])
        assert record.outcome is Outcome.DROPPED, record


async def test_a_client_that_never_reads_its_pastes_has_a_bounded_number_of_pipes():
    async with desk("red", "blue") as it:
        await hold(it, b"x" * 60_000 * 2, limit=1 << 20)

        def act(c: Guest) -> tuple[list[int], w.RecordCrossing]:
            record = trio.from_thread.run(it.paste)
            c.wait(lambda e: e[2] == "offer" and e[3][0] == TEXT)
            offer = [e[3][0] for e in c.events if e[2] == "data_offer"][-1]
            pipes = [os.pipe() for _ in range(clipboard_limits.CLIPBOARD_SERVES + 1)]
            for _, ours in pipes:
                c.send(offer, "receive", TEXT, fds=[ours])
                os.close(ours)
            c.roundtrip()
            got = []
            for theirs, _ in pipes[:1] + pipes[-1:]:
                got.append(len(os.read(theirs, 1 << 20)))
            for theirs, _ in pipes:
                os.close(theirs)
            return got, record

        got, record = await guest(it, "blue", act)
        assert record.outcome is Outcome.PASTED
        assert got[0] > 0, "the first is served"
        assert got[1] == 0, "one too many is closed"
        # Its worker still listens to the person.
        record = await guest(it, "blue", lambda c: c.copy())
        assert record.reason == reasons.EMPTY or record.outcome is Outcome.COPIED


async def test_a_pipe_that_stays_blocking_and_full_stops_no_worker():
    async with desk("red", "blue") as it:
        await hold(it, b"x" * (1 << 20), limit=1 << 21)

        def act(c: Guest) -> int:
            trio.from_thread.run(it.paste)
            c.wait(lambda e: e[2] == "offer" and e[3][0] == TEXT)
            offer = [e[3][0] for e in c.events if e[2] == "data_offer"][-1]
            theirs, ours = os.pipe()
            c.send(offer, "receive", TEXT, fds=[ours])
            for _ in range(20):
                os.set_blocking(ours, True)
                c.roundtrip()
            os.close(ours)
            with os.fdopen(theirs, "rb") as pipe:
                return len(pipe.read())

        assert await guest(it, "blue", act) == 1 << 20


async def hold(it: Desk, content: bytes, *, limit: int = 64_000) -> None:
    """Have the person copy something out of red."""
    it.terms = w.CopyTerms(max_bytes=limit)
    it.policy = lambda *_: w.PasteTerms(max_bytes=limit)

    def act(c: Guest) -> w.RecordCrossing:
        source = c.select(TEXT)
        before = len(it.records)
        c.press_copy()
        fd = c.asked(source)
        with os.fdopen(fd, "wb") as out:
            out.write(content)
        return c.outcome(before)

    record = await guest(it, "red", act)
    assert record.outcome is Outcome.COPIED, record


async def test_only_the_person_presses_a_chord():
    """Keyboards made while the modifiers are held are told of them, no key more."""
    async with desk("red") as it:

        def crime(c: Guest) -> tuple[int, int]:
            with pytest.raises(KeyError):
                c.bind("zwp_virtual_keyboard_manager_v1")

            def keyboards() -> None:
                for _ in range(30):
                    made = c.make(c.seat, "get_keyboard", "wl_keyboard")
                    c.send(made, "release")
                    c.make(c.seat, "get_keyboard", "wl_keyboard")
                c.roundtrip()

            it.while_held(keyboards)
            trio.from_thread.run(it.press, A)
            c.wait(lambda e: e[2] == "key" and e[3][2:] == [A, 0])
            c.select(TEXT)
            by_itself = presses(it)
            # And of the person's own press, with thirty keyboards, one is told.
            trio.from_thread.run(it.press_copy)
            trio.from_thread.run(it.press, A)
            c.wait(lambda e: e[2] == "key" and e[3][2:] == [A, 0])
            trio.from_thread.run(it.until, lambda: presses(it))
            c.roundtrip()
            typed = {e[3][2] for e in c.events if e[2] == "key"}
            assert 46 not in typed, "the chord's letter"
            return by_itself, presses(it)

        assert await guest(it, "red", crime) == (0, 1)


def presses(it: Desk) -> int:
    return sum(isinstance(said, messages.ChordPressed) for _, said in it.said)


async def test_a_window_that_takes_the_focus_gets_nothing_of_a_paste():
    """Between the person's press and the answer another window comes to the front."""
    async with desk("red", "blue", "green") as it:
        await hold(it, SECRET)
        it.policy = None  # the question stays open

        def victim(c: Guest) -> None:
            trio.from_thread.run(it.press_paste)
            trio.from_thread.run(it.until, lambda: it.questions)
            trio.from_thread.run(guest, it, "green", lambda g: g.roundtrip())

        before = len(it.records)
        await guest(it, "blue", victim)
        record = await it.record_after(before)
        assert (record.outcome, record.reason) == (Outcome.DROPPED, reasons.MOVED)
        await it.feed("", w.Decided(it.questions[0], w.PasteTerms()))
        assert it.offers == []


async def test_a_window_that_takes_the_focus_before_the_chord_copies_nothing():
    """The user presses the copy chord in red as green's window opens."""
    seconds = clipboard_limits.CLIPBOARD_FOCUS_SECONDS
    # On a busy machine the press comes later than the user's.
    async with desk("red", "green", focus_seconds=10 * seconds) as it:

        def thief(c: Guest) -> w.RecordCrossing:
            c.select(TEXT)
            trio.from_thread.run(it.until, lambda: it.crossing.focused == "green")
            return c.copy()

        def victim(c: Guest) -> w.RecordCrossing:
            c.select(TEXT)
            return trio.from_thread.run(guest, it, "green", thief)

        record = await guest(it, "red", victim)
        assert (record.outcome, record.source) == (Outcome.REFUSED, "green")
        assert "has changed just now: press the keys again" in record.reason
        assert not it.orders


async def test_no_worker_has_the_focus_while_two_claim_it():
    async with desk("red", "blue") as it:

        def act(c: Guest) -> w.RecordCrossing:
            c.select(TEXT)
            # What a taken-over worker would say.
            trio.from_thread.run(it.hears, "blue", messages.ClipboardFocus(taken=True))
            return c.copy()

        record = await guest(it, "red", act)
        assert record.outcome is Outcome.REFUSED
        assert "blue" in record.reason


async def test_held_content_does_not_change_a_paste_in_its_own_sandbox():
    async with desk("red") as it:
        await hold(it, SECRET)
        record = await guest(it, "red", lambda c: trio.from_thread.run(c.it.paste))
        assert (record.outcome, record.reason) == (Outcome.REFUSED, reasons.SAME)


async def test_a_file_in_the_place_of_a_pipe_is_not_written():
    async with desk("red", "blue") as it:
        await hold(it, SECRET)

        def act(c: Guest) -> int:
            trio.from_thread.run(it.paste)
            c.wait(lambda e: e[2] == "offer" and e[3][0] == TEXT)
            offer = [e[3][0] for e in c.events if e[2] == "data_offer"][-1]
            file = memfd(0)
            c.send(offer, "receive", TEXT, fds=[file])
            c.roundtrip()
            size = os.fstat(file).st_size
            os.close(file)
            return size

        assert await guest(it, "blue", act) == 0
