"""``python -m broker.programs.shipper``: sends the audit log on, as ``ship.toml`` says.

A child of the broker, so that neither a receiver nor its client library
is inside the process that decides.  It makes jails and waits; the log and the answers
of receivers are read in these (``broker.programs.shipper_jailed``).
"""

from __future__ import annotations

import os
import signal
import sys

import trio

from broker.core.errors import VitrailError, sole
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.helpers.shipper.service import serve
from broker.ipc import event_loop

_PATIENCE = 3.0
"""For a jail that does not end."""


async def _main() -> None:
    """Send the audit log until a signal; end at once when that takes too long."""
    stop = trio.Event()

    async def watch() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                stop.set()
                await trio.sleep(_PATIENCE)
                # Unconfirmed events are sent again: the cursor has not moved.
                os._exit(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await serve(find_paths(), stop)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    os.umask(0o077)
    try:
        event_loop.run(_main)
    except (VitrailError, ExceptionGroup) as group:
        # A task's error arrives in the groups of the nurseries around it.
        error = sole(group)
        if not isinstance(error, VitrailError):
            raise
        sys.stderr.write(f"vitrail-shipper: {displayed(error.diagnostics())}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
