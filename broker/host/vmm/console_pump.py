"""A machine's console, copied from QEMU's socket at a bounded rate."""

from __future__ import annotations

import trio

from broker.core import limits
from broker.helpers.console_log import ConsoleLog

_CHUNK = 4096


async def pump_console(stream: trio.abc.ReceiveStream, log: ConsoleLog) -> None:
    """Copy a machine's console into its log until QEMU closes it."""
    async with stream:
        while True:
            try:
                untrusted_data = await stream.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not untrusted_data:
                return
            log.write(bytes(untrusted_data))
            await trio.sleep(len(untrusted_data) / limits.CONSOLE_BYTES_PER_SECOND)
