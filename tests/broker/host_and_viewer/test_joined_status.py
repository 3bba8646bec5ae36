"""What ``brokerctl status`` collects: the parts that need no broker."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import trio

from broker.core import process_status
from broker.helpers.process import memory as process_memory
from broker.host import host_status as measuring
from broker.host_and_viewer import measured_rows as status
from broker.ipc.control import api
from tests.kit.eventually import eventually


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
        found.extend(await status.with_memory(processes, measuring.measure))

    def opened():
        """Its descriptor for writing; possible only while it is being read."""
        try:
            return os.open(slow, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            writer = await eventually(opened)
            assert not found
            os.write(writer, b"Pss:    5 kB\n")
            os.close(writer)
    assert [p.memory for p in found] == [5 << 10, 3 << 10, 0]
    assert [p.pid for p in found] == [7, 8, 9]


async def test_a_process_that_is_not_to_be_measured_delays_no_status(
    tmp_path, monkeypatch
):
    """A VMM that was taken over changes its memory without an end.

    Each status would wait for it, with a thread that the reading of rules needs.
    """
    monkeypatch.setattr(process_memory, "_PROC", tmp_path)
    # Enough for a busy machine to read the first process.
    monkeypatch.setattr(status, "_LOOK_SECONDS", 0.5)
    monkeypatch.setattr(measuring, "_lookers", trio.CapacityLimiter(2))
    for pid in (7, 8):
        (tmp_path / f"{pid}").mkdir()
    (tmp_path / "7/smaps_rollup").write_text("Pss: 3 kB\n")
    slow = tmp_path / "8/smaps_rollup"
    os.mkfifo(slow)
    processes = [api.ProcessStatus(role="worker", pid=pid) for pid in (7, 8)]
    others = trio.to_thread.current_default_thread_limiter()
    try:
        with trio.fail_after(10):
            first = await status.with_memory(processes, measuring.measure)
            monkeypatch.setattr(status, "_LOOK_SECONDS", 0.05)
            for _ in range(50):
                await status.with_memory(processes, measuring.measure)
        assert [p.memory for p in first] == [3 << 10, 0]
        assert measuring._lookers.borrowed_tokens == 2
        assert others.borrowed_tokens == 0
    finally:

        def let_go() -> bool:
            with suppress(OSError):
                os.close(os.open(slow, os.O_WRONLY | os.O_NONBLOCK))
            return measuring._lookers.borrowed_tokens + others.borrowed_tokens == 0

        await eventually(let_go)


async def test_our_own_memory_is_known():
    (found,) = await status.with_memory(
        [api.ProcessStatus(role="x", pid=os.getpid())], measuring.measure
    )
    assert found.memory > 1 << 20


@pytest.mark.parametrize(
    ("text", "walls"),
    [
        ("Name:\tqemu\nNSpid:\t8618\t2\nSeccomp:\t2\n", "namespaces seccomp"),
        ("Name:\tqemu\nNSpid:\t8618\nSeccomp:\t2\n", "seccomp"),
        ("NSpid:\t8618\t2\nSeccomp:\t0\n", "namespaces"),
        ("Name:\tSeccomp: 2\nNSpid:\t8618\nSeccomp:\t0\n", ""),
        (None, ""),
    ],
)
async def test_the_jail_of_a_process_is_what_the_kernel_says(
    tmp_path, monkeypatch, text, walls
):
    monkeypatch.setattr(process_status, "_PROC", tmp_path)
    if text is not None:
        (tmp_path / "8618").mkdir()
        (tmp_path / "8618/status").write_text(text)
    assert process_status.walls_of(8618) == walls
    machine = api.ProcessStatus(role="QEMU", pid=8618)
    worker = api.ProcessStatus(role="worker", pid=8618, jail="landlock")
    (first, second) = await status.with_memory([machine, worker], measuring.measure)
    assert (first.jail, second.jail) == (walls, "landlock")
