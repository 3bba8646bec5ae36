"""One connection: ids, globals, errors, descriptors, chunking."""

from __future__ import annotations

import gc

import pytest

from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit, wire
from broker.jail.wayland.protocol.formats import PIXEL_BYTES
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.machine import FakeMachine
from tests.kit.wayland.model import GLOBALS, Model, connect
from tests.kit.wayland.talk import Talk


@pytest.fixture
def talk():
    with Talk() as it:
        yield it.start()
    assert it.machine.leaked() == []
    assert not it.machine.paints
    assert not any(it.sandbox.totals.values())
    assert it.sandbox.filters == set()


def test_only_globals_with_a_verdict_are_advertised(talk):
    assert "zwlr_layer_shell_v1" not in talk.globals
    assert "zwp_idle_inhibit_manager_v1" not in talk.globals
    assert talk.globals["wl_compositor"][1] == 5
    assert talk.globals["wl_seat"][1] == 8


def test_an_option_is_advertised_where_the_record_allows_it():
    with Talk(
        WindowRules("work", allow=frozenset({"zwp_idle_inhibit_manager_v1"}))
    ) as it:
        assert "zwp_idle_inhibit_manager_v1" in it.start().globals


@pytest.mark.parametrize("name", ["xdg_activation_v1", "zwp_idle_inhibit_manager_v1"])
def test_what_the_record_denies_is_neither_advertised_nor_bound(name):
    rules = WindowRules(
        "work",
        allow=frozenset({"zwp_idle_inhibit_manager_v1"}),
        deny=frozenset({name}),
    )
    with Talk(rules) as it:
        seen = it.start().globals
        assert name not in seen
        assert "wl_compositor" in seen
        with pytest.raises(ServerError, match="no global"):
            it.send(
                it.registry, "bind", max(n for n, _ in seen.values()) + 1,
                name.encode(), 1, it.new(name),
            )  # fmt: skip


def test_versions_end_at_the_baseline():
    with Talk(model=Model([(name, 99) for name, _ in GLOBALS])) as it:
        it.core.globals.host.clear()
        seen = it.make(1, "get_registry", "wl_registry")
        assert seen
        assert {e[3][1]: e[3][2] for e in it.events if e[2] == "global"}[
            b"wl_seat"
        ] == 9


@pytest.mark.parametrize(
    ("name_of", "interface", "version", "why"),
    [
        ("wl_seat", "wl_seat", 9, "above the advertised version"),
        ("wl_seat", "wl_seat", 0, "no version at all"),
        ("wl_seat", "wl_output", 1, "another interface than the name's"),
        (None, "zwlr_layer_shell_v1", 1, "never advertised"),
    ],
)
def test_binding_a_global_that_was_not_offered_is_an_error(
    talk, name_of, interface, version, why
):
    name = talk.globals[name_of][0] if name_of else 999
    before = len(talk.model.requests)
    with pytest.raises(ServerError) as caught:
        talk.bind_raw(name, interface, version)
    assert caught.value.object_id == talk.registry, why
    assert len(talk.model.requests) == before


def test_a_compositor_without_viewporter_gets_no_window_at_all():
    model = Model([g for g in GLOBALS if g[0] != "wp_viewporter"])
    core = WaylandFilter(WindowRules("work"), Sandbox("work"), FakeMachine())
    connect(core, model)
    assert isinstance(core.fault, UpstreamError)
    assert "wp_viewporter" in str(core.fault)
    assert not core.ready
    core.close()


