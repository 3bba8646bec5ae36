"""A viewer's clipboard on real rules and a real log, with workers made of paper."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from unittest.mock import patch

import trio

from broker.core.clipboard.chord_settings import DEFAULT
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as m
from broker.ipc import sealed_memfd
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.service import ClipboardService
from tests.kit.rulebook import VAULT, WORK, lease_of, rulebook

WEB = lease_of("web", 3)
TEXT = b"the password is hunter2"


class PaperWorker:
    """Keeps its orders and their descriptors, for the test to answer."""

    def __init__(self):
        self.orders = []
        self.contents = []
        self.closed = ""
        self._more = trio.Event()
        self._taken = 0
        self.stuck = False
        self.shown = []

    async def send(self, message, fds=()):
        if self.stuck:
            await trio.sleep_forever()
        self.contents += [
            await sealed_memfd.take(fd, os.fstat(fd).st_size) for fd in fds
        ]
        self.orders.append(message)
        self._more.set()
        self._more = trio.Event()

    async def windows(self):
        if self.stuck:
            await trio.sleep_forever()
        return self.shown

    async def next(self, kind):
        """The next order, which is of that kind."""
        with trio.fail_after(30):
            while len(self.orders) <= self._taken:
                await self._more.wait()
        order = self.orders[self._taken]
        self._taken += 1
        assert isinstance(order, kind), order
        return order

    async def close(self, reason=""):
        self.closed = reason
        self._more.set()
        self._more = trio.Event()

    async def wait_closed(self):
        with trio.fail_after(30):
            while not self.closed:
                await self._more.wait()
        return self.closed


class PaperGuest:
    """A sandbox whose worker is of paper."""

    def __init__(self, lease):
        self.lease = lease
        self.worker = PaperWorker()
        self.crossing = None
        self.screen = self
        self.blamed = []

    async def broke(self, reason):
        self.blamed.append(reason)

    async def say(self, said):
        await self.crossing.take(said)


class Board:
    """A clipboard with three sandboxes: work, vault, web."""

    def __init__(self, book, clipboard):
        self.book, self.clipboard = book, clipboard
        self.told = []
        self.more = trio.Event()
        self.press = 0
        self.guests = {lease.sandbox: PaperGuest(lease) for lease in (WORK, VAULT, WEB)}

    def notify(self, title, text, *, sandbox=""):
        self.told.append((title, text))
        self.more.set()
        self.more = trio.Event()

    async def wait_told(self, words):
        with trio.fail_after(30):
            while True:
                for title, text in self.told:
                    if words in f"{title}\n{text}":
                        return title, text
                await self.more.wait()

    async def focus(self, name):
        for other, guest in self.guests.items():
            if other != name:
                await guest.say(m.ClipboardFocus(taken=False))
        await self.guests[name].say(m.ClipboardFocus(taken=True))

    async def chord(self, name, *, paste):
        """Press a chord where the keyboard is; returns its number."""
        self.press += 1
        await self.focus(name)
        await self.guests[name].say(m.ChordPressed(self.press, paste=paste))
        return self.press

    async def answer(self, name, kinds):
        """Answer as a worker whose sandbox has these types and contents."""
        guest = self.guests[name]
        ask = await guest.worker.next(m.AskTypes)
        await guest.say(m.ClipboardTypes(ask.transfer, list(kinds)))
        return ask

    async def give(self, name, kinds):
        """Answer one reading."""
        guest = self.guests[name]
        read = await guest.worker.next(m.ReadType)
        data = kinds[read.name]
        if len(data) > read.max_bytes:
            await guest.say(m.ClipboardLarge(read.transfer))
        else:
            await guest.say(w.CheckedContent(read.transfer, data))
        return read

    async def copy(self, name="work", kinds=None):
        kinds = kinds or {"text/plain": TEXT}
        await self.chord(name, paste=False)
        await self.answer(name, kinds)
        for _ in kinds:
            await self.give(name, kinds)
        await self.wait_told(f"from {name}")

    async def paste(self, name="vault"):
        """Press, and return what the sandbox is offered."""
        await self.chord(name, paste=True)
        return await self.guests[name].worker.next(m.Offer)

    def events(self, *kinds):
        return self.book.events(*(kinds or ("clipboard",)))


def _chooses(choose):
    async def chosen():
        await trio.lowlevel.checkpoint()
        return choose()

    return chosen


@asynccontextmanager
async def board(rules="", *, choose=lambda: DEFAULT, records=()):
    """Rules for vitrail.ClipboardPaste: a line each, without its service."""
    lines = "".join(
        f"vitrail.ClipboardPaste * {line}\n" for line in rules.splitlines() if line
    )
    # Its chords follow the focus at once.
    immediate = patch.object(limits, "CLIPBOARD_FOCUS_SECONDS", 0.0)
    async with rulebook(lines, start=False) as book:
        from tests.kit.world import record

        book.write_record("web", record("persistent"))
        for name, text in records:
            book.write_record(name, record("persistent") + text)
        book.leases = [WORK, VAULT, WEB]
        await book.start()
        clipboard = ClipboardService(
            decider=book.decider,
            log=book.log,
            record=lambda lease: book.records.records.get(lease.record),
            choose=_chooses(choose),
        )
        it = Board(book, clipboard)
        clipboard.notify = it.notify
        book.decider.notify = it.notify
        async with trio.open_nursery() as nursery:
            await nursery.start(clipboard.run)
            for guest in it.guests.values():
                clipboard.begin(guest)
            with immediate:
                yield it
            nursery.cancel_scope.cancel()
