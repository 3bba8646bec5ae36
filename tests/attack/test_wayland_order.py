"""Orders, roles and ids that no library would send, against a real sway.

sway 1.7 (wlroots 0.15) dies of some of them when they come directly; through
the filter each ends its connection at most.  After each the compositor
runs, and an honest client of the same sandbox is shown.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from contextlib import suppress

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import signatures, wire
from broker.jail.wayland.protocol.tables import INTERFACES
from fuzz import wayland as target
from tests.attack.test_wayland_limits import honest
from tests.attack.test_wayland_pixels import PAINT, contents, popup
from tests.kit.eventually import eventually
from tests.kit.wayland.client import GoneError, ServerError, Window, memfd
from tests.kit.wayland.compositor import desktop, windows
from tests.kit.wayland.input import LEFT, Pointer
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.pixels import frames, mask, outside
from tests.kit.wayland.stand import CONFIG, FRAME, GUEST, SIZE, stand
from tests.kit.wayland.talk import Talk


def ends_of_wlroots(c: Window) -> None:
    """The surface goes before its extensions, then the window is told something."""
    surface, xdg, top = c.show(200, 200, PAINT)
    c.send(xdg, "destroy")
    c.send(surface, "destroy")
    c.send(top, "unset_fullscreen")


def surface_first(c: Window) -> None:
    surface, xdg, top = c.show(200, 200, PAINT)
    c.send(surface, "destroy")
    for name in (
        "unset_fullscreen",
        "set_maximized",
        "unset_maximized",
        "set_minimized",
    ):
        c.send(top, name)
    c.send(top, "set_fullscreen", 0)
    c.send(xdg, "set_window_geometry", 0, 0, 10, 10)
    c.send(top, "destroy")
    c.send(xdg, "destroy")


def a_second_role(c: Window) -> None:
    surface, xdg, _ = c.show(200, 200, PAINT)
    c.make(xdg, "get_toplevel", "xdg_toplevel")
    del surface


def a_subsurface_that_is_a_window(c: Window) -> None:
    surface, _, _ = c.show(200, 200, PAINT)
    parent = c.surface()
    c.child(surface, parent, 0, 0)


def a_window_that_is_a_cursor(c: Window) -> None:
    surface, _, _ = c.show(200, 200, PAINT)
    pointer = c.make(c.bind("wl_seat"), "get_pointer", "wl_pointer")
    c.send(pointer, "set_cursor", 1, surface, 0, 0)


def a_child_of_itself(c: Window) -> None:
    surface = c.surface()
    c.child(surface, surface, 0, 0)


def its_own_window_parent(c: Window) -> None:
    _, _, top = c.show(200, 200, PAINT)
    c.send(top, "set_parent", top)


def an_id_in_use(c: Window) -> None:
    surface, _, _ = c.show(200, 200, PAINT)
    c.send(c.compositor, "create_surface", surface)


def an_id_out_of_turn(c: Window) -> None:
    c.send(c.compositor, "create_surface", c.next_id + 1000)


def an_id_of_the_servers(c: Window) -> None:
    c.send(c.compositor, "create_surface", 0xFF000000)


def a_destroyed_object(c: Window) -> None:
    surface = c.surface()
    c.send(surface, "destroy")
    c.send(surface, "commit")


def a_hidden_global(c: Window) -> None:
    for name in range(1, 60):
        if name not in {n for n, _ in c.globals.values()}:
            c.bind_raw(name, "zwlr_layer_shell_v1", 1)


def a_version_too_high(c: Window) -> None:
    name, version = c.globals["xdg_wm_base"]
    c.bind_raw(name, "xdg_wm_base", version + 1)


def a_pool_without_its_descriptor(c: Window) -> None:
    c.make(c.shm, "create_pool", "wl_shm_pool", None, 4096)


def the_shell_gone_before_its_windows(c: Window) -> None:
    c.show(200, 200, PAINT)
    c.send(c.shell, "destroy")


def a_popup_without_a_positioners_size(c: Window) -> None:
    _, xdg, _ = c.show(200, 200, PAINT)
    positioner = c.make(c.shell, "create_positioner", "xdg_positioner")
    menu = c.surface()
    made = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, menu)
    c.make(made, "get_popup", "xdg_popup", None, xdg, positioner)


def a_parent_gone_before_its_popup(c: Window) -> None:
    surface, xdg, top = c.show(200, 200, 0xFF0000FF)
    _, menu = popup(c, xdg)
    c.send(top, "destroy")
    c.send(xdg, "destroy")
    c.send(surface, "destroy")
    c.roundtrip()
    del menu


def a_buffer_before_configure(c: Window) -> None:
    surface = c.surface()
    c.toplevel(surface)
    c.paint(surface, 10, 10, PAINT)
    c.send(surface, "commit")


def acknowledged_out_of_nowhere(c: Window) -> None:
    _, xdg, _ = c.show(200, 200, PAINT)
    c.send(xdg, "ack_configure", 0x7FFFFFFF)


def null_attached_between_map_and_configure(c: Window) -> None:
    surface, _, top = c.show(200, 200, PAINT)
    for _ in range(5):
        c.send(surface, "attach", 0, 0, 0)
        c.send(surface, "commit")
        c.send(top, "set_fullscreen", 0)
        c.send(surface, "commit")
    c.roundtrip()


def negative_and_huge_numbers(c: Window) -> None:
    surface, xdg, top = c.show(200, 200, PAINT)
    for number in (2**31 - 1, -(2**31), 0, 65536):
        c.send(xdg, "set_window_geometry", number, number, abs(number) & 0x7FFFFFFF, 1)
        c.send(top, "set_min_size", 0, 0)
        c.send(surface, "damage", number, number, number, number)
        c.send(surface, "damage_buffer", number, number, number, number)
        c.send(surface, "commit")
    c.roundtrip()


HARMLESS = [
    surface_first,
    a_parent_gone_before_its_popup,
    null_attached_between_map_and_configure,
    negative_and_huge_numbers,
]
ERRORS = [
    ends_of_wlroots, a_second_role, a_subsurface_that_is_a_window, a_window_that_is_a_cursor,
    a_child_of_itself, its_own_window_parent, an_id_in_use, an_id_out_of_turn, an_id_of_the_servers,
    a_destroyed_object, a_hidden_global, a_version_too_high, a_pool_without_its_descriptor,
    the_shell_gone_before_its_windows,
    a_popup_without_a_positioners_size, a_buffer_before_configure, acknowledged_out_of_nowhere,
]  # fmt: skip


async def none_left(it) -> None:
    """Wait until sway has closed the last client's window, as its client has ended."""

    async def look() -> bool:
        return not windows(await it.comp.tree())

    await eventually(look)


