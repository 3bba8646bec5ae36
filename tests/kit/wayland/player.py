"""A random player of legal orders, against a real compositor, with the filter and without.

    .ci/as-user tests.kit.wayland.player KIND [--seconds=60] [--seed=N] [--direct]

A program does what toolkits do, in any order that the protocols allow: windows, menus on
menus, subsurfaces that reach outside, pointers and what is made of them, parents, also
over a second connection, decorations, drags with and without a source, and states;
at the same time the user's devices, screens and windows come, go and hide.  Through the filter
it asks seats for devices that they do not have, too.  The choices
depend on the seed alone, so a seed that ends the compositor can be played again, and
played to the compositor without a filter: what ends that, too, is not the filter's.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.client import GoneError, ServerError, Window
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.lone_filter import CONSTRAINTS
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer
from tests.kit.wayland.stand import SIZE
from tests.kit.wayland.virtual import compositor

KINDS = ("sway", "weston", "kwin", "mutter")
_TRACE = {k: v for k, v in os.environ.items() if k == "PLAYER_TRACE"}
KDE_DECORATIONS = "org_kde_kwin_server_decoration_manager"
ROUND = 120
"""Orders of one program, from its connection to its end."""
_PATIENCE = 0.3
_SEEN = 0.05
"""Seconds between what a person does and the program's next order."""
"""Seconds for a configure event: one may never come, as for a menu that is dismissed."""


@dataclass(eq=False)
class Shown:
    """A window or menu of the program; ``on`` is the parent of a menu."""

    surface: int
    xdg: int
    role: int
    on: Shown | None = None
    committed: bool = False
    mapped: bool = False
    decoration: int = 0
    kde: bool = False
    """Whether the decoration is of KDE's protocol."""
    children: list[Shown] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)


