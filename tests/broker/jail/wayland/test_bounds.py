"""What a client may pile up, at the limit and one beyond it.

What a sandbox holds in all is counted in ``test_sandbox.py``; here it is what
one commit, one region, one window may carry.
"""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk


def callbacks(t: Talk, count: int) -> None:
    surface, _, _ = t.show(10, 10, 0)
    for _ in range(count):
        t.make(surface, "frame", "wl_callback")


def feedbacks(t: Talk, count: int) -> None:
    surface, _, _ = t.show(10, 10, 0)
    clock = t.bind("wp_presentation")
    for _ in range(count):
        t.make(clock, "feedback", "wp_presentation_feedback", surface, None)


def moves_of_children(t: Talk, count: int) -> None:
    surface, _, _ = t.show(10, 10, 0)
    sub = t.child(t.surface(), surface, 0, 0)
    for n in range(count - 1):  # 'child' has moved it once
        t.send(sub, "set_position", n, 0)


def acknowledgements(t: Talk, count: int) -> None:
    _, xdg, _ = t.show(10, 10, 0)
    for n in range(count):
        serial = 5000 + n
        t.model.tell(t.server_side(xdg), "configure", serial)
        t.pump()
        t.send(xdg, "ack_configure", serial)


def children(t: Talk, count: int) -> None:
    surface, _, _ = t.show(10, 10, 0)
    for _ in range(count - 1):  # the window's own surface is one of them
        t.child(t.surface(), surface, 0, 0)


def generations(t: Talk, count: int) -> None:
    parent, _, _ = t.show(10, 10, 0)
    for _ in range(count - 1):
        child = t.surface()
        t.child(child, parent, 0, 0)
        parent = child


MANY = [
    (callbacks, limits.WAYLAND_CALLBACKS),
    (feedbacks, limits.WAYLAND_CALLBACKS),
    (moves_of_children, limits.WAYLAND_CHILD_OPS),
    (acknowledgements, limits.WAYLAND_SHELL_OPS),
    (children, limits.WAYLAND_SUBSURFACES),
    (generations, limits.WAYLAND_SUBSURFACE_DEPTH),
]


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    ("pile", "most"), MANY, ids=lambda value: getattr(value, "__name__", None)
)
def test_so_many_and_no_more(talk, pile, most, extra):
    if extra:
        with pytest.raises(ServerError):
            pile(talk, most + 1)
        assert talk.sandbox.refused["connection"] == 1
    else:
        pile(talk, most)
        assert talk.core.fault is None


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("kind", ["damage", "damage_buffer"])
def test_too_much_damage_becomes_everything(talk, kind, extra):
    surface, _, _ = talk.show(10, 10, 0)
    before = len(talk.told("wl_surface", kind))
    for n in range(limits.WAYLAND_DAMAGE + extra):
        talk.send(surface, kind, n, 0, 1, 1)
    talk.send(surface, "commit")
    told = len(talk.told("wl_surface", kind)) - before
    assert told <= 2 if extra else told >= limits.WAYLAND_DAMAGE


@pytest.mark.parametrize("extra", [0, 1])
def test_a_pool_is_no_larger_than_a_pool_may_be(talk, extra):
    talk.machine.largest = 1 << 40
    size = limits.WAYLAND_POOL_BYTES + extra

    def act() -> None:
        fd = talk.machine.fd()
        talk.make(talk.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])

    if extra:
        with pytest.raises(ServerError):
            act()
    else:
        act()
    assert len(talk.machine.pools) == 1 - extra


@pytest.mark.parametrize("extra", [0, 1])
def test_a_pool_grows_no_further_than_a_pool_may_be(talk, extra):
    talk.machine.largest = 1 << 40
    pool = talk.make(
        talk.shm, "create_pool", "wl_shm_pool", None, 4096, fds=[talk.machine.fd()]
    )
    if extra:
        with pytest.raises(ServerError):
            talk.send(pool, "resize", limits.WAYLAND_POOL_BYTES + 1)
    else:
        talk.send(pool, "resize", limits.WAYLAND_POOL_BYTES)
    assert [p.size for p in talk.machine.pools] == [
        4096 if extra else limits.WAYLAND_POOL_BYTES
    ]


