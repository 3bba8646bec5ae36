"""Pictures in the GPU's memory: what of a client's words reaches the compositor."""

from __future__ import annotations

import struct

import pytest

from broker.core.errors import RefusedError
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import DMABUF
from broker.jail.wayland.protocol.wire import ProtocolFault
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.gpu import (
    AR24,
    LINEAR,
    NV12,
    OFFERS,
    PARAMS,
    ROWS,
    TILED,
    UNKNOWN,
    GpuModel,
    GpuTalk,
)
from tests.kit.wayland.talk import Talk

FEEDBACK = "zwp_linux_dmabuf_feedback_v1"
FENCES = ("wp_linux_drm_syncobj_manager_v1", "zwp_linux_explicit_synchronization_v1")
INCOMPLETE, FORMAT, SIZE, BOUNDS = 3, 4, 5, 6


@pytest.fixture
def talk():
    with GpuTalk() as it:
        yield it.begin()
    assert it.machine.leaked() == []
    assert not any(it.sandbox.totals.values())


def used(talk):
    return {k: talk.sandbox.totals[k] for k in ("buffers", "gpu_planes", "gpu_bytes")}


def error(talk, code, *words):
    """The connection ended by an error of the parameters."""
    fault = talk.core.fault
    assert isinstance(fault, ProtocolFault)
    assert fault.code == code, fault
    assert all(word in str(fault) for word in words), fault


def refuses(talk, act, code, *words):
    with pytest.raises(ServerError):
        act()
    error(talk, code, *words)
    talk.hear()


# -- who has it -----------------------------------------------------------------------


def test_no_client_sees_it_unless_its_record_says_so():
    with Talk(WindowRules("work"), model=GpuModel()) as talk:
        talk.start()
        assert DMABUF not in talk.globals
        assert not talk.told(PARAMS, "add")
        assert all(name != DMABUF.encode() for name in binds(talk))


def binds(talk):
    return [args[1] for args in talk.told("wl_registry", "bind")]


def test_a_compositor_without_it_has_none():
    offers = [o for o in OFFERS if o[0] != DMABUF]
    with GpuTalk(model=GpuModel(offers)) as talk:
        talk.start()
        assert DMABUF not in talk.globals
        assert talk.core.dmabuf == 0


@pytest.mark.parametrize("name", FENCES)
def test_explicit_fences_are_offered_to_no_client(name):
    """Of a compositor that has them, whatever a record allows."""
    with pytest.raises(RefusedError, match="can never be allowed"):
        WindowRules("work", allow=frozenset({name}))
    with GpuTalk(model=GpuModel([*OFFERS, (name, 1)])) as talk:
        talk.begin()
        assert DMABUF in talk.globals
        assert name not in talk.globals
        # Nor is it bound by a client that guesses its number.
        for number in range(1, len(OFFERS) + 3):
            with GpuTalk(model=GpuModel([*OFFERS, (name, 1)])) as other:
                other.start()
                with pytest.raises(ServerError):
                    other.bind_raw(number, name, 1)
                assert all(bound != name.encode() for bound in binds(other))


# -- formats ---------------------------------------------------------------------------


def test_the_table_of_formats_is_a_sealed_copy_and_one_for_a_connection(talk):
    for _ in range(3):
        made = talk.make(talk.dmabuf, "get_default_feedback", FEEDBACK)
    assert [bytes(p.pixels) for p in talk.machine.paints if p.sealed] == [ROWS]
    assert len(talk.heard("format_table")) == 3
    (formats,) = talk.heard("tranche_formats", made)
    assert bytes(formats[0]) == struct.pack("=3H", 0, 1, 2), "the fourth is not known"
    assert talk.heard("main_device", made) == [[b"\1\0\0\0\0\0\0\0"]]
    assert talk.heard("done", made)
    for fd in talk.received_fds:
        assert fd.what == "paint copy"


def test_a_client_of_an_old_version_hears_the_known_formats():
    with GpuTalk() as talk:
        talk.begin(3)
        told = {args[0] for args in talk.heard("modifier")}
        assert told == {AR24, NV12}
        assert UNKNOWN not in {args[0] for args in talk.heard("format")}


