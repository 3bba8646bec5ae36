"""What the model shares with the broker, and what a palette must do."""

from __future__ import annotations

import re

import pytest

from broker.core import limits as broker_limits
from broker.core import services
from broker.core.errors import RefusedError
from broker.core.limits import wayland as wayland_limits
from broker.core.names import take_sandbox_name
from broker.core.services import FIRST_CID
from broker.core.streams.wayland_rules import MAX_BORDER, Fullscreen
from broker.jail.wayland.scene import label
from policy import limits
from policy.records import build
from policy.records.desktop_tables import WINDOW
from policy.records.field_types import Choice
from policy.records.launch_table import PEER
from policy.records.patterns import NAME
from policy.records.record_schema import TABLES
from policy.rules import record_gate, wording
from policy.rules.checks import SERVICES
from policy.tools.schemas.schema import kind_schema
from tests.policy import record_globals


def test_limits_are_those_of_the_broker():
    """Policy imports nothing of the broker, so this holds the two together."""
    assert limits.STREAMS[1] == broker_limits.STREAMS_PER_SANDBOX
    assert limits.WAYLAND_CLIENTS[1] == broker_limits.WAYLAND_CLIENTS_PER_SANDBOX
    assert limits.PROGRAMS[1] == broker_limits.PROGRAMS_PER_SANDBOX
    assert limits.COMMAND_BYTES == broker_limits.ARGV_BYTES
    assert limits.WINDOWS[1] == wayland_limits.WAYLAND_WINDOWS
    assert limits.POPUPS[1] == wayland_limits.WAYLAND_POPUPS
    assert limits.SURFACES[1] == wayland_limits.WAYLAND_SURFACES
    assert limits.WINDOW_BYTES[1] == wayland_limits.WAYLAND_SHM_BYTES
    assert limits.BORDER_PIXELS[1] == MAX_BORDER
    assert limits.FEW_OPEN_FILES == broker_limits.SANDBOX_FDS


def test_globals_are_those_of_the_filter():
    """Mend with: python -m tests.policy.record_globals."""
    assert record_globals.FILE.read_text() == record_globals.formatted()


def test_every_name_fits_into_an_upper_edge():
    """The least height that a record may give is one that the filter can draw."""
    assert label.scale_for(build.LETTER_PIXELS) == 1
    assert label.scale_for(build.LETTER_PIXELS - 1) == 0


def test_fullscreen_is_as_the_filter_has_it():
    """The words of the record are those of the filter."""
    kind = WINDOW.by_key["fullscreen"].kind
    assert isinstance(kind, Choice)
    assert set(kind.options) == {mode.value for mode in Fullscreen}


def test_services_are_those_of_the_broker():
    """A service that has a port has a line in the engine."""
    of_records = {record_gate.AGENT, record_gate.DISPLAY, record_gate.AUDIO}
    devices = {services.DEVICE, services.SECURITY_KEY}
    by_rules = {*devices, services.FOLDER, *services.TRANSFERS}
    assert of_records | by_rules == set(services.PORTS)


def test_lint_knows_every_service():
    """Those that have a port, and those that the person is told about."""
    assert set(services.PORTS) <= set(SERVICES)
    assert {row.partition(" ")[0] for row in wording._WORDS} <= set(SERVICES)


def test_cids_are_those_that_can_be_peers():
    """The hypervisor, loopback, the host and ANY are no peers."""
    kind = PEER.by_key["cid"].kind
    assert kind_schema(kind) == {
        "type": "integer",
        "minimum": FIRST_CID,
        "maximum": 0xFFFFFFFE,
    }


@pytest.mark.parametrize(
    "name",
    ["a", "a" * 31, "a" * 32, "", "A", "0a", "a-", "-a", "a_", "ä", "a\n", "a\0"],
)
def test_names_are_those_of_the_broker(name):
    """A record's name is a sandbox name, and the other way round."""
    ours = len(name) <= NAME.max_length and re.fullmatch(NAME.regex, name, re.ASCII)
    try:
        take_sandbox_name(name)
    except RefusedError:
        assert not ours
    else:
        assert ours


def test_every_key_is_described_once():
    """A summary for each, and no key twice in a table."""
    for table in TABLES:
        assert len(table.by_key) == len(table.fields)
        for field in table.fields:
            assert field.summary.endswith(".")
