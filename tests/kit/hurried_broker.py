"""``vitrail-local`` that gives up a worker that was killed, and does not end, at once."""

from __future__ import annotations

from broker.core import limits
from broker.programs.local import main

limits.WORKER_STOP_SECONDS = 1.0
limits.WORKER_KILLED_SECONDS = 1.0

if __name__ == "__main__":
    main()
