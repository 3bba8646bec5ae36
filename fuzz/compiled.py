"""Targets in C: compiled with the sanitizers of gcc, run to their end."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

Played = subprocess.CompletedProcess[str]


def play_compiled(
    source: Path, seconds: float, seed: int, count: int, *flags: str
) -> Played:
    """Compile a target and run it; its output is one line of JSON.

    ``count``: what it does at most, in steps or sessions.
    """
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, source.stem)
        subprocess.run(["gcc", *_FLAGS, *flags, "-o", program, source], check=True)
        words = [str(program), str(int(seconds)), str(seed), str(count)]
        # Looking for leaks takes ptrace(2), which not every machine allows.
        env = {"PATH": os.defpath, "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run(
            words, env=env, capture_output=True, text=True, check=False
        )


def main_of(about: str, counted: str, play: Callable[[float, int, int], Played]) -> int:
    """Run a target by its command line; the exit code is 1 after a finding.

    ``counted`` is the name of the option of the count.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(f"--{counted}", dest="count", type=int, default=1 << 60)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    done = play(options.seconds, options.seed, options.count)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return int(done.returncode != 0)
