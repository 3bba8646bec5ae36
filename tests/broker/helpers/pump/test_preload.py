"""What the fork server of helpers loads once, so that no pump loads it again."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from broker.helpers.apart import from_child
from broker.helpers.process.hardening import confine
from broker.helpers.pump import turns
from broker.programs import helper_forks

turns.available()
_, program, _ = from_child(helper_forks._filters)
before = set(sys.modules)
turns.available()
confine(program)
print(sorted(set(sys.modules) - before - set(sys.builtin_module_names)))
print("seccomp" in sys.modules, "pyseccomp" in sys.modules)
"""


def test_a_pump_imports_nothing_that_was_preloaded():
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[]\nFalse False\n", "")
