"""The first line of bubblewrap's status names the jail's first process, or it failed."""

from __future__ import annotations

import pytest

from broker.core.errors import UpstreamError
from broker.helpers.bubblewrap_status import leader_of


def test_the_first_line_has_the_pid():
    status = b'{ "child-pid": 42 }\n{ "exit-code": 0 }\n'
    assert leader_of(status, "the box") == 42


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"\n",
        b"{",
        b"[42]",
        b"{}",
        b'{"child-pid": true}',
        b'{"child-pid": "42"}',
        b'\n{"child-pid": 42}',
        b"\xff",
    ],
)
def test_a_status_without_a_pid_is_a_jail_that_did_not_start(status):
    with pytest.raises(UpstreamError, match="did not start the box") as caught:
        leader_of(status, "the box")
    assert "brokerctl doctor" in caught.value.hint
