"""A sandbox gets no file that another program has mapped, and ends none by such a file."""

from __future__ import annotations

import contextlib
import fcntl
import os

import pytest
import trio

from broker.helpers.prompt.input import DialogSeat
from broker.helpers.prompt.window import DialogWindow
from tests.kit.wayland.people import HONEST, HOSTILE, Party, People, people

KINDS = ["sway", "weston", "kwin"]
SIZE, READINGS = 256 << 10, 2000
XKB_V1 = 1
"""wl_keyboard.keymap_format."""


def _keymap(party: Party) -> int:
    assert party.heard("keymap"), "no keymap"
    return party.fds[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_keymap_changes_for_its_own_client_only(kind):
    def attack(p: People) -> None:
        p.honest.begin(HONEST)
        p.eventually(lambda: bool(p.honest.heard("keymap")), p.honest)
        p.hostile.begin(HOSTILE)
        p.eventually(lambda: bool(p.hostile.heard("keymap")), p.hostile)
        theirs, mine = _keymap(p.honest), _keymap(p.hostile)
        before = os.pread(theirs, 1 << 20, 0)
        assert os.pread(mine, 1 << 20, 0).startswith(b"xkb_keymap")
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{mine}", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(again, b"XXXX", 0)
                os.ftruncate(again, 16)
            finally:
                os.close(again)
        assert os.pread(theirs, 1 << 20, 0) == before
        seals = fcntl.fcntl(mine, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        assert seals & wanted == wanted

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(attack)


class Seat:
    """A wl_seat without devices."""

    def __init__(self) -> None:
        self.dispatcher: dict = {}


def read_often(file: int) -> int:
    """Have the prompt take a keymap again and again, in a process; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        seat = DialogSeat(Seat(), DialogWindow(lambda *_: None, lambda _: None))
        for _ in range(READINGS):
            seat._keymap(None, XKB_V1, os.dup(file), SIZE)
        code = 0
    finally:
        os._exit(code)


def test_a_keymap_that_is_truncated_meanwhile_ends_no_prompt():
    """The compositor's file may be writable for other processes that have it."""
    file = os.memfd_create("keymap", os.MFD_CLOEXEC)
    pid, ended = read_often(file), (0, 0)
    while ended == (0, 0):
        for size in (SIZE, 0):
            os.ftruncate(file, size)
        ended = os.waitpid(pid, os.WNOHANG)
    os.close(file)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
