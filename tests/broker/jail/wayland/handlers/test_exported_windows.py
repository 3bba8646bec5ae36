"""xdg-foreign inside of one sandbox: our handles, parents over connections."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

EXPORTER, EXPORTED = "zxdg_exporter_v2", "zxdg_exported_v2"
IMPORTER, IMPORTED = "zxdg_importer_v2", "zxdg_imported_v2"
OFFERS = [*GLOBALS, (EXPORTER, 1), (IMPORTER, 1)]
HOST = b"the compositor's own"


class Program(Talk):
    """A program of a sandbox, before a compositor that gives handles."""

    def __init__(self, sandbox, offers=OFFERS):
        super().__init__(
            WindowRules(sandbox.name), sandbox=sandbox, model=Model(list(offers))
        )
        self.start()

    def export(self, surface):
        manager = self.bind(EXPORTER)
        made = self.make(manager, "export_toplevel", EXPORTED, None, surface)
        self.send(manager, "destroy")
        for thing in list(self.model.things.values()):
            if thing.kind == EXPORTED:
                self.model.tell(thing, "handle", HOST)
        self.pump()
        return made, self.heard("handle", made)[0][0]

    def bring(self, handle):
        manager = self.bind(IMPORTER)
        made = self.make(manager, "import_toplevel", IMPORTED, None, handle)
        self.send(manager, "destroy")
        return made

    def parents(self):
        """(handle, surface) of windows that the compositor was to put above others."""
        given = [a[1] for a in self.told(IMPORTER, "import_toplevel")]
        return list(
            zip(
                given,
                [a[0] for a in self.told(IMPORTED, "set_parent_of")],
                strict=True,
            )
        )

    def frame(self, surface):
        return self.server_side(surface).parent


@pytest.fixture
def two():
    sandbox = Sandbox("work")
    with Program(sandbox) as one, Program(sandbox) as other:
        yield one, other
    assert not sandbox.exports


def test_a_window_of_another_connection_is_the_parent(two):
    one, other = two
    parent, _, _ = one.show(200, 100, 0)
    child, _, _ = other.show(100, 50, 0)
    exported, handle = one.export(parent)
    assert handle != HOST
    made = other.bring(handle)
    other.send(made, "set_parent_of", child)
    assert other.parents() == [(HOST, other.frame(child))]
    assert one.told(EXPORTER, "export_toplevel")[0][1] == one.frame(parent)
    one.send(exported, "destroy")
    other.pump()
    assert other.heard("destroyed", made)


def test_a_window_of_the_same_connection_needs_no_compositor(two):
    one, _ = two
    parent, _, above = one.show(200, 100, 0)
    child, _, below = one.show(100, 50, 0)
    _, handle = one.export(parent)
    made = one.bring(handle)
    one.send(made, "set_parent_of", child)
    assert one.parents() == []
    (told,) = [a for a in one.told("xdg_toplevel", "set_parent") if a[0]]
    assert told[0] == one.server_side(above)
    one.send(made, "destroy")
    assert one.told("xdg_toplevel", "set_parent")[-1][0] in {None, 0}
    assert below


def test_a_handle_of_another_sandbox_leads_nowhere(two):
    one, _ = two
    parent, _, _ = one.show(200, 100, 0)
    _, handle = one.export(parent)
    with Program(Sandbox("other")) as stranger:
        child, _, _ = stranger.show(100, 50, 0)
        for word in (handle, HOST, b"", b"x" * 3000):
            made = stranger.bring(word)
            assert stranger.heard("destroyed", made)
            stranger.send(made, "set_parent_of", child)
        assert stranger.parents() == []


def test_a_loop_over_connections_is_not_made(two):
    one, other = two
    first, _, top = one.show(200, 100, 0)
    second, _, _ = other.show(100, 50, 0)
    made = other.bring(one.export(first)[1])
    other.send(made, "set_parent_of", second)
    back = one.bring(other.export(second)[1])
    one.send(back, "set_parent_of", first)
    assert one.core.by_client[top].parent is None
    assert len(other.parents()) == 1
    assert one.parents() == []


def test_the_end_of_a_window_and_of_a_connection_ends_what_leads_to_it():
    sandbox = Sandbox("work")
    with Program(sandbox) as other:
        with Program(sandbox) as one:
            parent, _, toplevel = one.show(200, 100, 0)
            child, _, _ = other.show(100, 50, 0)
            made = other.bring(one.export(parent)[1])
            other.send(made, "set_parent_of", child)
            one.send(toplevel, "destroy")
            other.pump()
            assert other.heard("destroyed", made)
            second, _, _ = one.show(200, 100, 0)
            again = other.bring(one.export(second)[1])
        other.pump()
        assert other.heard("destroyed", again)
        other.send(again, "set_parent_of", child)
        other.send(made, "destroy")
    assert not sandbox.exports


def test_imports_of_ended_connections_are_forgotten():
    """A program may connect and import as often as it likes."""
    sandbox = Sandbox("work")
    with Program(sandbox) as one:
        parent, _, _ = one.show(200, 100, 0)
        _, handle = one.export(parent)
        for _ in range(3):
            with Program(sandbox) as other:
                other.bring(handle)
        assert sandbox.exports[handle].imports == []


def test_only_windows_are_exported_and_have_parents(two):
    one, other = two
    parent, _, _ = one.show(200, 100, 0)
    with pytest.raises((ServerError, ProtocolFault)):
        one.export(one.make(one.compositor, "create_surface", "wl_surface"))
    made = other.bring(b"x")
    bare = other.make(other.compositor, "create_surface", "wl_surface")
    with pytest.raises((ServerError, ProtocolFault)):
        other.send(made, "set_parent_of", bare)
    assert parent


def test_a_compositor_without_it_has_parents_of_one_connection_only():
    sandbox = Sandbox("work")
    with Program(sandbox, GLOBALS) as one, Program(sandbox, GLOBALS) as other:
        parent, _, _ = one.show(200, 100, 0)
        child, _, _ = other.show(100, 50, 0)
        made = other.bring(one.export(parent)[1])
        other.send(made, "set_parent_of", child)
        assert other.parents() == []


def test_a_sandbox_exports_so_many_windows(two, monkeypatch):
    """wlroots compares a new handle with all others: 61 us each among 15,000."""
    monkeypatch.setattr(limits, "WAYLAND_EXPORTS", 3)
    one, other = two
    window, _, _ = one.show(200, 100, 0)
    its, _, _ = other.show(100, 50, 0)
    first, _ = one.export(window)
    one.export(window)
    other.export(its)
    one.send(first, "destroy")
    one.export(window)
    with pytest.raises(ServerError, match="too many exported windows"):
        other.export(its)
    assert one.core.fault is None


def test_the_compositor_exports_a_window_once_it_is_shown(two):
    """wlroots 0.15 writes into the freed memory of one that never was."""
    one, other = two
    parent = one.surface()
    xdg, _ = one.toplevel(parent)
    one.send(parent, "commit")
    _, handle = one.export(parent)
    assert not one.told(EXPORTER, "export_toplevel")
    child, _, _ = other.show(100, 50, 0)
    made = other.bring(handle)
    other.send(made, "set_parent_of", child)
    one.pump()
    assert not one.told(EXPORTER, "export_toplevel")
    one.configured(xdg)
    one.paint(parent, 60, 40, 0)
    one.send(parent, "commit")
    other.send(made, "set_parent_of", child)
    one.pump()
    assert len(one.told(EXPORTER, "export_toplevel")) == 1


V1 = ("zxdg_exporter_v1", "zxdg_exported_v1", "zxdg_importer_v1", "zxdg_imported_v1")


def test_version_1_leads_to_the_same_windows():
    """GTK 3 knows no other: without it, a portal's caller waits for a handle for ever."""
    exporter, exported, importer, imported = V1
    sandbox = Sandbox("work")
    offers = [*OFFERS, (exporter, 1), (importer, 1)]
    with Program(sandbox, offers) as owner, Program(sandbox, offers) as other:
        parent, _, _ = owner.show(200, 100, 0)
        child, _, _ = other.show(100, 50, 0)
        window = owner.make(owner.bind(exporter), "export", exported, None, parent)
        (host,) = [t for t in owner.model.things.values() if t.kind == EXPORTED]
        owner.model.tell(host, "handle", HOST)
        owner.pump()
        handle = owner.heard("handle", window)[0][0]
        assert handle != HOST
        near = other.make(other.bind(importer), "import", imported, None, handle)
        other.send(near, "set_parent_of", child)
        assert other.parents() == [(HOST, other.frame(child))]
        owner.send(window, "destroy")
        other.pump()
        assert other.heard("destroyed", near)
        bad = other.make(other.bind(importer), "import", imported, None, HOST)
        assert other.heard("destroyed", bad), "a handle of the compositor"
    assert not sandbox.exports
