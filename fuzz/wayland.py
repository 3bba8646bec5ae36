"""Fuzz target: a client's bytes into the Wayland filter.

Invariant: whatever a client sends, in whatever pieces, the filter either goes
on or ends that connection with a ProtocolFault.  No other exception, nothing
sent to the compositor that a strict one (tests/kit/wayland/model.py) would
refuse, no guest pixel outside its content, no descriptor, object or counter
left over, and no more memory than the limits allow.

Seeds are recorded sessions of real applications (tests/corpus/wayland).  They
are mutated message by message: arguments, objects, opcodes, order, sizes.

    python fuzz/wayland.py [--seconds N] [--messages N] [--seed N]

prints sessions, messages, how the connections ended, and branch coverage of
the core where 'coverage' is installed.
"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import ROOT, Meter, arguments, play, show

_METER = Meter(__name__, "broker/jail/wayland/**/*.py")

from broker.core.streams.wayland_rules import Fullscreen, WindowRules  # noqa: E402
from broker.core.streams.wayland_verdicts import OPTIONS  # noqa: E402
from broker.jail.clipboard.chord_recogniser import Recogniser  # noqa: E402
from broker.jail.wayland.filter import WaylandFilter  # noqa: E402
from broker.jail.wayland.handlers import foreign_drags  # noqa: E402
from broker.jail.wayland.handlers.host_seat import OwnSeat  # noqa: E402
from broker.jail.wayland.handlers.selection import DataSource  # noqa: E402
from broker.jail.wayland.model import Surface, XdgSurface  # noqa: E402
from broker.jail.wayland.protocol import signatures, wire  # noqa: E402
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault  # noqa: E402
from broker.jail.wayland.sandbox import Sandbox  # noqa: E402
from broker.jail.wayland.scene import resize_timeout  # noqa: E402
from tests.kit.wayland import sessions as wayland_sessions  # noqa: E402
from tests.kit.wayland.machine import FakeMachine  # noqa: E402
from tests.kit.wayland.model import GLOBALS, Model, connect  # noqa: E402
from tests.kit.wayland.talk import Talk  # noqa: E402

WORDS = (
    0,
    1,
    2,
    7,
    8,
    64,
    255,
    256,
    4096,
    65535,
    65536,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0xFF000000,
    0xFF000001,
)
_WORD = struct.Struct("=I")
_ACK = signatures.request("xdg_surface", "ack_configure").opcode


Offers = list[tuple[str, int]]
"""Globals with their versions."""


class Session:
    """A seed: the compositor's globals and the client's messages."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.messages: list[bytes] = []
        self.globals: list[tuple[str, int]] = []
        # Names of globals depend on the allowed ones: none was allowed at the recording.
        self.allow: frozenset[str] = frozenset()
        self.deny = wayland_sessions.NOT_SHOWN
        client = server = b""
        for side, data, _ in wayland_sessions.load(path):
            if side == "c":
                client += data
            else:
                server += data
        self.messages = list(split(client))
        for message in split(server):
            oid, opcode, size = wire.HEADER.unpack_from(message)
            if (oid, opcode) == (2, 0):
                args = wire.decode(
                    signatures.event("wl_registry", "global"), message, 8, size
                )
                self.globals.append((args[1].decode(), args[2]))
        # The recorded client gave ids that were free when pools ended at once.
        self.globals.append(("zwp_linux_dmabuf_v1", 3))


def split(data: bytes):
    """Whole messages of a stream."""
    pos = 0
    while len(data) - pos >= 8:
        size = wire.HEADER.unpack_from(data, pos)[2]
        if size < 8:
            return
        yield data[pos : pos + size]
        pos += size


def seeds() -> list[Session]:
    """All recorded sessions, and two that are spoken here."""
    recorded = sorted((ROOT / "tests/corpus/wayland").glob("*.session"))
    return [*(Session(path) for path in recorded), spoken(), bubbles(), parts()]


class _Spoken(Talk):
    """Remembers its messages: a seed for code that the recordings do not reach."""

    said: list[bytes]

    def raw(self, data: bytes, fds: list | None = None) -> None:
        self.said.append(data)
        super().raw(data, fds)


def parts() -> Session:
    """The first of them, where the filter crops by parts of buffers."""
    offers = [name for name in GLOBALS if name[0] != "zwp_linux_dmabuf_v1"]
    return spoken("parts", offers)


