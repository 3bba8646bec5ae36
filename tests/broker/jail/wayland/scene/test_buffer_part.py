"""Cropping by a part of the buffer, where the compositor ignores a viewport's source."""

from __future__ import annotations

import pytest

from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

UNSET = [-256, -256, -256, -256]


def without_gpu(**more):
    offers = [offer for offer in GLOBALS if offer[0] != "zwp_linux_dmabuf_v1"]
    offers.append(("zwlr_export_dmabuf_manager_v1", 1))
    return Talk(model=Model(offers), **more).start()


def window(talk, w=100, h=80, geometry=(10, 20, 60, 40)):
    """A window with a shadow around its geometry."""
    surface, xdg, _ = talk.show(w, h, 0)
    talk.send(xdg, "set_window_geometry", *geometry)
    buffer = talk.paint(surface, w, h, 0)
    talk.send(surface, "commit")
    return surface, xdg, buffer


def attached(talk, surface):
    """What the compositor shows of it: the last wl_buffer."""
    return talk.server_side(surface).now["buffer"]


def made(talk):
    return [args[1:] for args in talk.told("wl_shm_pool", "create_buffer")]


def sources(talk):
    return talk.told("wp_viewport", "set_source")


def test_a_shadow_is_cut_off_by_a_part_of_the_buffer():
    talk = without_gpu()
    surface, _, buffer = window(talk)
    # From the pixel at 10, 20 on: 100 pixels of 4 bytes a row.
    assert [20 * 400 + 40, 60, 40, 400, 0] in made(talk)
    shown = attached(talk, surface)
    assert shown.state["size"] == (60, 40)
    assert talk.server_side(surface).size() == (60, 40)
    assert sources(talk)[-1] == UNSET
    # It comes back to the client under the name that the client knows.
    talk.model.tell(shown, "release")
    talk.pump()
    assert talk.heard("release", buffer) == [[]]


def test_where_there_is_a_gpu_a_viewport_crops():
    talk = Talk().start()
    surface, _, _ = window(talk)
    assert attached(talk, surface).state["size"] == (100, 80)
    assert sources(talk)[-1] == [10 * 256, 20 * 256, 60 * 256, 40 * 256]


def test_kwin_without_a_gpu_crops_by_viewports():
    """It has wlroots' layer shell, and draws a part of a buffer askew."""
    offers = [offer for offer in GLOBALS if offer[0] != "zwp_linux_dmabuf_v1"]
    assert ("zwlr_layer_shell_v1", 4) in offers
    talk = Talk(model=Model(offers)).start()
    surface, _, _ = window(talk)
    assert attached(talk, surface).state["size"] == (100, 80)
    assert sources(talk)[-1] == [10 * 256, 20 * 256, 60 * 256, 40 * 256]


def test_the_next_pictures_of_that_size_are_cropped_alike():
    talk = without_gpu()
    surface, _, first = window(talk)
    second = talk.paint(surface, 100, 80, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (60, 40)
    before = len(made(talk))
    for buffer in (first, second, first):
        talk.send(surface, "attach", buffer, 0, 0)
        talk.send(surface, "commit")
    assert len(made(talk)) == before  # each has its part already
    assert talk.server_side(surface).size() == (60, 40)


def test_damage_is_of_the_part():
    talk = without_gpu()
    surface, _, buffer = window(talk)
    talk.model.requests.clear()
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "damage", 15, 25, 5, 6)
    talk.send(surface, "damage_buffer", 12, 22, 3, 4)
    talk.send(surface, "commit")
    rects = talk.told("wl_surface", "damage_buffer")
    assert sorted(rects) == [[2, 2, 3, 4], [5, 5, 5, 6]]