def test_what_the_sandbox_holds_of_shared_memory_is_bounded_over_all_pools(talk):
    """A pool at the limit of one is no way around the limit of all."""
    talk.machine.largest = 1 << 40
    size = limits.WAYLAND_POOL_BYTES

    def act() -> None:
        for _ in range(limits.WAYLAND_SHM_BYTES // size + 1):
            fd = talk.machine.fd()
            talk.make(talk.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])

    with pytest.raises(ServerError, match="shm_bytes"):
        act()
    assert talk.sandbox.totals["shm_bytes"] <= limits.WAYLAND_SHM_BYTES


def grown(t: Talk, size: int) -> int:
    """A pool of one page that has grown to ``size``, before any buffer."""
    fds = [t.machine.fd()]
    pool = t.make(t.shm, "create_pool", "wl_shm_pool", None, 4096, fds=fds)
    t.send(pool, "resize", size)
    return pool


def part(t: Talk, pool: int, end: int) -> int:
    """A buffer of one pixel that ends there."""
    return t.make(pool, "create_buffer", "wl_buffer", None, end - 4, 1, 1, 4, 0)


def test_no_resize_of_a_pool_reaches_the_compositor(talk):
    """It may move the mapping, under a renderer that remembers where it was."""
    before = len(talk.told("wl_shm", "create_pool"))
    pool = grown(talk, 8192)
    part(talk, pool, 4096)
    assert len(talk.told("wl_shm", "create_pool")) == before + 1
    for _ in range(2):
        part(talk, pool, 8192)
    assert [args[-1] for args in talk.told("wl_shm", "create_pool")[before:]] == [
        4096,
        8192,
    ]
    assert talk.told("wl_shm_pool", "resize") == []
    assert len(talk.told("wl_shm_pool", "destroy")) == 1


def test_a_pool_that_grew_goes_once_for_its_client(talk):
    pool = grown(talk, 8192)
    buffers = [part(talk, pool, 4096), part(talk, pool, 8192)]
    assert talk.sandbox.totals["pools"] == 2
    assert talk.sandbox.totals["shm_bytes"] == 4096 + 8192
    talk.send(pool, "destroy")
    assert talk.heard("delete_id").count([pool]) == 1
    assert talk.sandbox.totals["pools"] == 2
    talk.send(buffers[0], "destroy")
    assert talk.sandbox.totals["pools"] == 1
    assert talk.sandbox.totals["shm_bytes"] == 8192
    talk.send(buffers[1], "destroy")
    assert talk.sandbox.totals["pools"] == talk.sandbox.totals["shm_bytes"] == 0
    assert [p.closed for p in talk.machine.pools] == [True]


@pytest.mark.parametrize("how", ["another", "none", "destroy"])
def test_a_pool_is_counted_while_it_is_shown_although_it_was_destroyed(talk, how):
    """Attack: a compositor that draws by software keeps the memory of each surface."""
    before = dict(talk.sandbox.totals)
    surface = talk.surface()
    pool = grown(talk, 4096)
    buffer = part(talk, pool, 4096)
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "commit")
    talk.send(buffer, "destroy")
    talk.send(pool, "destroy")
    assert talk.sandbox.totals["shm_bytes"] == before["shm_bytes"] + 4096
    assert not talk.machine.pools[-1].closed
    if how == "destroy":
        talk.send(surface, "destroy")
    else:
        other = talk.buffer(1, 1) if how == "another" else 0
        talk.send(surface, "attach", other, 0, 0)
        talk.send(surface, "commit")
    more = 4 if how == "another" else 0
    assert talk.sandbox.totals["shm_bytes"] == before["shm_bytes"] + more
    assert sum(not pool.closed for pool in talk.machine.pools) == bool(more)


def test_a_mapping_that_no_buffer_needs_is_not_counted(talk):
    pool = grown(talk, 4096)
    for pages in range(1, 50):
        talk.send(pool, "resize", pages * 4096)
        talk.send(part(talk, pool, pages * 4096), "destroy")
    assert talk.sandbox.totals["pools"] == 1
    assert talk.sandbox.totals["shm_bytes"] == 49 * 4096