def spoken(name: str = "spoken", offers: Offers = GLOBALS) -> Session:
    """Popups, selections, cursors, text input, activation: all at once."""
    talk = _listened(WindowRules("work", allow=OPTIONS), offers)
    seat = talk.bind("wl_seat")
    pointer = talk.make(seat, "get_pointer", "wl_pointer")
    talk.make(seat, "get_keyboard", "wl_keyboard")
    talk.make(seat, "get_touch", "wl_touch")
    surface, xdg, top = talk.show(300, 200, 0)
    talk.core.serials.note_input(5, 0.0)
    _speak_selections(talk, seat)
    _speak_extras(talk, seat, pointer, surface)
    _speak_popups(talk, seat, xdg)
    _speak_constraints(talk, seat, pointer, surface)
    cursor = talk.surface()
    talk.paint(cursor, 90, 90, 0)
    talk.send(cursor, "commit")
    talk.send(pointer, "set_cursor", 5, cursor, 3, 3)
    talk.send(top, "set_fullscreen", 0)
    talk.send(top, "set_min_size", 10, 10)
    talk.send(top, "move", seat, 5)
    talk.send(surface, "commit")
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    return _heard(talk, name)


def bubbles() -> Session:
    """Parts of windows that reach outside them, come, move, nest and go."""
    talk = _listened(WindowRules("work", allow=OPTIONS, promote=True))
    for _ in range(3):
        talk.events.clear()  # ids come again, and what was said to them
        surface, xdg, top = talk.show(200, 100, 0)
        first, second = talk.surface(), talk.surface()
        sub = talk.child(first, surface, 150, 60)
        upper = talk.child(second, first, 90, 40)
        for child, (w, h) in ((second, (70, 70)), (first, (120, 80))):
            talk.paint(child, w, h, 0)
            talk.send(child, "commit")
        talk.send(surface, "commit")
        for x, y in ((160, 70), (10, 10), (-60, 20)):
            talk.send(sub, "set_position", x, y)
            talk.send(surface, "commit")
        talk.send(upper, "place_below", first)
        talk.send(sub, "set_desync")
        talk.paint(first, 300, 200, 0)
        talk.send(first, "commit")
        talk.send(xdg, "set_window_geometry", 0, 0, 40, 40)
        talk.send(surface, "commit")
        talk.send(first, "attach", 0, 0, 0)
        talk.send(first, "commit")
        talk.paint(first, 90, 90, 0)
        talk.send(first, "commit")
        talk.send(upper, "destroy")
        talk.send(top, "destroy")
        talk.send(xdg, "destroy")
    return _heard(talk, "bubbles")


def _listened(rules: WindowRules, offers: Offers = GLOBALS) -> _Spoken:
    talk = _Spoken.__new__(_Spoken)
    talk.said = []
    talk.__init__(rules, model=Model(offers))
    talk.start()
    return talk


def _heard(talk: _Spoken, name: str) -> Session:
    seed = Session.__new__(Session)
    seed.name, seed.allow, seed.deny = name, OPTIONS, frozenset()
    seed.globals = list(talk.model.offers.values())
    seed.messages = list(split(b"".join(talk.said)))
    talk.close()
    return seed


def _speak_selections(talk: Talk, seat: int) -> None:
    for manager_kind, get, device, create, source_kind in (
        (
            "wl_data_device_manager",
            "get_data_device",
            "wl_data_device",
            "create_data_source",
            "wl_data_source",
        ),
        (
            "zwp_primary_selection_device_manager_v1",
            "get_device",
            "zwp_primary_selection_device_v1",
            "create_source",
            "zwp_primary_selection_source_v1",
        ),
    ):
        manager = talk.bind(manager_kind)
        made = talk.make(manager, get, device, None, seat)
        for _ in range(2):
            source = talk.make(manager, create, source_kind)
            talk.send(source, "offer", b"text/plain")
            talk.send(made, "set_selection", source, 5)
        if device == "wl_data_device":
            dragged = talk.make(manager, create, source_kind)
            talk.send(dragged, "offer", b"text/uri-list")
            talk.send(dragged, "set_actions", 3)
            origin, icon = talk.surface(), talk.surface()
            talk.send(made, "start_drag", dragged, origin, icon, 5)


