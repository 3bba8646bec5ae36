"""The prompt agent whose broker has gone before its first message."""

from __future__ import annotations

import os
import socket
import subprocess

from broker.helpers.process.popen import our_program


def test_it_ends_without_a_traceback():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        told = subprocess.run(
            our_program("broker.programs.prompt", str(theirs.fileno())),
            env={**os.environ, "WAYLAND_DISPLAY": "/nonexistent"},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (told.returncode, told.stderr) == (0, b"")
