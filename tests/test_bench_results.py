"""A benchmark's results have a place before the measuring begins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Stands in for the programs that are measured against: none is found.
NONE = {"PATH": "/nonexistent"}


def test_the_folder_of_results_is_made_first(tmp_path):
    """``make bench BENCH=pulse`` lost minutes of measuring to a folder that was missing."""
    out = tmp_path / "none" / "out"
    env = {**os.environ, **NONE, "VITRAIL_OUT": str(out)}
    line = [sys.executable, "-m", "tests.bench.pulse", "--quick"]
    done = subprocess.run(
        line, env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "missing: socat" in done.stdout) == (1, True), done.stderr
    assert (out / "bench-pulse.json").is_file()
