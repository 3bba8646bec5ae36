"""Objects of input: seats, pointers, keyboards, touch screens, and our own surfaces.

Our own surfaces (frames) are here because events of input name them; the client's ones
are in ``model.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.jail.wayland.canonical import Request
    from broker.jail.wayland.handlers.host_seat import OwnSeat
    from broker.jail.wayland.model import Surface
    from broker.jail.wayland.ports import SeatChords


class OwnSurface(ProtocolObject):
    """Our wl_surface: a frame's root or strip.

    ``alias`` is the client's surface that represents it where the client must learn of
    a focus; None for strips.
    """

    __slots__ = ("alias",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.alias: Surface | None = None


class Pointed(ProtocolObject):
    """What points at a client's surface; ``focus`` is None while it is elsewhere.

    ``entered`` is the serial of its last enter.
    """

    __slots__ = ("entered", "focus")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.focus: Surface | None = None
        self.entered = 0


class Pointer(Pointed):
    """A wl_pointer of the client's; ``news`` says that a frame event is due.

    ``lost``: the surface that had the focus when the client destroyed it.  ``missed``:
    the compositor's last motion, where the client was not told of it.
    """

    __slots__ = ("lost", "missed", "news", "seat")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.seat: ProtocolObject | None = None
        self.lost: Surface | None = None
        self.missed = b""
        self.news = False


class ClientTool(Pointed):
    """The zwp_tablet_tool_v2 that a client knows; ``host`` is the compositor's."""

    __slots__ = ("host",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.host: ProtocolObject | None = None


class HostPointer(ProtocolObject):
    """Our wl_pointer.  ``own`` is the frame that it is over.

    ``x, y`` (wl_fixed_t) is where on it, ``entered`` the serial of its last enter
    and ``shape`` the image that we show there.
    """

    __slots__ = ("entered", "own", "seat_sid", "shape", "shape_sid", "x", "y")

    def __init__(self, version: int, seat_sid: int) -> None:
        super().__init__("wl_pointer", version)
        self.seat_sid = seat_sid
        self.own: OwnSurface | None = None
        self.entered = 0
        self.shape = 0
        self.shape_sid = 0
        self.x = 0
        self.y = 0


class BoundGlobal(ProtocolObject):
    """An object of a global that may go; ``host_name`` is the compositor's name of it."""

    __slots__ = ("host_name",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.host_name = 0


class Seat(BoundGlobal):
    """A client's wl_seat, with the ``capabilities`` that it received, or None.

    ``waiting`` are devices that need another capability (``canonical.py``), each with
    the request and what sends it.
    """

    __slots__ = ("capabilities", "waiting")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.capabilities: int | None = None
        self.waiting: list[tuple[ProtocolObject, Request, Callable[[], None]]] = []


class Keyboard(ProtocolObject):
    """A wl_keyboard.  Without a focus that the client knows, it gets no events.

    ``judge`` finds the chords in its keys; shared by all keyboards of a seat.
    ``waiting`` is the last modifiers event that came without a focus.
    """

    __slots__ = ("focus", "judge", "seat", "waiting")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.focus: Surface | None = None
        self.judge: SeatChords | None = None
        self.seat: OwnSeat | None = None
        self.waiting = b""


class Touch(ProtocolObject):
    """A wl_touch, with the surface under each finger that the client knows.

    ``told`` since something was passed on that a frame event has to end.
    """

    __slots__ = ("fingers", "told")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.fingers: dict[int, Surface] = {}
        self.told = False


class Gesture(ProtocolObject):
    """A pointer gesture object; ``told`` between a begin and an end passed on."""

    __slots__ = ("told",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.told = False


class TextInput(ProtocolObject):
    """A zwp_text_input_v3 and the surface that the client thinks has the focus.

    ``enabled`` is the state last sent to the compositor, ``uncounted`` how many commits
    it did not get, less those that only we made.
    """

    __slots__ = ("enabled", "focus", "uncounted")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.focus: Surface | None = None
        self.enabled = False
        self.uncounted = 0
