"""Attack: one sandbox takes all places of a service, and others are refused."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from broker.core.errors import VitrailError
from broker.viewer.calls.places import CallPlaces


def take_all(places, held, caller, most=16):
    taken = 0
    try:
        while taken <= most:
            held.enter_context(places.one("vault", "gpg", most, caller))
            taken += 1
    except VitrailError:
        pass
    return taken


def test_a_caller_leaves_places_to_another():
    """Sixteen of sixteen were its own."""
    places = CallPlaces()
    with ExitStack() as held:
        assert take_all(places, held, "red") == 8
        assert take_all(places, held, "blue") == 4
        assert take_all(places, held, "work") == 2
    with ExitStack() as held:
        assert take_all(places, held, "work") == 8, "all were given back"


def test_a_service_for_one_call_at_a_time_serves_one():
    places = CallPlaces()
    with ExitStack() as held:
        assert take_all(places, held, "red", most=1) == 1
        assert take_all(places, held, "blue", most=1) == 0


def test_a_refusal_does_not_tell_how_many_run():
    places, texts = CallPlaces(), set()
    for others in (0, 3):
        with ExitStack() as held:
            for number in range(others):
                held.enter_context(places.one("vault", "gpg", 8, f"s{number}"))
            take_all(places, held, "red", most=8)
            with pytest.raises(VitrailError) as refused:
                held.enter_context(places.one("vault", "gpg", 8, "red"))
            texts.add(str(refused.value))
    assert len(texts) == 1