def _speak_extras(talk: Talk, seat: int, pointer: int, surface: int) -> None:
    text = talk.bind("zwp_text_input_manager_v3")
    field = talk.make(text, "get_text_input", "zwp_text_input_v3", None, seat)
    talk.send(field, "set_cursor_rectangle", 1, 2, 3, 4)
    shapes = talk.bind("wp_cursor_shape_manager_v1")
    shape = talk.make(shapes, "get_pointer", "wp_cursor_shape_device_v1", None, pointer)
    talk.send(shape, "set_shape", 5, 1)
    activation = talk.bind("xdg_activation_v1")
    token = talk.make(activation, "get_activation_token", "xdg_activation_token_v1")
    talk.send(token, "set_serial", 5, seat)
    talk.send(token, "set_surface", surface)
    talk.send(token, "commit")
    talk.send(activation, "activate", b"token", surface)


def _speak_popups(talk: Talk, seat: int, xdg: int) -> None:
    parent, menus = xdg, []
    for _ in range(3):
        positioner = talk.make(talk.shell, "create_positioner", "xdg_positioner")
        talk.send(positioner, "set_size", 100, 80)
        talk.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
        talk.send(positioner, "set_offset", 5, 5)
        menu = talk.surface()
        above, parent = (
            parent,
            talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, menu),
        )
        popup = talk.make(parent, "get_popup", "xdg_popup", None, above, positioner)
        menus.append(popup)
        talk.send(menu, "commit")
        talk.configured(parent)
        talk.paint(menu, 120, 90, 0)
        talk.send(menu, "commit")
        talk.send(popup, "reposition", positioner, 7)
    for popup in reversed(menus):  # without the keyboard they are dismissed
        talk.send(popup, "grab", seat, 5)


def _speak_constraints(talk: Talk, seat: int, pointer: int, surface: int) -> None:
    manager = talk.bind("zwp_pointer_constraints_v1")
    region = talk.make(talk.compositor, "create_region", "wl_region")
    talk.send(region, "add", 5, 5, 50, 50)
    for name, kind in (
        ("lock_pointer", "zwp_locked_pointer_v1"),
        ("confine_pointer", "zwp_confined_pointer_v1"),
    ):
        made = talk.make(manager, name, kind, None, surface, pointer, region, 2)
        talk.send(made, "set_region", region)
        if name == "lock_pointer":
            talk.send(made, "set_cursor_position_hint", 2560, 2560)
        talk.send(surface, "commit")
        talk.send(made, "destroy")
    kind = "zwp_keyboard_shortcuts_inhibitor_v1"
    inhibit = talk.bind("zwp_keyboard_shortcuts_inhibit_manager_v1")
    made = talk.make(inhibit, "inhibit_shortcuts", kind, None, surface, seat)
    talk.send(made, "destroy")
    _speak_icons(talk)
    tablets = talk.bind("zwp_tablet_manager_v2")
    talk.make(tablets, "get_tablet_seat", "zwp_tablet_seat_v2", None, seat)
    _speak_hints(talk, surface)
    idle = talk.bind("zwp_idle_inhibit_manager_v1")
    talk.make(idle, "create_inhibitor", "zwp_idle_inhibitor_v1", None, surface)


def _speak_icons(talk: Talk) -> None:
    manager = talk.bind("xdg_toplevel_icon_manager_v1")
    for oid in [o for o, kind in talk.kinds.items() if kind == "xdg_toplevel"]:
        made = talk.make(manager, "create_icon", "xdg_toplevel_icon_v1")
        talk.send(made, "set_name", b"firefox")
        talk.send(made, "add_buffer", talk.buffer(48, 48), 1)
        talk.send(manager, "set_icon", oid, made)
        talk.send(made, "destroy")


def _speak_hints(talk: Talk, surface: int) -> None:
    types = talk.bind("wp_content_type_manager_v1")
    kind = "wp_content_type_v1"
    hint = talk.make(types, "get_surface_content_type", kind, None, surface)
    pacing = talk.bind("wp_fifo_manager_v1")
    fifo = talk.make(pacing, "get_fifo", "wp_fifo_v1", None, surface)
    for _ in range(4):
        talk.send(hint, "set_content_type", 2)
        talk.send(fifo, "set_barrier")
        talk.send(fifo, "wait_barrier")
        talk.paint(surface, 90, 90, 0)
        talk.send(surface, "commit")
    talk.send(hint, "destroy")
    talk.send(fifo, "destroy")


