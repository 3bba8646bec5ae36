"""The chart's numbers, from the objects of 'audit stats'."""

from __future__ import annotations

import warnings

import pytest

from broker.core.errors import SetupError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyGObject's importer is of an older kind
        import broker.cli.manager.toolkit  # noqa: F401
except SetupError as error:
    pytest.skip(str(error), allow_module_level=True)

from broker.cli.manager.pages import chart

STREAM = {"sandbox": "web", "streams": 2, "bytes_from_sandbox": 1, "seconds": 1.0}


def test_services_of_a_sandbox_are_added():
    events = {
        "traffic": [
            {**STREAM, "bytes_to_sandbox": 1023},
            {**STREAM, "bytes_to_sandbox": 1},
            {**STREAM, "sandbox": "", "bytes_to_sandbox": 0},
        ]
    }
    (web, none) = chart._traffic(events)
    assert web == ("web", 1026, "2 B out, 1.0 KiB in, 4 streams")
    assert none[:2] == ("", 1)


def test_decisions_are_with_the_denied_ones():
    counted = {"sandbox": {"web": 3, "work": 1}, "denied": {"web": 2}}
    assert chart._decisions(counted) == [
        ("web", 3, "3 decisions, 2 denied"),
        ("work", 1, "1 decision, 0 denied"),
    ]
    assert chart._decisions({"denied": {}, "events": 0}) == []
