"""Asking for a worker: its deadline, and the clean-up when it does not come."""

from __future__ import annotations

import errno
import gc
import os
import signal

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from broker.helpers import fork_start
from broker.viewer.workers import pool as module
from broker.viewer.workers.pool import WAYLAND_SOCKET
from tests.kit.workers import open_workers

A = SandboxName("a")


class PaperWorker:
    """Ready at once; lives until it is cancelled."""

    def __init__(self, sandbox, processes, rules, chords):
        self.ready = True

    async def run(self, task_status):
        task_status.started()
        await trio.sleep_forever()

    async def close(self, reason="closed"):
        pass


@pytest.mark.parametrize("late", [False, True])
async def test_a_worker_has_so_long_to_be_ready(
    tmp_path, monkeypatch, autojump_clock, late
):
    monkeypatch.setattr(module, "Worker", PaperWorker)
    seconds = limits.WORKER_START_SECONDS + (0.001 if late else -0.001)

    async def fork(display, compositor, sandbox, clients):
        assert display.fileno() != -1
        await trio.sleep(seconds)

    path = tmp_path / WAYLAND_SOCKET
    gc.collect()  # descriptors of other tests, which would go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    async with open_workers() as workers:
        monkeypatch.setattr(workers, "_fork", fork)
        began = trio.current_time()
        if late:
            with pytest.raises(UpstreamError, match="of a was not ready within 10 s"):
                await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
            assert trio.current_time() - began == limits.WORKER_START_SECONDS
            assert not path.exists(), "no process will listen there"
        else:
            await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
            assert path.is_socket()
        assert workers.fork_server_pid == 0
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_a_killed_broker_left_is_replaced(tmp_path, monkeypatch):
    (tmp_path / WAYLAND_SOCKET).write_text("left over")
    monkeypatch.setattr(module, "Worker", PaperWorker)

    async def fork(display, compositor, sandbox, clients):
        await trio.lowlevel.checkpoint()

    async with open_workers() as workers:
        monkeypatch.setattr(workers, "_fork", fork)
        await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        assert (tmp_path / WAYLAND_SOCKET).is_socket()


async def test_without_room_for_a_fork_server_only_this_worker_does_not_come(
    tmp_path, monkeypatch
):
    """And the next one asks for a fork server again."""

    def full(*_words, **_how):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async with open_workers(allow_unjailed=True) as workers:
        with monkeypatch.context() as patch:
            patch.setattr(fork_start, "spawn", full)
            with pytest.raises(
                UpstreamError, match="cannot start a process for a worker: Res"
            ):
                await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        assert workers.fork_server_pid == 0
        worker = await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        await worker.close()


async def test_a_death_of_a_fork_server_is_told_once(tmp_path):
    told = []
    heard = trio.Event()

    async def note(pid, code):
        told.append((pid, code))
        heard.set()
        await trio.lowlevel.checkpoint()

    async with open_workers(allow_unjailed=True) as workers:
        workers.on_server_death = note
        worker = await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        dead = workers._keepers.pid
        os.kill(dead, signal.SIGKILL)
        with trio.fail_after(30):
            await heard.wait()
        await worker.statistics()  # its keeper lives on
    assert told == [(dead, -signal.SIGKILL)]