@pytest.mark.parametrize("extra", [0, 1])
def test_mappings_that_buffers_keep_are_counted_as_pools(talk, extra):
    pool = grown(talk, 4096)

    def act() -> None:
        for pages in range(1, limits.WAYLAND_POOLS + 1 + extra):
            talk.send(pool, "resize", pages * 4096)
            part(talk, pool, pages * 4096)

    if extra:
        with pytest.raises(ServerError, match="pools"):
            act()
    else:
        act()
    assert talk.sandbox.totals["pools"] == limits.WAYLAND_POOLS


def test_mappings_that_buffers_keep_are_counted_with_their_bytes(talk):
    most = limits.WAYLAND_POOL_BYTES
    fits = limits.WAYLAND_SHM_BYTES // most
    pool = grown(talk, most - (fits + 1) * 4096)

    def act() -> None:
        for pages in range(fits, -1, -1):
            part(talk, pool, talk.machine.pools[0].size)
            talk.send(pool, "resize", most - pages * 4096)

    with pytest.raises(ServerError, match="shm_bytes"):
        act()
    assert (fits - 1) * (most - (1 << 20)) < talk.sandbox.totals["shm_bytes"]
    assert talk.sandbox.totals["shm_bytes"] <= limits.WAYLAND_SHM_BYTES


def test_a_flood_of_pools_that_grow_waits_for_its_descriptors(talk):
    """Each maps again with our descriptor, and costs its client none."""
    pool = grown(talk, 4096)
    made, most = (
        b"",
        limits.WAYLAND_COMMIT_PIXELS_AT_ONCE // limits.WAYLAND_MAPPING_PIXELS,
    )
    for n in range(1, 2 * most):
        buffer = talk.new("wl_buffer")
        made += emit.request("wl_shm_pool", "resize")(pool, 4096 + 4 * n)
        made += emit.create_buffer(pool, buffer, 4092 + 4 * n, 1, 1, 4, 0)
        made += emit.buffer_destroy(buffer)
    talk.core.from_client(made, [], 0.0)
    assert talk.core.paused
    assert talk.core.up.fd_count == most <= limits.WAYLAND_FDS_IN_FLIGHT
    talk.core.from_client(b"", [], 0.0)
    talk.pump()
    assert talk.sandbox.totals["buffers"] == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_commit_costs_by_the_surfaces_that_are_looked_at_for_it(talk, count):
    """One of two hundred is two hundred times the work for the compositor."""
    surface, _, _ = talk.show(10, 10, 0)
    parent = surface
    for n in range(count - 1):
        child = talk.surface()
        talk.child(child, parent, 0, 0)
        parent = child if n % 2 else surface
    talk.send(surface, "commit")
    before = talk.core.pixels
    talk.send(surface, "commit")
    each = limits.WAYLAND_SURFACE_PIXELS if count > 1 else 0
    assert talk.core.pixels - before == count * each


def test_commits_of_many_surfaces_pause_reading(talk):
    surface, _, _ = talk.show(10, 10, 0)
    for _ in range(limits.WAYLAND_SUBSURFACES - 1):
        talk.child(talk.surface(), surface, 0, 0)
    talk.send(surface, "commit")
    one = emit.commit(surface)
    before = talk.core.messages
    talk.core.from_client(one * 200, [], 0.0)
    most = limits.WAYLAND_COMMIT_PIXELS_AT_ONCE // limits.WAYLAND_SURFACE_PIXELS
    assert talk.core.paused
    assert talk.core.messages - before == -(-most // limits.WAYLAND_SUBSURFACES)


def test_requests_are_charged_for_the_messages_they_cause(talk):
    """A commit with a region of many rectangles is as many messages there."""
    surface, _, _ = talk.show(10, 10, 0)
    region = talk.make(talk.compositor, "create_region", "wl_region")
    for n in range(limits.WAYLAND_SURFACE_RECTS):
        talk.send(region, "add", n, 0, 1, 1)
    before = talk.core.messages, len(talk.told("wl_region", "add"))
    for _ in range(10):
        talk.send(surface, "set_input_region", region)
        talk.send(surface, "commit")
    told = len(talk.told("wl_region", "add")) - before[1]
    assert told == 10 * limits.WAYLAND_SURFACE_RECTS
    assert talk.core.messages - before[0] >= told
