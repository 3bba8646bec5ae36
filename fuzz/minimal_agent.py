"""Fuzz target: the guest's agent in C, ``shims/minimal``, whose broker is hostile.

Invariant: whatever frames come, in whatever pieces and with whatever errors of the
kernel, the agent reads and writes only its own memory, sends frames of a size that the
broker takes, and ends a connection instead of waiting for more than a frame may have.
The kernel is played by the target; the core runs with the sanitizers of gcc.

    python -m fuzz.minimal_agent [--seconds N] [--seed N] [--sessions N]

``--seed`` with the number of a session plays that one first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuzz.compiled import Played, main_of, play_compiled

SOURCE = Path(__file__).with_suffix(".c")


def play(seconds: float, seed: int, sessions: int, source: Path = SOURCE) -> Played:
    """Compile the target and run it; its output is one line of JSON."""
    return play_compiled(source, seconds, seed, sessions, "-Wall", "-Wextra", "-Werror")


if __name__ == "__main__":
    sys.exit(main_of(__doc__, "sessions", play))