def test_the_client_is_never_read_before_the_compositor_is_known():
    core = WaylandFilter(WindowRules("work"), Sandbox("work"), FakeMachine())
    core.from_client(b"\0" * 8, [], 0.0)
    assert isinstance(core.fault, InternalError)
    core.close()


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (wire.HEADER.pack(77, 0, 8), 0, "no such object"),
        (wire.HEADER.pack(1, 9, 8), 1, "no such request"),
        (wire.HEADER.pack(1, 0, 7), 1, "a size below the header's"),
        (wire.HEADER.pack(1, 0, 10), 1, "a size that is no multiple of four"),
        (wire.HEADER.pack(1, 0, 8), 1, "an argument missing"),
        (wire.HEADER.pack(1, 0, 16) + b"\0" * 8, 1, "an argument too many"),
        (wire.HEADER.pack(1, 0, 8192), 1, "larger than libwayland reads"),
        (emit.sync(1, 1), 0, "the display's own id as a new one"),
        (emit.sync(1, 0), 0, "null as a new id"),
        (emit.sync(1, 4000), 0, "an id that leaves a gap"),
        (emit.sync(1, 0xFF000005), 0, "an id of the server's range"),
    ],
)
def test_malformed_bytes_end_the_connection(talk, data, code, why):
    with pytest.raises(ServerError) as caught:
        talk.raw(data)
    assert caught.value.code == code, why
    assert talk.core.fault is not None


def test_after_a_fault_nothing_is_read(talk):
    with pytest.raises(ServerError):
        talk.raw(wire.HEADER.pack(77, 0, 8))
    before = len(talk.model.requests)
    talk.core.from_client(emit.sync(1, talk.next_id), [], 0.0)
    connect(talk.core, talk.model)
    assert len(talk.model.requests) == before


def test_ids_are_free_again_only_when_the_compositor_says_so(talk):
    comp = talk.bind("wl_compositor")
    first = talk.make(comp, "create_surface", "wl_surface")
    talk.send(first, "destroy")
    assert talk.heard("delete_id")[-1] == [first]
    assert talk.make(comp, "create_surface", "wl_surface") == first


def test_a_destroyed_object_is_an_error_to_use(talk):
    comp = talk.bind("wl_compositor")
    surface = talk.make(comp, "create_surface", "wl_surface")
    sid = talk.core.by_client[surface].sid
    talk.core.from_client(emit.surface_destroy(surface), [], 0.0)
    assert talk.core.by_client[surface].dead
    # The compositor may still speak of it: that goes nowhere.
    talk.core.from_server(emit.surface_enter(sid, 1), [], 0.0)
    with pytest.raises(ServerError) as caught:
        talk.raw(emit.commit(surface))
    assert caught.value.code == wire.INVALID_OBJECT


def test_an_object_of_the_wrong_interface_is_refused(talk):
    comp = talk.bind("wl_compositor")
    surface = talk.make(comp, "create_surface", "wl_surface")
    with pytest.raises(ServerError) as caught:
        talk.raw(emit.attach(surface, surface, 0, 0))
    assert caught.value.code == wire.INVALID_OBJECT


def test_a_message_without_its_descriptor_is_refused(talk):
    shm = talk.bind("wl_shm")
    with pytest.raises(ServerError):
        talk.make(shm, "create_pool", "wl_shm_pool", None, 4096)


def test_descriptors_stay_with_their_message(talk):
    shm = talk.bind("wl_shm")
    fds = [talk.machine.fd(str(n)) for n in range(3)]
    data = b"".join(
        emit.create_pool(shm, talk.new("wl_shm_pool"), 4096) for _ in range(3)
    )
    talk.core.from_client(data, fds, 0.0)
    assert [pool.fd for pool in talk.machine.pools] == fds
    view, first = talk.core.up.front()
    view.release()
    assert len(first) == 1
    connect(talk.core, talk.model)


@pytest.mark.parametrize("extra", [0, 1])
def test_descriptors_in_flight_are_bounded(talk, extra):
    fds = [talk.machine.fd() for _ in range(limits.WAYLAND_FDS_IN_FLIGHT + extra)]
    talk.core.from_client(b"", fds, 0.0)
    assert (talk.core.fault is not None) == bool(extra)


def test_an_error_of_the_compositor_is_told_with_the_clients_ids(talk):
    comp = talk.bind("wl_compositor")
    surface = talk.make(comp, "create_surface", "wl_surface")
    sid = talk.core.by_client[surface].sid
    talk.core.from_server(
        emit.display_error(1, sid, 3, b"wl_surface@999 is bad"), [], 0.0
    )
    talk.hear()
    assert (talk.error.object_id, talk.error.code) == (surface, 3)
    assert "999" not in talk.error.text
    assert isinstance(talk.core.fault, UpstreamError)


