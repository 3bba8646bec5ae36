"""What ``brokerctl status`` collects: the parts that need no broker."""

from __future__ import annotations

import os

import trio

from broker.control import api
from broker.services import process_memory, status


async def test_the_memory_of_processes_is_read_beside_the_loop(tmp_path, monkeypatch):
    """A read that the kernel lets wait holds up nothing else."""
    monkeypatch.setattr(process_memory, "_PROC", tmp_path)
    (tmp_path / "7").mkdir()
    slow = tmp_path / "7/smaps_rollup"
    os.mkfifo(slow)
    (tmp_path / "8").mkdir()
    (tmp_path / "8/smaps_rollup").write_text("Rss: 9 kB\nPss: 3 kB\nPss_Anon: 1 kB\n")
    processes = [api.ProcessStatus(role="worker", pid=pid) for pid in (7, 8, 9)]
    found = []

    async def collect():
        found.extend(await status._with_memory(processes))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            # Opening it for writing succeeds only while it is being read.
            while True:
                try:
                    writer = os.open(slow, os.O_WRONLY | os.O_NONBLOCK)
                    break
                except OSError:
                    await trio.sleep(0.01)
            assert not found
            os.write(writer, b"Pss:    5 kB\n")
            os.close(writer)
    assert [p.memory for p in found] == [5 << 10, 3 << 10, 0]
    assert [p.pid for p in found] == [7, 8, 9]


async def test_our_own_memory_is_known():
    (found,) = await status._with_memory([api.ProcessStatus(role="x", pid=os.getpid())])
    assert found.memory > 1 << 20
