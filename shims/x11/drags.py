"""Drags between windows: XDND (version 5) on one side, wl_data_device on the other.

A drag that an X11 program begins becomes the compositor's, which then sends the pointer's
way to data devices only.  Over a window of our own the X11 pointer follows, and both X11
programs speak XDND as ever; over anything else it rests on the helper window, which plays
the target.  What others drag over an X11 window reaches it from the helper, as a source.
"""

from __future__ import annotations

from functools import partial, partialmethod
from typing import Optional

from shims.x11.core import BridgePart, Core
from shims.x11.objects import Maybe, WireObject
from shims.x11.seat import SeatInput
from shims.x11.selections import DRAG, Selections
from shims.x11.window import XWindow
from shims.x11.x11 import Property

XDND_VERSION = 5
BEGIN_SECONDS = 5.0
"""Seconds that a program may take to name the types of its drag."""
FINISH_SECONDS = 20.0
"""Seconds that a program may take to fetch the dropped data."""
_COPY, _MOVE = 1, 2


class Drags(BridgePart):
    """Handles drags; at most one is under way, as there is one pointer."""

    def __init__(self, core: Core, selections: Selections, seat: SeatInput) -> None:
        super().__init__(core)
        self._selections, self._seat = selections, seat
        # A drag that an X11 program began.
        self._source: Maybe = None
        self._active = self._released = self._accepted = self._dropped = False
        self._wants_types = False
        self._program = 0
        """The X11 window that speaks XDND to the helper."""
        self._done: Optional[bool] = None
        """Whether the target took the drop, once it is known."""
        # A drag over our window.
        self._offer: Maybe = None
        self._serial = self._action = 0
        self._target: Optional[XWindow] = None
        self._speaks = self._answered = self._waits_for_drop = False
        self._takes = False
        """Whether the compositor was told last that the target takes the data."""
        self._at: Optional[tuple[int, int]] = None
        selections.drag_offer = lambda: None if self._source else self._offer
        seat.on_leave = self._pointer_left

    def _on_managing(self) -> None:
        self._x.set_property(self._core.helper, "XdndAware", "ATOM", [XDND_VERSION])

    def _say(self, window: int, kind: str, *values: int) -> None:
        self._x.client_message(window, f"Xdnd{kind}", self._core.helper, *values)

    # -- from an X11 program

    def _on_drag(self) -> None:
        """Note that a program drags: it owns XdndSelection and a button is down.

        Only XdndEnter tells what: Qt answers no TARGETS.  So the pointer goes to the
        helper for a moment.
        """
        if self._source is None and self._core.pressed_on is not None:
            self._core.dragging = self._wants_types = True
            self._core.tell("drag_begins")
            self._seat.move_to(*self._seat.on_helper)
            press = self._core.press
            # guard: a drag that begins again waits once for its types
            key = "drag", press
            self._core.later(BEGIN_SECONDS, lambda: self._begins_not(press), key)

    def _begins_not(self, press: tuple[int, float]) -> None:
        """The program did not name its types: the pointer is its again."""
        if self._wants_types and self._core.press == press:
            self._on_pointer()

    def _on_helper_xdndenter(self, program: int, flags: int, *atoms: int) -> None:
        """Start a drag by the types that the dragging program offers."""
        self._program = program
        if not self._wants_types:
            return
        self._wants_types, x = False, self._x
        if flags & 1:
            listed = partial(self._selections.listed, self._start)
            x.property(program, x.atoms["XdndTypeList"], listed)
        else:
            self._selections.named(self._start, [atom for atom in atoms if atom])

    def _start(self, types: dict[str, int]) -> None:
        """Start a Wayland drag of these types from the window that was pressed."""
        core, device = self._core, self._selections.device()
        if self._source is not None or core.pressed_on is None or device is None:
            return
        if core.pressed_on.proxy.dead or device.manager.version < 3 or not types:
            return
        ask, source = core.relay.ask, self._selections.source(device, DRAG, types)
        ask(source, "set_actions", _COPY | _MOVE)
        origin = core.pressed_on.proxy
        ask(device.device, "start_drag", source, origin, None, core.press[0])
        self._source, self._done = source, None
        self._active = self._released = self._accepted = self._dropped = False

    def _pointer_left(self) -> bool:
        """Return whether the pointer left for a drag: Xwayland is not to know."""
        self._active = self._source is not None
        return self._active

    def _wl_data_source_target(self, source: WireObject, mime: str) -> None:
        if source is self._source:
            self._accepted = bool(mime)
            self._tell_program()

    def _tell_program(self) -> None:
        if self._program and self._target is None and not self._released:
            action = self._x.atoms["XdndActionCopy"] if self._accepted else 0
            self._say(self._program, "Status", int(self._accepted), 0, 0, action)

    def _on_helper_xdndposition(self, program: int, *_: int) -> None:
        self._program = program
        self._tell_program()

    def _on_helper_xdnddrop(self, *_: int) -> None:
        self._dropped = True
        self._conclude()

    def _release_button(self, _source: Maybe = None) -> None:
        """Release the button at Xwayland, if the drag holds it: the user let go of it."""
        if self._active and not self._released:
            self._released = True
            self._seat.release()

    _wl_data_source_dnd_drop_performed = _release_button

    def _finished(self, _source: Maybe = None, *, done: bool = True) -> None:
        """End a drag that an X11 program began.

        Sends it XdndStatus, releases a held button at Xwayland, sends XdndFinished if the
        program has dropped, and releases the Wayland source after ``FINISH_SECONDS``.
        ``done``: the target has the data; else the drag is cancelled.
        """
        self._accepted = self._accepted and done
        self._tell_program()
        self._release_button()
        self._done = done
        self._conclude()
        self._on_pointer()

    _wl_data_source_dnd_finished = _finished

    _on_drag_cancelled = partialmethod(_finished, done=False)

    def _conclude(self) -> None:
        """Send the program XdndFinished, once it has dropped and the target has ended."""
        if self._dropped and self._done is not None:
            words = int(self._done), self._x.atoms["XdndActionCopy"]
            self._say(self._program, "Finished", *words)
            self._dropped = False

    def _on_pointer(self) -> None:
        """Forget the program's drag; the source goes when no fetch from it is left."""
        source, self._source, self._active = self._source, None, False
        self._core.dragging = self._wants_types = False
        if source is not None:
            self._core.later(FINISH_SECONDS, lambda: self._relay.release(source))

    # -- over our window

    def _wl_data_device_enter(
        self, _: Maybe, serial: int, surface: Maybe, x: float, y: float, offer: Maybe
    ) -> None:
        """Show X11 a drag that entered its window."""
        self._forget_offer()
        self._offer, self._serial, self._action = offer, serial, 0
        window = surface.data.window if surface and not surface.dead else None
        if window is None or offer is None or not self._core.managing:
            return
        self._target = window
        self._seat.raise_window(window)
        if self._source is not None:
            self._active = True  # KWin takes the pointer away without a word
            # Our own: X11 decides, so the compositor is told yes in any case.
            self._accept(accepted=True, action=_COPY)
        else:
            aware = self._x.atoms["XdndAware"]
            self._x.property(window.xid, aware, partial(self._aware, window, offer))
        self._wl_data_device_motion(None, 0, x, y)

    def _aware(self, window: XWindow, offer: WireObject, found: Property) -> None:
        """Enter a window with XDND, if it speaks that."""
        version = (*found.words(), 0)[0]
        if version < 3 or self._offer is not offer:
            return
        x, names = self._x, self._selections.target_names(offer)
        x.own(self._core.helper, "XdndSelection")

        def known(atoms: list[int]) -> None:
            if self._offer is offer:
                x.set_property(self._core.helper, "XdndTypeList", "ATOM", atoms)
                flags = min(version, XDND_VERSION) << 24 | int(len(atoms) > 3)
                self._say(window.xid, "Enter", flags, *atoms[:3])
                self._speaks = self._answered = True
                self._tell_position()

        x.intern(names, known)

    def _wl_data_device_motion(self, _device: Maybe, _when: int, *place: float) -> None:
        """Move an X11 drag with the pointer."""
        target = self._target
        if target is None:
            return
        x, y = self._core.enlarged(*place)
        self._at = (target.x + round(x), target.y + round(y))
        if self._active:
            self._seat.move_to(*self._at)
        else:
            self._tell_position()

    def _tell_position(self) -> None:
        """Send XDND's position, once the last one was answered."""
        target = self._target
        if self._speaks and self._answered and self._at is not None and target:
            x, y = self._at
            place = (x & 0xFFFF) << 16 | y & 0xFFFF
            action = self._x.atoms["XdndActionCopy"]
            self._say(target.xid, "Position", 0, place, 0, action)
            self._answered, self._at = False, None

    def _is_dragged_over(self, xid: int) -> bool:
        return self._target is not None and self._target.xid == xid

    def _on_helper_xdndstatus(self, program: int, flags: int, *values: int) -> None:
        """Pass an X11 target's answer on to the compositor."""
        # After the drop the place is settled; its answer then is XdndFinished.
        if self._is_dragged_over(program) and not self._waits_for_drop:
            self._answered = True
            move = values[2] == self._x.atoms["XdndActionMove"]
            self._accept(accepted=bool(flags & 1), action=_MOVE if move else _COPY)
            self._tell_position()

    def _accept(self, *, accepted: bool, action: int) -> None:
        """Accept or refuse a type and action at the compositor."""
        offer, ask = self._offer, self._relay.ask
        if offer is None or offer.dead:
            return
        mime = offer.data[0] if accepted and offer.data else None
        self._takes = mime is not None
        ask(offer, "accept", self._serial, mime)
        if offer.version >= 3:
            # The preferred action must be one of the possible ones, or none.
            both = (_COPY | _MOVE, action) if accepted else (0, 0)
            ask(offer, "set_actions", *both)

    def _wl_data_offer_action(self, offer: WireObject, action: int) -> None:
        if offer is self._offer:
            self._action = action

    def _wl_data_device_leave(self, _device: WireObject) -> None:
        """End an X11 target's drag that has left."""
        if self._waits_for_drop:
            return  # the program still fetches
        if self._speaks and self._target is not None:
            self._say(self._target.xid, "Leave")
        self._forget_offer()
        if self._active:
            self._seat.move_to(*self._seat.on_helper)

    def _wl_data_device_drop(self, _device: WireObject) -> None:
        """Drop at an X11 target, or finish an own drag."""
        if self._source is not None:
            self._release_button()
            self._finish()
        # A refusal may have crossed the drop: "finish" is a protocol error then.
        # guard: a drop that its X11 target has refused is not finished
        elif self._takes and self._speaks and self._action and self._target is not None:
            self._waits_for_drop = True
            self._say(self._target.xid, "Drop")
            offer = self._offer
            self._core.later(FINISH_SECONDS, lambda: self._forget_offer(offer))
        else:
            if self._speaks and self._target is not None:
                self._say(self._target.xid, "Leave")
            self._forget_offer()

    def _on_helper_xdndfinished(self, program: int, flags: int, *_: int) -> None:
        if self._waits_for_drop and self._is_dragged_over(program):
            if not flags & 1:
                self._action = 0  # not taken, so a move must not end with a loss
            self._finish()

    def _finish(self) -> None:
        """The target has the dropped data."""
        offer = self._offer
        if offer is not None and not offer.dead and self._action:
            self._relay.ask(offer, "finish")
        self._forget_offer()

    def _forget_offer(self, only: Maybe = None) -> None:
        if only is not None and only is not self._offer:
            return  # a timer of a drag before this one
        self._selections.drop_offer(self._offer)
        self._offer = self._target = self._at = None
        self._speaks = self._waits_for_drop = self._takes = False
