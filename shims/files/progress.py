"""How far a transfer is, for the person."""

from __future__ import annotations

import sys
import time

from shims.files.connection import tell

LINE_SECONDS = 2.0  # between lines about progress where there is no terminal


class Bar:
    """A progress bar on a terminal; elsewhere a line from time to time, or nothing."""

    def __init__(self, total: int, verb: str = "") -> None:
        self._total = total
        self._verb = verb
        self._next = 0.0 if sys.stderr.isatty() else time.monotonic() + LINE_SECONDS
        self.done = 0

    def add(self, size: int) -> None:
        """So many bytes more."""
        self.done += size
        now = time.monotonic()
        if now < self._next:
            return
        done, total = self.done >> 20, self._total >> 20
        if sys.stderr.isatty():
            self._next = now + 0.1
            part = min(self.done * 30 // max(self._total, 1), 30)
            sys.stderr.write(f"\r[{'#' * part:<30}] {done} of {total} MiB ")
        elif self._verb:
            # Of a program that the broker has started: 'brokerctl logs' shows it.
            self._next = now + LINE_SECONDS
            tell(f"{self._verb} {done} of {total} MiB")

    def end(self) -> None:
        """Go on in the next line."""
        if sys.stderr.isatty() and self._next:
            sys.stderr.write("\n")
