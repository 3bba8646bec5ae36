"""Icons: every window has ours, and an application's picture only inside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import icon
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.machine import FakeMachine
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

INVALID_BUFFER, IMMUTABLE, NO_BUFFER = 1, 2, 3
RED = bytes((0x10, 0x10, 0xD0, 0xFF))


class Painted(FakeMachine):
    """Remembers our pictures that went to the compositor."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[bytes] = []

    def paint(self):
        made = super().paint()
        write = made.write

        def noted(offset: int, data: bytes) -> None:
            write(offset, data)
            if len(data) == icon.SIDE * icon.SIDE * 4:
                self.drawn.append(data)

        made.write = noted
        return made


@pytest.fixture
def talk():
    made = Talk(WindowRules("work"), machine=Painted())
    made.start()
    yield made
    made.close()
    assert not made.machine.leaked()
    assert not any(made.sandbox.totals.values()), made.sandbox.totals


def set_icons(talk: Talk) -> list:
    return talk.told(icon.MANAGER, "set_icon")


def picture(talk: Talk, w: int, h: int | None = None, form: int = 0) -> int:
    """A buffer whose pixels are all black."""
    made = talk.buffer(w, h or w, form=form)
    talk.machine.pools[-1].bytes = b"\0\0\0\xff" * min(w * (h or w), 1 << 16)
    return made


def empty(talk: Talk) -> int:
    return talk.buffer(48, 48)


def an_icon(talk: Talk, *buffers: int, scale: int = 1) -> tuple[int, int]:
    manager = talk.bind(icon.MANAGER)
    made = talk.make(manager, "create_icon", icon.ICON)
    for buffer in buffers:
        talk.send(made, "add_buffer", buffer, scale)
    return manager, made


def test_each_window_has_an_icon_before_its_first_picture(talk):
    seen = []

    def looked(surface) -> None:
        if surface.xdg is not None and surface.now.get("buffer") is not None:
            seen.append(surface.xdg.state["role"].state.get("icon"))

    talk.model.on_root_commit = looked
    talk.show(30, 20, 0)
    talk.show(30, 20, 0)
    assert seen
    assert None not in seen
    assert len(talk.machine.drawn) == 1, "drawn once for all windows"
    assert talk.machine.drawn[0][:4] == RED


def test_window_that_comes_back_has_its_icon_again(talk):
    surface, _, _ = talk.show(30, 20, 0)
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    before = len(set_icons(talk))
    talk.send(surface, "commit")
    assert len(set_icons(talk)) == before + 1


def test_application_learns_one_size(talk):
    talk.bind(icon.MANAGER)
    assert talk.heard("icon_size") == [[icon.INNER]], "not the compositor's 22"
    assert talk.heard("done")


def test_applications_picture_is_in_a_tile(talk):
    _, _, top = talk.show(30, 20, 0)
    buffer = picture(talk, 64)
    talk.machine.pools[-1].bytes = bytes((7, 7, 7, 255)) * 64 * 64
    manager, made = an_icon(talk, buffer)
    talk.send(manager, "set_icon", top, made)
    drawn = talk.machine.drawn[-1]
    middle = (icon.SIDE // 2 * icon.SIDE + icon.SIDE // 2) * 4
    assert drawn[middle : middle + 4] == bytes((7, 7, 7, 255))
    assert drawn[:4] == drawn[-4:] == RED
    named = talk.told(icon.ICON, "add_buffer")
    assert all(args[0].state["size"] == (icon.SIDE, icon.SIDE) for args in named)


def test_picture_that_is_set_first_comes_with_the_window(talk):
    buffer = picture(talk, 48)
    manager, made = an_icon(talk, buffer)
    surface = talk.surface()
    xdg = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, surface)
    top = talk.make(xdg, "get_toplevel", "xdg_toplevel")
    talk.send(manager, "set_icon", top, made)
    assert not set_icons(talk)
    talk.send(surface, "commit")
    assert len(set_icons(talk)) == 1
    assert talk.machine.drawn[-1][:4] == RED


def test_icon_that_is_taken_away_is_ours_again(talk):
    _, _, top = talk.show(30, 20, 0)
    ours = talk.machine.drawn[0]
    manager, made = an_icon(talk, picture(talk, 48))
    talk.send(manager, "set_icon", top, made)
    theirs = set_icons(talk)[-1][1]
    talk.send(manager, "set_icon", top, 0)
    assert set_icons(talk)[-1][1] not in {None, theirs}
    assert talk.machine.drawn[0] == ours
    assert len(talk.machine.drawn) == 2