def attempt(c: Window, crime) -> ServerError | None:
    try:
        crime(c)
        return c.until_error() if crime in ERRORS else None
    except ServerError as error:
        return error
    except (GoneError, OSError):
        # It was ended while it still spoke; why, lies in its socket.
        return c.until_error()


async def test_each_ends_its_own_connection_and_the_compositor_lives():
    async with stand() as it:
        for crime in [*ERRORS, *HARMLESS]:
            error = await it.client(lambda c, crime=crime: attempt(c, crime))
            assert it.comp.child.popen.poll() is None, crime.__name__
            assert (error is not None) == (crime in ERRORS), (crime.__name__, error)
        await none_left(it)
        await honest(it)


async def test_the_compositor_does_die_of_one_of_them_without_the_filter():
    """Otherwise the test above would show nothing."""
    async with desktop(config_extra=CONFIG) as comp:

        def act() -> None:
            with Window(comp.display).start() as client:
                attempt(client, ends_of_wlroots)

        await trio.to_thread.run_sync(act)
        with trio.fail_after(60):
            await comp.child.wait()
        assert comp.child.returncode


async def test_everything_destroyed_in_any_order(monkeypatch):
    monkeypatch.setattr(limits, "WAYLAND_MAPPINGS_PER_MINUTE", 1 << 20)
    rng = random.Random(7)
    async with stand() as it:
        for _ in range(40):

            def act(c: Window) -> None:
                surface, xdg, top = c.show(200, 200, PAINT)
                child, grandchild = c.surface(), c.surface()
                sub = c.child(child, surface, 5, 5)
                below = c.child(grandchild, child, 5, 5)
                view = c.make(c.viewporter, "get_viewport", "wp_viewport", None, child)
                buffer = c.paint(child, 50, 50, PAINT)
                _, menu = popup(c, xdg)
                things = [
                    surface,
                    xdg,
                    top,
                    child,
                    grandchild,
                    sub,
                    below,
                    view,
                    buffer,
                    menu,
                ]
                rng.shuffle(things)
                try:
                    for n, thing in enumerate(things):
                        c.send(thing, "destroy")
                        if n % 3 == 0:
                            c.roundtrip()
                    c.roundtrip()
                except (ServerError, GoneError, OSError):
                    return  # a protocol error is a fair answer

            await it.client(act)
            assert it.comp.child.popen.poll() is None
        await none_left(it)
        await honest(it)


