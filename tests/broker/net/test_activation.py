"""Socket activation: the variables that are accepted, and those that are refused."""

from __future__ import annotations

import pytest

from broker.core.errors import SetupError
from broker.core.limits import link as limits
from broker.net.activation import take_activated

KNOWN = ("control", "link")


def env(fds, names="control:link", pid=7):
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": fds, "LISTEN_FDNAMES": names}


def test_names_become_descriptors_from_three_on():
    assert take_activated(env("2"), 7, KNOWN) == {"control": 3, "link": 4}
    assert take_activated(env("1"), 7, KNOWN) == {"control": 3}
    assert take_activated(env("0"), 7, KNOWN) == {}


def test_sockets_for_another_process_are_not_taken():
    assert take_activated(env("2", pid=8), 7, KNOWN) == {}
    assert take_activated({}, 7, KNOWN) == {}


@pytest.mark.parametrize(
    ("fds", "names"),
    [
        ("2", "control:control"),
        ("2", "control"),
        ("1", "other"),
        ("1", ""),
        ("-1", "control"),
        ("x", "control"),
        ("", "control"),
        ("²", "control"),
    ],
)
def test_malformed_variables_are_refused(fds, names):
    with pytest.raises(SetupError):
        take_activated(env(fds, names), 7, KNOWN)


def test_at_most_so_many():
    known = [f"n{number}" for number in range(limits.ACTIVATED + 1)]
    most = env(str(limits.ACTIVATED), ":".join(known))
    assert len(take_activated(most, 7, known)) == limits.ACTIVATED
    with pytest.raises(SetupError):
        take_activated(env(str(limits.ACTIVATED + 1), ":".join(known)), 7, known)
