"""A launcher that is killed while it starts a program in the jail of QEMU.

``python -m tests.kit.vm.killed_launcher DIRECTORY SECONDS CALL before|after``: the
program is sleep(1), and the kill comes before or after the process of that CALL has
been written to DIRECTORY (1: bubblewrap's, 2: the program's own).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import trio

from broker.host.processes.tracked import Tracked
from broker.host.vmm.qemu_arguments import Accel
from broker.host.vmm.vm_state import QEMU, state_of, write_state
from broker.host.vmm.vmm_jail import JailView, spawn_jailed
from tests.kit.vm.machines import tiny_spec

SLEEP = Path("/usr/bin/sleep")


async def start(directory: Path, seconds: str, call: int, when: str) -> None:
    """Start it; does not return."""
    state = state_of(tiny_spec(directory), cid=3, hybrid=True, accel=Accel.TCG)
    calls = 0

    def known(process: Tracked) -> None:
        nonlocal calls
        calls += 1
        if (calls, when) == (call, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        write_state(directory, msgspec.structs.replace(state, vmm=process.identity))
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    words = [str(SLEEP), seconds]
    await spawn_jailed(QEMU, words, JailView(SLEEP), known=known)


if __name__ == "__main__":
    trio.run(start, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
