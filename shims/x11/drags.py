"""Drags between windows: XDND (version 5) on one side, wl_data_device on the other.

A drag that an X11 program begins becomes the compositor's, which then sends the pointer's
way to data devices only.  Over a window of our own the X11 pointer follows, and both X11
programs speak XDND as ever; over anything else it rests on the helper window, which plays
the target.  What others drag over an X11 window reaches it from the helper, as a source.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Dict, List, Optional, Tuple

from shims.x11.core import Core
from shims.x11.objects import WaylandObject, ignored
from shims.x11.seat import SeatInput
from shims.x11.selections import Selections
from shims.x11.window import HeldSurface, XWindow
from shims.x11.x11 import Property

XDND_VERSION = 5
BEGIN_SECONDS = 5.0
"""Seconds that a program may take to name the types of its drag."""
FINISH_SECONDS = 20.0
"""Seconds that a program may take to fetch the dropped data."""
_COPY, _MOVE = 1, 2


class Drags:
    """Handles drags; at most one is under way, as there is one pointer."""

    def __init__(
        self,
        core: Core,
        selections: Selections,
        seat: SeatInput,
        hide_picture: Callable[[float], None],
    ) -> None:
        self._core, self._selections, self._seat = core, selections, seat
        self._hide_picture = hide_picture
        # A drag that an X11 program began.
        self._source: Optional[WaylandObject] = None
        self._active = self._released = self._accepted = self._dropped = False
        self._wants_types = False
        self._program = 0
        """The X11 window that speaks XDND to the helper."""
        self._done: Optional[bool] = None
        """Whether the target took the drop, once it is known."""
        # What is over one of our windows.
        self._offer: Optional[WaylandObject] = None
        self._serial = self._action = 0
        self._target: Optional[XWindow] = None
        self._speaks = self._answered = self._waits_for_drop = False
        self._at: Optional[Tuple[int, int]] = None
        selections.on_drag = self._begins
        selections.drag_offer = lambda: None if self._source else self._offer
        seat.on_leave = self._pointer_left
        seat.on_pointer = self._end
        hear = core.relay.hear
        hear("wl_data_device", enter=self._enter, motion=self._motion)
        hear("wl_data_device", leave=self._leave, drop=self._drop)
        hear("wl_data_offer", source_actions=ignored, action=self._offer_action)
        hear("wl_data_source", target=self._source_target, action=ignored)
        hear("wl_data_source", dnd_drop_performed=lambda _: self._let_go())
        hear("wl_data_source", dnd_finished=lambda _: self._finished(done=True))
        selections.on_drag_cancelled = lambda: self._finished(done=False)
        core.messages.update(XdndEnter=self._x_enter, XdndPosition=self._x_position)
        core.messages.update(XdndDrop=self._x_drop, XdndStatus=self._x_status)
        core.messages["XdndFinished"] = self._x_finished
        core.begin.append(self._begin)

    def _begin(self) -> None:
        x = self._core.x
        x.set_property(self._core.helper, "XdndAware", "ATOM", [XDND_VERSION])

    # -- from an X11 program

    def _begins(self) -> None:
        """A program owns XdndSelection and a button is down: it drags.

        Only XdndEnter tells what: Qt answers no TARGETS.  So the pointer goes to the
        helper for a moment.
        """
        core = self._core
        if self._source is None and core.pressed_on is not None:
            core.dragging = self._wants_types = True
            self._hide_picture(core.press[1])
            self._seat.move_to(*self._seat.on_helper)
            press = core.press
            core.later(BEGIN_SECONDS, lambda: self._begins_not(press))

    def _begins_not(self, press: Tuple[int, float]) -> None:
        """The program did not name its types: the pointer is its own again."""
        if self._wants_types and self._core.press == press:
            self._end()

    def _x_enter(self, xid: int, values: Tuple[int, ...]) -> None:
        if xid != self._core.helper:
            return
        self._program = values[0]
        if not self._wants_types:
            return
        self._wants_types, x = False, self._core.x
        if values[1] & 1:
            listed = partial(self._selections.listed, self._start)
            x.property(self._program, x.atoms["XdndTypeList"], listed)
        else:
            atoms = [atom for atom in values[2:5] if atom]
            self._selections.named(self._start, atoms)

    def _start(self, types: Dict[str, int]) -> None:
        """The compositor is to drag these types."""
        core, device = self._core, self._selections.device()
        if self._source is not None or core.pressed_on is None or device is None:
            return
        if core.pressed_on.proxy.dead or device.manager.version < 3 or not types:
            return
        ask = core.relay.ask
        create = core.relay.create
        source = create(device.manager, "create_data_source", data=types)
        for mime in types:
            ask(source, "offer", mime)
        ask(source, "set_actions", _COPY | _MOVE)
        origin = core.pressed_on.proxy
        ask(device.device, "start_drag", source, origin, None, core.press[0])
        self._source, self._done = source, None
        self._active = self._released = self._accepted = self._dropped = False

    def _pointer_left(self) -> bool:
        """Whether the pointer left for a drag: Xwayland is not to know."""
        self._active = self._source is not None
        return self._active

    def _source_target(self, source: WaylandObject, mime: str) -> None:
        if source is self._source:
            self._accepted = bool(mime)
            self._tell_program()

    def _tell_program(self) -> None:
        if self._program and self._target is None and not self._released:
            x = self._core.x
            action = x.atoms["XdndActionCopy"] if self._accepted else 0
            words = (self._core.helper, int(self._accepted), 0, 0, action)
            x.client_message(self._program, self._program, "XdndStatus", *words)

    def _x_position(self, xid: int, values: Tuple[int, ...]) -> None:
        if xid == self._core.helper:
            self._program = values[0]
            self._tell_program()

    def _x_drop(self, xid: int, _values: Tuple[int, ...]) -> None:
        self._dropped = xid == self._core.helper
        self._conclude()

    def _let_go(self) -> None:
        """The user let go of the button: now the program may know."""
        if self._active and not self._released:
            self._released = True
            self._seat.release()

    def _finished(self, *, done: bool) -> None:
        """The compositor's drag is over, and its target has the data."""
        self._accepted = self._accepted and done
        self._tell_program()
        self._let_go()
        self._done = done
        self._conclude()
        self._end()

    def _conclude(self) -> None:
        """Tell the program, which may hear of the drop later than the target does."""
        if self._dropped and self._done is not None:
            x = self._core.x
            words = (self._core.helper, int(self._done), x.atoms["XdndActionCopy"])
            x.client_message(self._program, self._program, "XdndFinished", *words)
            self._dropped = False

    def _end(self) -> None:
        """Forget the program's drag; the source goes when no fetch from it is left."""
        source, self._source, self._active = self._source, None, False
        self._core.dragging = self._wants_types = False
        if source is not None:
            self._core.later(FINISH_SECONDS, lambda: self._core.relay.release(source))

    # -- over one of our windows

    def _enter(
        self, _: WaylandObject, serial: int, number: int, x: float, y: float, offer: int
    ) -> None:
        core = self._core
        self._forget_offer()
        surface = core.relay.by_up.get(number)
        held = surface.data if surface is not None else None
        self._offer = core.relay.by_up.get(offer)
        self._serial, self._action = serial, 0
        window = held.window if isinstance(held, HeldSurface) else None
        if window is None or self._offer is None or not core.managing:
            return
        self._target = window
        self._seat.raise_window(window)
        if self._source is not None:
            self._active = True  # KWin takes the pointer away without a word
            # Our own: X11 decides, so the compositor is told yes in any case.
            self._accept(accepted=True, action=_COPY)
        else:
            self._speaks = self._answered = False
            x_ = core.x
            x_.property(window.xid, x_.atoms["XdndAware"], self._aware(window))
        self._move(x, y)

    def _aware(self, window: XWindow) -> Callable[[Optional[Property]], None]:
        def told(found: Optional[Property]) -> None:
            version = found.words()[0] if found is not None and found.words() else 0
            offer, x = self._offer, self._core.x
            if version < 3 or self._target is not window or offer is None:
                return
            x.own(self._core.helper, x.atoms["XdndSelection"])
            names = self._selections.target_names(offer)

            def known(atoms: List[int]) -> None:
                if self._offer is not offer or self._target is not window:
                    return
                x.set_property(self._core.helper, "XdndTypeList", "ATOM", atoms)
                flags = min(version, XDND_VERSION) << 24 | int(len(atoms) > 3)
                self._say("XdndEnter", flags, *[*atoms, 0, 0, 0][:3])
                self._speaks = self._answered = True
                self._tell_position()

            x.intern(names, known)

        return told

    def _say(self, kind: str, *values: int) -> None:
        if self._target is not None:
            xid = self._target.xid
            self._core.x.client_message(xid, xid, kind, self._core.helper, *values)

    def _motion(self, _device: WaylandObject, _when: int, x: float, y: float) -> None:
        self._move(x, y)

    def _move(self, x: float, y: float) -> None:
        target = self._target
        if target is None:
            return
        scale = self._core.scale
        self._at = (target.x + round(x * scale), target.y + round(y * scale))
        if self._active:
            self._seat.move_to(*self._at)
        else:
            self._tell_position()

    def _tell_position(self) -> None:
        """Tell where it is, once the last place was answered (XDND, "XdndStatus")."""
        if self._speaks and self._answered and self._at is not None:
            x, y = self._at
            place = (x & 0xFFFF) << 16 | y & 0xFFFF
            action = self._core.x.atoms["XdndActionCopy"]
            self._say("XdndPosition", 0, place, 0, action)
            self._answered, self._at = False, None

    def _x_status(self, xid: int, values: Tuple[int, ...]) -> None:
        target = self._target
        if xid != self._core.helper or target is None or values[0] != target.xid:
            return
        if self._waits_for_drop:
            return  # the place is settled; its answer now is XdndFinished
        self._answered = True
        move = values[4] == self._core.x.atoms["XdndActionMove"]
        self._accept(accepted=bool(values[1] & 1), action=_MOVE if move else _COPY)
        self._tell_position()

    def _accept(self, *, accepted: bool, action: int) -> None:
        offer, ask = self._offer, self._core.relay.ask
        if offer is None or offer.dead:
            return
        mime = offer.data[0] if accepted and offer.data else None
        ask(offer, "accept", self._serial, mime)
        if offer.version >= 3:
            # The preferred action must be one of the possible ones, or none.
            both = (_COPY | _MOVE, action) if accepted else (0, 0)
            ask(offer, "set_actions", *both)

    def _offer_action(self, offer: WaylandObject, action: int) -> None:
        if offer is self._offer:
            self._action = action

    def _leave(self, _device: WaylandObject) -> None:
        if self._waits_for_drop:
            return  # the program still fetches
        if self._speaks:
            self._say("XdndLeave", 0)
        self._forget_offer()
        if self._active:
            self._seat.move_to(*self._seat.on_helper)

    def _drop(self, _device: WaylandObject) -> None:
        if self._source is not None:
            self._let_go()
            self._finish()
        elif self._speaks and self._action:
            self._waits_for_drop = True
            self._say("XdndDrop", 0, 0)
            offer = self._offer
            self._core.later(FINISH_SECONDS, lambda: self._late(offer))
        else:
            self._forget_offer()

    def _x_finished(self, _xid: int, values: Tuple[int, ...]) -> None:
        target = self._target
        if self._waits_for_drop and target is not None and values[0] == target.xid:
            if not values[1] & 1:
                self._action = 0  # not taken, so a move must not end with a loss
            self._finish()

    def _late(self, offer: Optional[WaylandObject]) -> None:
        if offer is self._offer:
            self._forget_offer()

    def _finish(self) -> None:
        """The target has the dropped data."""
        offer = self._offer
        if offer is not None and not offer.dead and self._action:
            self._core.relay.ask(offer, "finish")
        self._forget_offer()

    def _forget_offer(self) -> None:
        self._selections.drop_offer(self._offer)
        self._offer = self._target = self._at = None
        self._speaks = self._waits_for_drop = False
