"""A local broker whose programs carry the faults of ``faults.c`` on.

The broker starts its programs with few variables of the environment; here they keep
the two that load the faults.
"""

from __future__ import annotations

import os
from typing import Any

from broker.helpers import fork_start
from broker.helpers.process.spawn import Child, spawn
from broker.programs.local import main

VARIABLES = ("LD_PRELOAD", "VITRAIL_FAULTS")


def _spawn(*words: Any, env: dict[str, str], **more: Any) -> Child:
    kept = {name: os.environ[name] for name in VARIABLES}
    return spawn(*words, env=env | kept, **more)


if __name__ == "__main__":
    fork_start.spawn = _spawn
    main()
