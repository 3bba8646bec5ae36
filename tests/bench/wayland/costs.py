"""What requests cost the compositor: its CPU time for each, through the filter.

    python -m tests.bench.wayland.costs [--only WORD] [--seconds N] [--json FILE]

A client repeats one kind of request through the filter, without a limit of rate.  For
each kind: microseconds of the compositor's CPU time for one, what the filter charges
for one (messages, pixels), and ``share``: the part of a core that the compositor needs
when a sandbox sends as many as its budget lets through.  The compositor is a headless
sway that draws with pixman; its CPU time is its process's own clock, so other load on
the machine changes it little.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol import emit
from tests.bench.wayland.peers import cpu_of
from tests.kit.result_file import result_file
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.stand import CONFIG, SIZE, Stand, filtered

_COLOR = 0xFF00FF00
_CLEAR = 0x0100FF00
_UNLIMITED = 1 << 50

Round = Callable[[], int]
"""Sends some requests; returns how many of the kind that is measured."""


@dataclass(frozen=True)
class Cost:
    """One row: microseconds and charges for each request of the kind."""

    kind: str
    compositor_us: float
    messages: float
    pixels: float
    share: float


def request(interface: str, name: str):
    """A packer of that request."""
    return emit.request(interface, name)


COMMIT = request("wl_surface", "commit")
ATTACH = request("wl_surface", "attach")
DAMAGE = request("wl_surface", "damage")


def repeated(c: Window, data: bytes, count: int) -> Round:
    """The same bytes each time."""

    def once() -> int:
        c.raw(data)
        return count

    return once


# -- commits -----------------------------------------------------------------------


def empty_commit(c: Window) -> Round:
    surface, _, _ = c.show(200, 150, _COLOR)
    return repeated(c, COMMIT(surface) * 500, 500)


def unmapped_commit(c: Window) -> Round:
    return repeated(c, COMMIT(c.surface()) * 500, 500)


def attach_commit(c: Window, side: int = 200) -> Round:
    surface, _, _ = c.show(side, side, _COLOR)
    one, two = c.buffer(side, side, _COLOR), c.buffer(side, side, _COLOR)
    data = b"".join(ATTACH(surface, b, 0, 0) + COMMIT(surface) for b in (one, two))
    return repeated(c, data * 100, 200)


def damaged_commit(c: Window, rects: int = 1, side: int = 200) -> Round:
    surface, _, _ = c.show(side, side, _COLOR)
    buffer = c.buffer(side, side, _COLOR)
    scattered = b"".join(
        DAMAGE(surface, 7 * n % side, 13 * n % side, 2, 2) for n in range(rects)
    )
    data = ATTACH(surface, buffer, 0, 0) + scattered + COMMIT(surface)
    return repeated(c, data * 20, 20)


def damage_only(c: Window, side: int = 600) -> Round:
    surface, _, _ = c.show(side, side, _COLOR)
    data = DAMAGE(surface, 0, 0, side, side) + COMMIT(surface)
    return repeated(c, data * 200, 200)


def input_regions(c: Window, rects: int = 60) -> Round:
    surface, _, _ = c.show(200, 150, _COLOR)
    region = c.make(c.compositor, "create_region", "wl_region")
    for n in range(rects):
        c.send(region, "add", 3 * n, 2 * (n % 30), 2, 1)
    use = request("wl_surface", "set_input_region")
    data = use(surface, region) + COMMIT(surface) + use(surface, 0) + COMMIT(surface)
    return repeated(c, data * 50, 50)


def scaled(c: Window) -> Round:
    surface, _, _ = c.show(200, 150, _COLOR)
    buffer = c.buffer(200, 200, _COLOR)
    scale = request("wl_surface", "set_buffer_scale")
    data = b"".join(
        scale(surface, n) + ATTACH(surface, buffer, 0, 0) + COMMIT(surface)
        for n in (1, 2)
    )
    return repeated(c, data * 50, 100)


def viewports(c: Window) -> Round:
    surface, _, _ = c.show(200, 150, _COLOR)
    port = c.make(c.viewporter, "get_viewport", "wp_viewport", None, surface)
    size = request("wp_viewport", "set_destination")
    data = b"".join(size(port, n, n) + COMMIT(surface) for n in (100, 120, 180, 90))
    return repeated(c, data * 40, 160)


def frames(c: Window) -> Round:
    surface, _, _ = c.show(200, 150, _COLOR)

    def once() -> int:
        for _ in range(200):
            c.make(surface, "frame", "wl_callback")
        c.send(surface, "commit")
        c.roundtrip()
        c.events.clear()
        return 200

    return once


def geometry(c: Window) -> Round:
    surface, xdg, _ = c.show(200, 150, _COLOR)
    place = request("xdg_surface", "set_window_geometry")
    data = b"".join(
        place(xdg, 0, 0, n, n) + COMMIT(surface) for n in (100, 120, 140, 80)
    )
    return repeated(c, data * 20, 80)


# -- subsurfaces --------------------------------------------------------------------


def _children(c: Window, count: int) -> tuple[int, list[int], list[int]]:
    parent, _, _ = c.show(200, 150, _COLOR)
    subs, surfaces = [], []
    for n in range(count):
        child = c.surface()
        subs.append(c.child(child, parent, n % 100, n // 2))
        c.paint(child, 4, 4, 0xFF00FFFF)
        c.send(child, "commit")
        surfaces.append(child)
    c.send(parent, "commit")
    c.roundtrip()
    return parent, subs, surfaces


def child_positions(c: Window, count: int = 200) -> Round:
    parent, subs, _ = _children(c, count)
    place = request("wl_subsurface", "set_position")
    data = b"".join(
        b"".join(place(s, (n + step) % 100, n // 2) for n, s in enumerate(subs))
        + COMMIT(parent)
        for step in (0, 1)
    )
    return repeated(c, data, 2 * count)


def child_order(c: Window, count: int = 200) -> Round:
    parent, subs, surfaces = _children(c, count)
    above = request("wl_subsurface", "place_above")
    data = b"".join(above(s, parent) for s in subs) + COMMIT(parent)
    del surfaces
    return repeated(c, data, count)


def child_commits(c: Window, count: int = 200) -> Round:
    _, subs, surfaces = _children(c, count)
    desync = request("wl_subsurface", "set_desync")
    c.raw(b"".join(desync(s) for s in subs))
    return repeated(c, COMMIT(surfaces[-1]) * 200, 200)


def child_of_one(c: Window) -> Round:
    return child_commits(c, 1)


def cached_commits(c: Window, count: int = 200) -> Round:
    _, _, surfaces = _children(c, count)
    return repeated(c, COMMIT(surfaces[-1]) * 500, 500)


def many_windows(c: Window, count: int = 55) -> Round:
    shown = [c.show(60, 40, _COLOR)[0] for _ in range(count)]
    return repeated(c, b"".join(COMMIT(s) for s in shown) * 10, 10 * count)


# -- objects --------------------------------------------------------------------------


def surfaces(c: Window) -> Round:
    def once() -> int:
        for _ in range(100):
            c.send(c.surface(), "destroy")
        c.roundtrip()
        c.events.clear()
        return 100

    return once


def syncs(c: Window) -> Round:
    def once() -> int:
        for _ in range(200):
            c.make(1, "sync", "wl_callback")
        c.roundtrip()
        c.events.clear()
        return 200

    return once


def buffers(c: Window) -> Round:
    def once() -> int:
        for _ in range(30):
            c.send(c.buffer(8, 8, _COLOR), "destroy")
        c.roundtrip()
        c.events.clear()
        return 30

    return once


def _bound(c: Window, interface: str, end: str, version: int | None = None) -> Round:
    def once() -> int:
        for _ in range(50):
            c.send(c.bind(interface, version), end)
        c.roundtrip()
        c.events.clear()
        return 50

    return once


def outputs(c: Window) -> Round:
    return _bound(c, "wl_output", "release")


def seats(c: Window) -> Round:
    return _bound(c, "wl_seat", "release")


def _of_seat(c: Window, name: str, interface: str) -> Round:
    seat = c.bind("wl_seat")

    def once() -> int:
        for _ in range(30):
            c.send(c.make(seat, name, interface), "release")
        c.roundtrip()
        c.events.clear()
        for fd in c.fds:
            os.close(fd)
        c.fds.clear()
        return 30

    return once


def keyboards(c: Window) -> Round:
    return _of_seat(c, "get_keyboard", "wl_keyboard")


def pointers(c: Window) -> Round:
    return _of_seat(c, "get_pointer", "wl_pointer")


def data_devices(c: Window) -> Round:
    seat, manager = c.bind("wl_seat"), c.bind("wl_data_device_manager")

    def once() -> int:
        for _ in range(30):
            c.send(
                c.make(manager, "get_data_device", "wl_data_device", None, seat),
                "release",
            )
        c.roundtrip()
        c.events.clear()
        return 30

    return once


def xdg_outputs(c: Window) -> Round:
    manager, output = c.bind("zxdg_output_manager_v1"), c.bind("wl_output")

    def once() -> int:
        for _ in range(50):
            c.send(
                c.make(manager, "get_xdg_output", "zxdg_output_v1", None, output),
                "destroy",
            )
        c.roundtrip()
        c.events.clear()
        return 50

    return once


def tokens(c: Window) -> Round:
    manager = c.bind("xdg_activation_v1")

    def once() -> int:
        for _ in range(50):
            token = c.make(manager, "get_activation_token", "xdg_activation_token_v1")
            c.send(token, "commit")
            c.send(token, "destroy")
        c.roundtrip()
        c.events.clear()
        return 50

    return once


# -- windows --------------------------------------------------------------------------


def toplevels(c: Window) -> Round:
    """Windows that are never mapped: introduced with a first commit."""

    def once() -> int:
        for _ in range(10):
            surface = c.surface()
            xdg, top = c.toplevel(surface)
            c.send(surface, "commit")
            c.send(top, "destroy")
            c.send(xdg, "destroy")
            c.send(surface, "destroy")
        c.roundtrip()
        c.events.clear()
        return 10

    return once


def popups(c: Window) -> Round:
    """Menus that come and go."""
    _, parent, _ = c.show(200, 150, _COLOR)
    place = c.make(c.shell, "create_positioner", "xdg_positioner")
    c.send(place, "set_size", 60, 60)
    c.send(place, "set_anchor_rect", 0, 0, 10, 10)
    buffer = c.buffer(60, 60, _COLOR)

    def once() -> int:
        for _ in range(5):
            surface = c.surface()
            xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
            popup = c.make(xdg, "get_popup", "xdg_popup", None, parent, place)
            c.send(surface, "commit")
            c.configured(xdg)
            c.send(surface, "attach", buffer, 0, 0)
            c.send(surface, "commit")
            c.roundtrip()
            c.send(popup, "destroy")
            c.send(xdg, "destroy")
            c.send(surface, "destroy")
        c.roundtrip()
        c.events.clear()
        return 5

    return once


def _of_window(c: Window, *requests: tuple) -> Round:
    surface, xdg, top = c.show(200, 150, _COLOR)
    data = b"".join(request("xdg_toplevel", r[0])(top, *r[1:]) for r in requests)
    data += COMMIT(surface)

    def once() -> int:
        c.raw(data * 50)
        c.roundtrip()
        newest = [e[3][0] for e in c.events if e[0] == xdg and e[2] == "configure"]
        if newest:
            c.send(xdg, "ack_configure", newest[-1])
            c.send(surface, "commit")
        c.events.clear()
        return 50 * len(requests)

    return once


def app_ids(c: Window) -> Round:
    return _of_window(c, ("set_app_id", b"a" * 90), ("set_app_id", b"b" * 90))


def titles(c: Window) -> Round:
    return _of_window(c, ("set_title", b"a" * 150), ("set_title", b"b" * 150))


def maximized(c: Window) -> Round:
    return _of_window(c, ("set_maximized",), ("unset_maximized",))


def fullscreen(c: Window) -> Round:
    return _of_window(c, ("set_fullscreen", 0), ("unset_fullscreen",))


def minimized(c: Window) -> Round:
    return _of_window(c, ("set_minimized",))


def size_hints(c: Window) -> Round:
    return _of_window(
        c, ("set_min_size", 10, 10), ("set_max_size", 300, 300),
        ("set_min_size", 20, 20), ("set_max_size", 400, 300),
    )  # fmt: skip


def parents(c: Window) -> Round:
    _, _, other = c.show(60, 40, _COLOR)
    return _of_window(c, ("set_parent", other), ("set_parent", 0))


# -- drawing ---------------------------------------------------------------------------


def overdraw(
    c: Window, layers: int = 100, width: int = 1200, height: int = 700
) -> Round:
    """Translucent subsurfaces over the whole window, all of which is damaged."""
    parent, _, _ = c.show(width, height, _COLOR)
    buffer = c.buffer(width, height, _CLEAR, form=0)
    top = 0
    for _ in range(layers):
        top = c.surface()
        sub = c.child(top, parent, 0, 0)
        c.send(sub, "set_desync")
        c.send(top, "attach", buffer, 0, 0)
        c.send(top, "damage", 0, 0, width, height)
        c.send(top, "commit")
    c.send(parent, "commit")
    c.roundtrip()

    def once() -> int:
        c.send(top, "damage", 0, 0, width, height)
        c.shown(top)
        c.events.clear()
        return 1

    return once


def no_overdraw(c: Window) -> Round:
    return overdraw(c, 1)


KINDS: dict[str, Callable[[Window], Round]] = {
    "sync": syncs,
    "commit, nothing changed": empty_commit,
    "commit, surface without a role": unmapped_commit,
    "commit, new buffer": attach_commit,
    "commit, new buffer of 1000 x 1000": partial(attach_commit, side=1000),
    "commit, one damaged rectangle": damaged_commit,
    "commit, 100 damaged rectangles": partial(damaged_commit, rects=100),
    "commit, all damaged, no buffer": damage_only,
    "commit, input region of 60 rectangles": input_regions,
    "commit, new scale": scaled,
    "commit, new viewport": viewports,
    "commit, new window geometry": geometry,
    "commit, one of 55 windows": many_windows,
    "frame callback": frames,
    "subsurface moved, of 200": child_positions,
    "subsurface reordered, of 200": child_order,
    "commit of a subsurface, of 200": child_commits,
    "commit of a subsurface, of 1": child_of_one,
    "commit of a synchronised subsurface": cached_commits,
    "surface made and destroyed": surfaces,
    "pool and buffer made and destroyed": buffers,
    "wl_output bound and released": outputs,
    "wl_seat bound and released": seats,
    "keyboard made and released": keyboards,
    "pointer made and released": pointers,
    "data device made and released": data_devices,
    "xdg_output made and destroyed": xdg_outputs,
    "activation token": tokens,
    "window made and destroyed": toplevels,
    "menu shown and destroyed": popups,
    "set_app_id": app_ids,
    "set_title": titles,
    "set_maximized": maximized,
    "set_fullscreen": fullscreen,
    "set_minimized": minimized,
    "size hints": size_hints,
    "set_parent": parents,
    "picture of 1 layer": no_overdraw,
    "picture of 15 layers": partial(overdraw, layers=15),
}


def _charged(it: Stand) -> tuple[int, int]:
    cores = list(it.sandbox.filters)
    return sum(c.messages for c in cores), sum(c.pixels for c in cores)


def _rounds(
    it: Stand, pid: int, seconds: float, make: Callable[[Window], Round], c: Window
) -> Iterator[float]:
    once = make(c)
    c.roundtrip()
    time.sleep(0.1)
    cpu, (messages, pixels) = cpu_of(pid), _charged(it)
    began, count = time.monotonic(), 0
    while not count or time.monotonic() - began < seconds:
        count += once()
    c.roundtrip()
    time.sleep(0.05)
    cpu = cpu_of(pid) - cpu
    after = _charged(it)
    yield from (cpu / count * 1e6, (after[0] - messages) / count)
    yield (after[1] - pixels) / count


async def measured(kind: str, seconds: float) -> Cost:
    """One row."""
    hands = ExitStack()
    async with (
        desktop(config_extra=CONFIG) as comp,
        filtered(comp, WindowRules("work", color=0xD01010)) as it,
    ):
        # A seat without a device has neither pointer nor keyboard.
        await trio.to_thread.run_sync(hands.enter_context, Pointer(comp.display, SIZE))
        await trio.to_thread.run_sync(hands.enter_context, Keyboard(comp.display))
        pid = comp.child.popen.pid
        make = KINDS[kind]

        def inside(c: Window) -> list[float]:
            return list(_rounds(it, pid, seconds, make, c))

        us, messages, pixels = await it.client(inside)
        await trio.to_thread.run_sync(hands.close)
        # How many a second the budget lets through.
        rates = [_RATES[0] / messages if messages else 1e9]
        rates.append(_RATES[1] / pixels if pixels else 1e9)
        share = min(rates) * us / 1e6
        if kind.startswith("picture"):
            # Drawn once for each frame of the screen, however many ask for it.
            share = min(*rates, _FRAMES) * us / 1e6
        return Cost(kind, us, messages, pixels, share)


_FRAMES = 60
_RATES = (
    limits.WAYLAND_MESSAGES_PER_SECOND_OF_ALL,
    limits.WAYLAND_COMMIT_PIXELS_PER_SECOND,
)


def unlimited() -> None:
    """Let a sandbox that is made from now on send as fast as it can."""
    for name in (
        "WAYLAND_MESSAGES_PER_SECOND", "WAYLAND_MESSAGES_BURST",
        "WAYLAND_MESSAGES_PER_SECOND_OF_ALL", "WAYLAND_MESSAGES_BURST_OF_ALL",
        "WAYLAND_COMMIT_PIXELS_PER_SECOND", "WAYLAND_COMMIT_PIXELS_BURST",
    ):  # fmt: skip
        setattr(limits, name, _UNLIMITED)


async def run(only: str, seconds: float) -> list[Cost]:
    """All rows whose name has that word."""
    unlimited()
    rows = []
    for kind in KINDS:
        if only not in kind:
            continue
        try:
            row = await measured(kind, seconds)
        except Exception as error:  # one kind must not end the table
            print(f"{kind:40} {type(error).__name__}: {error}", flush=True)
            continue
        rows.append(row)
        print(
            f"{kind:40} {row.compositor_us:9.2f} us {row.messages:8.2f} messages"
            f" {row.pixels:12.0f} pixels {row.share:8.1%}",
            flush=True,
        )
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = trio.run(run, options.only, options.seconds)
    if options.json:
        result_file(options.json).write_text(json.dumps([asdict(r) for r in rows]))


if __name__ == "__main__":
    main()
