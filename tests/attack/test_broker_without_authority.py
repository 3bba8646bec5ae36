"""A viewer that was taken over kills its authority, and stays.

It has the authority's pidfd, to end one that hangs, and is the parent of all processes of
its broker.  Nothing of it was seen by 'brokerctl status' then, and a new broker started
beside it.  The starter, whose pidfd it does not have, ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

_VIEWER = """
import os, signal, sys
from broker.ipc import starter as m
from broker.programs import start
from tests.kit.workers import running_as
with running_as("tests.kit.hurried_helpers"):
    helpers = start.start_helpers({b"PATH": b"/nonexistent"})
forks = helpers.forks()
# The starter answers, so it runs.
helpers.starter.send(m.encode(m.ShowNotification("title", "text", 1)))
assert b"is not installed" in helpers.starter.recv(m.MESSAGE_BYTES)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "without its fork server":
    signal.pidfd_send_signal(forks["pumps"].process.pidfd, signal.SIGKILL)
# As the death of the authority does, which has the only copy.
helpers.starter.close()
sys.stdin.read()
"""


def _viewer(how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _VIEWER, how],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_viewer_that_has_killed_its_authority_is_ended() -> None:
    """Ten seconds after its authority; here after one (``hurried_helpers``)."""
    with (
        _viewer("with its fork server") as one,
        _viewer("without its fork server") as two,
    ):
        try:
            for viewer in (one, two):
                assert viewer.wait(60) == -signal.SIGKILL
        finally:
            one.kill()
            two.kill()
        for viewer in (one, two):
            assert viewer.stderr is not None
            assert b"did not end with its authority" in viewer.stderr.read()


@pytest.mark.slow
def test_a_broker_that_ends_with_its_authority_is_not_waited_for() -> None:
    """And its starter ends with it: nothing of it holds this pipe any more."""
    with _viewer("with its fork server") as viewer:
        assert viewer.stdin is not None
        viewer.stdin.close()
        try:
            assert viewer.wait(60) == 0
        finally:
            viewer.kill()
        assert viewer.stderr is not None
        os.set_blocking(viewer.stderr.fileno(), True)
        assert viewer.stderr.read() == b""