async def test_a_drag_picture_is_small_and_framed():
    async with stand() as it:

        def act(c: Window) -> tuple[int, int]:
            with Pointer(it.comp.display, SIZE) as mouse:
                mouse.move(5, 5)
                seat = c.bind("wl_seat")
                pointer = c.make(seat, "get_pointer", "wl_pointer")
                manager = c.bind("wl_data_device_manager")
                device = c.make(
                    manager, "get_data_device", "wl_data_device", None, seat
                )
                surface, _, _ = c.show(300, 300, 0xFF0000FF)
                it.order("[title=.*] move position 400 200")
                mouse.move(500, 300)
                c.wait(lambda e: e[2] == "enter" and e[0] == pointer)
                mouse.button(True, LEFT)
                press = c.wait(lambda e: e[2] == "button" and e[0] == pointer)
                icon = c.surface()
                c.send(device, "start_drag", 0, surface, icon, press[3][0])
                c.paint(icon, 600, 500, PAINT)
                c.send(icon, "commit")
                child = c.surface()
                c.child(child, icon, -100, -100)
                c.paint(child, 700, 700, PAINT)
                c.send(child, "commit")
                c.send(icon, "commit")
                mouse.move(520, 320)
                c.roundtrip()
                image = it.settled()
                mouse.button(False, LEFT)
                spots = mask(image, GUEST)
                inner = [
                    (f.x + 4, f.y + 4, f.w - 8, f.h - 8) for f in frames(image, FRAME)
                ]
                return int(spots.sum()), outside(spots, inner + contents(it, image)[:0])

        shown, strange = await it.client(act)
        assert 0 < shown <= 128 * 128
        assert strange == 0


class Replayer(Window):
    """Says a recorded session's messages, some of them changed, with real files.

    Acknowledgements get serials of this run and globals their names of this run, so that
    windows are really shown.
    """

    def learn(self, message: bytes) -> signatures.MessageSignature | None:
        """Note the objects that a message makes; return which message it is."""
        oid, opcode, size = wire.HEADER.unpack_from(message)
        known = signatures.requests_of(self.kinds[oid]) if oid in self.kinds else ()
        if opcode >= len(known):
            return None
        try:
            args = wire.decode(known[opcode], message, 8, size)
        except (ValueError, IndexError):
            return None
        made = [a for a in known[opcode].args if a.kind == "n"]
        for argument, value in zip(known[opcode].args, args, strict=True):
            if argument.kind == "n":
                self._reuse(value)
                name = argument.interface
                if not name and made:
                    name = args[1].decode(errors="replace")
                if name in INTERFACES:
                    self.kinds[value] = name
        return known[opcode]

    def _reuse(self, oid: int) -> None:
        """An id is free again when the other side has said so."""
        if oid in self.kinds:
            self.sock.settimeout(self.deadline)
            while oid not in self.free:
                self.read()
            self.free.remove(oid)

    def renamed(self, bind: bytes) -> bytes:
        """Return the request with the name that the global has here."""
        [request] = (
            r for r in signatures.requests_of("wl_registry") if r.name == "bind"
        )
        interface = wire.decode(request, bind, 8, len(bind))[1].decode()
        self.sock.settimeout(self.deadline)
        while interface not in self.globals:
            self.read()
        return bind[:8] + struct.pack("=I", self.globals[interface][0]) + bind[12:]

    def say(self, messages: list[bytes], rng: random.Random, rate: float) -> None:
        """Everything, one after the other."""
        for original in messages:
            request = self.learn(original)
            message = original
            if request is not None and str(request) == "xdg_surface.ack_configure":
                oid = wire.HEADER.unpack_from(original)[0]
                match = self.wait(
                    lambda e, oid=oid: e[0] == oid and e[2] == "configure"
                )
                message = original[:8] + struct.pack("=I", match[3][0])
                self.events.clear()
            elif request is not None and str(request) == "wl_registry.bind":
                message = self.renamed(original)
            changed = (
                target.mutate(rng, message, messages)
                if rng.random() < rate
                else [message]
            )
            for part in changed:
                fds = [memfd(1 << 30)] if request is not None and request.fds else []
                try:
                    self.raw(part, fds)
                finally:
                    for fd in fds:
                        os.close(fd)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_mutated_sessions_of_real_applications_never_end_the_compositor(
    monkeypatch,
):
    # Windows come faster than a sandbox without input may open them.
    monkeypatch.setattr(limits, "WAYLAND_MAPPINGS_PER_MINUTE", 1 << 20)
    rng = random.Random(11)
    spoken = {"spoken", "bubbles", "parts"}  # to a compositor that numbers otherwise
    sessions = [s for s in target.seeds() if s.name not in spoken]
    async with stand() as it:
        shown = 0

        def one() -> None:
            nonlocal shown
            with Replayer(it.path, deadline=1.0) as c:
                seed = rng.choice(sessions)
                rate = rng.choice((0.0, 0.003, 0.02, 0.1))
                try:
                    # A step of the recording that does not come here ends it.
                    with suppress(TimeoutError):
                        c.say(seed.messages[:600], rng, rate)
                    shown += it.sandbox.totals["windows"]
                    c.sock.shutdown(socket.SHUT_WR)
                    # Answers are of no interest, only that they come to an end.
                    while c.sock.recv(1 << 16):
                        pass
                except (ServerError, GoneError, OSError, ValueError, LookupError):
                    return

        with await trio.to_thread.run_sync(Pointer, it.comp.display, SIZE) as mouse:
            await trio.to_thread.run_sync(mouse.move, 5, 5)
            for _ in range(150):
                await trio.to_thread.run_sync(one)
                assert it.comp.child.popen.poll() is None
        assert shown > 20, "windows that were really there"
        await none_left(it)
        await honest(it)


