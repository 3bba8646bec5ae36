"""Gives a box or container its network cards: ``launch.network``.

The host does this, also for a box that brokerctl started; the program does not run
before the cards exist.  It reaches what a micro VM of QEMU with this setting reaches:
with ``"user"`` other machines by passt, and not this machine.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trio

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.popen import our_program
from broker.helpers.tools.profiles import PACKET_GUARD
from broker.host.network.addresses import MTU
from broker.host.network.passt import (
    GuestNetwork,
    forwarded_resolvers,
    give_room,
    passt_args,
    require_passt,
)
from broker.host.network.resolvers import (
    RESOLV_CONF,
    read_resolv_conf,
    resolver_sockets,
)
from broker.host.network.switch.switches import SwitchSeat
from broker.host.processes.tracked import Tracked, spawn_helper
from broker.wire.packets import when_ready

_START_SECONDS = 15.0


async def start_network(
    namespace: int,
    *,
    decided: bool,
    resolv_conf: Path = RESOLV_CONF,
) -> GuestNetwork:
    """Start the filter's process, which makes an interface, and passt.

    ``decided``: the filter asks about each flow (``network = "rules"``).  Raises SetupError when passt is missing, or what
    the interface needs.
    """
    found = shutil.which("passt")
    passt = require_passt(None if found is None else Path(found))
    with ExitStack() as ours, ExitStack() as failed:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        inner, host = map(ours.enter_context, pair)
        give_room(host)
        fds: tuple[int, ...] = (inner.fileno(), namespace)
        flows = None
        if decided:
            flows, asks = socket.socketpair()
            failed.callback(flows.close)
            names = map(ours.enter_context, (asks, *resolver_sockets(resolv_conf)))
            fds = (*fds, *(one.fileno() for one in names))
        carried = "flows" if decided else "frames"
        words = (str(resolv_conf),) if decided else ()
        guard = await start_guard(carried, fds, words=words)
        failed.callback(guard.kill_now)
        text = read_resolv_conf(resolv_conf)
        forwarded = () if decided else forwarded_resolvers(text)
        argv = passt_args(passt, host.fileno(), resolvers=forwarded, mtu=MTU)
        helper = spawn_helper("passt", argv, pass_fds=(host.fileno(),))
        failed.callback(helper.kill_now)
        failed.pop_all()
    return GuestNetwork((guard, helper), flows)


async def start_card(namespace: int, seat: SwitchSeat, name: str) -> GuestNetwork:
    """Start the process that makes an interface at a switch.

    It ends with the switch, and so no later broker needs to know it.  Raises SetupError
    when the interface cannot be made.
    """
    router = (seat.router,) if seat.router else ()
    words = (name, seat.address, seat.mac, *router)
    with seat.conn:
        fds = (seat.conn.fileno(), namespace)
        guard = await start_guard("cable", fds, words=words)
    return GuestNetwork((guard,))


async def start_guard(
    carried: str,
    given: tuple[int, ...],
    *,
    words: tuple[str, ...] = (),
) -> Tracked:
    """Start a packet guard, which makes an interface and carries its frames.

    Returns when the interface is up.
    ``carried``: see ``packet_guard``.  Raises SetupError; the guard is killed
    then.
    """
    with ExitStack() as ours, ExitStack() as failed:
        heard, ready = os.pipe()
        ours.callback(os.close, heard)
        with ExitStack() as theirs:
            theirs.callback(os.close, ready)
            fds = (given[0], ready, *given[1:])
            mode = (carried, "veth", *map(str, fds), *words)
            argv = our_program(*PACKET_GUARD.start, *mode)
            guard = spawn_helper("netguard", argv, pass_fds=fds)
            failed.callback(guard.kill_now)
        await _wait_ready(heard, guard)
        failed.pop_all()
    return guard


def refuse_own(namespace: int) -> None:
    """Raise UpstreamError for the network namespace of this process."""
    mine = Path("/proc/self/ns/net").stat()
    # guard: the host's own network is not a box's
    if os.fstat(namespace).st_ino == mine.st_ino:
        raise UpstreamError("the sandbox is not in a separate network namespace")


async def _wait_ready(fd: int, guard: Tracked) -> None:
    """Wait until a network process is ready.  Raises SetupError with what it needs."""
    os.set_blocking(fd, False)
    data = b""
    with trio.move_on_after(_START_SECONDS):
        read = partial(os.read, fd, 1)
        data = await when_ready(read, trio.lowlevel.wait_readable, fd)
    if not data:
        slow = f"the helper ended or was not ready within {_START_SECONDS:g} s"
        raise SetupError(
            f"cannot set up the sandbox's network: {guard.words or slow}",
            hint="load the kernel module veth and install the package iproute2, or set "
            'network = "none"',
        )
