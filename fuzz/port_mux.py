"""Fuzz target: the host's end of a machine's port, ``_portmux.c``.

Invariant: an honest guest is never refused, and each of its bytes and of the broker's
arrives once and in order, whatever the sizes, the order of events and the errors of
the broker's sockets; a hostile guest is refused with a reason or does nothing that the
protocol forbids, no stream holds more than its window, and each connection that is
opened is closed.  The core runs in one process with the sanitizers of gcc.

    python -m fuzz.port_mux [--seconds N] [--seed N] [--steps N]

A finding names its session, which ``--seed`` with that number plays first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuzz.compiled import Played, main_of, play_compiled

SOURCE = Path(__file__).with_suffix(".c")


def play(seconds: float, seed: int, steps: int) -> Played:
    """Compile the target and run it; its output is one line of JSON."""
    return play_compiled(SOURCE, seconds, seed, steps)


if __name__ == "__main__":
    sys.exit(main_of(__doc__, "steps", play))
