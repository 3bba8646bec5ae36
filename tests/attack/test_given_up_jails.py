"""Attack: a jail that is given up while bubblewrap makes it stays for ever, with its descriptors.

Killed alone, bubblewrap leaves its child in a read of its eventfd, which nobody ends,
or lets the program run: it asks for the child's death last.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import PIPE, send_signal, spawn, wait_ended
from tests.kit.eventually import eventually

_JAIL = ("--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/")


def _children(pid):
    return [
        int(w) for w in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


async def ended(first):
    """Wait until a process has ended, and kill one that does not."""
    try:
        with trio.fail_after(20):
            await wait_ended(first)
    finally:
        send_signal(first)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("held", ["--userns-block-fd", "--block-fd"])
async def test_a_jail_that_is_given_up_at_a_stop_of_its_start_ends_whole(held, number):
    """The first before its child is released, the second before it asks for its death."""
    read, write = os.pipe()
    far, near = os.pipe()
    words = [*_JAIL[:1], "--unshare-user", "--info-fd", str(near), *_JAIL[1:]]
    child = spawn(
        ["bwrap", held, str(read), *words, "--", "sleep", "1000"],
        pass_fds=(read, near),
    )
    os.close(near)
    (inside,) = await eventually(lambda: _children(child.pid))
    await eventually(lambda: os.read(far, 4096))
    first = os.pidfd_open(inside)
    child.kill(number)
    await child.wait()
    await ended(first)
    for fd in (read, write, far, first):
        os.close(fd)


async def test_a_jail_ends_between_leaving_the_group_and_asking_for_its_death(tmp_path):
    """The few calls in which only its parent, still there, says which process it is."""
    made = tmp_path / "bwrap"
    made.write_text(f"#!/bin/sh\n{shutil.which('setsid')} sleep 1000 &\nwait\n")
    made.chmod(0o755)
    child = spawn([made])
    inside = await eventually(
        lambda: [p for p in _children(child.pid) if os.getsid(p) == p]
    )
    first = os.pidfd_open(inside[0])
    child.kill()
    await child.wait()
    await ended(first)
    os.close(first)


async def test_a_tool_with_bubblewraps_name_among_its_words_is_asked_to_end():
    """A sandbox, a folder or a user may have that name: its tool was killed, not asked."""
    program = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); "
        "print(flush=True); signal.pause()"
    )
    child = spawn([sys.executable, "-c", program, "/home/bwrap"], stdout=PIPE)
    assert child.popen.stdout is not None
    await trio.to_thread.run_sync(child.popen.stdout.read, 1)
    child.kill(signal.SIGTERM)
    assert await child.wait() == 7
    child.popen.stdout.close()