def mutate(
    rng: random.Random, message: bytes, all_messages: list[bytes]
) -> list[bytes]:
    """Messages sent in the place of one: none, one or several."""
    kind = rng.randrange(10)
    if kind == 0:
        return []
    if kind == 1:
        return [message, message]
    if kind == 2:
        return [message, rng.choice(all_messages)]
    if kind == 3:
        oid, opcode, size = wire.HEADER.unpack_from(message)
        return [wire.HEADER.pack(oid, rng.randrange(16), size) + message[8:]]
    if kind == 4:
        oid, opcode, size = wire.HEADER.unpack_from(message)
        return [wire.HEADER.pack(rng.randrange(1, 60), opcode, size) + message[8:]]
    if kind == 5:
        return [
            message[:6]
            + struct.pack("=H", rng.choice((0, 4, 7, 9, 12, 64, 4092, 5000)))
            + message[8:]
        ]
    if len(message) <= 8:
        return [message]
    at = rng.randrange(8, len(message), 4)
    (word,) = _WORD.unpack_from(message, at)
    new = rng.choice(
        (
            rng.choice(WORDS),
            word ^ (1 << rng.randrange(32)),
            rng.randrange(80),
            (word + rng.randrange(-9, 9)) & 0xFFFFFFFF,
        )
    )
    return [message[:at] + _WORD.pack(new) + message[at + 4 :]]


_OURS = b"text/of-the-person"


class Content:
    """What crosses: held for the sandbox, or given to the person."""

    mimes = (b"text/plain", b"x-mark")

    def send(self, _mime: bytes, _fd: object) -> bool:
        return False

    def cancel(self) -> None:
        """No matter."""

    def taken(self) -> None:
        """No matter."""


class InputListener:
    """The person's; its events of the focus must be true."""

    def __init__(self) -> None:
        self.focused = False

    def judge(self) -> Recogniser:
        return Recogniser()

    def focus(self, *, taken: bool) -> None:
        assert taken is not self.focused, "the same focus told twice"
        self.focused = taken

    def pressed(
        self, core: WaylandFilter, seat: OwnSeat, serial: int, *, paste: bool
    ) -> None:
        raise AssertionError(f"a chord of no keymap: {core} {seat} {serial} {paste}")

    def trouble(self, reason: str) -> None:
        """No matter."""

    @property
    def drags(self) -> Drags:
        return Drags()


class Drags:
    """Takes every drag from elsewhere that it may, and lets nothing out."""

    def started(self, source: DataSource) -> None:
        assert source.drag is not None

    def performed(self, source: DataSource) -> None:
        """No matter."""

    def ended(self, source: DataSource) -> None:
        """No matter."""

    def outward(self, source: DataSource) -> Sequence[bytes]:
        return () if source.dead else source.mimes[:1]

    def wanted(self, source: DataSource, mime: bytes, fd: Fd) -> bool:
        return source.send(mime, fd)

    def over(self, over: foreign_drags.Over) -> None:
        foreign_drags.accept(over)

    def dropped(self, over: foreign_drags.Over) -> None:
        foreign_drags.end(over, finished=False)