def test_icon_without_a_buffer_is_ours(talk):
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk)
    talk.send(manager, "set_icon", top, made)
    assert all(args[1] is not None for args in set_icons(talk))
    assert len(talk.machine.drawn) == 1


def test_icon_that_shows_nothing_is_ours(talk):
    """waypipe 0.8 sends the pixels of surfaces, and of no icon."""
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk, empty(talk))
    talk.send(manager, "set_icon", top, made)
    assert len(talk.machine.drawn) == 1
    assert all(args[1] is not None for args in set_icons(talk))


def test_name_of_the_desktops_icons_is_not_passed_on(talk):
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk)
    talk.send(made, "set_name", b"system-lock-screen")
    talk.send(manager, "set_icon", top, made)
    assert not talk.told(icon.ICON, "set_name")
    assert all(args[1] is not None for args in set_icons(talk))


@pytest.mark.parametrize("size", [(48, 47), (1, 2), (limits.WAYLAND_ICON_SIDE, 1)])
def test_icon_that_is_not_square_is_an_error(talk, size):
    with pytest.raises(ServerError) as caught:
        an_icon(talk, picture(talk, *size))
    assert caught.value.code == INVALID_BUFFER


@pytest.mark.parametrize("scale", [0, -1, -(1 << 31)])
def test_scale_below_one_is_an_error(talk, scale):
    with pytest.raises(ServerError) as caught:
        an_icon(talk, picture(talk, 48), scale=scale)
    assert caught.value.code == INVALID_BUFFER


def test_single_pixel_is_no_shared_memory(talk):
    manager = talk.bind("wp_single_pixel_buffer_manager_v1")
    pixel = talk.make(manager, "create_u32_rgba_buffer", "wl_buffer", None, 0, 0, 0, 0)
    with pytest.raises(ServerError) as caught:
        an_icon(talk, pixel)
    assert caught.value.code == INVALID_BUFFER


def test_large_pictures_and_rare_formats_are_not_read(talk):
    """Of 4 GiB, or of a format that takes a decoder, nothing is looked at."""
    _, _, top = talk.show(30, 20, 0)
    rgb565 = 0x36314752
    large = picture(talk, limits.WAYLAND_ICON_SIDE + 1)
    huge = picture(talk, 8192)
    rare = picture(talk, 48, form=rgb565)
    for pool in talk.machine.pools:
        pool.read = None  # a read would raise
    manager, made = an_icon(talk, large, huge, rare)
    talk.send(manager, "set_icon", top, made)
    assert len(talk.machine.drawn) == 1


def test_read_is_small_however_far_apart_the_rows_are(talk):
    _, _, top = talk.show(30, 20, 0)
    side, stride = limits.WAYLAND_ICON_SIDE, 1 << 17
    token = talk.machine.fd("pool")
    pool = talk.make(
        talk.shm, "create_pool", "wl_shm_pool", None, stride * side, fds=[token]
    )
    buffer = talk.make(
        pool, "create_buffer", "wl_buffer", None, 0, side, side, stride, 0
    )
    read = 0
    file = talk.machine.pools[-1]
    real = file.read

    def counted(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return real(offset, length)

    file.read = counted
    manager, made = an_icon(talk, buffer)
    talk.send(manager, "set_icon", top, made)
    assert 0 < read <= 2 * icon.INNER * side * 4


def test_size_that_suits_best_is_taken(talk):
    _, _, top = talk.show(30, 20, 0)
    buffers = {}
    for side, shade in ((16, 1), (256, 2), (64, 3), (32, 4), (128, 5)):
        buffers[side] = picture(talk, side)
        talk.machine.pools[-1].bytes = bytes((shade, 0, 0, 255)) * side * side
    manager, made = an_icon(talk, *buffers.values())
    talk.send(manager, "set_icon", top, made)
    middle = (icon.SIDE // 2 * icon.SIDE + icon.SIDE // 2) * 4
    assert talk.machine.drawn[-1][middle] == 3


def test_buffer_that_is_gone_is_an_error(talk):
    _, _, top = talk.show(30, 20, 0)
    token, size = talk.machine.fd("pool"), 48 * 48 * 4
    pool = talk.make(talk.shm, "create_pool", "wl_shm_pool", None, size, fds=[token])
    buffer = talk.make(pool, "create_buffer", "wl_buffer", None, 0, 48, 48, 48 * 4, 0)
    manager, made = an_icon(talk, buffer)
    talk.send(buffer, "destroy")
    with pytest.raises(ServerError) as caught:
        talk.send(manager, "set_icon", top, made)
    assert caught.value.code == NO_BUFFER


def test_file_that_shrank_ends_the_connection(talk):
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))

    def shrunk(offset: int, length: int) -> bytes:
        raise ValueError("the file was truncated")

    talk.machine.pools[-1].read = shrunk
    with pytest.raises(ServerError):
        talk.send(manager, "set_icon", top, made)


