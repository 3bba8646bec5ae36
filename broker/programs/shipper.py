"""``python -m broker.programs.shipper``: sends the audit log on, as ``ship.toml`` says.

A child of the broker, so that neither a receiver nor its client library
is inside the process that decides.  It reads the log and writes its
cursors, nothing else.
"""

from __future__ import annotations

import os
import signal
import sys

import trio

from broker.core.errors import VitrailError
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.helpers.shipper.service import serve
from broker.ipc import event_loop

_PATIENCE = 2.0
"""For a batch that is under way when we are asked to end."""


async def _main() -> None:
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
    except VitrailError as error:
        sys.stderr.write(f"vitrail-shipper: {displayed(error.diagnostics())}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