class Run:
    """One connection: feeds, judges, and counts how it ended.

    ``closing``: the compositor closes menus.  Callbacks of their pictures never come
    then, and a recorded client, which does not notice, uses their ids again.
    """

    def __init__(
        self, session: Session, rng: random.Random, *, closing: bool = True
    ) -> None:
        self.closing = closing
        self.machine = FakeMachine()
        self.rng = rng
        self.sandbox = Sandbox("work")
        self.hand = InputListener()
        if rng.random() < 0.5:
            self.sandbox.hand = self.hand
        rules = WindowRules(
            "work",
            fullscreen=rng.choice(list(Fullscreen)),
            allow=session.allow,
            deny=session.deny,
            translucent=rng.random() < 0.3,
            promote=session.name == "bubbles" or rng.random() < 0.4,
        )
        self.core = WaylandFilter(rules, self.sandbox, self.machine)
        wayland_sessions.without_time(self.core)
        self.model = Model(session.globals)
        self.model.on_root_commit = self._judge
        connect(self.core, self.model)
        assert self.core.ready, self.core.fault

    def feed(self, data: bytes) -> bool:
        """Feed some bytes; False when the connection is over."""
        fds = [self.machine.fd() for _ in range(max(0, 4 - len(self.core._client_fds)))]
        self.core.from_client(data, fds, 0.0)
        connect(self.core, self.model)
        while self.core.paused:
            for fd in self.core.down.drain_fds():
                self.machine.close(fd)
            self.core.from_client(b"", [], 0.0)
            connect(self.core, self.model)
        if self.rng.random() < 0.1:
            self._input()
        if self.rng.random() < 0.02:
            self._pen()
        if self.rng.random() < 0.02:
            self._selections()
        if self.rng.random() < 0.02:
            self._sizes()
        assert _OURS not in self.core.down.data, "the person's selection is told"
        for fd in self.core.down.drain_fds():
            self.machine.close(fd)
        fault = self.core.fault
        if fault is not None and not isinstance(fault, ProtocolFault):
            raise AssertionError("not a protocol fault") from fault
        return fault is None

    def fixed(self, message: bytes) -> bytes:
        """An acknowledgement with a serial of this run, as a client would."""
        oid, opcode, _ = wire.HEADER.unpack_from(message)
        obj = self.core.by_client.get(oid)
        if isinstance(obj, XdgSurface) and opcode == _ACK:
            # The model configures less often than what was recorded.
            return message[:8] + _WORD.pack(obj.serials[-1]) if obj.serials else b""
        return message

    def _input(self) -> None:
        """The person does something: an event on some surface of the model's."""
        things = list(self.model.things.values())
        shown = [t for t in things if t.kind == "xdg_popup" and "xdg" in t.state]
        if shown and self.closing and self.rng.random() < 0.2:
            self.model.tell(self.rng.choice(shown), "popup_done")
        surfaces = [t for t in things if t.kind == "wl_surface"]
        devices = [
            t for t in things if t.kind in {"wl_pointer", "wl_keyboard", "wl_touch"}
        ]
        if not surfaces or not devices:
            return
        device, surface = self.rng.choice(devices), self.rng.choice(surfaces)
        tell = self.model.tell
        if device.kind == "wl_pointer":
            spot = self.rng.randrange(99999), self.rng.randrange(99999)
            tell(device, "enter", 5, surface, *spot)
            tell(device, "motion", 1, 500, 500)
            tell(device, "button", 5, 1, 0x110, 1)
        elif device.kind == "wl_keyboard":
            tell(device, "enter", 5, surface, b"")
            tell(device, "key", 5, 1, 30, 1)
        else:
            tell(device, "down", 5, 1, surface, 0, 100, 100)
            tell(device, "motion", 1, 0, 100, 100)
            tell(device, "up", 5, 1, 0)
        if device.kind != "wl_touch" and self.rng.random() < 0.5:
            tell(device, "leave", 5, surface)
        connect(self.core, self.model)

    def _pen(self) -> None:
        """The person's pen comes over some surface, and presses it."""
        things, tell = list(self.model.things.values()), self.model.tell
        seats = [t for t in things if t.kind == "zwp_tablet_seat_v2"]
        surfaces = [t for t in things if t.kind == "wl_surface"]
        if not seats or not surfaces:
            return
        seat = self.rng.choice(seats)
        tools = [t for t in things if t.kind == "zwp_tablet_tool_v2"]
        tablets = [t for t in things if t.kind == "zwp_tablet_v2"]
        made = self.model.server_made
        tool = self.rng.choice(
            [*tools, made(seat, "tool_added", "zwp_tablet_tool_v2")][:3]
        )
        tablet = self.rng.choice(
            [*tablets, made(seat, "tablet_added", "zwp_tablet_v2")][:3]
        )
        tell(tool, "capability", self.rng.randrange(9))
        tell(tool, "proximity_in", 5, tablet, self.rng.choice(surfaces))
        tell(tool, "down", 5)
        tell(tool, "motion", self.rng.randrange(99999), self.rng.randrange(99999))
        tell(tool, "frame", 1)
        for name in ("up", "proximity_out", "removed"):
            if self.rng.random() < 0.4:
                tell(tool, name)
        connect(self.core, self.model)

    def _selections(self) -> None:
        """The person copies something, pastes something, or gives something out."""
        devices = [t for t in self.model.things.values() if t.kind == "wl_data_device"]
        if devices:
            device = self.rng.choice(devices)
            offer = self.model.server_offer(device)
            self.model.tell(offer, "offer", _OURS)
            self.model.tell(device, "selection", offer)
            connect(self.core, self.model)
        content = Content()
        self.sandbox.select("clipboard", self.rng.choice([None, content]))
        hands = self.core.hands
        for seat in list(hands.seats):
            hands.export(seat, 5, content, b"x-mark")
            if self.rng.random() < 0.5:
                hands.take_back(content)
        connect(self.core, self.model)

    def _sizes(self) -> None:
        """The compositor asks for other sizes, and no client may be late."""
        for root in self.model.roots():
            if self.rng.random() < 0.5:
                states = self.rng.choice([(), (4,), (1, 4), (2,), (5, 6, 7, 8)])
                size = self.rng.randrange(600), self.rng.randrange(400)
                self.model.configure(root.xdg, *size, states)
        connect(self.core, self.model)
        if self.core.due is not None and self.rng.random() < 0.5:
            resize_timeout.hurry(self.core, self.core.due)
            connect(self.core, self.model)

    def _judge(self, committed: object) -> None:
        """Nothing of the client's reaches out of a window's frame, of none of them.

        A window's edges are those of its last commit: the next ones may be
        known already, and its commit be one of the next messages.  A commit
        without a picture draws nothing.
        """
        roots = self.model.roots()
        if committed not in roots:
            return
        for root in roots:
            own = self.core.by_server.get(root.oid)
            surface = getattr(own, "alias", None)
            if surface is None:
                continue
            held = surface.sub.promoted if surface.sub is not None else surface.xdg
            if held is None or held.frame is None:
                continue
            if root is committed:
                root.state["edges"] = held.frame.edges
            edges, size = root.state.get("edges", held.frame.edges), root.size()
            assert size is not None
            left, top = edges.left, edges.top
            right, bottom = size[0] - edges.right, size[1] - edges.bottom
            for oid, x, y, w, h in self.model.rects(root):
                if not isinstance(self.core.by_server.get(oid), Surface):
                    continue
                inside = left <= x and top <= y and x + w <= right and y + h <= bottom
                assert inside or (x, y, w, h) == (left - 1, top - 1, 1, 1), (
                    x,
                    y,
                    w,
                    h,
                    size,
                )

    def close(self) -> None:
        """Nothing may be left."""
        self.core.close()
        assert not self.machine.leaked(), (self.machine.leaked(), self.core.fault)
        assert not self.machine.paints
        assert not any(self.sandbox.totals.values())
        assert not self.sandbox.filters
        assert not self.hand.focused, "a focus of nobody's"


