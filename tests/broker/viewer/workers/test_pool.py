"""Asking for a worker: its deadline, and the clean-up when it does not come."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from broker.viewer.workers import pool as module
from broker.viewer.workers import template
from broker.viewer.workers.pool import WAYLAND_SOCKET, open_workers

A = SandboxName("a")


class PaperWorker:
    """Ready at once; lives until it is cancelled."""

    def __init__(self, sandbox, forked, rules, chords):
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
    before = len(os.listdir("/proc/self/fd"))
    async with open_workers() as workers:
        monkeypatch.setattr(workers, "_fork", fork)
        began = trio.current_time()
        if late:
            with pytest.raises(UpstreamError, match="of a was not ready after 10 s"):
                await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
            assert trio.current_time() - began == limits.WORKER_START_SECONDS
            assert not path.exists(), "no process will listen there"
        else:
            await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
            assert path.is_socket()
        assert workers.template_pid == 0
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


async def test_without_room_for_a_template_only_this_worker_does_not_come(
    tmp_path, monkeypatch
):
    """And the next one asks for a template again."""

    def full():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, "Worker", PaperWorker)
    monkeypatch.setattr(module, "WorkerTemplate", full)
    async with open_workers() as workers:
        with pytest.raises(UpstreamError, match="no template of the workers: Res"):
            await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        monkeypatch.setattr(module, "WorkerTemplate", QuickTemplate)
        await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")


async def test_a_template_that_cannot_be_started_leaves_nothing_open(monkeypatch):
    def full(*_words, **_how):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(template, "spawn", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Resource") as caught:
        template.WorkerTemplate()
    assert caught.value.__traceback__ is not None, "its frames keep locals alive"
    assert len(os.listdir("/proc/self/fd")) == before


class SlowTemplate:
    """Warm after longer than a worker may take; counts its instances."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.dead = False
        self.gone = trio.Event()
        self.child = SimpleNamespace(pid=1, returncode=0)

    async def run(self, task_status):
        await trio.sleep(1.5 * limits.WORKER_START_SECONDS)
        task_status.started()
        await self.gone.wait()

    async def wait_gone(self):
        await self.gone.wait()

    async def close(self):
        self.dead = True
        self.gone.set()

    async def fork(self, display, compositor, **_how):
        await trio.lowlevel.checkpoint()


class QuickTemplate(SlowTemplate):
    """Warm at once."""

    async def run(self, task_status):
        task_status.started()
        await self.gone.wait()


async def test_a_template_that_is_slow_is_not_begun_again_for_each_worker(
    tmp_path, monkeypatch, autojump_clock
):
    monkeypatch.setattr(module, "Worker", PaperWorker)
    monkeypatch.setattr(module, "WorkerTemplate", SlowTemplate)
    async with open_workers() as workers:
        with pytest.raises(UpstreamError, match="not ready"):
            await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        await workers.open_worker(A, tmp_path, tmp_path / "wayland-0")
        assert SlowTemplate.made == 1
