"""Each reason for which a link is down has a cure that fits it, at either end."""

from __future__ import annotations

import pytest

from broker.net.link.cures import (
    BROKER_ENDS,
    FORGOTTEN,
    VIEWER_ENDS,
    cure,
    reason_of_peer,
)
from broker.net.link.wire_types import PAIR_HINT, Role, other_version


@pytest.mark.parametrize(
    ("reported", "reworded"),
    [
        (FORGOTTEN, "desk left: it has forgotten this broker's key"),
        (BROKER_ENDS, "desk left: its broker has ended"),
        (VIEWER_ENDS, "desk left: its broker has ended"),
        (
            "screen sent nothing for 900 s",
            "desk left: it received nothing from this broker for 900 s",
        ),
        (
            "screen did not answer within 60 s",
            "desk left: this broker owed it an answer for 60 s",
        ),
        ("unknown field `x`", "desk left, and reported: unknown field `x`"),
    ],
)
def test_reason_of_peer_is_reworded_by_the_reader(reported, reworded):
    assert reason_of_peer("desk", reported) == reworded


@pytest.mark.parametrize(
    ("problem", "cured"),
    [
        ("this host is not paired with a viewer", PAIR_HINT),
        (reason_of_peer("desk", FORGOTTEN), PAIR_HINT),
        ("the other broker's key is not pinned here", PAIR_HINT),
        (str(other_version(9)), "install the same release"),
        (
            "the other broker refused the connection: it uses another version of the link",
            "install the same release",
        ),
        (reason_of_peer("desk", BROKER_ENDS), "start 'vitrail-host'"),
        ("", "start 'vitrail-host'"),
        ("desk has sent nothing for 20 s: windows wait for it", "suspended"),
        (reason_of_peer("desk", "screen sent nothing for 9 s"), "wait some seconds"),
        ("the control connection ended without Bye", "wait some seconds"),
    ],
)
def test_cure_fits_the_problem(problem, cured):
    assert cured in cure(problem, Role.VIEWER)


def test_cure_not_chosen_by_own_words_of_peer():
    """A taken-over end would have the user pair again, or install another release."""
    problem = reason_of_peer("desk", f"not paired with you, {FORGOTTEN} version")
    assert "start 'vitrail-host'" in cure(problem, Role.VIEWER)


def test_cure_names_the_other_end():
    assert cure("", Role.HOST).startswith("start 'vitrail-viewer' on the viewer")
    assert "the viewer's machine is suspended" in cure("x did not answer", Role.HOST)
