"""A sandbox gets no file that another program has mapped."""

from __future__ import annotations

import contextlib
import fcntl
import os

import pytest
import trio

from tests.kit.wayland.people import HONEST, HOSTILE, Party, People, people

KINDS = ["sway", "weston", "kwin"]


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