@pytest.mark.parametrize(
    ("form", "modifier"), [(UNKNOWN, LINEAR), (AR24, 7), (NV12, TILED)]
)
def test_only_what_the_compositor_announced_is_made(talk, form, modifier):
    fd = talk.machine.dmabuf(1 << 20)
    made = talk.params((fd, 0, 400), modifier=modifier)
    refuses(talk, lambda: talk.immediate(made, form=form), FORMAT, "unsupported format")
    assert not talk.told(PARAMS, "add")


def test_a_table_that_is_too_short_is_the_compositors_fault():
    with GpuTalk() as talk:
        talk.begin()
        talk.machine.table = ROWS[:-1]
        with pytest.raises(Exception, match="connection to the compositor failed"):
            talk.make(talk.dmabuf, "get_default_feedback", FEEDBACK)
        assert "invalid format table" in str(talk.core.fault)


# -- planes --------------------------------------------------------------------------------


def test_a_picture_is_shown_in_its_frame_and_given_back(talk):
    surface, _, _ = talk.show(100, 50, 0)
    before = used(talk)
    buffer = talk.picture()
    assert used(talk) == {
        "buffers": before["buffers"] + 1,
        "gpu_planes": before["gpu_planes"] + 1,
        "gpu_bytes": before["gpu_bytes"] + 20000,
    }
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "damage", 0, 0, 100, 50)
    talk.send(surface, "commit")
    at = talk.server_side(surface)
    assert at.now["buffer"] is talk.server_side(buffer)
    ((_, index, *where),) = talk.told(PARAMS, "add")
    assert (index, where) == (0, [0, 400, 0, 0])
    talk.send(buffer, "destroy")
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    assert used(talk) == before


def test_two_planes_of_one_memory_are_one_memory_and_two_descriptors(talk):
    one = talk.machine.dmabuf(1 << 20, 7)
    two = talk.machine.dmabuf(1 << 20, 7)
    made = talk.params((one, 0, 128), (two, 128 * 50, 128))
    talk.immediate(made, form=NV12)
    assert used(talk) == {"buffers": 1, "gpu_planes": 2, "gpu_bytes": 1 << 20}
    assert two.closed
    assert not one.closed
    assert len(talk.told(PARAMS, "add")) == 2


def test_a_modifier_may_have_planes_of_its_own(talk):
    fd = [talk.machine.dmabuf(1 << 20, 7) for _ in range(2)]
    made = talk.params((fd[0], 0, 512), (fd[1], 512 * 50, 64), modifier=TILED)
    talk.immediate(made)
    assert talk.core.fault is None


def planes(*rows):
    """Planes in one memory: (offset, stride, …)."""
    return lambda talk: [(talk.machine.dmabuf(20000, 7), *row) for row in rows]


@pytest.mark.parametrize(
    ("rows", "form", "size", "modifier", "code"),
    [
        ([(0, 400)], AR24, (100, 51), LINEAR, BOUNDS),
        ([(1, 400)], AR24, (100, 50), LINEAR, BOUNDS),
        ([(0xFFFFFFFF, 400)], AR24, (100, 50), LINEAR, BOUNDS),
        ([(0, 0xFFFFFFFF)], AR24, (100, 1), LINEAR, BOUNDS),
        ([(0, 1 << 31)], AR24, (100, 2), LINEAR, BOUNDS),
        ([(0, 0)], AR24, (100, 1), LINEAR, BOUNDS),
        ([(0, 0)], AR24, (100, 1), TILED, BOUNDS),
        ([(0, 399)], AR24, (100, 1), LINEAR, BOUNDS),
        ([(0, 400)], AR24, (100, 51), TILED, BOUNDS),
        ([(0, 400)], AR24, (0, 1), LINEAR, SIZE),
        ([(0, 400)], AR24, (-1, 1), LINEAR, SIZE),
        ([(0, 400)], AR24, (100, 16385), LINEAR, SIZE),
        ([(0, 400)], AR24, (0x7FFFFFFF, 0x7FFFFFFF), LINEAR, SIZE),
        ([(0, 400)], NV12, (100, 20), LINEAR, INCOMPLETE),
        ([(0, 400), (8000, 400)], AR24, (100, 20), LINEAR, INCOMPLETE),
        ([(0, 128), (128 * 50, 99)], NV12, (100, 50), LINEAR, BOUNDS),
        ([(0, 128), (128 * 49, 128)], NV12, (100, 50), LINEAR, BOUNDS),
        ([(0, 128), (0, 128)], NV12, (100, 50), LINEAR, BOUNDS),
        ([(0, 128), (20000 - 128 * 25 + 1, 128)], NV12, (100, 50), LINEAR, BOUNDS),
        ([(0, 128), (20000 - 128 * 25, 128)], NV12, (100, 51), LINEAR, BOUNDS),
    ],
)  # fmt: skip
def test_a_plane_lies_inside_of_its_memory(talk, rows, form, size, modifier, code):
    made = talk.params(*planes(*rows)(talk), modifier=modifier)
    refuses(talk, lambda: talk.immediate(made, *size, form), code)
    assert not talk.told(PARAMS, "add")


