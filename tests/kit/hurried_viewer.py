"""``vitrail-viewer`` that waits less long: for a host, for a handshake, for a record."""

from __future__ import annotations

from broker.core.limits import link as limits

HANDSHAKE_SECONDS = 3.0

if __name__ == "__main__":
    limits.LINK_HANDSHAKE_SECONDS = HANDSHAKE_SECONDS
    limits.LINK_RETRY_SECONDS = 0.5
    limits.LINK_SILENCE_SECONDS = 1.0
    limits.LINK_SILENT_SECONDS = 1.0
    from broker.programs.viewer import main

    main()
