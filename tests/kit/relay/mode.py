"""A host's or viewer's broker whose way of relaying a file says, stream by stream.

    python relay_mode.py host FILE ARGUMENT…

What a finished stream was moved by, the broker adds to ``FILE.took``.
Started in the broker's place, so that a benchmark compares the modes within one
repetition, with the same broker.  Imports nothing of the tests: it also runs in
machines that have only the project.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.pump import RelayMode, StreamEnd


def follow(file: Path) -> None:
    """Have each new stream moved as the file says then; ``auto`` if it is empty."""
    # Opened before the broker is confined, which can open neither later.
    mode = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    took = os.open(f"{file}.took", flags, 0o600)

    def now(self: PumpSupervisor) -> RelayMode:
        return RelayMode(os.pread(mode, 100, 0).decode().strip() or "auto")

    def ignored(self: PumpSupervisor, mode: RelayMode) -> None:
        """The configuration's word does not count here."""

    relay = PumpSupervisor.relay

    async def told(
        self: PumpSupervisor, a_fd: int, b_fd: int, **words: Any
    ) -> StreamEnd:
        ordered = self.mode
        end = await relay(self, a_fd, b_fd, **words)
        os.write(took, f"{ordered} {end.mode_ab} {end.mode_ba}\n".encode())
        return end

    PumpSupervisor.mode = property(now, ignored)
    PumpSupervisor.relay = told


if __name__ == "__main__":
    role, name = sys.argv[1:3]
    del sys.argv[1:3]
    follow(Path(name))
    importlib.import_module(f"broker.programs.{role}").main()