def test_an_error_of_the_compositor_on_an_object_of_ours_is_the_displays(talk):
    talk.core.from_server(emit.display_error(1, talk.core.shm, 3, b"x"), [], 0.0)
    talk.hear()
    assert talk.error.object_id == 1


@pytest.mark.parametrize(
    "data",
    [
        wire.HEADER.pack(9999, 0, 8),
        wire.HEADER.pack(1, 9, 8),
        wire.HEADER.pack(1, 1, 4),
        emit.delete_id(1, 4444),
        wire.HEADER.pack(1, 1, 8),
    ],
)
def test_a_compositor_that_does_not_speak_wayland_ends_the_connection(talk, data):
    talk.core.from_server(data + b"\0" * 8, [], 0.0)
    assert isinstance(talk.core.fault, UpstreamError)


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_chunking_never_changes_the_output(size):
    whole, pieces = Talk().start(), Talk().start()
    said = []
    for it in (whole, pieces):
        comp = it.bind("wl_compositor")
        it.sock_data = bytearray()
        surface = it.new("wl_surface")
        said = (
            emit.create_surface(comp, surface)
            + emit.commit(surface)
            + emit.sync(1, it.new("wl_callback"))
        )
    whole.raw(said)
    for start in range(0, len(said), size):
        pieces.raw(said[start : start + size])
    assert whole.model.requests[-3:] != []
    assert [r[:2] for r in whole.model.requests] == [
        r[:2] for r in pieces.model.requests
    ]
    whole.close()
    pieces.close()


@pytest.mark.parametrize("extra", [0, 1])
def test_objects_are_bounded(talk, extra, monkeypatch):
    monkeypatch.setattr(limits, "WAYLAND_OBJECTS", 40)
    comp = talk.bind("wl_compositor")
    for _ in range(40 - len(talk.core.by_client)):
        talk.make(comp, "create_region", "wl_region")
    if extra:
        with pytest.raises(ServerError):
            talk.make(comp, "create_region", "wl_region")


def test_a_mistake_of_ours_ends_one_connection(talk, monkeypatch):
    monkeypatch.setattr(emit, "create_surface", None)
    comp = talk.bind("wl_compositor")
    with pytest.raises(ServerError):
        talk.make(comp, "create_surface", "wl_surface")
    assert isinstance(talk.core.fault, InternalError)


def test_a_mistake_of_ours_in_what_the_compositor_says_ends_one_connection(
    talk, monkeypatch
):
    monkeypatch.setattr(talk.core, "_read_server", None)
    talk.core.from_server(b"\0" * 8, [], 0.0)
    assert isinstance(talk.core.fault, InternalError)


def test_outputs_tell_size_but_not_whose_they_are(talk):
    talk.bind("wl_output")
    told = [e for e in talk.events if e[1] == "wl_output"]
    assert [e[3][5:7] for e in told if e[2] == "geometry"] == [[b"Vitrail", b"screen"]]
    assert [e[3] for e in told if e[2] == "name"] == [[b"SCREEN-1"]]
    assert not any(b"Secret" in str(e[3]).encode() for e in talk.events)
    assert talk.core.screen() == (1280, 800)


def test_globals_come_and_go(talk):
    registry = talk.model.things[talk.model.registries[0]]
    talk.model.offers[50] = ("wl_output", 4)
    talk.model.tell(registry, "global", 50, b"wl_output", 4)
    talk.model.tell(registry, "global", 51, b"zwlr_screencopy_manager_v1", 3)
    talk.pump()
    name = talk.heard("global")[-1][0]
    assert talk.heard("global")[-1][1:] == [b"wl_output", 4]
    talk.model.tell(registry, "global_remove", 50)
    talk.model.tell(registry, "global_remove", 51)
    talk.pump()
    assert talk.heard("global_remove") == [[name]]


