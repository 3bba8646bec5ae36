"""CIDs, and the words that give a guest its vsock."""

from __future__ import annotations

import errno
import os
import random
import select
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.services import NEVER_PEERS
from broker.host.vmm import vsock_backend
from broker.host.vmm.vsock_backend import (
    draw_cid,
    hybrid_args,
    hybrid_environment,
    open_kernel_vsock,
    start_hybrid_vsock,
)
from tests.kit.needs import NEEDS_COMPILER, NEEDS_JAIL


def test_a_cid_is_never_reserved_and_never_small():
    drawn = {draw_cid() for _ in range(2000)}
    assert not drawn & NEVER_PEERS
    assert min(drawn) >= limits.RANDOM_CID_FIRST
    assert max(drawn) <= limits.RANDOM_CID_LAST
    assert len(drawn) > 1990


def test_a_cid_in_quarantine_is_not_drawn():
    first = draw_cid(draw=random.Random(1))
    assert draw_cid({first}, random.Random(1)) != first


class Everything:
    def __init__(self):
        self.asked = 0

    def __contains__(self, cid):
        self.asked += 1
        return True


def test_after_so_many_draws_it_says_that_none_is_free():
    quarantine = Everything()
    with pytest.raises(UpstreamError, match="no vsock CID is free"):
        draw_cid(quarantine)
    assert quarantine.asked == limits.CID_DRAWS


def test_the_tool_gets_a_socket_for_qemu_and_a_base_for_the_guest():
    words = hybrid_args(Path("/t"), 70000, Path("/r/vhost"), Path("/r/vm.vsock"))
    assert words == [
        *("/t", "--guest-cid", "70000"),
        *("--socket", "/r/vhost", "--uds-path", "/r/vm.vsock"),
    ]


READY = """
import os, select, socket
one, other = socket.socketpair()
other.send(b"x")
poll = select.epoll()
poll.register(one, select.EPOLLIN | select.EPOLLOUT)
print(*(poll.poll()[0][1] for _ in range(4)))
print(poll.fileno() in [fd for fd, _ in poll.poll()])
poll.modify(one, select.EPOLLIN)
print(*(poll.poll()[0][1] for _ in range(3)))
other.close()
poll.modify(one, select.EPOLLIN | select.EPOLLOUT)
print({event & select.EPOLLIN for _ in range(4) for _, event in poll.poll()})
"""


def test_who_may_write_hears_of_it_though_there_is_something_to_read():
    environment = hybrid_environment()
    if not environment:
        pytest.skip("needs a compiler: 'make setup'")
    done = subprocess.run(
        [sys.executable, "-c", READY],
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    both = select.EPOLLIN | select.EPOLLOUT
    assert done.stdout.splitlines() == [
        f"{select.EPOLLOUT} {both} {select.EPOLLOUT} {both}",
        "False",
        f"{select.EPOLLIN} {select.EPOLLIN} {select.EPOLLIN}",
        "{1}",  # an end is never kept back
    ]


def test_a_path_that_the_loader_cannot_be_told_is_not_told(monkeypatch):
    for origin in ("/a b/x.so", "/a:b/x.so", None):
        spec = ModuleSpec("x", None, origin=origin)
        monkeypatch.setattr(vsock_backend, "find_spec", lambda _, spec=spec: spec)
        assert hybrid_environment() == {}
    monkeypatch.setattr(vsock_backend, "find_spec", lambda _: None)
    assert hybrid_environment() == {}


@NEEDS_JAIL
async def test_a_tool_that_fails_is_quoted(tmp_path):
    # In its jail there is no interpreter, so no script will do.
    with pytest.raises(UpstreamError, match=r"ended before .*'--guest-cid'"):
        await start_hybrid_vsock(Path("/usr/bin/env"), tmp_path, 70000)


@NEEDS_COMPILER
@NEEDS_JAIL
async def test_a_tool_that_is_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "VM_READY_SECONDS", 0.2)
    source, tool = tmp_path / "tool.c", tmp_path / "tool"
    source.write_text("int pause(void); int main(void) { return pause(); }")
    subprocess.run(["gcc", source, "-o", tool], check=True)
    with pytest.raises(UpstreamError, match=r"hung for 0\.2 s"):
        await start_hybrid_vsock(tool, tmp_path, 70000)


async def test_listeners_that_wait_for_the_guest_are_left_alone(tmp_path):
    (tmp_path / "vsock").mkdir()
    waiting = tmp_path / "vsock" / "vm.vsock_6500"
    stale = tmp_path / "vsock" / "vm.vsock"
    waiting.touch()
    stale.touch()
    with pytest.raises(SetupError):
        await start_hybrid_vsock(Path("/nonexistent"), tmp_path, 70000)
    assert waiting.exists()
    assert not stale.exists()


# -- the kernel's device: what a machine without one can show ---------------------


def test_a_missing_device_names_the_module(tmp_path):
    with pytest.raises(SetupError) as caught:
        open_kernel_vsock(device=tmp_path / "none")
    assert "modprobe vhost_vsock" in caught.value.hint


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A file in the device's place, and an ioctl that knows which CIDs are taken."""
    path = tmp_path / "vhost-vsock"
    path.touch()
    taken: set[int] = set()
    calls: list[int] = []

    def ioctl(fd, number, argument):
        assert number == 0x4008AF60
        cid = int.from_bytes(argument, "little")
        calls.append(cid)
        if cid in taken:
            raise OSError(errno.EADDRINUSE, "in use")

    monkeypatch.setattr(vsock_backend.fcntl, "ioctl", ioctl)
    path_and = type("Device", (), {"path": path, "taken": taken, "calls": calls})
    return path_and


def test_the_cid_is_set_before_qemu_sees_the_device(device):
    held = open_kernel_vsock(4242, device=device.path)
    assert device.calls == [4242]
    assert held.device == [
        "-device",
        f"vhost-vsock-{{bus}},guest-cid=4242,vhostfd={held.fd}",
    ]
    assert held.pass_fds == (held.fd,)
    held.close()
    held.close()
    assert held.fd == -1


def test_a_cid_that_is_in_use_is_an_error_when_it_was_asked_for(device):
    device.taken.add(4242)
    with pytest.raises(UpstreamError, match="is using vsock CID 4242"):
        open_kernel_vsock(4242, device=device.path)


def test_another_is_drawn_when_it_was_not(device, monkeypatch):
    drawn = iter([70000, 70001])
    monkeypatch.setattr(vsock_backend, "draw_cid", lambda quarantine: next(drawn))
    device.taken.add(70000)
    held = open_kernel_vsock(device=device.path)
    assert held.cid == 70001
    held.close()
