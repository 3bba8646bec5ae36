"""``vitrail-local`` whose process has other limits than the product's.

``world(program=hurried_broker.__name__, extra=with_limits({...}))``: a name begins with
the module that the product's code reads it from.  Other processes (host, authority,
workers) keep their limits.
"""

from __future__ import annotations

from broker.core import limits
from broker.programs.local import main

limits.WORKER_STOP_SECONDS = 1.0
limits.WORKER_KILLED_SECONDS = 1.0

if __name__ == "__main__":
    main()