def test_short_requests_with_long_answers_stop_being_read(talk):
    """A region for each of ten thousand commits would be 16 MB at once."""
    comp = talk.bind("wl_compositor")
    surface = talk.make(comp, "create_surface", "wl_surface")
    region = talk.make(comp, "create_region", "wl_region")
    for _ in range(limits.WAYLAND_SURFACE_RECTS):
        talk.raw(emit.region_add(region, 0, 0, 5, 5))
    burst = (emit.set_input_region(surface, region) + emit.commit(surface)) * 10_000
    most, rounds = 0, 0
    before = len(talk.told("wl_surface", "commit"))
    talk.core.from_client(burst, [], 0.0)
    while talk.core.paused:
        most = max(most, len(talk.core.up.data))
        connect(talk.core, talk.model)
        talk.core.from_client(b"", [], 0.0)
        rounds += 1
        if rounds == 20:
            break
    assert most < limits.WAYLAND_QUEUE_BYTES + 200_000
    assert talk.core.fault is None
    assert len(talk.told("wl_surface", "commit")) > before


def test_a_client_that_takes_long_is_paused_when_its_turn_is_over(talk):
    """However short its requests are; the rest is worked on after others' turns."""
    made = talk.make(talk.bind("wl_compositor"), "create_region", "wl_region")
    before = talk.core.messages
    talk.machine.look_seconds = limits.WAYLAND_TURN_SECONDS
    talk.core.from_client(emit.region_add(made, 0, 0, 5, 5) * 100, [], 0.0)
    assert talk.core.paused
    assert 0 < talk.core.messages - before < 20
    while talk.core.paused:
        talk.core.from_client(b"", [], 0.0)
    assert talk.core.messages - before == 100


def test_a_paused_client_goes_on_where_it_was(talk, monkeypatch):
    from broker.jail.wayland import filter as module

    monkeypatch.setattr(module, "ENOUGH", 100)
    data = b"".join(emit.get_registry(1, talk.new("wl_registry")) for _ in range(20))
    talk.core.from_client(data, [], 0.0)
    assert talk.core.paused
    rounds = 0
    while talk.core.paused:
        talk.pump()
        talk.core.from_client(b"", [], 0.0)
        rounds += 1
    talk.pump()
    assert rounds >= 4
    assert len(talk.core.registries) == 21


def test_what_regions_make_us_remember_is_bounded(talk):
    talk.sandbox.ceilings["kept_bytes"] = 1000
    comp = talk.bind("wl_compositor")
    region = talk.make(comp, "create_region", "wl_region")
    for _ in range(10):
        talk.raw(emit.region_add(region, 0, 0, 5, 5))
    talk.send(region, "destroy")
    region = talk.make(comp, "create_region", "wl_region")
    for _ in range(10):
        talk.raw(emit.region_add(region, 0, 0, 5, 5))
    with pytest.raises(ServerError):
        talk.raw(emit.region_add(region, 0, 0, 5, 5))


def test_a_message_without_its_descriptor_is_the_clients_mistake(talk):
    """Its descriptor, not the next one that comes."""
    with pytest.raises(ServerError, match="no descriptor"):
        talk.make(talk.shm, "create_pool", "wl_shm_pool", None, 4096)
    assert talk.told("wl_shm", "create_pool") == []


def test_a_feedback_is_not_asked_of_a_presentation_that_is_gone(talk):
    presentation = talk.bind("wp_presentation")
    surface = talk.surface()
    asked = talk.make(
        presentation, "feedback", "wp_presentation_feedback", surface, None
    )
    talk.send(presentation, "destroy")
    talk.send(surface, "commit")
    assert talk.told("wp_presentation", "feedback") == []
    assert talk.heard("discarded", asked) == [[]]
    assert asked in [a[0] for a in talk.heard("delete_id")]


@pytest.mark.parametrize(("form", "size"), sorted(PIXEL_BYTES.items()))
def test_a_row_is_as_long_as_its_format_says(talk, form, size):
    def buffer(stride: int) -> None:
        talk.make(pool, "create_buffer", "wl_buffer", None, 0, 10, 2, stride, form)

    pool = talk.make(
        talk.shm, "create_pool", "wl_shm_pool", None, 400, fds=[talk.machine.fd("p")]
    )
    buffer(10 * size)
    with pytest.raises(ServerError, match="invalid stride"):
        buffer(10 * size - 1)


