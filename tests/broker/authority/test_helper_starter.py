"""The authority's end of its starter, which is the test."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from broker.authority.helper_starter import HelperStarter
from broker.core.errors import UpstreamError
from broker.ipc import starter as m
from broker.ipc.starter import HelperProgram
from broker.wire import fdpass


async def test_a_late_answer_is_not_the_next_request_s(autojump_clock):
    """A starter that was stopped, or a busy machine, costs one helper, and no other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sleeping = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]

    def answer(child):
        pidfd = os.pidfd_open(child.pid)
        end, write = os.pipe()
        fds = [pidfd, end]
        fdpass.send(theirs, m.encode(m.HelperStarted(child.pid)), fds)
        fdpass.close_all([*fds, write])

    with ours, theirs:
        starter = HelperStarter(ours)
        with pytest.raises(UpstreamError):
            await starter.start(HelperProgram.PROMPT)
        for child in sleeping:
            answer(child)
        helper = await starter.start(HelperProgram.PROMPT)
        assert helper.pid == sleeping[1].pid
        assert sleeping[0].wait(30) == -9
        assert await helper.wait() == -9, "its pipe has ended without a word"
    sleeping[1].kill()
    sleeping[1].wait()
