"""A desktop with sandboxes between which the person copies and pastes.

Real: compositor, keyboard events, workers in their jails, the crossing.  The
policy is a function of the test.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.errors import UpstreamError
from broker.core.limits import clipboard as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.spawn import Child
from broker.ipc import clipboard as messages
from broker.viewer.clipboard import clipboard_member
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.broker import Crossing
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.display import hand_over
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.mutter_person import Gnome, GnomeKeyboard, GnomePointer, gnome
from tests.kit.wayland.stand import CONFIG, JailedStand, Nested, jailed, nested
from tests.kit.workers import open_workers

C, V, X, A = 46, 47, 45, 30
_CONTROL, _SHIFT, _SUPER = 29, 42, 125
_BITS = {_SHIFT: 1, _CONTROL: 4, _SUPER: 64}
DEADLINE = 60.0
SCREEN = (1280, 800)
COLOURS = (0xC01010, 0x1010C0, 0x10A010)


def allow(_source: str, _target: str, _kinds: Any) -> w.PasteTerms | None:
    """A policy that lets all pass."""
    return w.PasteTerms()


class Desk:
    """``records`` are those of the clipboard core; ``said`` all workers' actions."""

    def __init__(
        self,
        comp: HeadlessCompositor | Nested | Gnome,
        keyboard: Keyboard | GnomeKeyboard,
        policy: Callable[..., w.PasteTerms | None] | None = allow,
        terms: w.CopyTerms | None = None,
        host: w.CopyTerms | None = None,
        outward: bool = False,
        drags: w.CopyTerms | None = None,
        drags_out: tuple[str, ...] = (),
    ) -> None:
        self.comp, self.keyboard, self.policy = comp, keyboard, policy
        self.terms = terms or w.CopyTerms()
        self.host, self.outward = host, outward
        self.drags, self.drags_out = drags, drags_out
        self.crossing = Crossing()
        self.rooms: dict[str, JailedStand] = {}
        self.records: list[w.RecordCrossing] = []
        self.said: list[tuple[str, Any]] = []
        self.offers: list[tuple[str, int]] = []
        self.orders: list[w.Action] = []
        """All that the crossing had done, but records."""
        self.questions: list[int] = []
        """Those of policy, which stay open where there is none."""
        self.origins: list[str] = []
        self._news = trio.Event()

    # -- the viewer's part ---------------------------------------------------------

    def listen(self, room: JailedStand, name: str) -> None:
        """Take what a worker says as its sandbox's."""
        self.rooms[name] = room

        async def hear(message: Any) -> None:
            if isinstance(message, clipboard_member.Said):
                await self.hears(name, message)

        room.listener = hear

    async def hears(self, name: str, said: clipboard_member.Said) -> None:
        self.said.append((name, said))
        if isinstance(said, messages.DragOverMessage):
            self._tell()
            # Its source's worker is another process, heard later perhaps.
            await self.until(lambda: not said.mark or self._has_begun(said.mark))
        event: w.Event = said
        match said:
            case messages.ChordPressed(paste=True):
                event = w.PastePressed(self.host, said.desktop)
            case messages.ChordPressed(press):
                event = w.CopyPressed(
                    self.terms, press, self.outward, said.window, said.desktop
                )
            case messages.DragOverMessage(number, mark):
                event = w.DragOver(number, mark, self.drags)
            case messages.DragWantedMessage(number, mark, wanted):
                event = w.DragWanted(number, mark, wanted, self.drags)
        if not isinstance(said, messages.ChordTroubleMessage):
            await self.feed(name, event)
        self._tell()

    def _has_begun(self, mark: str) -> bool:
        """Also where it has ended since."""
        began = (s.mark for _, s in self.said if isinstance(s, messages.DragStarted))
        return mark in began

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def feed(self, sandbox: str, event: w.Event) -> None:
        """Let the crossing decide, and carry that out."""
        for action in self.crossing.feed(sandbox, event, trio.current_time()):
            if not isinstance(action, w.RecordCrossing):
                self.orders.append(action)
            match action:
                case w.RecordCrossing():
                    self.records.append(action)
                case w.AskPolicy(transfer, source, target, kinds, origin, _):
                    self.questions.append(transfer)
                    self.origins.append(origin)
                    if self.policy is not None:
                        terms = self.policy(source, target, kinds)
                        await self.feed("", w.Decided(transfer, terms))
                case w.Blame():
                    raise AssertionError(action)
                case w.WorkerOrder(sandbox, message):
                    if isinstance(message, messages.Offer | messages.Withdraw):
                        self.offers.append((sandbox, message.transfer))
                    await self._order(self.rooms[sandbox], action)
        self._tell()

    async def _order(self, room: JailedStand, action: w.WorkerOrder) -> None:
        try:
            await clipboard_member.send_order(room.worker, action)
        except UpstreamError:
            # The person's last press may be heard after the test's last line.
            if not room.closing:
                raise

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a message or a record makes the condition true."""
        with trio.fail_after(DEADLINE):
            while not (found := condition()):
                await self._news.wait()
        return found

    # -- the person's part -----------------------------------------------------------

    @contextmanager
    def _held(self, *keys: int) -> Iterator[None]:
        bits = 0
        for key in keys:
            bits |= _BITS[key]
            self.keyboard.change(key, 1)
            self.keyboard.modifiers(bits)
        try:
            yield
        finally:
            for key in keys:
                bits &= ~_BITS[key]
                self.keyboard.change(key, 0)
                self.keyboard.modifiers(bits)

    def _press(self, code: int, *held: int) -> None:
        with self._held(*held):
            self.keyboard.press(code)

    async def press(self, code: int, *held: int) -> None:
        """Press a key with modifiers held."""
        await trio.to_thread.run_sync(self._press, code, *held)

    async def focus(self, name: str, title: str) -> None:
        """Give a window the keyboard; returns when its worker has said so."""
        assert isinstance(self.comp, HeadlessCompositor), "no other has such an order"
        await self.comp.command(f'[title="{title}"] focus')
        # Until all have handled it: another window of the sandbox, which has just closed,
        # may have had the keyboard, and another sandbox since then.
        for room in self.rooms:
            await self._settled(room)
        await self.until(lambda: self.crossing.focused == name)

    async def accepts_drag(self, name: str) -> None:
        """Wait until the compositor knows that this sandbox's window takes the drag.

        The drag's source is not informed of other sandboxes' windows, so the target's
        worker is asked.  Its first answers follow the pointer's last movement, the last
        ones follow its request to the compositor.
        """
        await self._settled(name)
        await self.until(lambda: self.drag_accepted(name))
        await self._settled(name)

    async def _settled(self, name: str) -> None:
        """Wait until a worker has handled all events and orders sent so far.

        The second order arrives after the step in which the first one was handled, so
        events that were waiting then are handled before the second answer.
        """
        for _ in range(2):
            await self.rooms[name].worker.statistics()

    def drag_accepted(self, name: str) -> bool:
        """Whether the last drag over the sandbox's windows was accepted."""
        overs = [
            said.number
            for who, said in self.said
            if who == name and isinstance(said, messages.DragOverMessage)
        ]
        return (
            bool(overs)
            and w.WorkerOrder(name, messages.AcceptDrag(overs[-1])) in self.orders
        )

    async def record_after(self, before: int) -> w.RecordCrossing:
        """The first one after so many."""
        await self.until(lambda: len(self.records) > before)
        return self.records[before]

    async def _chord(self, code: int) -> w.RecordCrossing:
        before = len(self.records)
        await self.press(code, _SUPER, _SHIFT)
        return await self.record_after(before)

    async def press_copy(self) -> None:
        """Press the copy chord, and wait for nothing."""
        await self.press(C, _SUPER, _SHIFT)

    async def press_paste(self) -> None:
        """Press the paste chord, and wait for nothing."""
        await self.press(V, _SUPER, _SHIFT)

    def while_held(self, act: Callable[[], Any]) -> Any:
        """From a client's thread: do this while the chords' modifiers are held."""
        with self._held(_SUPER, _SHIFT):
            return act()

    def run(self, name: str, *argv: str, **env: str) -> Child:
        """Start an application in a sandbox; it ends with the desk."""
        return self.rooms[name].run(*argv, **env)

    async def copy(self) -> w.RecordCrossing:
        """Press the copy chord; returns the record of the result."""
        return await self._chord(C)

    async def paste(self) -> w.RecordCrossing:
        """Press the paste chord; returns the record of the result."""
        return await self._chord(V)

    async def control(self, code: int, *, shift: bool = False) -> None:
        """Press Ctrl and a key, as for an application's own copy and paste."""
        await self.press(code, _CONTROL, *([_SHIFT] if shift else []))


