"""What the worker does for the clipboard: reads whole or not at all, serves, tells."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.errors import InternalError
from broker.core.limits import clipboard as clipboard_limits
from broker.ipc import clipboard as m
from broker.ipc import sealed_memfd
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.clipboard.orders import WorkerClipboard
from tests.kit.eventually import eventually

TEXT = b"text/plain"
NAMES = ["text/plain", "UTF8_STRING"]


class Source:
    """An application's selection; ``fds`` is where its data is wanted."""

    def __init__(self, *mimes):
        self.mimes, self.fds, self.cancelled = list(mimes or (TEXT,)), [], 0
        self.asked = trio.Event()

    def send(self, mime, fd):
        if mime not in self.mimes:
            return False
        self.fds.append(fd)
        self.asked.set()
        return True

    def cancel(self):
        self.cancelled += 1

    async def gives(self, *parts, close=True):
        await self.asked.wait()
        for part in parts:
            await trio.to_thread.run_sync(os.write, self.fds[0], part)
        if close:
            os.close(self.fds.pop())


class Hands:
    """Of a connection: the person's own selection, and exports."""

    def __init__(self):
        self.offer, self.exported, self.taken_back = None, [], []
        self.works = True

    def read(self, mime, fd):
        return self.offer.send(mime, fd)

    def export(self, seat, serial, content, mark):
        self.exported.append((serial, content, mark))
        return self.works

    def take_back(self, content):
        self.taken_back.append(content)
        content.cancel()


class Core:
    """A connection with the keyboard's focus."""

    def __init__(self):
        self.hands, self.focused = Hands(), {1}


class Told:
    """A worker's clipboard, and its messages."""

    def __init__(self, mine, sandbox, out):
        self.mine, self.sandbox, self.out = mine, sandbox, out
        self.core = Core()
        self.file = -1

    async def said(self):
        with trio.fail_after(30):
            got = await self.out.receive()
        if not isinstance(got, m.ClipboardData):
            return got
        return await sealed_memfd.copy(self.file, got.size)

    async def silent(self):
        await trio.testing.wait_all_tasks_blocked()
        assert not self.mine._waiting
        with pytest.raises(trio.WouldBlock):
            self.out.receive_nowait()

    def select(self, *mimes):
        made = Source(*mimes)
        self.sandbox.select("clipboard", made)
        return made

    async def types(self, transfer=1, *, host=False):
        self.mine.obey(m.AskTypes(transfer, host), [])
        return await self.said()

    async def read(self, transfer=2, name="text/plain", most=100, *, host=False):
        await self.types(transfer - 1, host=host)
        self.obey_read(m.ReadType(transfer, name, most, host))

    def obey_read(self, order):
        """Order it, with a file of which one is kept here."""
        if self.file >= 0:
            os.close(self.file)
        self.file = sealed_memfd.file_to_fill(order.max_bytes)
        self.mine.obey(order, [os.dup(self.file)])

    def press(self, *, paste):
        self.mine.pressed(self.core, None, 77, paste=paste)

    def offer(self, content, transfer=5):
        fd = sealed_memfd.sealed([content])
        self.mine.obey(m.Offer(transfer, [m.Piece(NAMES, len(content))]), [fd])
        return self.sandbox.selections["clipboard"]

    def export(self, press=1, transfer=6):
        piece = m.Piece(NAMES, 5)
        fd = sealed_memfd.sealed([b"hello"])
        self.mine.obey(m.Export(transfer, press, [piece], "x-mark"), [fd])


@asynccontextmanager
async def told():
    before = set(os.listdir("/proc/self/fd"))
    sandbox = Sandbox("work")
    into, out = trio.open_memory_channel(100)
    mine = WorkerClipboard(sandbox, into)
    async with trio.open_nursery() as nursery:
        await nursery.start(mine.run)
        it = Told(mine, sandbox, out)
        yield it
        sandbox.select("clipboard", None)
        nursery.cancel_scope.cancel()
    if it.file >= 0:
        os.close(it.file)
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_types_and_all_of_one():
    async with told() as it:
        source = it.select(TEXT, b"text/html")
        assert await it.types() == m.ClipboardTypes(1, ["text/plain", "text/html"])
        it.obey_read(m.ReadType(2, "text/plain", 100))
        await source.gives(b"hel", b"lo")
        assert await it.said() == b"hello"


