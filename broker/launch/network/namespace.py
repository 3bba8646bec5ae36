"""Gives a box or container that waits for its lease a network: ``launch.network = "user"``.

It reaches what a micro VM with this setting reaches (``microvm.network``): other
machines by passt, not this one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.launch.microvm.network import has_only_loopback, passt_args
from broker.launch.network.addresses import RESOLVER
from broker.launch.process.identity import Tracked, spawn_helper
from broker.launch.process.spawn import our_program

_PIDFD_GET_NET_NAMESPACE = 0xFF04
_START_SECONDS = 15.0
_RESOLV_CONF = Path("/etc/resolv.conf")


@dataclass(eq=False)
class BoxNetwork:
    """The running helpers.  They end with the box also when no broker does it."""

    processes: tuple[Tracked, ...]

    async def end(self) -> None:
        """End them (no state is lost); not cancellable."""
        for process in self.processes:
            await process.end(limits.VM_QUIT_SECONDS)
            process.close()


def resolver_lines(resolv_conf: Path = _RESOLV_CONF) -> str:
    """Return the resolv.conf(5) of a box: the host's servers, or passt's for them."""
    try:
        text = resolv_conf.read_text(errors="replace")
    except OSError:
        text = ""
    if has_only_loopback(text):
        return f"nameserver {RESOLVER}\n"
    kept = ("nameserver", "search", "options")
    lines = [
        line
        for line in text.splitlines()
        if line.split()[:1] and line.split()[0] in kept
    ]
    return "".join(f"{line}\n" for line in lines)


async def start_box_network(
    leader: int, resolv_conf: Path = _RESOLV_CONF
) -> BoxNetwork:
    """Give the network namespace of a process an interface behind the frame filter.

    ``leader`` is its pidfd.  Raises SetupError when passt or the kernel's veth is
    missing, UpstreamError when the process has ended or has no namespace of its own.
    """
    passt = shutil.which("passt")
    if passt is None:
        raise SetupError(
            'a sandbox with network = "user" needs passt, which is not installed',
            hint='install the package passt, or set network = "none"',
        )
    forward = resolver_lines(resolv_conf) == f"nameserver {RESOLVER}\n"
    with ExitStack() as ours, ExitStack() as failed:
        namespace = _namespace_of(leader)
        ours.callback(os.close, namespace)
        inner, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.enter_context(inner)
        ours.enter_context(host)
        heard, ready = os.pipe()
        ours.callback(os.close, heard)
        with ExitStack() as theirs:
            theirs.callback(os.close, ready)
            fds = (namespace, inner.fileno(), ready)
            words = our_program("broker.launch.network.veth", *map(str, fds))
            guard = spawn_helper("netguard", words, pass_fds=fds)
            failed.callback(guard.kill_now)
        await _wait_ready(heard, guard)
        argv = passt_args(Path(passt), host.fileno(), forward_dns=forward)
        helper = spawn_helper("passt", argv, pass_fds=(host.fileno(),))
        failed.pop_all()
    return BoxNetwork((guard, helper))


def _namespace_of(leader: int) -> int:
    try:
        namespace = fcntl.ioctl(leader, _PIDFD_GET_NET_NAMESPACE)
    except OSError as error:
        raise UpstreamError(
            f"the network of the box cannot be found: {error.strerror}"
        ) from error
    mine = Path("/proc/self/ns/net").stat()
    # guard: the host's own network is not a box's
    if os.fstat(namespace).st_ino == mine.st_ino:
        os.close(namespace)
        raise UpstreamError("the box has no network namespace of its own")
    return int(namespace)


async def _wait_ready(fd: int, guard: Tracked) -> None:
    os.set_blocking(fd, False)
    data = b""
    with trio.move_on_after(_START_SECONDS):
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 1)
    if not data:
        raise SetupError(
            f"the box gets no network: {guard.words or 'its helper was silent'}",
            hint="the kernel's module veth and the package iproute2 are needed, or "
            'set network = "none"',
        )
