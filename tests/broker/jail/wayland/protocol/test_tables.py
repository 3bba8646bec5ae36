"""The frozen tables, and a verdict for every global that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.streams.wayland_verdicts import (
    GLOBALS,
    GlobalVerdict,
    advertised_version,
)
from broker.jail.wayland import handler_table
from broker.jail.wayland.protocol.tables import INTERFACES
from docs.tables import wayland_globals as globals_page
from docs.tables import wayland_protocols as protocols


def all_globals() -> set[str]:
    """Interfaces that no message makes, so that a registry must offer them."""
    interfaces = protocols.all_interfaces()
    made = {
        argument.interface.name
        for interface in interfaces.values()
        for message in [*interface.requests, *interface.events]
        for argument in message.arguments
        if argument.argument_type.name == "NewId" and argument.interface is not None
    }
    return set(interfaces) - made - {"wl_display"}


def test_the_checked_in_tables_are_what_pywayland_gives():
    namespace = {}
    exec(compile(protocols.render(), "generated", "exec"), namespace)
    assert dict(namespace["INTERFACES"]) == dict(INTERFACES)


def test_every_global_that_pywayland_knows_has_a_verdict():
    # Not a global: a value type made by hand-out from another connection.
    made_elsewhere = {"wp_image_description_reference_v1", "xdg_toplevel"}
    assert all_globals() - made_elsewhere <= set(GLOBALS)


def test_every_verdict_names_a_global_that_exists():
    # The oldest draft of xdg-shell is left out of the tables: its other names
    # are those of the final protocol.
    assert set(GLOBALS) <= all_globals() | {"xdg_shell"}


def test_every_row_says_its_risk_in_a_sentence():
    for row in GLOBALS.values():
        assert row.risk.endswith(".")
        assert len(row.risk) > 10
        assert (row.version == 0) == (row.verdict is GlobalVerdict.NO)


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_every_message_of_an_advertised_interface_is_handled(interface):
    handler_table.event_table(interface)
    for version in range(1, 10):
        handler_table.request_table(interface, version)


@pytest.mark.parametrize(
    ("name", "offered", "allowed", "version"),
    [
        ("wl_seat", 5, (), 5),
        ("wl_seat", 99, (), 9),
        ("zwp_idle_inhibit_manager_v1", 1, (), 0),
        ("zwp_idle_inhibit_manager_v1", 1, ("zwp_idle_inhibit_manager_v1",), 1),
        ("zwlr_layer_shell_v1", 4, ("zwlr_layer_shell_v1",), 0),
        ("ext_session_lock_manager_v1", 1, ("ext_session_lock_manager_v1",), 0),
        ("wl_data_device_manager", 1, (), 3),
    ],
)
def test_advertised_versions(name, offered, allowed, version):
    assert advertised_version(name, offered, frozenset(allowed)) == version


def test_the_documents_table_is_the_datas():
    text = (Path(__file__).parents[5] / "docs/wayland.md").read_text()
    assert globals_page.updated(text) == text
    with pytest.raises(ValueError, match="no place"):
        globals_page.updated("nothing")
