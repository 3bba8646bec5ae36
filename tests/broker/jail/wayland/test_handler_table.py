"""The table of messages: whole, each message once, nothing registered elsewhere."""

from __future__ import annotations

import ast
import inspect

import pytest

from broker.core.errors import InternalError
from broker.core.streams.wayland_verdicts import GLOBALS
from broker.jail.wayland import handler_table
from broker.jail.wayland.handlers import seat
from broker.jail.wayland.protocol import dispatch
from broker.jail.wayland.protocol.dispatch import DROP, FORWARD, LOCAL
from broker.jail.wayland.protocol.joined import complete, joined
from broker.jail.wayland.protocol.signatures import request, requests_of


def test_handlers_missing_message_is_an_error_at_import():
    table = dict(handler_table.REQUESTS)
    del table["wl_surface", "attach"]
    with pytest.raises(InternalError, match=r"no module has wl_surface\.attach"):
        complete(table, requests_of)


def test_handlers_unknown_message_is_an_error_at_import():
    table = {**handler_table.REQUESTS, ("wl_surface", "detach"): FORWARD}
    with pytest.raises(InternalError, match=r"no message wl_surface\.detach"):
        complete(table, requests_of)


def test_handlers_message_in_two_modules_is_an_error_at_import():
    with pytest.raises(InternalError, match="two modules handle"):
        joined([seat.REQUESTS, {("wl_seat", "release"): FORWARD}])


@pytest.mark.parametrize("rule", [DROP, LOCAL])
def test_handlers_request_that_goes_nowhere_needs_a_function(rule):
    with pytest.raises(InternalError, match="is a request"):
        dispatch.compiled_request(request("wl_surface", "commit"), rule, 6)


def test_handlers_never_received_events_are_those_of_local_globals():
    """An event that the compositor could send is forwarded, dropped or handled."""
    local = {row.name for row in GLOBALS.values() if row.local} | {
        "wl_registry",
        "xdg_positioner",
    }
    for (interface, name), rule in handler_table.EVENTS.items():
        if rule is LOCAL:
            made = interface.replace("_device_v1", "_device_manager_v1")
            made = made.replace("wl_data_device", "wl_data_device_manager")
            made = made.replace("zxdg_exported", "zxdg_exporter")
            made = made.replace("zxdg_imported", "zxdg_importer")
            offer = interface.endswith(("_offer", "_offer_v1"))
            source = interface.endswith(("_source", "_source_v1"))
            assert offer or source or made in local, (interface, name)


def test_handlers_tables_are_literal_and_last():
    """No module changes a table after it was written down."""
    for module in handler_table._MODULES:
        tree = ast.parse(inspect.getsource(module))
        last = [n.target.id for n in tree.body[-3:] if isinstance(n, ast.AnnAssign)]
        assert last == ["REQUESTS", "EVENTS", "CLASSES"], module.__name__
        for node in tree.body[-3:]:
            assert isinstance(node.value, ast.Dict)
            assert None not in node.value.keys
