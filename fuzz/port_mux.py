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

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def play(seconds: float, seed: int, steps: int) -> subprocess.CompletedProcess[str]:
    """Compile the target and run it; its output is one line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "port_mux")
        subprocess.run(["gcc", *_FLAGS, "-o", program, SOURCE], check=True)
        words = [str(program), str(int(seconds)), str(seed), str(steps)]
        # Looking for leaks takes ptrace(2), which not every machine allows.
        env = {"PATH": os.defpath, "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run(
            words, env=env, capture_output=True, text=True, check=False
        )


def main() -> int:
    """Run the target; the exit code is 1 after a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--steps", type=int, default=1 << 60)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    done = play(options.seconds, options.seed, options.steps)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