class Program:
    """One connection and what it has made.  Every method is an order."""

    def __init__(
        self, client: Window, rng: random.Random, partner: Window | None = None
    ) -> None:
        """Set up the program; ``partner``: its second connection, behind a filter."""
        self.c, self.rng, self.partner = client, rng, partner
        self.theirs: list[Shown] = []
        """Windows of the second connection."""
        self.exports: list[tuple[Window, int]] = []
        self.imports: list[tuple[Window, int]] = []
        self.windows: list[Shown] = []
        self.seats: list[int] = []
        self.pointers: list[int] = []
        self.screens: list[int] = []
        self.ends: list[tuple[int, str]] = []
        """Objects of no further use, with their destructors."""

    # -- windows and menus ------------------------------------------------------------

    def _all(self) -> list[Shown]:
        found, left = [], list(self.windows)
        while left:
            found.append(left.pop())
            left += found[-1].children
        return found

    def _pick(self, *, mapped: bool | None = None) -> Shown | None:
        known = [s for s in self._all() if mapped is None or s.mapped is mapped]
        return self.rng.choice(known) if known else None

    def window(self) -> None:
        if len(self.windows) > 4:
            return
        surface = self.c.surface()
        xdg, top = self.c.toplevel(surface)
        # The person's commands name windows by it: without the filter, none has one.
        self.c.send(top, "set_title", b"played")
        self.windows.append(Shown(surface, xdg, top))
        if self.rng.random() < 0.5:
            self._decorate(self.windows[-1])
        if self.rng.random() < 0.8:
            self._map(self.windows[-1])

    def _map(self, it: Shown) -> None:
        """Commit, wait for the configure event, show a picture."""
        c = self.c
        if it.committed:
            # A configure event of before an unmap is not the answer to this commit.
            c.roundtrip()
        before = len(c.events)
        c.send(it.surface, "commit")
        it.committed = True
        with suppress(TimeoutError):
            serial = c.wait(
                lambda e: e[0] == it.xdg and e[2] == "configure",
                _PATIENCE,
                since=before,
            )[3][0]
            c.send(it.xdg, "ack_configure", serial)
            c.paint(it.surface, 60 + 8 * self.rng.randrange(20), 60, 0xFF3060A0)
            c.send(it.surface, "commit")
            it.mapped = True

    def map_later(self) -> None:
        it = self._pick(mapped=False)
        if it is not None and (it.on is None or it.on.mapped):
            self._map(it)

    def unmap(self) -> None:
        it = self._pick(mapped=True)
        if it is None:
            return
        # xdg-shell: menus go before what they are on, the topmost first.
        if self.rng.random() < 0.5:
            for child in list(it.children):
                self._end(child)
        self.c.send(it.surface, "attach", 0, 0, 0)
        self.c.send(it.surface, "commit")
        it.mapped = False

    def menu(self) -> None:
        """On anything mapped, or, which is legal, on what is mapped before its commit."""
        parent = self._pick(mapped=True if self.rng.random() < 0.8 else None)
        if parent is None or len(self._all()) > 12:
            return
        c, rng = self.c, self.rng
        rules = self._rules()
        surface = c.surface()
        xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
        role = c.make(xdg, "get_popup", "xdg_popup", None, parent.xdg, rules)
        c.send(rules, "destroy")
        made = Shown(surface, xdg, role, parent)
        parent.children.append(made)
        if rng.random() < 0.8 and parent.mapped:
            self._map(made)

    def _rules(self) -> int:
        c, rng = self.c, self.rng
        rules = c.make(c.shell, "create_positioner", "xdg_positioner")
        c.send(rules, "set_size", rng.randrange(1, 300), rng.randrange(1, 200))
        c.send(rules, "set_anchor_rect", rng.randrange(40), rng.randrange(40), 9, 9)
        c.send(rules, "set_anchor", rng.randrange(9))
        c.send(rules, "set_gravity", rng.randrange(9))
        c.send(rules, "set_constraint_adjustment", rng.randrange(64))
        return rules

    def reposition(self) -> None:
        menus = [s for s in self._all() if s.on is not None and s.mapped]
        if menus and self.c.globals["xdg_wm_base"][1] >= 3:
            rules = self._rules()
            self.c.send(self.rng.choice(menus).role, "reposition", rules, 7)
            self.c.send(rules, "destroy")

    def _end(self, it: Shown) -> None:
        for child in list(it.children):
            self._end(child)
        for sub, surface in it.parts:
            self.c.send(sub, "destroy")
            self.c.send(surface, "destroy")
        if it.decoration:
            self.c.send(it.decoration, "release" if it.kde else "destroy")
        self.c.send(it.role, "destroy")
        self.c.send(it.xdg, "destroy")
        self.c.send(it.surface, "destroy")
        (it.on.children if it.on is not None else self.windows).remove(it)

    def close(self) -> None:
        it = self._pick()
        if it is not None:
            self._end(it)

    def draw(self) -> None:
        it = self._pick(mapped=True)
        if it is not None:
            self.c.paint(it.surface, 40 + self.rng.randrange(200), 70, 0xFF206020)
            self.c.send(it.surface, "commit")

    def part(self) -> None:
        """A subsurface, mostly one that reaches outside."""
        it = self._pick(mapped=True)
        if it is None or len(it.parts) > 3:
            return
        c, rng = self.c, self.rng
        surface = c.surface()
        sub = c.child(surface, it.surface, rng.randrange(-90, 200), rng.randrange(99))
        it.parts.append((sub, surface))
        c.paint(surface, rng.randrange(1, 220), rng.randrange(1, 220), 0xFF902020)
        c.send(surface, "commit")
        c.send(it.surface, "commit")

    def move_part(self) -> None:
        it = self._pick(mapped=True)
        if it is not None and it.parts:
            sub, _ = self.rng.choice(it.parts)
            self.c.send(sub, "set_position", self.rng.randrange(-90, 300), 20)
            self.c.send(it.surface, "commit")

    def state(self) -> None:
        if not self.windows:
            return
        top = self.rng.choice(self.windows).role
        name = self.rng.choice(
            ["set_maximized", "unset_maximized", "unset_fullscreen", "set_minimized"]
        )
        self.c.send(top, name)

    def fullscreen(self) -> None:
        if self.windows:
            screen = self.rng.choice([0, *self.screens])
            self.c.send(self.rng.choice(self.windows).role, "set_fullscreen", screen)

    def parent(self) -> None:
        """An older window as parent, so that there is no loop, mapped or not."""
        if len(self.windows) > 1:
            at = self.rng.randrange(1, len(self.windows))
            over = self.rng.choice([None, *self.windows[:at]])
            named = over.role if over is not None else 0
            self.c.send(self.windows[at].role, "set_parent", named)

    def _decorate(self, it: Shown) -> None:
        """Make a window's decoration; of a mapped window that is an error."""
        it.kde = KDE_DECORATIONS in self.c.globals and self.rng.random() < 0.5
        if it.kde and not it.decoration:
            it.decoration = self.c.make(
                self.c.bind(KDE_DECORATIONS), "create",
                "org_kde_kwin_server_decoration", None, it.surface,
            )  # fmt: skip
            return
        manager = "zxdg_decoration_manager_v1"
        if manager in self.c.globals and not it.decoration and not it.mapped:
            it.decoration = self.c.make(
                self.c.bind(manager), "get_toplevel_decoration",
                "zxdg_toplevel_decoration_v1", None, it.role,
            )  # fmt: skip

    def decoration(self) -> None:
        """Make, change or end the decoration of a window in any state."""
        if not self.windows:
            return
        it = self.rng.choice(self.windows)
        if not it.decoration:
            self._decorate(it)
            return
        if it.kde and self.rng.random() < 0.75:
            self.c.send(it.decoration, "request_mode", self.rng.choice([0, 1, 2]))
            return
        if it.kde:
            self.c.send(it.decoration, "release")
            it.decoration = 0
            return
        name = self.rng.choice(["set_mode", "unset_mode", "set_mode", "destroy"])
        if name == "set_mode":
            self.c.send(it.decoration, name, self.rng.choice([1, 2]))
            return
        self.c.send(it.decoration, name)
        if name == "destroy":
            it.decoration = 0

    def unmap_and_act(self) -> None:
        """Unmap a window, and do the next thing to it in the same moment."""
        tops = [s for s in self.windows if s.mapped]
        if not tops:
            return
        it = self.rng.choice(tops)
        for child in list(it.children):
            self._end(child)
        self.c.send(it.surface, "attach", 0, 0, 0)
        self.c.send(it.surface, "commit")
        it.mapped = False
        self.rng.choice([self.decoration, self.state, self.parent, self.fullscreen])()
        if self.rng.random() < 0.5:
            self._map(it)

    # -- two connections ---------------------------------------------------------------

    def foreign_window(self) -> None:
        """Show or unmap a window of the second connection."""
        other = self.partner
        if other is None:
            return
        if len(self.theirs) < 3 and self.rng.random() < 0.5:
            surface, xdg, top = other.show(90, 60, 0xFF306030)
            self.theirs.append(Shown(surface, xdg, top, mapped=True))
        elif self.theirs:
            it = self.rng.choice(self.theirs)
            if it.mapped:
                other.send(it.surface, "attach", 0, 0, 0)
                other.send(it.surface, "commit")
                it.mapped = False
            else:
                self.theirs.remove(it)
                for oid in (it.role, it.xdg, it.surface):
                    other.send(oid, "destroy")

    def foreign_parent(self) -> None:
        """Name a window of one connection as the parent of one of the other."""
        other = self.partner
        if other is None or not self.windows or not self.theirs:
            return
        if {"zxdg_exporter_v2", "zxdg_importer_v2"} - self.c.globals.keys():
            return
        sides = [(self.c, self.windows), (other, self.theirs)]
        self.rng.shuffle(sides)
        (above, parents), (below, children) = sides
        parent, child = self.rng.choice(parents), self.rng.choice(children)
        exported = above.make(
            above.bind("zxdg_exporter_v2"), "export_toplevel", "zxdg_exported_v2", None, parent.surface
        )  # fmt: skip
        handle = above.wait(lambda e: e[0] == exported and e[2] == "handle")[3][0]
        imported = below.make(
            below.bind("zxdg_importer_v2"), "import_toplevel", "zxdg_imported_v2", None, handle
        )  # fmt: skip
        below.send(imported, "set_parent_of", child.surface)
        self.exports.append((above, exported))
        self.imports.append((below, imported))

    def end_foreign(self) -> None:
        """End an export or an import."""
        relations = self.rng.choice([self.exports, self.imports])
        if relations:
            client, oid = relations.pop(self.rng.randrange(len(relations)))
            client.send(oid, "destroy")

    # -- drags -------------------------------------------------------------------------

    def drag(self) -> None:
        """Begin a drag with the last press, with a source or without."""
        presses = [e for e in self.c.events if e[2] == "button" and e[3][3] == 1]
        at = self._pick(mapped=True)
        manager = "wl_data_device_manager"
        if not presses or at is None or not self.seats or manager not in self.c.globals:
            return
        data = self.c.bind(manager)
        seat = self.rng.choice(self.seats)
        device = self.c.make(data, "get_data_device", "wl_data_device", None, seat)
        source = 0
        if self.rng.random() < 0.4:
            source = self.c.make(data, "create_data_source", "wl_data_source", None)
            self.c.send(source, "offer", b"text/plain")
        serial = presses[-1][3][0]
        self.c.send(device, "start_drag", source, at.surface, 0, serial)

    # -- devices and screens -----------------------------------------------------------

    def bind(self) -> None:
        kind = self.rng.choice(["wl_seat", "wl_output"])
        if kind in self.c.globals:
            made = self.c.bind(kind, min(5, self.c.globals[kind][1]))
            (self.seats if kind == "wl_seat" else self.screens).append(made)

    def device(self) -> None:
        """Ask a seat for what it may not have: the filter does not pass that on."""
        if self.seats and self.partner is not None:
            name = self.rng.choice(["pointer", "keyboard", "touch"])
            made = self.c.make(self.rng.choice(self.seats), f"get_{name}", f"wl_{name}")
            if name == "pointer":
                self.pointers.append(made)

    def pointer(self) -> None:
        """A pointer of a seat that has, or had, one: else it is the client's error."""
        able = [s for s in self.seats if self._had_pointer(s)]
        if able:
            seat = self.rng.choice(able)
            self.pointers.append(self.c.make(seat, "get_pointer", "wl_pointer"))

    def _had_pointer(self, seat: int) -> bool:
        return any(
            e[0] == seat and e[2] == "capabilities" and e[3][0] & 1
            for e in self.c.events
        )

    def of_pointer(self) -> None:
        if not self.pointers:
            return
        c, rng = self.c, self.rng
        pointer = rng.choice(self.pointers)
        way = rng.choice(
            [
                ("zwp_relative_pointer_manager_v1", "get_relative_pointer", "zwp_relative_pointer_v1"),
                ("zwp_pointer_gestures_v1", "get_swipe_gesture", "zwp_pointer_gesture_swipe_v1"),
                ("zwp_pointer_gestures_v1", "get_pinch_gesture", "zwp_pointer_gesture_pinch_v1"),
                ("wp_cursor_shape_manager_v1", "get_pointer", "wp_cursor_shape_device_v1"),
                (CONSTRAINTS, "lock_pointer", "zwp_locked_pointer_v1"),
                (CONSTRAINTS, "confine_pointer", "zwp_confined_pointer_v1"),
            ]
        )  # fmt: skip
        if way[0] not in c.globals:
            return
        manager = c.bind(way[0])
        if way[0] != CONSTRAINTS:
            made = c.make(manager, way[1], way[2], None, pointer)
        else:
            surface = c.surface()  # one constraint each
            made = c.make(manager, way[1], way[2], None, surface, pointer, 0, 2)
            c.send(surface, "commit")
        self.ends.append((made, "destroy"))

    def of_seat(self) -> None:
        c, rng = self.c, self.rng
        way = rng.choice(
            [
                ("wl_data_device_manager", "get_data_device", "wl_data_device", "release"),
                ("zwp_text_input_manager_v3", "get_text_input", "zwp_text_input_v3", "destroy"),
                ("zwp_tablet_manager_v2", "get_tablet_seat", "zwp_tablet_seat_v2", "destroy"),
            ]
        )  # fmt: skip
        if self.seats and way[0] in c.globals and c.globals[way[0]][1] != 1 | 2:
            seat = rng.choice(self.seats)
            made = c.make(c.bind(way[0]), way[1], way[2], None, seat)
            self.ends.append((made, way[3]))

    def of_screen(self) -> None:
        manager = "zxdg_output_manager_v1"
        if self.screens and manager in self.c.globals:
            screen = self.rng.choice(self.screens)
            bound = self.c.bind(manager)
            xdg_output = self.c.make(
                bound, "get_xdg_output", "zxdg_output_v1", None, screen
            )
            self.ends.append((xdg_output, "destroy"))

    def end(self) -> None:
        if self.ends:
            at = self.rng.randrange(len(self.ends))
            self.c.send(*self.ends.pop(at))

    def release(self) -> None:
        if self.pointers:
            at = self.rng.randrange(len(self.pointers))
            self.c.send(self.pointers.pop(at), "release")

    def wait(self) -> None:
        self.c.roundtrip()

    def step(self) -> str:
        """Do the next order; return its name."""
        name = self.rng.choices(list(_ORDERS), list(_ORDERS.values()))[0]
        getattr(self, name)()
        return name


