"""A process of a sandbox names itself so that its status is read as another one.

The name (prctl(2), PR_SET_NAME) is in /proc/PID/status and /proc/PID/stat.  It has any
15 bytes: not UTF-8, or text that looks like a field.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest
import trio

from broker.cli.homes import snapshot
from broker.core.process_status import status_fields, walls_of
from broker.helpers.mounts import mounts
from broker.host.launchers.nspawn import process as nspawn
from broker.host.processes.tracked import spawn_helper
from broker.net.peers import flatpak_instances
from broker.wire.faults import HeldError
from tests.kit.eventually import eventually

NAMES = [
    b"\xff\xfe",
    b"CapBnd:\t0",
    b"CapBnd:ffffffff",
    b"CapBnd: none",
    b"SigCgt: none",
    b"SigCgt:ffffffff",
    b"\x0bNSpid:\t1\t1\t1",
    b"\x1cNSpid:\tnone",
    b"a\nNSpid:\t1",
    b"a) R 1 1 1",
]
NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)
print("named", flush=True)
sys.stdin.read()
"""


@contextmanager
def named(name):
    words = [sys.executable, "-I", "-c", NAMED, name.hex()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as child:
        assert child.stdout.readline() == b"named\n"
        yield child.pid
        child.stdin.close()


def read(pid):
    """What the broker reads of a process, but for its numbers."""
    numbers = nspawn._numbers(pid)
    assert numbers == status_fields(pid)["NSpid"]
    assert numbers[0] == str(pid)
    assert flatpak_instances._number_inside(pid) == int(numbers[-1])
    assert snapshot._used(pid) is not None
    return len(numbers), mounts._may_mount(pid), walls_of(pid)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_process_that_renames_itself_is_read_the_same(name):
    with named(b"harmless") as pid:
        before = read(pid)
    with named(name) as pid:
        assert read(pid) == before


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_process_that_names_itself_is_ended(name):
    """A VMM that was taken over, for one."""
    child = spawn_helper(
        "taken", [sys.executable, "-I", "-c", NAMED_AND_WAITS, name.hex()]
    )
    try:
        await eventually(lambda: "named" in child.words)
        with trio.fail_after(60):
            await child.end(0)
        assert child.ended
    finally:
        child.kill_now()


NAMED_AND_WAITS = NAMED.replace("sys.stdin.read()", "import time; time.sleep(600)")


def test_path_of_a_mount_is_not_another_mount(monkeypatch):
    """A path may have a carriage return, which ended a line: the rest had no number."""
    line = b"36 25 0:32 / /mnt/a\r77 b rw - tmpfs tmpfs rw\n"
    monkeypatch.setattr(mounts.Path, "read_bytes", lambda _: line)
    mounts.refuse_moved(1, 77)
    with pytest.raises(HeldError):
        mounts.refuse_moved(1, 36)