def one(
    session: Session, rng: random.Random, everything: list[bytes], rate: float
) -> tuple[int, str]:
    """One mutated session; messages fed, and how it ended."""
    run = Run(session, rng, closing=rate > 0)
    count = 0
    alive = True
    for original in session.messages:
        for message in (
            mutate(rng, original, everything) if rng.random() < rate else [original]
        ):
            count += 1
            data = run.fixed(message)
            if not data:
                continue
            cut = rng.randrange(1, len(data)) if rng.random() < 0.02 else len(data)
            alive = run.feed(data[:cut]) and (cut == len(data) or run.feed(data[cut:]))
            if not alive:
                break
        if not alive:
            break
    ended = "went on" if alive else str(run.core.fault).split(":")[0][:40]
    run.close()
    return count, ended


def fuzz(*, seconds: float, messages: int, seed: int) -> Counter[str]:
    """Fuzz until either is reached; returns how connections ended."""
    sessions = seeds()
    everything = [m for s in sessions for m in s.messages]

    def drawn(rng: random.Random) -> tuple[int, str]:
        # Rare mutations reach deep; frequent ones try beginnings.
        rate = rng.choice((0.0005, 0.003, 0.02, 0.2))
        return one(rng.choice(sessions), rng, everything, rate)

    return play(drawn, "messages", seconds=seconds, seed=seed, limit=messages)


def main() -> None:
    """Entry point."""
    options = arguments(__doc__, "messages")
    ends = fuzz(seconds=options.seconds, messages=options.messages, seed=options.seed)
    show(ends, _METER, seed=options.seed)


if __name__ == "__main__":
    main()