async def test_without_a_selection_there_are_no_types_and_nothing_to_read():
    async with told() as it:
        assert await it.types() == m.ClipboardTypes(1, [])
        it.obey_read(m.ReadType(2, "text/plain", 100))
        assert (await it.said()).transfer == 2


async def test_a_type_that_it_has_not_cannot_be_read():
    async with told() as it:
        it.select()
        await it.read(name="image/png")
        assert "lacks the type" in (await it.said()).reason


@pytest.mark.parametrize(("size", "large"), [(100, False), (101, True)])
async def test_the_limit_is_the_last_byte(size, large):
    async with told() as it:
        source = it.select()
        await it.read(most=100)
        await source.gives(b"x" * size)
        expected = m.ClipboardLarge(2) if large else b"x" * size
        assert await it.said() == expected


async def test_what_another_selection_replaced_is_not_read():
    async with told() as it:
        it.select()
        await it.types()
        it.select()
        it.obey_read(m.ReadType(2, "text/plain", 100))
        assert "another selection" in (await it.said()).reason


@pytest.mark.parametrize("when", ["before the end", "just after it"])
async def test_a_source_that_ends_gives_nothing(when, monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_DEATH_SECONDS", 1.0)
    async with told() as it:
        source = it.select()
        await it.read()
        await source.gives(b"half", close=False)
        if when == "just after it":
            os.close(source.fds.pop())
            await trio.testing.wait_all_tasks_blocked()
        it.sandbox.select("clipboard", None)
        if source.fds:
            os.close(source.fds.pop())
        assert "the source ended" in (await it.said()).reason


async def test_a_source_that_stalls_has_so_long(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_COPY_SECONDS", 0.2)
    async with told() as it:
        source = it.select()
        await it.read()
        await source.gives(b"half", close=False)
        assert "in time" in (await it.said()).reason
        os.close(source.fds.pop())


async def test_an_abandoned_request_is_not_answered():
    async with told() as it:
        source = it.select()
        await it.read()
        await source.gives(b"half", close=False)
        it.mine.obey(m.StopRead(2), [])
        await it.silent()
        with pytest.raises(BrokenPipeError):
            os.write(source.fds[0], b"more")
        os.close(source.fds.pop())


async def test_one_read_at_a_time():
    async with told() as it:
        first = it.select()
        await it.read()
        await first.asked.wait()
        it.obey_read(m.ReadType(3, "text/plain", 100))
        os.close(first.fds.pop(0))
        await eventually(lambda: first.fds, deadline=30)
        await first.gives(b"hello")
        assert await it.said() == b"hello"
        await it.silent()


# -- the person's own -----------------------------------------------------------------------


async def test_the_persons_own_is_read_after_a_paste_chord_only():
    async with told() as it:
        it.core.hands.offer = Source()
        assert (await it.types(host=True)).types == []
        it.press(paste=True)
        chord = await it.said()
        assert chord == m.ChordPressed(1, paste=True, desktop=chord.desktop)
        assert chord.desktop, "the user's selection has types"
        await it.read(host=True)
        await it.core.hands.offer.gives(b"mine")
        assert await it.said() == b"mine"


async def test_the_persons_own_is_not_read_without_the_focus():
    async with told() as it:
        it.core.hands.offer = Source()
        it.press(paste=True)
        await it.said()
        it.core.focused = set()
        assert (await it.types(host=True)).types == []


@pytest.mark.parametrize(("mimes", "good"), [([TEXT], True), ([b"text/html"], False)])
async def test_the_persons_own_told_again_must_have_the_same_types(mimes, good):
    async with told() as it:
        it.core.hands.offer = Source()
        it.press(paste=True)
        await it.said()
        await it.types(host=True)
        it.core.hands.offer = Source(*mimes)
        it.obey_read(m.ReadType(2, "text/plain", 100, host=True))
        if good:
            await it.core.hands.offer.gives(b"mine")
            assert await it.said() == b"mine"
        else:
            assert "another selection" in (await it.said()).reason


# -- pastes ------------------------------------------------------------------------------------


async def reads(fd):
    with os.fdopen(fd, "rb") as pipe:
        return await trio.to_thread.run_sync(pipe.read)


async def test_an_offer_is_served_under_each_name_until_the_next_selection():
    async with told() as it:
        held = it.offer(b"x" * 200_000)
        assert list(held.mimes) == [name.encode() for name in NAMES]
        for name in held.mimes:
            theirs, ours = os.pipe()
            assert held.send(name, ours)
            assert await reads(theirs) == b"x" * 200_000
        it.select()
        assert await it.said() == m.OfferEnded(5)
        theirs, ours = os.pipe()
        assert not held.send(TEXT, ours)
        os.close(theirs)
        os.close(ours)


async def test_content_that_is_being_read_is_read_to_its_end():
    async with told() as it:
        held = it.offer(b"x" * 200_000)
        theirs, ours = os.pipe()
        assert held.send(TEXT, ours)
        it.select()
        assert len(await reads(theirs)) == 200_000


async def test_withdrawn_content_is_gone_without_an_event():
    async with told() as it:
        it.offer(b"hello")
        it.mine.obey(m.Withdraw(99), [])
        assert it.sandbox.selections["clipboard"] is not None
        it.mine.obey(m.Withdraw(5), [])
        assert it.sandbox.selections["clipboard"] is None
        await it.silent()


async def test_pasted_content_can_be_copied_again():
    async with told() as it:
        it.offer(b"hello")
        assert (await it.types()).types == NAMES
        it.obey_read(m.ReadType(2, "text/plain", 100))
        assert await it.said() == b"hello"


async def test_so_many_read_at_one_time_and_no_more():
    async with told() as it:
        held = it.offer(b"x" * 200_000)
        pipes = [os.pipe() for _ in range(clipboard_limits.CLIPBOARD_SERVES + 1)]
        taken = [held.send(TEXT, ours) for _, ours in pipes]
        assert taken == [True] * clipboard_limits.CLIPBOARD_SERVES + [False]
        os.close(pipes[-1][1])
        for theirs, _ in pipes:
            os.close(theirs)
        with trio.fail_after(30):
            while True:
                theirs, ours = os.pipe()
                if held.send(TEXT, ours):
                    break
                os.close(theirs)
                os.close(ours)
                await trio.sleep(0.01)
        assert len(await reads(theirs)) == 200_000


async def test_one_that_takes_nothing_has_so_long(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_SERVE_SECONDS", 0.1)
    async with told() as it:
        held = it.offer(b"x" * 200_000)
        theirs, ours = os.pipe()
        assert held.send(TEXT, ours)
        await trio.sleep(0.5)
        assert len(await reads(theirs)) < 200_000


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_descriptor_that_its_client_makes_blocking_blocks_no_other(kind):
    """O_NONBLOCK is of the open file description, and each process that shares it may change it."""
    async with told() as it:
        held = it.offer(b"x" * 2_000_000)
        ends = os.pipe() if kind == "pipe" else None
        pair = socket.socketpair() if kind == "socket" else ()
        theirs, ours = ends or [os.dup(end.fileno()) for end in pair]
        for end in pair:
            end.close()
        os.set_blocking(ours, True)
        shared = os.dup(ours)
        assert held.send(TEXT, ours)
        for _ in range(50):
            await trio.lowlevel.checkpoint()  # would never end
            os.set_blocking(shared, True)
        os.close(shared)
        assert await reads(theirs) == b"x" * 2_000_000


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
async def test_without_room_for_one_transfer_that_one_is_refused(number, monkeypatch):
    def full(*_args):
        raise OSError(number, os.strerror(number))

    async with told() as it:
        source = it.select()
        with monkeypatch.context() as patch:
            where, name = os, "pipe2"
            if number == errno.ENOSPC:
                where, name = sealed_memfd, "append"
            patch.setattr(where, name, full)
            await it.read()
            if number == errno.ENOSPC:
                await source.gives(b"hello", close=False)
            assert "too many transfers" in (await it.said()).reason
        for fd in source.fds:
            os.close(fd)
        source.fds.clear()
        source.asked = trio.Event()
        await it.read(transfer=4)
        await source.gives(b"hello")
        assert await it.said() == b"hello"
        held = it.offer(b"text")
        theirs, ours = os.pipe()
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", full)
            assert not held.send(TEXT, ours), "it stays the caller's to close"
        assert held.send(TEXT, ours)
        assert await reads(theirs) == b"text"


# -- out to the person ---------------------------------------------------------------------------


async def pressed_copy(it):
    it.press(paste=False)
    assert await it.said() == m.ChordPressed(1, paste=False)


async def test_an_export_is_told_when_the_compositor_has_taken_it():
    async with told() as it:
        await pressed_copy(it)
        it.export()
        ((serial, content, mark),) = it.core.hands.exported
        assert (serial, mark) == (77, b"x-mark")
        hint = b"x-kde-passwordManagerHint"
        assert list(content.mimes) == [TEXT, b"UTF8_STRING", hint, b"x-mark"]
        await it.silent()
        content.taken()
        assert await it.said() == m.Exported(6)
        for mime, expected in ((TEXT, b"hello"), (hint, b"secret")):
            theirs, ours = os.pipe()
            assert content.send(mime, ours)
            assert await reads(theirs) == expected
        assert not content.send(b"x-mark", 0)
        content.cancel()
        assert await it.said() == m.ExportEnded(6)


@pytest.mark.parametrize("wrong", ["press", "focus", "twice", "device"])
async def test_an_export_without_the_right_of_a_press_is_none(wrong):
    async with told() as it:
        await pressed_copy(it)
        if wrong == "focus":
            it.core.focused = set()
        elif wrong == "device":
            it.core.hands.works = False
        elif wrong == "twice":
            it.export(transfer=9)
        it.export(press=8 if wrong == "press" else 1)
        said = await it.said()
        assert (said.transfer, bool(said.problem)) == (6, True)
        assert len(it.core.hands.exported) == (wrong in {"twice", "device"})
        for _, content, _ in it.core.hands.exported:
            content.cancel()


async def test_an_export_that_the_compositor_ignores_is_taken_back(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_EXPORT_SECONDS", 0.1)
    async with told() as it:
        await pressed_copy(it)
        it.export()
        assert "did not accept the selection" in (await it.said()).problem
        assert len(it.core.hands.taken_back) == 1
        await it.silent()


async def test_an_export_can_be_withdrawn():
    async with told() as it:
        await pressed_copy(it)
        it.export()
        it.core.hands.exported[0][1].taken()
        await it.said()
        it.mine.obey(m.Withdraw(6), [])
        assert len(it.core.hands.taken_back) == 1
        await it.silent()


# -- telling -----------------------------------------------------------------------------------------


async def test_a_focus_that_jumps_is_told_once():
    async with told() as it:
        for _ in range(1000):
            it.mine.focus(taken=True)
            it.mine.focus(taken=False)
        it.mine.focus(taken=True)
        assert await it.said() == m.ClipboardFocus(taken=True)
        await it.silent()


async def test_what_waits_to_be_told_is_bounded_and_the_last_of_it_true():
    async with told() as it:
        for _ in range(clipboard_limits.CLIPBOARD_EVENTS):
            it.mine.focus(taken=True)
            it.press(paste=False)
            it.mine.focus(taken=False)
            it.press(paste=False)
        found = [await it.said() for _ in range(clipboard_limits.CLIPBOARD_EVENTS)]
        assert found[-2] == m.ClipboardFocus(taken=False)
        await it.silent()


async def test_drags_that_begin_without_end_hide_no_focus_that_has_gone():
    """Or no other sandbox's chords would count while this one seems to have it."""
    async with told() as it:
        it.mine.focus(taken=True)
        assert await it.said() == m.ClipboardFocus(taken=True)
        it.mine.focus(taken=False)
        for n in range(2 * clipboard_limits.CLIPBOARD_EVENTS):
            it.mine._say(m.DragStarted(f"application/x-vitrail-drag-{n}"))
        found = [await it.said() for _ in range(clipboard_limits.CLIPBOARD_EVENTS)]
        assert found[0] == m.ClipboardFocus(taken=False)
        await it.silent()


async def test_chords_are_chosen_for_connections_that_are_there_and_those_to_come():
    async with told() as it:
        before = it.mine.judge()
        assert before.change is not None
        it.mine.obey(m.ChordsMessage("Ctrl+Alt+C", "Ctrl+Alt+V"), [])
        assert it.mine.judge()._wanted == before._wanted != ()


async def test_trouble_is_told_when_it_is_another():
    async with told() as it:
        for reason in ("none", "none", ""):
            it.mine.trouble(reason)
        assert [await it.said() for _ in range(2)] == [
            m.ChordTroubleMessage("none"),
            m.ChordTroubleMessage(""),
        ]


@pytest.mark.parametrize(
    ("order", "fds"),
    [(m.Withdraw(1), 1), (m.Offer(1, [m.Piece(NAMES, 1)]), 0)],
)
async def test_an_order_with_the_wrong_descriptors_is_a_mistake_of_ours(order, fds):
    async with told() as it:
        given = [os.open("/dev/null", os.O_RDWR) for _ in range(fds)]
        with pytest.raises(InternalError):
            it.mine.obey(order, given)
