"""A connection of the random hostile client, generated from the tables of messages.

Half of its requests are sequences that lead somewhere (windows, menus with
grabs, pointer images, drags, selections), half are single requests of the
whole protocol with arguments of the right kind: live, ended and foreign ids,
serials that it received long ago or that another connection received, memory
files and pipes.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from typing import Any

from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.signatures import (
    MessageArgument,
    MessageSignature,
    requests_of,
)
from docs.tables import wayland as policies
from docs.tables.wayland.terms import Serial
from tests.kit.observers.honest import await_devices, touch_of
from tests.kit.wayland.client import Window, memfd

CONTENT = 0x00FF00
"""The colour of its windows and menus."""
CURSOR = 0xFF00FF
"""The colour of its pointer images."""
_QUESTIONS = 4000
"""Registries whose globals, some 1 KiB each, are more than socket and queue hold."""
_GUESSES = 16
"""Serials that are tried at once, from the newest one that it received."""
_NUMBERS = (-1, 0, 1, 2, 3, 7, 16, 64, 100, 300, 5000, 0x7FFFFFFF)
_GLOBALS = (
    "wl_seat", "wl_data_device_manager", "zwp_primary_selection_device_manager_v1",
    "wp_cursor_shape_manager_v1", "xdg_activation_v1", "zwp_text_input_manager_v3",
    "wp_presentation", "wp_fractional_scale_manager_v1", "zxdg_decoration_manager_v1",
    "zwp_relative_pointer_manager_v1", "zwp_pointer_gestures_v1",
    "xdg_toplevel_icon_manager_v1", "wp_content_type_manager_v1", "wp_fifo_manager_v1",
    "zwp_tablet_manager_v2",
)  # fmt: skip
_GIVES_A_ROLE = frozenset(
    {"get_subsurface", "get_xdg_surface", "set_cursor", "start_drag"}
)
_OFTEN_FATAL = frozenset({"get_touch", "get_tablet_tool_v2", "get_popup", "pong"})
"""Single requests that are an error in most states: sequences make them."""
_WITH_SERIAL = frozenset(
    key for key, row in policies.REQUESTS.items() if row.serial is not Serial.NONE
)


class Connection(Window):
    """One connection of the hostile sandbox."""

    def begin(self, dice: random.Random) -> Connection:
        """Bind all there is, and show a window."""
        self.versions: dict[int, int] = {}
        self.start()
        self.dice, self.deaf = dice, False
        self.ended: list[tuple[int, str]] = []
        self.windows: list[tuple[int, int, int]] = []
        self.mapped = 0
        self.images: set[int] = set()
        for name in _GLOBALS:
            if name in self.globals:
                self.bind(name)
        self.seat = self.one("wl_seat")
        await_devices(self, self.seat)
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        touch_of(self, self.seat)
        manager = self.one("wl_data_device_manager")
        self.device = self.make(
            manager, "get_data_device", "wl_data_device", None, self.seat
        )
        self.new_window()
        return self

    def bind_raw(self, name: int, interface: str, version: int) -> int:
        made = super().bind_raw(name, interface, version)
        self.versions[made] = version
        return made

    def make(self, oid: int, name: str, interface: str, *args: Any, **more: Any) -> int:
        made = super().make(oid, name, interface, *args, **more)
        self.versions[made] = self.versions.get(oid, 1)
        return made

    # -- its knowledge -----------------------------------------------------------

    def live(self, interface: str) -> list[int]:
        """Ids of its objects of an interface."""
        gone = {oid for oid, _ in self.ended}
        # A pointer image's buffer on a window would be taken for a pointer image.
        gone |= self.images
        return [
            o for o, kind in self.kinds.items() if kind == interface and o not in gone
        ]

    def one(self, interface: str) -> int:
        """Any of them."""
        return self.dice.choice(self.live(interface))

    def serials(self) -> list[int]:
        """All serials that it ever received, the oldest first."""
        rows = policies.EVENTS
        given = {Serial.GIVES, Serial.GIVES_INPUT}
        return [
            e[3][0] for e in self.events
            if (e[1], e[2]) in rows and rows[e[1], e[2]].serial in given and e[3]
        ]  # fmt: skip

    def keys(self, since: int = 0) -> list[int]:
        """Codes of all keys that it heard."""
        return [e[3][2] for e in self.events[since:] if e[2] == "key"]

    def times_heard(self, code: int, since: int = 0) -> int:
        """How often a key was pressed or released for it.

        Each of a client's keyboards hears the same key: it is counted once.
        """
        of_keys = (e for e in self.events[since:] if e[2] == "key")
        by = Counter(oid for oid, _, _, args in of_keys if args[2] == code)
        return max(by.values(), default=0)

    def listen(self) -> None:
        """Hear all that was said so far."""
        if not self.deaf:
            self.roundtrip()

    def go_deaf(self) -> None:
        """Read nothing any more; answers fill all queues meanwhile."""
        self.deaf = True
        first, self.next_id = self.next_id, self.next_id + _QUESTIONS
        ask = emit.get_registry
        self.raw(b"".join(ask(1, n) for n in range(first, self.next_id)))

    # -- sequences that lead somewhere ---------------------------------------------

    def new_window(self) -> None:
        """Map a window."""
        surface, xdg, top = self.show(200, 150, 0xFF000000 | CONTENT)
        self.windows.append((surface, xdg, top))
        self.mapped += 1

    def menu(self, serials: list[int]) -> None:
        """Map a menu that takes a grab with some serial."""
        _, parent, _ = self.dice.choice(self.windows)
        place = self.make(self.shell, "create_positioner", "xdg_positioner")
        self.send(place, "set_size", 60, 60)
        self.send(place, "set_anchor_rect", 0, 0, 10, 10)
        surface = self.surface()
        xdg = self.make(self.shell, "get_xdg_surface", "xdg_surface", None, surface)
        popup = self.make(xdg, "get_popup", "xdg_popup", None, parent, place)
        self.send(popup, "grab", self.seat, self.dice.choice(serials or [1]))
        self.send(surface, "commit")
        with contextlib.suppress(TimeoutError):
            self.wait(lambda e: e[0] == xdg and e[2] == "configure", 1.0)
            self.configured(xdg)
            self.paint(surface, 60, 60, 0xFF000000 | CONTENT)
            self.send(surface, "commit")

    def image(self, serials: list[int]) -> None:
        """Set a pointer image with a hot spot at its edge, some times over."""
        surface = self.surface()
        entered = [
            e[3][0] for e in self.events if e[0] == self.pointer and e[2] == "enter"
        ]
        if entered and self.dice.random() < 0.8:
            serials = entered[-1:]
        again = self.dice.random() < 0.5
        for turn in range(self.dice.choice((1, 3, 9))):
            spot = self.dice.choice(((0, 0), (63, 63), (-63, -63), (500, 500)))
            serial = self.dice.choice(serials or [1])
            if again or not turn:
                self.send(self.pointer, "set_cursor", serial, surface, *spot)
            step = self.dice.choice(((0, 0), (9, 9), (-40, 40)))
            buffer = self.paint(surface, 64, 64, 0xFF000000 | CURSOR)
            self.images.add(buffer)
            if self.versions[self.compositor] >= 5:
                self.send(surface, "offset", *step)
            else:
                self.send(surface, "attach", buffer, *step)
            self.send(surface, "commit")

    def regions(self) -> None:
        """Regions of many rectangles, committed again and again."""
        surface, _, _ = self.dice.choice(self.windows)
        region = self.make(self.compositor, "create_region", "wl_region")
        for n in range(60):
            self.send(region, "add", 3 * n, 2 * (n % 30), 2, 1)
        for _ in range(40):
            self.send(surface, "set_input_region", region)
            self.send(surface, "commit")

    def select(self, serials: list[int]) -> None:
        """Take the selection, or start a drag, with some serial."""
        manager = self.one("wl_data_device_manager")
        source = self.make(manager, "create_data_source", "wl_data_source")
        self.send(source, "offer", b"text/plain")
        newest = self.serials()[-1:]
        serial = self.dice.choice(newest * 3 + (serials or [1]))
        if newest and self.dice.random() < 0.5:
            serial = newest[0]
        if self.dice.random() < 0.5:
            self.send(self.device, "set_selection", source, serial)
        else:
            surface, _, _ = self.dice.choice(self.windows)
            self.send(self.device, "start_drag", source, surface, 0, serial)

    def guess_drags(self) -> None:
        """Start drags with the serials that the compositor gives next.

        To whom it gives them does not matter to each compositor.
        """
        manager = self.one("wl_data_device_manager")
        surface, _, _ = self.dice.choice(self.windows)
        newest = self.serials()[-1:] or [1]
        for guess in range(newest[0], newest[0] + _GUESSES):
            serial = guess & 0xFFFFFFFF  # the newest may be near the greatest
            source = self.make(manager, "create_data_source", "wl_data_source")
            self.send(source, "offer", b"text/plain")
            self.send(self.device, "start_drag", source, surface, 0, serial)

    def take_selection(self, foreign: list[int]) -> None:
        """Take the selection with its newest serials and the other connection's."""
        manager = self.one("wl_data_device_manager")
        for serial in self.serials()[-20:] + foreign[-20:]:
            source = self.make(manager, "create_data_source", "wl_data_source")
            self.send(source, "offer", b"text/plain")
            self.send(self.device, "set_selection", source, serial)

    def take_window(self, foreign: list[int]) -> None:
        """Have one of its windows follow the pointer.

        With its newest serials, whatever they were given for, and the other
        connection's: some compositors look for that of the last button alone.
        """
        _, _, top = self.dice.choice(self.windows)
        for serial in self.serials()[-20:] + foreign[-20:]:
            self.send(top, "move", self.seat, serial)
            self.send(top, "resize", self.seat, serial, self.dice.choice((1, 2, 10)))
            self.send(top, "show_window_menu", self.seat, serial, 1, 1)

    def scribble(self) -> None:
        """Write into each file that it was given, as root of its sandbox may."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o600)  # the compositor has taken all rights from it
            for mode in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                with contextlib.suppress(OSError):
                    again = os.open(f"/proc/self/fd/{fd}", mode)
                    with contextlib.suppress(OSError):
                        os.pwrite(again, b"x" * 64, 0)
                        os.ftruncate(again, 0)
                    os.close(again)

    def give_up_pointer(self) -> None:
        """Release the pointer, perhaps with an image set, and get another one."""
        self.send(self.pointer, "release")
        self.ended.append((self.pointer, "wl_pointer"))
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")

    # -- the whole protocol ----------------------------------------------------------

    def any_request(self, serials: list[int], foreign: list[int]) -> None:
        """One request of any object that it has."""
        gone = {oid for oid, _ in self.ended}
        oid = self.dice.choice([o for o in self.kinds if o not in gone])
        messages = requests_of(self.kinds[oid])
        bound = [
            m
            for m in messages
            if m.since <= self.versions.get(oid, 1)
            and m.name not in _OFTEN_FATAL
            and not m.name.startswith(("destroy", "release"))
        ]
        if not bound:
            return
        message = self.dice.choice(bound)
        fds = [self._file() for a in message.args if a.kind == "h"]
        try:
            args = [
                self._argument(message, a, serials, foreign)
                for a in message.args
                if a.kind != "h"
            ]
            if message.name in _GIVES_A_ROLE:
                args = self._for_a_role(message, args)
            self.send(oid, message.name, *args, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _for_a_role(self, message: MessageSignature, args: list[Any]) -> list[Any]:
        """The same with a surface that has no role yet, most often."""
        if self.dice.random() < 0.1:
            return args
        sent = [a for a in message.args if a.kind != "h"]
        for at, argument in enumerate(sent):
            if argument.interface == "wl_surface":
                args[at] = self.surface()
                break
        return args

    def _file(self) -> int:
        if self.dice.random() < 0.5:
            return memfd(self.dice.choice((1, 4096, 1 << 16)))
        ours, theirs = os.pipe()
        os.close(ours)
        return theirs

    def _argument(
        self,
        message: MessageSignature,
        argument: MessageArgument,
        serials: list[int],
        foreign: list[int],
    ) -> Any:
        dice = self.dice
        match argument.kind:
            case "o":
                return self._object(argument, foreign)
            case "n":
                made = self.new(argument.interface or "wl_callback")
                self.versions[made] = 1
                return made
            case "s":
                return dice.choice((b"", b"text/plain", b"x" * 200, b"\xff\xfe%s"))
            case "a":
                return b"\0" * 8
            case "u" if (message.interface, message.name) in _WITH_SERIAL and serials:
                return dice.choice((serials[0], dice.choice(serials), serials[-1]))
            case "u":
                return dice.choice((0, 1, 2, 3, 4, 8, 0xFFFFFFFF))
            case _:
                return dice.choice(_NUMBERS)

    def _object(self, argument: MessageArgument, foreign: list[int]) -> int:
        found = self.live(argument.interface)
        if self.dice.random() < 0.02:  # ends the connection, most often
            return self.dice.choice([oid for oid, _ in self.ended] + foreign + [0])
        if not found or (argument.nullable and self.dice.random() < 0.3):
            return 0
        return self.dice.choice(found)
