"""Fuzz target: the guest's agent in C, ``shims/minimal``, whose broker is hostile.

Invariant: whatever frames come, in whatever pieces and with whatever errors of the
kernel, the agent reads and writes only its own memory, sends frames of a size that the
broker takes, and ends a connection instead of waiting for more than a frame may have.
The kernel is played by the target; the core runs with the sanitizers of gcc.

    python -m fuzz.minimal_agent [--seconds N] [--seed N] [--sessions N]

``--seed`` with the number of a session plays that one first.
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
_FLAGS = (
    *("-O1", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


def play(
    seconds: float, seed: int, sessions: int, source: Path = SOURCE
) -> subprocess.CompletedProcess[str]:
    """Compile the target and run it; its output is one line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "minimal_agent")
        subprocess.run(["gcc", *_FLAGS, "-o", program, source], check=True)
        words = [str(program), str(int(seconds)), str(seed), str(sessions)]
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
    parser.add_argument("--sessions", type=int, default=1 << 60)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    done = play(options.seconds, options.seed, options.sessions)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