_ORDERS = {
    "window": 3, "map_later": 3, "unmap": 3, "menu": 10, "reposition": 2, "close": 3,
    "draw": 4, "part": 4, "move_part": 3, "state": 2, "fullscreen": 1, "parent": 1,
    "bind": 2, "pointer": 2, "of_pointer": 4, "of_seat": 2, "of_screen": 2, "end": 3,
    "release": 1, "wait": 3, "decoration": 4, "unmap_and_act": 4, "foreign_window": 2,
    "foreign_parent": 2, "end_foreign": 1, "drag": 2, "device": 1,
}  # fmt: skip


class User:
    """The person: devices come and go, windows hide; what a compositor offers of it."""

    def __init__(
        self,
        comp: HeadlessCompositor,
        kind: str,
        rng: random.Random,
        bus: str | None,
    ) -> None:
        self.comp, self.kind, self.rng, self.bus = comp, kind, rng, bus
        self.devices: list[ExitStack] = []
        self.mice: list[tuple[ExitStack, Pointer | GnomePointer]] = []
        self.pressed: ExitStack | None = None
        self.screens = 1

    def act(self) -> str:
        """Do something; return what."""
        ways: list[Callable[[], str]] = []
        if self.kind == "sway":
            ways = [self._command, self._command, self._plug, self._unplug, self._press]
        elif self.kind == "mutter":
            ways = [self._plug, self._unplug, self._press]
        return self.rng.choice(ways)() if ways else "nothing"

    def _plug(self) -> str:
        if len(self.devices) > 2:
            return self._unplug()
        stack = ExitStack()
        point = self.rng.randrange(100, 900), self.rng.randrange(100, 600)
        if self.bus is not None:
            mouse = GnomePointer(stack.enter_context(GnomeKeyboard(self.bus)))
            mouse.move(*point)
            self.mice.append((stack, mouse))
        elif self.rng.random() < 0.7:
            pointer = stack.enter_context(Pointer(self.comp.display, SIZE))
            pointer.move(*point)
            self.mice.append((stack, pointer))
        else:
            stack.enter_context(Keyboard(self.comp.display))
        self.devices.append(stack)
        return "plug"

    def _unplug(self) -> str:
        if self.devices:
            device = self.devices.pop(self.rng.randrange(len(self.devices)))
            self.mice = [(s, mouse) for s, mouse in self.mice if s is not device]
            device.close()
        return "unplug"

    def _press(self) -> str:
        """Press at a likely place of a window, or release the last press."""
        if not self.mice:
            return "nothing"
        stack, mouse = self.rng.choice(self.mice)
        if self.pressed is stack:
            self.pressed = None
            mouse.button(False)
            return "release a button"
        self.pressed = stack
        mouse.move(self.rng.randrange(400, 880), self.rng.randrange(250, 550))
        mouse.button(True)
        return "press"

    def _command(self) -> str:
        text = self.rng.choice(_COMMANDS)
        if text == "create_output":
            if self.screens > 3:
                return "nothing"
            self.screens += 1
        # A window that is not there, a screen that is not: sway refuses, and goes on.
        with suppress(UpstreamError):
            trio.from_thread.run(self.comp.command, text)
        return text

    def close(self) -> None:
        while self.devices:
            self.devices.pop().close()


