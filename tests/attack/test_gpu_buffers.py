"""GPU buffers that are none, and drawing that never ends, without a GPU.

The same on a kernel with real dma-bufs: tests/integration/test_gpu_buffers.py.
"""

from __future__ import annotations

import os
import select
import socket
from functools import partial

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_verdicts import DMABUF
from broker.helpers.compositor_connection import connect_compositor
from broker.jail.wayland.ports import GpuMemory
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker import readiness
from broker.jail.worker.wayland import dmabuf
from broker.jail.worker.wayland.files_and_pipes import RealMachine
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import StreamMachine
from tests.kit.accept_loop import serve
from tests.kit.eventually import eventually
from tests.kit.vm.silent_fuse import ANSWERED, NO_MOUNT, ask_about_silent_file
from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.gpu import AR24, PARAMS, RULES, GpuModel
from tests.kit.wayland.model_compositor import model_compositor
from tests.kit.wayland.service import WaylandService, serve_client


def epoll() -> int:
    with select.epoll() as made:
        return os.dup(made.fileno())


def posing():
    """Descriptors that are sent as GPU buffers: name and how one is made."""
    return {
        "memfd": partial(memfd, 1 << 20),
        "sealed memfd": partial(memfd, 1 << 20, seal=True),
        "eventfd": partial(os.eventfd, 0),
        "epoll": epoll,
        "process": lambda: os.pidfd_open(os.getpid()),
        "pipe": lambda: os.pipe()[0],
        "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
        "directory": lambda: os.open("/", os.O_RDONLY),
        "path": lambda: os.open("/dev/null", os.O_PATH),
        "device": lambda: os.open("/dev/zero", os.O_RDWR),
        "proc": lambda: os.open("/proc/self/maps", os.O_RDONLY),
    }


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", posing())
def test_what_is_posing_as_a_dma_buf_is_refused_and_closed(what):
    fd = posing()[what]()
    with pytest.raises(ValueError, match="not a dma-buf"):
        RealMachine().admit_dmabuf(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.machine
def test_no_file_system_is_waited_for():
    answer = ask_about_silent_file(dmabuf_kind)
    if answer == NO_MOUNT:
        pytest.skip("no FUSE mount here, not even in a user namespace")
    assert answer == ANSWERED


def dmabuf_kind(fd):
    with pytest.raises(ValueError, match="not a dma-buf"):
        dmabuf.DmaBuf(fd)


@pytest.mark.parametrize("size", [0, -1, limits.WAYLAND_POOL_BYTES + 1, 1 << 62])
def test_a_dma_buf_that_is_too_large_is_refused(size, monkeypatch):
    monkeypatch.setattr(dmabuf, "filesystem_of", lambda _: 0x444D4142)
    monkeypatch.setattr(dmabuf.os, "lseek", lambda *_: size)
    fd = os.eventfd(0)
    with pytest.raises(ValueError, match=f"size: {size} bytes"):
        RealMachine().admit_dmabuf(fd)


async def test_no_program_gets_one_by_waypipe():
    one, two = socket.socketpair()
    with one, two:
        made = StreamConnection(one, two, RULES, Sandbox("work"), StreamMachine())
        assert DMABUF not in made.core.rules.allow
        made.core.host_global(1, DMABUF, 5)
        assert not made.core.globals.by_name or all(
            entry.interface != DMABUF for entry in made.core.globals.by_name.values()
        )
        made.core.close()


class Drawing(GpuMemory):
    """Memory whose drawing is over once there is a byte in a pipe."""

    size, number = 1 << 20, 7

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def drawn(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def export(self) -> int:
        return os.dup(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class Machine(RealMachine):
    def admit_dmabuf(self, untrusted_fd: int) -> GpuMemory:
        return Drawing(untrusted_fd)


class Slow:
    """A window whose picture is drawn when ``done`` is called."""

    def __init__(self, client: Window) -> None:
        self.client = client
        manager = client.bind(DMABUF)
        self.surface = client.show(100, 50, 0)[0]
        fd, self.release = os.pipe()
        params = client.make(manager, "create_params", PARAMS)
        client.send(params, "add", 0, 0, 400, 0, 0, fds=[fd])
        os.close(fd)
        self.buffer = client.make(
            params, "create_immed", "wl_buffer", None, 100, 50, AR24, 0
        )

    def commit(self) -> None:
        self.client.send(self.surface, "attach", self.buffer, 0, 0)
        self.client.send(self.surface, "commit")

    def done(self) -> None:
        os.write(self.release, b"x")


def attached(models):
    """Whether the compositor was sent the picture."""
    said = [request for model in models for request in model.requests]
    made = [args[0] for _, name, args in said if name == "create_immed"]
    return any(name == "attach" and args[0] in made for _, name, args in said)


async def gone(sandbox):
    await eventually(lambda: not sandbox.filters)
    assert not any(sandbox.totals.values())


@pytest.fixture
async def served():
    """A filter before a model compositor: a socket's path, models, the sandbox."""
    readiness.prepare()
    with short_directory() as place:
        behind, front = place / "wayland-9", place / "filtered"
        service = WaylandService(
            RULES,
            Sandbox("work"),
            Machine(),
            partial(connect_compositor, behind),
            lambda error: None,
        )
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(front))
        listener.listen()
        async with (
            model_compositor(behind, kind=GpuModel) as comp,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(serve, listener, partial(serve_client, service=service))
            yield front, comp.models, service.sandbox
            nursery.cancel_scope.cancel()
        listener.close()


async def test_a_picture_goes_up_when_it_is_drawn(served):
    path, models, sandbox = served

    def inside():
        with Window(path).start() as client:
            slow = Slow(client)
            slow.commit()
            with Window(path).start() as other:
                other.show(10, 10, 0)
                other.roundtrip()
            before = attached(models)
            slow.done()
            client.roundtrip()
            os.close(slow.release)
            return before, attached(models)

    assert await trio.to_thread.run_sync(inside) == (False, True)
    assert not sandbox.refused
    await gone(sandbox)


async def test_drawing_that_never_ends_freezes_its_own_window(served):
    path, models, sandbox = served

    def inside():
        with Window(path).start() as client, Window(path).start() as other:
            slow = Slow(client)
            window = client.show(30, 30, 0)[0]
            slow.commit()
            for _ in range(20):
                other.roundtrip()  # another program of the sandbox continues
            assert not sandbox.refused
            client.roundtrip()
            assert any(e[0] == slow.buffer and e[2] == "release" for e in client.events)
            client.shown(window)  # another window of the same program does, too
            for _ in range(5):
                slow.commit()
                client.roundtrip()
            os.close(slow.release)

    await trio.to_thread.run_sync(inside)
    assert not attached(models)
    assert sandbox.refused == {"late pictures": 6}
    await gone(sandbox)
