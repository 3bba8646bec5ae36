"""What a process that forks pumps loads once, so that no pump loads it again."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from broker.helpers.pump import confine, process, turns

process.preload()
before = set(sys.modules)
turns.available()
confine.confine()
print(sorted(set(sys.modules) - before - set(sys.builtin_module_names)))
"""


def test_a_pump_imports_nothing_that_was_preloaded():
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
