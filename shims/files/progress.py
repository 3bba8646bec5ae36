"""The progress of a transfer, for the user.

Programs in the sandbox print it, for the user at their terminal.
"""

from __future__ import annotations

import sys
import time

from shims.files.protocol import tell

BAR_SECONDS = 0.3
LINE_SECONDS = 2.0  # between lines about progress where there is no terminal


class Bar:
    """A progress bar on a terminal; elsewhere a line from time to time, or nothing."""

    def __init__(self, total: int, verb: str = "") -> None:
        self._total = total
        self._verb = verb
        self._bar = sys.stderr.isatty()
        # A transfer that is over at once needs no bar.
        wait = BAR_SECONDS if self._bar else LINE_SECONDS
        self._next = time.monotonic() + wait
        self._shown = False
        self.done = 0

    def add(self, size: int) -> None:
        """Count transferred bytes; draw the bar, or print a line, if one is due."""
        self.done += size
        now = time.monotonic()
        if now < self._next:
            return
        if self._bar:
            self._next = now + 0.1
            self._draw()
        elif self._verb:
            # Of a program that the broker has started: 'brokerctl logs' shows it.
            self._next = now + LINE_SECONDS
            tell(f"{self._verb} {self._sizes()}")

    def _draw(self) -> None:
        part = min(self.done * 30 // max(self._total, 1), 30)
        sys.stderr.write(f"\r[{'#' * part:<30}] {self._sizes()} ")
        sys.stderr.flush()
        self._shown = True

    def _sizes(self) -> str:
        shift, unit = (20, "MiB") if self._total >= 10 << 20 else (10, "KiB")
        # Entries count among the bytes sent, so a little more than the files has.
        return (
            f"{min(self.done, self._total) >> shift} of {self._total >> shift} {unit}"
        )

    def end(self) -> None:
        """Continue on the next line."""
        if self._shown:
            self._draw()
            sys.stderr.write("\n")
