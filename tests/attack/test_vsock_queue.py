"""What carries a guest's streams takes no memory without end for it.

Invariant: vhost-device-vsock keeps an entry for each packet that it owes its guest, and a
guest that never takes one ends its own machine, not the memory of this one.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, asynccontextmanager, closing

import pytest
import trio

from broker.core import limits
from broker.core.errors import SetupError
from broker.host.vmm.vsock_backend import start_hybrid_vsock
from tests.kit.vm.machines import vm_tools
from tests.kit.vm.vsock_driver import (
    CREDIT_REQUEST,
    REQUEST,
    SIZE,
    VsockDriver,
)
from tests.kit.wayland.compositor import short_directory

CID, PORT = 77, 6500
PACKETS = 4 << 20


@asynccontextmanager
async def a_driver():
    """A guest's driver in front of the real process; yields both."""
    try:
        tool = (await vm_tools()).vhost_device_vsock
    except SetupError as error:
        pytest.skip(str(error))
    if tool is None:
        pytest.skip("this machine has the kernel's vsock")
    with short_directory() as place, ExitStack() as stack:
        streams = await start_hybrid_vsock(tool, place, CID)
        try:
            door = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            door.bind(f"{streams.uds}_{PORT}")
            door.listen(4096)
            conn = streams.conn.dup()
            driver = await trio.to_thread.run_sync(VsockDriver, conn, CID)
            stack.callback(driver.close)
            yield driver, streams.process
        finally:
            await streams.end()


def flood(driver):
    """Open a stream, then ask for its credit and take no answer."""
    driver.packet(0, REQUEST, 1000, PORT)
    driver.send(1)
    for slot in range(SIZE):
        driver.packet(slot, CREDIT_REQUEST, 1000, PORT)
    for _ in range(PACKETS // SIZE):
        driver.send()


@pytest.mark.slow
async def test_answers_that_a_guest_never_takes_fill_no_memory(monkeypatch):
    """8 bytes each, half a million a second: 34 MiB after 4 million of them."""
    monkeypatch.setattr(limits, "GUEST_SERVER_BYTES", 20 << 20)
    async with a_driver() as (driver, process):
        with pytest.raises(ConnectionError):
            await trio.to_thread.run_sync(flood, driver)
        with trio.fail_after(60):
            await process.wait()


@pytest.mark.slow
async def test_all_streams_that_it_may_have_open_find_room():
    def fill(driver):
        for first in range(0, limits.VMM_FDS, SIZE):
            for slot in range(SIZE):
                driver.packet(slot, REQUEST, 1000 + first + slot, PORT)
            driver.send()

    async with a_driver() as (driver, process):
        await trio.to_thread.run_sync(fill, driver)
        assert not process.ended
