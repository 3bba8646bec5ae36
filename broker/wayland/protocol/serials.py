"""Serials: which ones were delivered to a client, and when.

A client proves with a serial that it reacts to something that happened to it
(wl_data_device.set_selection, xdg_popup.grab, xdg_toplevel.move).  Compositors
check that loosely or not at all, so we let only delivered ones through.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from broker.core import limits

_NOT_INPUT = -1.0


class Serials:
    """The last serials given to one client."""

    __slots__ = ("_acted", "_given")

    def __init__(self, acted: Callable[[float], None] | None = None) -> None:
        """``acted`` hears of everything that the person did, with its time."""
        self._given: OrderedDict[int, float] = OrderedDict()
        self._acted = acted

    def note(self, serial: int) -> None:
        """The client has been given this serial and may present it."""
        given = self._given
        if serial not in given:
            given[serial] = _NOT_INPUT
            if len(given) > limits.WAYLAND_SERIALS:
                given.popitem(last=False)

    def note_input(self, serial: int, now: float) -> None:
        """The same, and it is of something that the person did just now."""
        if self._acted is not None:
            self._acted(now)
        given = self._given
        given[serial] = now
        if len(given) > limits.WAYLAND_SERIALS:
            given.popitem(last=False)

    def knows(self, untrusted_serial: int) -> bool:
        """Whether the serial was delivered to this client (lately)."""
        # guard: input serials
        return untrusted_serial in self._given

    def fresh(self, untrusted_serial: int, now: float) -> bool:
        """Whether it is of a key, button or touch of the last seconds."""
        when = self._given.get(untrusted_serial, _NOT_INPUT)
        # guard: fresh input
        return when >= 0.0 and now - when <= limits.WAYLAND_ACTIVATION_SECONDS
