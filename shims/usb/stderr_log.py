"""What both programs write to standard error, and how long they wait after a failure."""

from __future__ import annotations

import sys

RETRY_SECONDS = 2.0


def log(text: str) -> None:
    """Write a line to standard error."""
    print(f"vitrail: {text}", file=sys.stderr, flush=True)
