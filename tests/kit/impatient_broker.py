"""``vitrail-local`` that gives up a silent authority, or host, after a few seconds."""

from __future__ import annotations

import os

from broker.core.limits import authority as authority_limits
from broker.core.limits import host_viewer as pair_limits
from broker.programs.local import main

SILENT_SECONDS = int(os.environ.get("TEST_SILENT_SECONDS", "2"))
authority_limits.AUTHORITY_BEAT_SECONDS = 0.1
authority_limits.AUTHORITY_SILENT_SECONDS = SILENT_SECONDS
authority_limits.AUTHORITY_END_SECONDS = 2.0
pair_limits.PAIR_BEAT_SECONDS = 0.1
pair_limits.PAIR_SILENT_SECONDS = SILENT_SECONDS

if __name__ == "__main__":
    main()
