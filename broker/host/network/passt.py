"""A guest's network: passt, the user's own NAT, with our frame filter.

    guest ─ QEMU ═ frameguard ═ passt ─ this machine's sockets

``network = "none"`` means no device at all.  With ``user`` the guest reaches
the hosts that the user's own programs reach, except this machine: passt is set
not to map its gateway to the host and to forward no port inwards, and
the frameguard drops frames addressed to loopback or to our addresses.  It has IPv6
where this machine has a default route of it.

The guest sees the same small network everywhere, so that it learns nothing of
the network we are in.  Its name servers are the host's; where the host's own
resolver listens on loopback only, passt forwards ``RESOLVER`` to it, port 53
alone, and the kernel argument ``vitrail.dns=`` informs the guest.

The host starts it; it runs as a process of its own, jailed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.limits import network as network_limits
from broker.helpers.process.popen import our_program
from broker.host.network.addresses import (
    GATEWAY,
    GATEWAY6,
    GUEST,
    GUEST6,
    MAC,
    RESOLVER,
    has_ipv6,
)
from broker.host.network.resolvers import RESOLV_CONF, resolver_sockets
from broker.host.processes.tracked import Tracked, few_files, ordinary, spawn_helper

__all__ = ("GATEWAY", "GUEST", "RESOLVER")

PACKET_GUARD = "broker.host.network.packet_guard"


@dataclass(eq=False)
class GuestNetwork:
    """The running helpers.  They end with the sandbox also when no broker does it."""

    processes: tuple[Tracked, ...]
    flows: socket.socket | None = None
    """The filter's questions about flows; None: it carries all of them."""
    conn: socket.socket | None = None
    """The end of the socket that QEMU gets; None: the guest has an interface."""
    kernel_args: tuple[str, ...] = ()
    """Arguments for the guest on its kernel's command line."""

    async def end(self) -> None:
        """End passt and the frame filter (no state is lost); not cancellable."""
        for sock in filter(None, (self.conn, self.flows)):
            sock.close()
        for process in self.processes:
            await process.end(limits.VM_QUIT_SECONDS)
            process.close()


def has_only_loopback(resolv_conf: str) -> bool:
    """Return whether resolv.conf(5) names only servers that a guest cannot reach."""
    words = (line.split() for line in resolv_conf.splitlines())
    named = [word[1] for word in words if word[:1] == ["nameserver"] and word[1:]]
    reachable = False
    for name in named:
        try:
            reachable |= not IPv4Address(name).is_loopback
        except AddressValueError:
            continue
    return not reachable


# passt alone does not isolate the host. `--no-map-gw` keeps a guest from the host's
# loopback only as long as the guest's routes are honest. A guest's root reached
# 127.0.0.1 of the host through Debian 12's passt with a few changed routes. A process
# of Vitrail between QEMU and passt drops frames for the host's own addresses, loopback,
# link-local, multicast and everything that is neither IPv4 nor plain IPv6.
def passt_args(
    passt: Path, fd: int, *, forward_dns: bool, mtu: int | None = None
) -> list[str]:
    """Return passt's command line, see passt(1).

    ``forward_dns`` only where it is needed: passt rewrites every answer of
    the host's resolver then, those to direct questions too.  ``mtu`` is announced
    to the guest; None: passt's own, 65520.
    """
    dns = ("--dns-forward", RESOLVER) if forward_dns else ()
    size = () if mtu is None else ("--mtu", str(mtu))
    # Each flow has a socket of its own, with a port of this machine's.
    # guard: a sandbox takes few of the machine's ports
    few = [*ordinary(), *few_files(network_limits.PASST_FDS)]
    ipv6 = ("--address", GUEST6, "--gateway", GATEWAY6)
    return [
        *few,
        str(passt),
        "--foreground",
        "--quiet",
        "--stderr",
        *("--fd", str(fd)),
        *(ipv6 if has_ipv6() else ("--ipv4-only",)),
        *("--address", GUEST, "--netmask", "24", "--gateway", GATEWAY),
        *("--mac-addr", MAC),
        *dns,
        *size,
        "--no-map-gw",
        *("--tcp-ports", "none", "--udp-ports", "none"),
    ]


def guard_args(qemu_fd: int, passt_fd: int) -> list[str]:
    """Return the frame filter's command line."""
    return guard_program("frames", "qemu", str(qemu_fd), str(passt_fd))


def guard_program(carried: str, interface: str, *words: str) -> list[str]:
    """Return the command line of ``packet_guard``."""
    return our_program(PACKET_GUARD, carried, interface, *words)


def start_user_network(
    passt: Path | None, resolv_conf: Path = RESOLV_CONF, *, decided: bool = False
) -> GuestNetwork:
    """Start passt and the frame filter for one guest.

    ``decided``: the filter asks about each flow (``network = "rules"``).

    passt drops its privileges and confines itself (user namespace, empty root,
    seccomp).  It ends with its socket.

    Raises SetupError when passt is missing.
    """
    passt = require_passt(passt)
    forward = not decided and forwards_names(resolv_conf)
    with ExitStack() as ours, ExitStack() as mine:
        guest, outer = _pair()
        mine.callback(guest.close)
        ours.enter_context(outer)
        inner, host = _pair()
        ours.enter_context(inner)
        ours.enter_context(host)
        give_room(host)
        started: list[Tracked] = []
        mine.callback(_kill, started)
        fds: tuple[int, ...] = (outer.fileno(), inner.fileno())
        argv = guard_args(*fds)
        flows = None
        if decided:
            flows, asks = _pair()
            mine.callback(flows.close)
            ours.enter_context(asks)
            names = map(ours.enter_context, resolver_sockets(resolv_conf))
            fds = (*fds, asks.fileno(), *(one.fileno() for one in names))
            argv = guard_program("flows", "qemu", *map(str, fds), str(resolv_conf))
        started.append(spawn_helper("frameguard", argv, pass_fds=fds))
        argv = passt_args(passt, host.fileno(), forward_dns=forward)
        started.append(spawn_helper("passt", argv, pass_fds=(host.fileno(),)))
        mine.pop_all()
    words = guest_words(forward=forward or decided)
    return GuestNetwork(tuple(started), flows, guest, words)


def give_room(passt: socket.socket) -> None:
    """Enlarge the buffers of passt's socket, so that it loses no packets.

    The kernel gives what the machine lets a user have (wmem_max).
    """
    passt.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, network_limits.PASST_SOCKET_BYTES
    )


def require_passt(passt: Path | None) -> Path:
    """Return passt's path.  Raises SetupError if it is not installed."""
    if passt is None:
        raise SetupError(
            'network = "user" requires passt, which is not installed',
            hint='install the package passt, or set network = "none"',
        )
    return passt


def forwards_names(resolv_conf: Path = RESOLV_CONF) -> bool:
    """Return whether passt has to forward DNS to the host's resolver."""
    try:
        text = resolv_conf.read_text(errors="replace")
    except OSError:  # as resolv.conf(5): no file means a resolver on this machine
        text = ""
    return has_only_loopback(text)


def guest_words(*, forward: bool) -> tuple[str, ...]:
    """Return the words of the kernel's command line that give a guest its network."""
    dns = (f"vitrail.dns={RESOLVER}",) if forward else ()
    return ("vitrail.net=dhcp", *dns)


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _kill(started: Sequence[Tracked]) -> None:
    for process in started:
        process.kill_now()
