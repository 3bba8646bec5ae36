"""Gives a box, container or VMM a network: ``launch.network = "user"``.

It waits for that before its program runs.  It reaches what a micro VM with this
setting reaches (``microvm.network``): other machines by passt, not this one.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.identity import Tracked, spawn_helper
from broker.helpers.process.popen import our_program
from broker.host.network.addresses import MTU
from broker.host.network.passt import (
    give_room,
    passt_args,
    require_passt,
)

_START_SECONDS = 15.0


@dataclass(eq=False)
class BoxNetwork:
    """The running helpers.  They end with the box also when no broker does it."""

    processes: tuple[Tracked, ...]

    async def end(self) -> None:
        """End them (no state is lost); not cancellable."""
        for process in self.processes:
            await process.end(limits.VM_QUIT_SECONDS)
            process.close()


async def start_tap_network(
    vmm: Tracked, *, forward_dns: bool, known: Callable[[Tracked], None]
) -> BoxNetwork:
    """Give a VMM that waits in its jail a TAP device behind the frame filter.

    ``known`` writes each helper down for a later broker.  Raises SetupError when passt
    or the device is missing, UpstreamError when the VMM has ended.
    """
    passt = require_passt(find_passt())
    with ExitStack() as ours:
        try:
            namespace = os.open(f"/proc/{vmm.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UpstreamError(f"{vmm.role} ended as it started") from error
        ours.callback(os.close, namespace)
        # It lives after the name was opened: the name was its own.
        if vmm.ended:
            raise UpstreamError(f"{vmm.role} ended as it started")
        refuse_own(namespace)
        argv = partial(passt_args, passt, forward_dns=forward_dns, mtu=MTU)
        return await start_network("tap", (namespace, vmm.pidfd), argv, known)


def find_passt() -> Path | None:
    """Return the program's path; None where it is not installed."""
    found = shutil.which("passt")
    return None if found is None else Path(found)


async def start_network(
    kind: str,
    given: tuple[int, ...],
    passt: Callable[[int], list[str]],
    known: Callable[[Tracked], None] = lambda _: None,
) -> BoxNetwork:
    """Start the filter's process, which makes an interface, and passt."""
    with ExitStack() as ours, ExitStack() as failed:
        inner, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.enter_context(inner)
        ours.enter_context(host)
        give_room(host)
        fds = (inner.fileno(), *given)
        guard = await start_guard(kind, fds, known)
        failed.callback(guard.kill_now)
        helper = spawn_helper("passt", passt(host.fileno()), pass_fds=(host.fileno(),))
        failed.callback(helper.kill_now)
        known(helper)
        failed.pop_all()
    return BoxNetwork((guard, helper))


async def start_guard(
    kind: str,
    given: tuple[int, ...],
    known: Callable[[Tracked], None] = lambda _: None,
    *,
    words: tuple[str, ...] = (),
) -> Tracked:
    """Start what makes an interface and carries its frames; returns when it is up."""
    with ExitStack() as ours, ExitStack() as failed:
        heard, ready = os.pipe()
        ours.callback(os.close, heard)
        with ExitStack() as theirs:
            theirs.callback(os.close, ready)
            fds = (given[0], ready, *given[1:])
            more = ("box",) if kind == "rules" else ()
            argv = our_program(
                f"broker.host.network.{kind}", *more, *map(str, fds), *words
            )
            guard = spawn_helper("netguard", argv, pass_fds=fds)
            failed.callback(guard.kill_now)
            known(guard)
        await _wait_ready(heard, guard, kind)
        failed.pop_all()
    return guard


def refuse_own(namespace: int) -> None:
    """Raise UpstreamError for the network namespace of this process."""
    mine = Path("/proc/self/ns/net").stat()
    # guard: the host's own network is not a box's
    if os.fstat(namespace).st_ino == mine.st_ino:
        raise UpstreamError("the sandbox has no network namespace of its own")


_NEEDS = {
    "rules": "the kernel's module veth and the package iproute2",
    "veth": "the kernel's module veth and the package iproute2",
    "switch.cable": "the kernel's module veth and the package iproute2",
    "tap": "/dev/net/tun and the package iproute2",
}


async def _wait_ready(fd: int, guard: Tracked, kind: str) -> None:
    os.set_blocking(fd, False)
    data = b""
    with trio.move_on_after(_START_SECONDS):
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 1)
    if not data:
        raise SetupError(
            f"the sandbox gets no network: {guard.words or 'its helper was silent'}",
            hint=f'{_NEEDS[kind]} are needed, or set network = "none"',
        )
