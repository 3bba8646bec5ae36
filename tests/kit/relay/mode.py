"""A host's or viewer's broker whose way of relaying a file says, stream by stream.

    python relay_mode.py host FILE ARGUMENT…

What a finished stream was moved by, the broker adds to ``FILE.took``.
Started in the broker's place, so that a benchmark compares the modes within one
repetition, with the same broker.  Imports nothing of the tests: it also runs in
machines that have only the project.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.pump import RelayMode, StreamEnd


def follow(file: Path) -> None:
    """Have each new stream moved as the file says then; ``auto`` without it."""

    def now(self: PumpSupervisor) -> RelayMode:
        return RelayMode(file.read_text().strip()) if file.exists() else RelayMode.AUTO

    def ignored(self: PumpSupervisor, mode: RelayMode) -> None:
        """The configuration's word does not count here."""

    relay = PumpSupervisor.relay

    async def told(
        self: PumpSupervisor, a_fd: int, b_fd: int, **words: Any
    ) -> StreamEnd:
        ordered = self.mode
        end = await relay(self, a_fd, b_fd, **words)
        with Path(f"{file}.took").open("a") as took:
            took.write(f"{ordered} {end.mode_ab} {end.mode_ba}\n")
        return end

    PumpSupervisor.mode = property(now, ignored)
    PumpSupervisor.relay = told


if __name__ == "__main__":
    role, name = sys.argv[1:3]
    del sys.argv[1:3]
    follow(Path(name))
    importlib.import_module(f"broker.programs.{role}").main()
