"""Which rows of a buffer are copied for the compositor."""

from __future__ import annotations

import pytest

from broker.core import limits
from broker.jail.wayland.protocol import emit
from tests.kit.wayland.talk import Talk

WIDE, HIGH = 200, 100
STRIDE = 4 * WIDE
SIZE = STRIDE * HIGH


def window(talk: Talk) -> int:
    return talk.show(WIDE, HIGH, 0)[0]


def pool(talk: Talk, buffers: int = 1, apart: int = SIZE) -> list[int]:
    """Buffers of one pool, each begins ``apart`` bytes after the one before."""
    size = SIZE + apart * (buffers - 1)
    fd = talk.machine.fd()
    made = talk.make(talk.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    return [
        talk.make(
            made, "create_buffer", "wl_buffer", None, n * apart, WIDE, HIGH, STRIDE, 0
        )
        for n in range(buffers)
    ]


def draw(talk: Talk, surface: int, buffer: int | None, *rows: int) -> list[tuple]:
    """Commit a picture, damaged from one row to another; what of it was copied."""
    for each in talk.machine.pools:
        each.refreshed.clear()
    if buffer is not None:
        talk.send(surface, "attach", buffer, 0, 0)
    if rows:
        talk.send(surface, "damage", 0, rows[0], 10, rows[1] - rows[0])
    talk.send(surface, "commit")
    copied = [part for each in talk.machine.pools for part in each.refreshed]
    return [
        (at // STRIDE % HIGH, (at // STRIDE % HIGH) + length // STRIDE)
        for at, length in copied
    ]


def test_a_picture_is_copied_when_it_is_committed(talk):
    surface = window(talk)
    assert talk.machine.pools[-1].refreshed == [(0, SIZE)]
    (buffer,) = pool(talk)
    assert draw(talk, surface, buffer, 10, 20) == [(0, HIGH)], "it is new"


def test_of_a_picture_that_was_copied_the_damage_is(talk):
    surface = window(talk)
    (buffer,) = pool(talk)
    draw(talk, surface, buffer, 0, HIGH)
    assert draw(talk, surface, buffer, 10, 20) == [(10, 20)]
    assert draw(talk, surface, buffer, -5, 500) == [(0, HIGH)]
    assert draw(talk, surface, buffer) == []
    assert draw(talk, surface, None, 30, 40) == [(30, 40)], "drawn where it is shown"


def test_a_second_buffer_lacks_what_the_first_one_showed(talk):
    surface = window(talk)
    one, two = pool(talk, 2)
    assert draw(talk, surface, one, 0, HIGH) == [(0, HIGH)]
    assert draw(talk, surface, two, 0, HIGH) == [(0, HIGH)]
    assert draw(talk, surface, one, 10, 20) == [(0, HIGH)]
    assert draw(talk, surface, two, 40, 50) == [(10, 50)]
    assert draw(talk, surface, one, 60, 70) == [(40, 70)]


def test_damage_counts_in_the_buffers_rows(talk):
    surface = window(talk)
    (buffer,) = pool(talk)
    talk.send(surface, "set_buffer_scale", 2)
    draw(talk, surface, buffer, 0, HIGH)
    assert draw(talk, surface, buffer, 10, 20) == [(20, 40)]
    talk.send(surface, "damage_buffer", 0, 3, 10, 4)
    assert draw(talk, surface, buffer) == [(3, 7)]


@pytest.mark.parametrize("change", ["transform", "viewport"])
def test_through_a_turn_or_a_viewport_all_is_damaged(talk, change):
    surface = window(talk)
    (buffer,) = pool(talk)
    if change == "transform":
        talk.send(surface, "set_buffer_transform", 2)
    else:
        port = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, surface)
        talk.send(port, "set_destination", 50, 50)
    draw(talk, surface, buffer, 0, HIGH)
    assert draw(talk, surface, buffer, 10, 20) == [(0, HIGH)]


def test_a_buffer_that_another_surface_showed_is_copied_again(talk):
    one, two = window(talk), window(talk)
    (buffer,) = pool(talk)
    draw(talk, one, buffer, 0, HIGH)
    assert draw(talk, two, buffer, 0, 1) == [(0, HIGH)]
    assert draw(talk, one, buffer, 0, 1) == [(0, HIGH)]


def test_buffers_that_overlap_are_copied_again(talk):
    surface = window(talk)
    one, two = pool(talk, 2, apart=10 * STRIDE)
    draw(talk, surface, one, 0, HIGH)
    draw(talk, surface, two, 0, 1)
    assert sum(b - a for a, b in draw(talk, surface, one, 0, 1)) == HIGH


def test_what_was_given_back_is_copied_again(talk):
    surface = window(talk)
    (buffer,) = pool(talk)
    draw(talk, surface, buffer, 0, HIGH)
    talk.machine.pools[-1].given_back += 1
    assert draw(talk, surface, buffer, 0, 1) == [(0, HIGH)]


def test_more_buffers_than_are_remembered_are_copied_as_a_whole(talk):
    surface = window(talk)
    buffers = pool(talk, 9)
    for buffer in buffers:
        draw(talk, surface, buffer, 0, 1)
    assert draw(talk, surface, buffers[0], 0, 1) == [(0, HIGH)]
    assert draw(talk, surface, buffers[-1], 0, 1) == [(0, 1)]


def test_a_large_picture_is_copied_in_parts(talk, monkeypatch):
    """Requests after its commit wait for it, and other clients do not."""
    monkeypatch.setattr(limits, "WAYLAND_COPIED_AT_ONCE", 40 * STRIDE)
    surface = window(talk)
    (buffer,) = pool(talk)
    file = talk.machine.pools[-1]
    attach = emit.attach(surface, buffer, 0, 0)
    talk.core.from_client(
        attach + emit.commit(surface) + emit.sync(1, talk.new("wl_callback")), [], 0.0
    )
    parts = []
    while talk.core.paused:
        parts.append(list(file.refreshed))
        talk.core.from_client(b"", [], 0.0)
    assert [len(each) for each in parts] == [1, 2]
    assert file.refreshed == [
        (0, 40 * STRIDE),
        (40 * STRIDE, 40 * STRIDE),
        (80 * STRIDE, 20 * STRIDE),
    ]
    assert talk.core.fault is None


def test_a_synchronised_surfaces_picture_is_copied_at_its_own_commit(talk):
    parent = window(talk)
    child = talk.surface()
    talk.child(child, parent, 0, 0)
    (buffer,) = pool(talk)
    assert draw(talk, child, buffer, 0, HIGH) == [(0, HIGH)]
    assert draw(talk, child, None, 10, 20) == [(10, 20)], "of what waits to be shown"
    assert draw(talk, parent, None) == []