@asynccontextmanager
async def desk(
    *names: str, kind: str = "sway", focus_seconds: float = 0.0, **settings: Any
):
    """A desktop with a jailed sandbox of each name.

    ``kind``: weston or KWin, shown on the sway that has the keyboard, or a
    headless mutter; those have no orders that give a window the focus, a new
    window takes it.
    """
    async with open_workers() as workers, _person(kind) as (comp, keyboard):
        made = Desk(comp, keyboard, **settings)
        async with rooms(made, workers, names):
            # Its chords follow the focus at once.
            with patch.object(limits, "CLIPBOARD_FOCUS_SECONDS", focus_seconds):
                yield made


@asynccontextmanager
async def _person(kind: str):
    """A compositor, and the person's keyboard at it."""
    if kind == "mutter":
        async with gnome() as comp:
            with await GnomeKeyboard.of(comp.bus) as keyboard:
                comp.mouse = GnomePointer(keyboard)
                yield comp, keyboard
        return
    async with desktop(config_extra=CONFIG) as outer:
        with Keyboard(outer.display) as keyboard:
            async with _inside(outer, kind) as comp:
                yield comp, keyboard


@asynccontextmanager
async def _inside(outer: HeadlessCompositor, kind: str):
    if kind == "sway":
        yield outer
        return
    # As long as the compositor: KWin ends with its seat's pointer.
    with Pointer(outer.display, SCREEN) as mouse:
        async with nested(outer, kind) as comp:
            comp.mouse = mouse
            yield comp


@asynccontextmanager
async def rooms(made: Desk, workers: Any, names: tuple[str, ...]):
    """The sandboxes of a desk."""
    if not names:
        keyboard = made.keyboard
        keyboard.press(A)
        yield made
        return
    colour = COLOURS[len(made.rooms) % len(COLOURS)]
    rules = WindowRules(names[0], color=colour)
    async with jailed(made.comp, workers, rules) as room, _streams(room):
        made.listen(room, names[0])
        if made.drags is not None:
            crosses = messages.DragsMessage(cross=True, outward=list(made.drags_out))
            await room.worker.send(crosses)
        async with rooms(made, workers, names[1:]):
            yield made


@asynccontextmanager
async def _streams(room: JailedStand):
    """A socket for waypipe servers, whose streams go to the room's worker."""
    room.wire = room.path.with_name("streams")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(room.wire))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over, listener, room.worker)
            yield
            nursery.cancel_scope.cancel()
