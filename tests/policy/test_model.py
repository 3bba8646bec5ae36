"""What the model shares with the broker, and what a palette must do."""

from __future__ import annotations

import itertools
import re

import pytest

from broker.core import limits as broker_limits
from broker.core import services
from broker.core.errors import RefusedError
from broker.core.names import take_sandbox_name
from broker.core.services import FIRST_CID, LAST_CID
from broker.wayland import label
from broker.wayland.rules import MAX_BORDER, Fullscreen
from policy import build, evaluate, limits
from policy.fields import Choice
from policy.tables import NAME, PALETTE, PEER, TABLES, WINDOW
from tests.policy import record_globals


def test_limits_are_those_of_the_broker():
    """Policy imports nothing of the broker, so this holds the two together."""
    assert limits.STREAMS[1] == broker_limits.STREAMS_PER_SANDBOX
    assert limits.WAYLAND_CLIENTS[1] == broker_limits.WAYLAND_CLIENTS_PER_SANDBOX
    assert limits.PROGRAMS[1] == broker_limits.PROGRAMS_PER_SANDBOX
    assert limits.COMMAND_BYTES == broker_limits.ARGV_BYTES
    assert limits.WINDOWS[1] == broker_limits.WAYLAND_WINDOWS
    assert limits.POPUPS[1] == broker_limits.WAYLAND_POPUPS
    assert limits.SURFACES[1] == broker_limits.WAYLAND_SURFACES
    assert limits.WINDOW_BYTES[1] == broker_limits.WAYLAND_SHM_BYTES
    assert limits.BORDER_PIXELS[1] == MAX_BORDER


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
    assert {evaluate.AGENT, evaluate.DISPLAY} == set(services.PORTS)


def test_cids_are_those_that_can_be_peers():
    """The hypervisor, loopback, the host and ANY are no peers."""
    kind = PEER.by_key["cid"].kind
    assert kind.schema() == {
        "type": "integer",
        "minimum": FIRST_CID,
        "maximum": LAST_CID,
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


# -- colours ----------------------------------------------------------------------

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of
# Color Vision Deficiency (2009), severity 1.0, on linear RGB.
_SIGHT = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
_APART = 15.0
"""CIE76 distance; 2.3 is just noticeable side by side, frames are not."""


def _linear(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def _lab(rgb):
    r, g, b = (min(1.0, max(0.0, part)) for part in rgb)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 4 / 29 for t in (x, y, z)
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("sight", _SIGHT)
def test_named_colours_stay_apart(sight):
    """For the usual sight and the three kinds of colour blindness."""
    seen = {
        name: _lab(
            [
                sum(map(float.__mul__, map(float, row), _linear(value)))
                for row in _SIGHT[sight]
            ]
        )
        for name, value in PALETTE.items()
    }
    for one, other in itertools.combinations(seen, 2):
        distance = (
            sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True))
            ** 0.5
        )
        assert distance > _APART, f"{one} and {other}: {distance:.1f}"