def test_the_largest_that_fit_do(talk):
    made = talk.params(*planes((0, 128), (20000 - 128 * 25, 128))(talk))
    talk.immediate(made, 100, 50, NV12)
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    talk.immediate(made, 100, 50)
    assert talk.core.fault is None


def test_planes_are_numbered_without_gaps(talk):
    made = talk.params()
    for index in (0, 2):
        talk.add(made, talk.machine.dmabuf(1 << 20, 7), index, modifier=TILED)
    refuses(talk, lambda: talk.immediate(made), INCOMPLETE)


def test_no_planes_are_no_picture(talk):
    refuses(talk, lambda: talk.immediate(talk.params()), INCOMPLETE)


def test_planes_have_one_modifier(talk):
    made = talk.params()
    for index, modifier in enumerate((TILED, LINEAR)):
        talk.add(made, talk.machine.dmabuf(1 << 20, 7), index, modifier=modifier)
    refuses(talk, lambda: talk.immediate(made), FORMAT, "different")


@pytest.mark.parametrize("flags", [2, 4, 0x80000000])
def test_interlaced_pictures_are_not_made(talk, flags):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    refuses(talk, lambda: talk.immediate(made, flags=flags), FORMAT, "flags")


def test_a_fifth_plane_is_refused_and_its_descriptor_closed(talk):
    made = talk.params()
    fd = talk.machine.dmabuf(1 << 20)
    refuses(talk, lambda: talk.add(made, fd, 4), 1, "plane index 4")
    assert fd.closed


def test_a_plane_is_set_once(talk):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    refuses(talk, lambda: talk.add(made, talk.machine.dmabuf(20000)), 2)


def test_parameters_make_one_buffer(talk):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    talk.immediate(made)
    refuses(talk, lambda: talk.immediate(made), 0)


def test_parameters_that_were_used_take_no_plane(talk):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    talk.immediate(made)
    refuses(talk, lambda: talk.add(made, talk.machine.dmabuf(20000), 1), 0)


def test_what_is_no_dma_buf_is_refused(talk):
    fd = talk.machine.fd("memfd")
    refuses(talk, lambda: talk.add(talk.params(), fd), 7, "not a dma-buf")
    assert fd.closed


# -- buffers that the compositor names --------------------------------------------------


def asked(talk):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    talk.send(made, "create", 100, 50, AR24, 0)
    return made


def test_a_buffer_of_the_compositors_choice(talk):
    surface, _, _ = talk.show(100, 50, 0)
    before = used(talk)
    made = asked(talk)
    ((buffer,),) = talk.heard("created", made)
    talk.kinds[buffer] = "wl_buffer"
    talk.send(made, "destroy")
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "commit")
    assert talk.server_side(surface).now["buffer"].oid >= 0xFF000000
    talk.send(buffer, "destroy")
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    assert used(talk) == before
    assert not [t for t in talk.model.things.values() if t.oid >= 0xFF000000]


def test_one_that_cannot_be_imported_is_given_back(talk):
    talk.model.imports = False
    made = asked(talk)
    assert talk.heard("failed", made)
    assert used(talk) == {"buffers": 0, "gpu_planes": 0, "gpu_bytes": 0}


@pytest.mark.parametrize("imports", [True, False])
def test_one_that_comes_too_late_is_destroyed(talk, imports):
    talk.model.answers, talk.model.imports = False, imports
    made = asked(talk)
    talk.send(made, "destroy")
    assert used(talk) == {"buffers": 1, "gpu_planes": 1, "gpu_bytes": 20000}
    talk.model.answer()
    talk.pump()
    assert used(talk) == {"buffers": 0, "gpu_planes": 0, "gpu_bytes": 0}
    assert not talk.heard("created")
    assert not [t for t in talk.model.things.values() if t.oid >= 0xFF000000]
    assert not [t for t in talk.model.things.values() if t.kind == PARAMS]