_COMMANDS = [
    "move scratchpad", "move scratchpad", "scratchpad show", "scratchpad show",
    "[title=.*] move scratchpad", "[title=.*] scratchpad show", "workspace 1", "workspace 2",
    "[title=.*] move to workspace 2", "fullscreen toggle", "floating toggle",
    "layout tabbed", "layout splith", "focus next", "create_output",
    "output HEADLESS-2 disable", "output HEADLESS-2 enable", "output HEADLESS-1 disable",
    "output HEADLESS-1 enable", "output HEADLESS-3 unplug", "sticky toggle",
    "resize set 500 300", "[title=.*] focus", "kill",
]  # fmt: skip


@asynccontextmanager
async def through_the_filter(comp: HeadlessCompositor):
    """The socket of a filter alone before a compositor."""
    path = comp.display.with_name("played")
    with path.with_suffix(".log").open("wb") as log:
        child = spawn(
            [sys.executable, "-m", "tests.kit.wayland.lone_filter", str(comp.display), str(path)],
            env={**comp.environment, **_TRACE, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=log.fileno(),
            stderr=DEVNULL,
        )  # fmt: skip
    try:
        await eventually(lambda: takes_connections(path))
        yield path
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()


def refusals_of(path: Path) -> dict[str, int]:
    """Count the reasons that the filter of a socket has given for ended connections."""
    lines = path.with_suffix(".log").read_text(errors="replace").splitlines()
    return dict(Counter(re.sub(r"\d+", "N", line) for line in lines))


@dataclass
class Played:
    """How a game ended: ``crashed`` says that the compositor did, after ``orders``.

    ``silent``: how often a program received no answer for 20 seconds.
    """

    seed: int
    orders: int = 0
    programs: int = 0
    refused: int = 0
    silent: int = 0
    crashed: bool = False
    last: list[str] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)
    refusals: dict[str, int] = field(default_factory=dict)
    """Why the filter ended connections, without the numbers, and how often."""