def test_another_size_gets_another_part():
    talk = without_gpu()
    surface, xdg, _ = window(talk)
    talk.send(xdg, "set_window_geometry", 10, 20, 160, 140)
    talk.paint(surface, 200, 180, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (160, 140)
    # Smaller again, before its geometry is: cut to what there is.
    talk.paint(surface, 100, 80, 0)
    talk.send(surface, "commit")
    assert talk.server_side(surface).size() == (90, 60)
    talk.send(xdg, "set_window_geometry", 10, 20, 60, 40)
    talk.paint(surface, 100, 80, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (60, 40)


def test_a_new_geometry_of_the_same_picture():
    talk = without_gpu()
    surface, xdg, _ = window(talk)
    talk.send(xdg, "set_window_geometry", 5, 5, 50, 40)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (50, 40)
    assert [5 * 400 + 20, 50, 40, 400, 0] in made(talk)


def test_a_picture_at_scale_2():
    talk = without_gpu()
    surface, xdg, _ = talk.show(100, 80, 0)
    talk.send(surface, "set_buffer_scale", 2)
    talk.send(xdg, "set_window_geometry", 5, 5, 40, 30)
    talk.paint(surface, 100, 80, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (80, 60)
    assert [10 * 400 + 40, 80, 60, 400, 0] in made(talk)
    assert talk.server_side(surface).size() == (40, 30)


def test_a_part_never_ends_behind_the_pool():
    """wl_shm counts whole rows: the last ones cannot begin inside of a row."""
    talk = without_gpu()
    surface, _, _ = window(talk, geometry=(10, 20, 90, 60))
    assert attached(talk, surface).state["size"] == (100, 80)
    assert sources(talk)[-1] == [10 * 256, 20 * 256, 90 * 256, 60 * 256]


def test_a_part_never_ends_behind_what_the_compositor_has_of_a_pool():
    """It learns that a pool grew with a buffer that reaches further, and not before."""
    talk = without_gpu()
    surface, xdg, _ = talk.show(100, 80, 0)
    fd = talk.machine.fd("grows")
    pool = talk.make(talk.shm, "create_pool", "wl_shm_pool", None, 32000, fds=[fd])
    create = (pool, "create_buffer", "wl_buffer", None)
    buffer = talk.make(*create, 0, 100, 80, 400, 0)
    talk.send(pool, "resize", 64000)
    talk.send(xdg, "set_window_geometry", 10, 20, 90, 60)
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "commit")
    assert talk.core.fault is None
    assert attached(talk, surface).state["size"] == (100, 80)
    assert sources(talk)[-1] == [10 * 256, 20 * 256, 90 * 256, 60 * 256]
    # Mapped again for another buffer, it has room for the part's last row.
    talk.make(*create, 32000, 100, 80, 400, 0)
    talk.send(xdg, "set_window_geometry", 10, 20, 89, 60)
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (89, 60)


def test_a_destroyed_buffer_takes_its_part_along():
    talk = without_gpu()
    surface, xdg, buffer = window(talk)
    part = attached(talk, surface)
    talk.send(buffer, "destroy")
    assert part.oid not in talk.model.things
    # Its picture stays; a new geometry is not read from a buffer that is gone.
    talk.send(xdg, "set_window_geometry", 5, 5, 50, 40)
    talk.send(surface, "commit")
    assert talk.server_side(surface).now["dest"] == (50, 40)
    talk.paint(surface, 100, 80, 0)
    talk.send(surface, "commit")
    assert attached(talk, surface).state["size"] == (50, 40)


def test_a_release_of_a_part_does_not_name_another_object():
    """The client's id may be another object's once its buffer is gone."""
    talk = without_gpu()
    surface, _, buffer = window(talk)
    part = attached(talk, surface)
    # Destroyed while an attach of it waits for its commit: the part lives until then.
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(buffer, "destroy")
    talk.model.tell(part, "release")
    talk.pump()
    assert talk.heard("release", buffer) == []


def test_parts_are_counted_and_given_back():
    talk = without_gpu()
    surface, _, buffer = window(talk)
    assert talk.sandbox.totals["buffers"] == 3  # two pictures, one part
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    talk.send(buffer, "destroy")
    assert talk.sandbox.totals["buffers"] == 1
    talk.close()
    assert not any(talk.sandbox.totals.values())


@pytest.mark.parametrize("turn", [1, 2, 4])
def test_a_turned_picture_is_cropped_by_its_viewport(turn):
    talk = without_gpu()
    surface, xdg, _ = talk.show(100, 100, 0)
    talk.send(surface, "set_buffer_transform", turn)
    talk.send(xdg, "set_window_geometry", 10, 20, 60, 40)
    talk.paint(surface, 100, 100, 0)
    talk.send(surface, "commit")
    assert sources(talk)[-1] == [10 * 256, 20 * 256, 60 * 256, 40 * 256]
