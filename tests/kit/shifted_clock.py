"""A wall clock for some programs that a test sets on and back (``shifted_clock.c``)."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class ShiftedClock:
    """The clock of the programs that are started with ``environ``."""

    def __init__(self, base: Path) -> None:
        self._file = base / "clock"
        self._library = base / "clock.so"
        self.set_on(0)
        words = ["gcc", "-shared", "-fPIC", "-O1", f'-DCLOCK_FILE="{self._file}"']
        words += ["-o", str(self._library), str(_SOURCE), "-ldl"]
        subprocess.run(words, check=True)

    @property
    def environ(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library)}

    def set_on(self, seconds: int) -> None:
        """Set it on by so many seconds of the true time; 0: it is the true time."""
        data = struct.pack("l", seconds)
        mode = "r+b" if self._file.exists() else "wb"  # it is mapped: never cut
        with self._file.open(mode, buffering=0) as file:
            file.write(data)


def lacks_clock() -> str:
    """Return what it needs and this machine has not."""
    return "" if shutil.which("gcc") else "gcc is not installed"
