"""A local broker whose programs carry the faults of ``faults.c`` on.

The broker starts its programs with few variables of the environment; here they keep
the two that load the faults.
"""

from __future__ import annotations

import os
from typing import Any

from broker.helpers.process.popen import Process, start_process
from broker.programs import start
from broker.programs.local import main

VARIABLES = ("LD_PRELOAD", "VITRAIL_FAULTS")


def _start(
    argv: list[str], *, env: dict[str, str] | None = None, **more: Any
) -> Process:
    kept = {name: os.environ[name] for name in VARIABLES}
    return start_process(argv, env=None if env is None else env | kept, **more)


if __name__ == "__main__":
    start.start_process = _start
    main()