DECORATION = "zxdg_toplevel_decoration_v1"


def test_a_decoration_ends_before_its_window():
    """wlroots 0.15 writes into the window's freed memory when it ends later."""
    model = Model([*GLOBALS, ("zxdg_decoration_manager_v1", 1)])
    with Talk(model=model) as talk:
        _, top = talk.start().toplevel(talk.surface())
        manager = talk.bind("zxdg_decoration_manager_v1")
        made = talk.make(manager, "get_toplevel_decoration", DECORATION, None, top)
        talk.send(top, "destroy")
        ends = [k for k, n, _ in model.requests if n == "destroy"]
        assert ends.index(DECORATION) < ends.index("xdg_toplevel")
        talk.send(made, "set_mode", 1)
        talk.send(made, "unset_mode")
        talk.send(made, "destroy")
        names = [n for k, n, _ in model.requests if k == DECORATION]
        assert names == ["destroy"]


@pytest.mark.parametrize("shown", [True, False])
def test_a_parent_is_one_that_is_shown(shown):
    """wlroots 0.15 keeps a child in the list of a parent that was never shown, and freed."""
    with Talk() as talk:
        talk.start()
        surface = talk.surface()
        xdg, parent = talk.toplevel(surface)
        talk.send(surface, "commit")
        other = talk.surface()
        _, child = talk.toplevel(other)
        talk.send(child, "set_parent", parent)
        assert not talk.told("xdg_toplevel", "set_parent")
        if shown:
            talk.configured(xdg)
            talk.paint(surface, 60, 40, GUEST)
            talk.send(surface, "commit")
        talk.send(other, "commit")
        told = talk.told("xdg_toplevel", "set_parent")
        assert told == ([[talk.server_side(parent)]] if shown else [])


def test_a_menu_whose_window_has_ended_is_not_committed():
    """weston 10 fails an assertion over it, and ends with all windows."""
    with Talk() as talk:
        _, parent, top = talk.start().show(200, 150, GUEST)
        place = talk.make(talk.shell, "create_positioner", "xdg_positioner")
        talk.send(place, "set_size", 60, 60)
        talk.send(place, "set_anchor_rect", 0, 0, 10, 10)
        surface = talk.surface()
        xdg = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, surface)
        menu = talk.make(xdg, "get_popup", "xdg_popup", None, parent, place)
        frame = talk.server_side(xdg).state["surface"]
        talk.send(top, "destroy")
        assert talk.heard("popup_done", menu)
        talk.send(surface, "commit")
        talk.send(surface, "commit")
        assert not frame.now
