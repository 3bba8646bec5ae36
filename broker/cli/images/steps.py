"""Progress of work on images."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.text import Text

from broker.cli import render
from broker.core.escape import displayed


class BuildSteps:
    """Shows each step of a build, and on a terminal how long it has taken."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to show."""
        if not self._quiet and self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""
        self._status.stop()

    def step(self, text: str) -> None:
        """Print that a step of the work begins, with the time since the start."""
        if self._quiet:
            return
        spent = render.seconds(time.monotonic() - self._began)
        # guard: steps of an image drive no terminal and are no markup
        shown = Text(displayed(text))
        self._console.print(Text(f"[{spent:>7}] ") + shown, soft_wrap=True)
        self._status.update(shown)