@pytest.mark.parametrize("request_name", ["set_name", "add_buffer"])
def test_icon_in_use_is_not_changed(talk, request_name):
    _, _, top = talk.show(30, 20, 0)
    buffer = picture(talk, 48)
    manager, made = an_icon(talk, buffer)
    talk.send(manager, "set_icon", top, made)
    arguments = (b"x",) if request_name == "set_name" else (buffer, 1)
    with pytest.raises(ServerError) as caught:
        talk.send(made, request_name, *arguments)
    assert caught.value.code == IMMUTABLE


def test_icons_have_a_pace(talk):
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))
    for _ in range(limits.WAYLAND_ICONS_PER_MINUTE + 10):
        talk.send(manager, "set_icon", top, made)
    assert len(talk.machine.drawn) == 1 + limits.WAYLAND_ICONS_PER_MINUTE
    assert talk.sandbox.refused["icons"] == 10
    talk.now += 61
    talk.send(manager, "set_icon", top, made)
    assert len(talk.machine.drawn) == 2 + limits.WAYLAND_ICONS_PER_MINUTE


def test_an_icon_of_ours_is_not_set_again(talk):
    _, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))
    before = len(talk.told(icon.MANAGER, "set_icon"))
    for _ in range(50):
        talk.send(manager, "set_icon", top, 0)
    assert len(talk.told(icon.MANAGER, "set_icon")) == before
    talk.send(manager, "set_icon", top, made)
    talk.send(manager, "set_icon", top, 0)
    assert len(talk.told(icon.MANAGER, "set_icon")) == before + 2


def test_icon_drawn_again_with_each_mapping_costs_as_a_pool_does(talk):
    surface, _, top = talk.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))
    talk.send(manager, "set_icon", top, made)
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    before = talk.core.messages
    talk.send(surface, "commit")
    assert talk.core.messages - before >= limits.WAYLAND_POOL_MESSAGES


def test_colour_of_all_icons_follows_the_record(talk):
    _, _, top = talk.show(30, 20, 0)
    talk.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))
    talk.send(manager, "set_icon", top, made)
    before = len(set_icons(talk))
    talk.core.change_look(replace(talk.core.rules, color=0x0000FF))
    talk.pump()
    assert len(set_icons(talk)) == before + 2
    assert {drawn[:4] for drawn in talk.machine.drawn[2:]} == {b"\xff\0\0\xff"}


def test_other_applications_window_gets_no_icon(talk):
    """Objects of another connection have no names here."""
    other = Talk(WindowRules("work"), sandbox=talk.sandbox)
    other.start()
    _, _, theirs = other.show(30, 20, 0)
    manager, made = an_icon(talk, picture(talk, 48))
    with pytest.raises((ServerError, ProtocolFault)):
        talk.send(manager, "set_icon", theirs + 40, made)
    other.close()


def test_compositor_without_icons_gets_none():
    offers = [row for row in GLOBALS if row[0] != icon.MANAGER]
    talk = Talk(model=Model(offers))
    talk.start()
    talk.show(30, 20, 0)
    assert icon.MANAGER not in talk.globals
    assert not set_icons(talk)
    talk.close()


def test_record_that_denies_icons_still_has_ours():
    talk = Talk(WindowRules("work", deny=frozenset({icon.MANAGER})))
    talk.start()
    talk.show(30, 20, 0)
    assert set_icons(talk)
    assert icon.MANAGER not in talk.globals
    talk.close()