def test_a_failed_immediate_buffer_is_told_and_counted_until_it_is_destroyed(talk):
    made = talk.params((talk.machine.dmabuf(20000), 0, 400))
    buffer = talk.immediate(made)
    talk.model.tell(talk.server_side(made), "failed")
    talk.pump()
    assert talk.heard("failed", made)
    assert used(talk)["buffers"] == 1
    talk.send(buffer, "destroy")
    assert used(talk) == {"buffers": 0, "gpu_planes": 0, "gpu_bytes": 0}


# -- limits ------------------------------------------------------------------------------


def test_descriptors_that_wait_for_a_buffer_are_counted(talk):
    def flood():
        for _ in range(limits.WAYLAND_GPU_PLANES):
            made = talk.params()
            for index in range(4):
                talk.add(made, talk.machine.dmabuf(1 << 12), index)

    refuses(talk, flood, 2, "gpu_planes")
    assert (
        len([m for m in talk.machine.dmabufs if not m.fd.closed])
        <= limits.WAYLAND_GPU_PLANES
    )


def put(talk, surface, buffer):
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "commit")


def test_what_is_shown_is_counted_although_its_buffer_was_destroyed(talk):
    """Attack: the compositor keeps a descriptor for each surface's picture."""

    def flood():
        for _ in range(limits.WAYLAND_GPU_PLANES + 1):
            buffer = talk.picture()
            put(talk, talk.surface(), buffer)
            talk.send(buffer, "destroy")

    refuses(talk, flood, 2, "gpu_planes")
    assert len(talk.told(PARAMS, "add")) <= limits.WAYLAND_GPU_PLANES


@pytest.mark.parametrize("how", ["another", "none", "destroy"])
def test_what_was_shown_is_given_back_once_no_surface_shows_it(talk, how):
    one, two = talk.surface(), talk.surface()
    buffer = talk.picture()
    for surface in (one, one, two):
        put(talk, surface, buffer)
    talk.send(buffer, "destroy")
    (memory,) = talk.machine.dmabufs
    talk.send(one, "destroy")
    assert used(talk) == {"buffers": 0, "gpu_planes": 1, "gpu_bytes": 20000}
    if how == "destroy":
        talk.send(two, "destroy")
    else:
        put(talk, two, talk.picture() if how == "another" else 0)
    assert used(talk)["gpu_planes"] == (how == "another")
    assert memory.fd.closed


def test_a_buffer_that_is_not_destroyed_is_kept_by_nobody_showing_it(talk):
    surface, buffer = talk.surface(), talk.picture()
    for what in (buffer, 0, buffer):
        put(talk, surface, what)
    assert used(talk) == {"buffers": 1, "gpu_planes": 1, "gpu_bytes": 20000}
    talk.send(surface, "destroy")
    assert used(talk) == {"buffers": 1, "gpu_planes": 1, "gpu_bytes": 20000}
    talk.send(buffer, "destroy")
    assert used(talk) == {"buffers": 0, "gpu_planes": 0, "gpu_bytes": 0}


def test_memory_is_counted(talk):
    def flood():
        for _ in range(10):
            talk.params((talk.machine.dmabuf(1 << 30), 0, 400))

    refuses(talk, flood, 2, "gpu_bytes")


def test_ten_thousand_parameters_are_given_back(talk):
    for _ in range(10_000):
        made = talk.params((talk.machine.dmabuf(1 << 30), 0, 400))
        talk.send(made, "destroy")
    assert used(talk) == {"buffers": 0, "gpu_planes": 0, "gpu_bytes": 0}
    assert not talk.told(PARAMS, "add")


def test_imports_have_a_pace(talk):
    before = talk.core.pixels
    talk.picture()
    assert talk.core.pixels - before >= limits.WAYLAND_MAPPING_PIXELS


def test_feedback_costs_more_than_a_message(talk):
    before = talk.core.messages
    talk.make(talk.dmabuf, "get_default_feedback", FEEDBACK)
    assert talk.core.messages - before > limits.WAYLAND_POOL_MESSAGES