def test_a_format_of_unknown_size_is_neither_told_nor_taken(talk):
    unknown = int.from_bytes(b"NV12", "little")
    talk.model.tell(talk.server_side(talk.shm), "format", unknown)
    talk.model.tell(talk.server_side(talk.shm), "format", 1)
    talk.pump()
    assert [1] in talk.heard("format", talk.shm)
    assert [unknown] not in talk.heard("format", talk.shm)
    pool = talk.make(
        talk.shm, "create_pool", "wl_shm_pool", None, 400, fds=[talk.machine.fd("p")]
    )
    with pytest.raises(ServerError, match="invalid format"):
        talk.make(pool, "create_buffer", "wl_buffer", None, 0, 10, 2, 40, unknown)


def live(*kinds: type) -> int:
    """How many objects of these classes exist in this process."""
    gc.collect()
    return sum(type(o) in kinds for o in gc.get_objects())


def test_a_row_of_parents_that_are_gone_is_not_kept(talk):
    """Each window's parent is the one before, which goes when it has come."""
    before = live(Toplevel)
    parents = None
    for _ in range(20):
        surface, xdg, top = talk.show(10, 10, 0)
        if parents is not None:
            talk.send(top, "set_parent", parents[2])
            for oid in reversed(parents):
                talk.send(oid, "destroy")
        parents = (surface, xdg, top)
    assert live(Toplevel) - before == 1


def test_a_window_whose_parent_goes_has_the_parents_parent(talk):
    tops = [talk.show(10, 10, 0)[2] for _ in range(3)]
    for child, parent in zip(tops[1:], tops, strict=False):
        talk.send(child, "set_parent", parent)
    talk.send(tops[1], "destroy")
    with pytest.raises(ServerError, match="its own parent"):
        talk.send(tops[0], "set_parent", tops[2])


def test_a_flood_of_titles_does_not_reach_the_compositor(talk):
    """For sway each is a picture to draw; 64 applications stopped it for all."""
    surface, _, top = talk.show(10, 10, 0)
    before = len(talk.told("xdg_toplevel", "set_title"))
    for number in range(limits.WAYLAND_TITLES_PER_MINUTE + 50):
        talk.send(top, "set_title", b"title %d" % number)
    told = talk.told("xdg_toplevel", "set_title")[before:]
    assert len(told) == limits.WAYLAND_TITLES_PER_MINUTE
    assert talk.sandbox.refused["titles"] == 50
    talk.now = 59.0
    talk.send(surface, "commit")
    assert len(talk.told("xdg_toplevel", "set_title")) - before == len(told)
    talk.now = 61.0
    talk.send(surface, "commit")
    talk.send(surface, "commit")
    (last,) = talk.told("xdg_toplevel", "set_title")[before + len(told) :]
    assert last == [b"[work] title 649"]


def test_a_flood_of_application_ids_does_not_reach_the_compositor(talk):
    """Each is passed to every taskbar: one that is slow is cut off by its compositor."""
    surface, _, top = talk.show(10, 10, 0)
    before = len(talk.told("xdg_toplevel", "set_app_id"))
    for number in range(limits.WAYLAND_TITLES_PER_MINUTE + 50):
        talk.send(top, "set_app_id", b"app%d" % number)
    told = talk.told("xdg_toplevel", "set_app_id")[before:]
    assert len(told) == limits.WAYLAND_TITLES_PER_MINUTE
    talk.send(top, "set_title", b"of its own pace")
    assert talk.told("xdg_toplevel", "set_title")[-1] == [b"[work] of its own pace"]
    talk.now = 61.0
    talk.send(surface, "commit")
    talk.send(surface, "commit")
    (last,) = talk.told("xdg_toplevel", "set_app_id")[before + len(told) :]
    assert last == [b"vitrail.work.app649"]