def _play(
    comp: HeadlessCompositor,
    path: Path,
    game: Played,
    seconds: float,
    user: User,
    *,
    filtered: bool,
) -> None:
    """Play programs one after the other until the time is over, or the compositor is."""
    rng = random.Random(game.seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not game.crashed:
        game.programs += 1
        try:
            with ExitStack() as connections:
                client = connections.enter_context(Window(path, deadline=20)).start()
                partner = None
                if filtered:
                    partner = connections.enter_context(Window(path, deadline=20))
                    partner.start()
                program = Program(client, rng, partner)
                for _ in range(ROUND):
                    acts = rng.random() < 0.15
                    said = user.act() if acts else program.step()
                    if acts:
                        # What a person does is known to the filter when the program
                        # does its next thing: sway 1.7 ends by a menu that it reads
                        # within a millisecond of the move to the scratchpad.
                        time.sleep(_SEEN)
                    game.orders += 1
                    game.last = [*game.last[-11:], said]
        except ServerError as error:
            game.refused += 1
            game.errors.add(f"{error} ({game.last[-1:]})")
        except TimeoutError:
            game.silent += 1
        except (GoneError, OSError):
            game.crashed = comp.child.popen.poll() is not None
        game.crashed |= comp.child.popen.poll() is not None


async def play(kind: str, seed: int, seconds: float, *, direct: bool = False) -> Played:
    """Play one game on a fresh compositor."""
    game = Played(seed)
    async with compositor(kind) as comp, trio.open_nursery():
        bus = await _bus(comp, kind)
        user = User(comp, kind, random.Random(seed + 1), bus)
        try:
            if direct:
                run = partial(_play, comp, comp.display, filtered=False)
                await trio.to_thread.run_sync(run, game, seconds, user)
            else:
                async with through_the_filter(comp) as path:
                    run = partial(_play, comp, path, filtered=True)
                    await trio.to_thread.run_sync(run, game, seconds, user)
                    game.refusals = refusals_of(path)
        finally:
            with suppress(OSError, GoneError, ServerError):
                await trio.to_thread.run_sync(user.close)
    return game


async def _bus(comp: HeadlessCompositor, kind: str) -> str | None:
    """The address of mutter's session bus, once its devices may be asked for."""
    if kind != "mutter":
        return None
    bus = (comp.display.parent / "address").read_text().strip()
    (await GnomeKeyboard.of(bus)).__exit__()
    return bus


async def verdict(kind: str, seed: int, seconds: float) -> str | None:
    """Play a game through the filter; None, or what it found about a crash."""
    game = await play(kind, seed, seconds)
    print(f"{kind}: {game}", flush=True)
    if not game.crashed:
        return None
    without = await play(kind, seed, seconds, direct=True)
    same = "the same seed ends it without the filter, too" if without.crashed else "not without the filter"  # fmt: skip
    return f"{kind} ended with the seed {seed} after {game.orders} orders ({same}): {game.last}"


def main() -> int:
    """Play one compositor; the exit code is 1 if a game through the filter ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--direct", action="store_true")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    if given.direct:
        print(trio.run(lambda: play(given.kind, seed, given.seconds, direct=True)))
        return 0
    found = trio.run(verdict, given.kind, seed, given.seconds)
    print(found or "no crash")
    return int(found is not None)


if __name__ == "__main__":
    raise SystemExit(main())