# -- fences ------------------------------------------------------------------------------


@pytest.fixture
def window(talk):
    """A window, and a picture for it that is still being drawn."""
    surface, _, _ = talk.show(100, 50, 0)
    buffer = talk.picture()
    talk.busy()
    talk.send(surface, "attach", buffer, 0, 0)
    talk.send(surface, "damage", 0, 0, 100, 50)
    return surface, buffer


def feed(talk, surface):
    """Commit, as the shell does: it does not read on before the core continues."""
    talk.core.from_client(struct.pack("=IHH", surface, 6, 8), [], talk.now)


def again(talk):
    talk.core.from_client(b"", [], talk.now)
    if not talk.core.paused:
        talk.pump()


def test_a_commit_waits_until_its_picture_is_drawn(talk, window):
    surface, buffer = window
    commits = talk.model.commits
    feed(talk, surface)
    assert talk.core.paused
    memory, until = talk.core.fence
    assert memory is talk.machine.dmabufs[-1]
    assert until == talk.now + limits.WAYLAND_FENCE_SECONDS
    again(talk)
    assert talk.core.fence == (memory, until)
    talk.now += limits.WAYLAND_FENCE_SECONDS / 2
    again(talk)
    assert talk.core.fence == (memory, until), "the wait is not begun again"
    talk.pump()
    assert talk.model.commits == commits
    talk.busy(False)
    again(talk)
    assert talk.core.fence is None
    assert talk.server_side(surface).now["buffer"] is talk.server_side(buffer)


def late(talk, surface):
    feed(talk, surface)
    talk.now += limits.WAYLAND_FENCE_SECONDS
    again(talk)


def test_a_late_picture_is_left_out_and_given_back(talk, window):
    surface, buffer = window
    shown = talk.server_side(surface).now["buffer"]
    callback = talk.make(surface, "frame", "wl_callback")
    late(talk, surface)
    assert talk.core.fault is None
    assert talk.core.fence is None
    assert talk.server_side(surface).now["buffer"] is shown
    assert talk.heard("release", buffer)
    assert talk.heard("done", callback), "the rest of the commit went up"
    assert talk.sandbox.refused["late pictures"] == 1
    talk.send(buffer, "destroy")
    assert not any(m.fd.closed is False for m in talk.machine.dmabufs)


def test_a_frozen_window_is_waited_for_a_moment_and_thaws(talk, window):
    surface, buffer = window
    late(talk, surface)
    talk.core.from_client(
        struct.pack("=IHHIii", surface, 1, 20, buffer, 0, 0), [], talk.now
    )
    feed(talk, surface)
    assert talk.core.fence[1] == talk.now + limits.WAYLAND_FROZEN_SECONDS
    talk.busy(False)
    again(talk)
    assert talk.server_side(surface).now["buffer"] is talk.server_side(buffer)
    talk.busy()
    talk.core.from_client(
        struct.pack("=IHHIii", surface, 1, 20, buffer, 0, 0), [], talk.now
    )
    feed(talk, surface)
    assert talk.core.fence[1] == talk.now + limits.WAYLAND_FENCE_SECONDS
    talk.busy(False)
    again(talk)


def test_what_is_drawn_into_where_it_is_shown_waits_as_well(talk, window):
    surface, buffer = window
    talk.busy(False)
    feed(talk, surface)
    talk.pump()
    talk.busy()
    talk.send(surface, "damage", 0, 0, 9, 9)
    late(talk, surface)
    assert talk.server_side(surface).now["buffer"] is talk.server_side(buffer)
    assert not talk.heard("release", buffer), "it is still shown"


def test_a_late_picture_that_was_destroyed_ends(talk, window):
    surface, buffer = window
    talk.core.from_client(struct.pack("=IHH", buffer, 0, 8), [], talk.now)
    late(talk, surface)
    assert not talk.heard("release", buffer)
    assert all(m.fd.closed for m in talk.machine.dmabufs)


def test_a_client_that_goes_while_it_waits_leaves_nothing():
    with GpuTalk() as talk:
        talk.begin()
        surface, _, _ = talk.show(100, 50, 0)
        talk.send(surface, "attach", talk.picture(), 0, 0)
        talk.busy()
        feed(talk, surface)
        assert talk.core.fence is not None
    assert talk.machine.leaked() == []
