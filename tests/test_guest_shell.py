"""The test's hand in a machine: an answer belongs to its command."""

from __future__ import annotations

import os
import socket
import threading

import pytest
import trio

from tests.kit.link.three_machines import Guest
from tests.kit.vm import shell


async def test_an_answer_that_comes_too_late_is_of_no_other_command(tmp_path):
    ours, theirs = socket.socketpair()
    lines = theirs.makefile("rwb")
    thread = threading.Thread(target=shell.answer, args=(lines, lines), daemon=True)
    thread.start()
    guest = Guest("here", 3)
    guest.begin(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with pytest.raises(trio.TooSlowError):
        await guest.try_run(f"cat {gate}; echo late", "root", deadline=0.5)
    # It hangs on, and holds up no other.
    assert await guest.run("echo next", user="root") == "next\n"
    assert await guest.run(f"echo >{gate}; echo third", user="root") == "third\n"
    # Now the late one is answered, too, before the next command.
    for other in [t for t in threading.enumerate() if "carry_out" in t.name]:
        await trio.to_thread.run_sync(other.join)
    assert await guest.run("echo fourth", user="root") == "fourth\n"
    await guest.shell.aclose()
    await trio.to_thread.run_sync(thread.join)
    lines.close()
    theirs.close()
