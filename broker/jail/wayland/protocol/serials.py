"""Serials: which ones were delivered to a client, and when.

A client proves with a serial that it reacts to something that happened to it
(wl_data_device.set_selection, xdg_popup.grab, xdg_toplevel.move).  Compositors
check that loosely or not at all, so we let only delivered ones through.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits

if TYPE_CHECKING:
    from broker.jail.wayland.protocol.objects import ProtocolObject

_NOT_INPUT = -1.0


class Serials:
    """The last serials given to one client."""

    __slots__ = ("_acted", "_given", "_pressed", "_retired")

    def __init__(self, acted: Callable[[float], None] | None = None) -> None:
        """``acted`` learns of everything that the user did, with its time."""
        self._given: OrderedDict[int, float] = OrderedDict()
        self._acted = acted
        self._pressed: dict[tuple[int, int], tuple[int, ProtocolObject]] = {}
        self._retired: frozenset[int] = frozenset()

    def note(self, serial: int) -> None:
        """Record a serial that was sent to the client, which it may present."""
        given = self._given
        if serial not in given:
            given[serial] = _NOT_INPUT
            if len(given) > limits.WAYLAND_SERIALS:
                given.popitem(last=False)

    def note_input(self, serial: int, now: float) -> None:
        """Record a serial of input that the user made just now."""
        if self._acted is not None:
            self._acted(now)
        given = self._given
        given[serial] = now
        if len(given) > limits.WAYLAND_SERIALS:
            given.popitem(last=False)

    def knows(self, untrusted_serial: int) -> bool:
        """Return whether the serial was delivered to this client (lately)."""
        # guard: input serials
        return untrusted_serial in self._given

    # -- pressed buttons, keys and fingers -----------------------------------------

    def press(self, by: int, which: int, serial: int, on: ProtocolObject) -> None:
        """A button or finger of the client's object ``by`` goes down on a surface."""
        self._pressed[by, which] = (serial, on)

    def lift(self, by: int, which: int | None = None) -> None:
        """A button or finger goes up; without ``which``, all of that object's."""
        for key in [k for k in self._pressed if k[0] == by]:
            if which in {None, key[1]}:
                del self._pressed[key]

    def held(self, untrusted_serial: int) -> bool:
        """Return whether a serial is of a press that still lasts, on a living surface.

        Compositors that look (weston, mutter) let nothing else begin a move, a
        resize or a drag.
        """
        return any(
            serial == untrusted_serial and not on.dead
            for serial, on in self._pressed.values()
        )

    # -- since the keyboard came ----------------------------------------------------

    def retire(self) -> None:
        """The keyboard has left the client: serials given so far are old."""
        self._retired = frozenset(self._given)

    def current(self, untrusted_serial: int) -> bool:
        """Return whether a serial was delivered since the keyboard was away last."""
        return self.knows(untrusted_serial) and untrusted_serial not in self._retired

    def young(self, untrusted_serial: int, now: float) -> bool:
        """Return whether a serial is of a key, button or touch just now."""
        when = self._given.get(untrusted_serial, _NOT_INPUT)
        return when >= 0.0 and now - when <= limits.WAYLAND_PRESS_SECONDS

    def fresh(self, untrusted_serial: int, now: float) -> bool:
        """Return whether a serial is of a key, button or touch of the last seconds."""
        when = self._given.get(untrusted_serial, _NOT_INPUT)
        # guard: fresh input
        return when >= 0.0 and now - when <= limits.WAYLAND_ACTIVATION_SECONDS
