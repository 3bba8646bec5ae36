"""A guest's network: passt, the user's own NAT, with our frame filter.

    guest ─ QEMU ═ frameguard ═ passt ─ this machine's sockets

``network = "none"`` means no device at all.  With ``user`` the guest reaches
the hosts that the user's own programs reach, except this machine: passt is set
not to map its gateway to the host and to forward no port inwards, and
the frameguard drops frames addressed to loopback or to our addresses.  It has both
families, whatever this machine has when it starts: laptops change networks.

The guest sees the same small network everywhere, so that it learns of the network we
are in only the name servers and the search list.  If no IPv4 server can be reached by
a guest, passt forwards ``RESOLVER`` or ``RESOLVER6`` to this machine's, port 53 alone,
and the kernel arguments ``vitrail.dns=`` and ``vitrail.dns6=`` inform the guest.

The host starts it; it runs as a process of its own, jailed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.core.limits import network as network_limits
from broker.helpers.process.popen import our_program
from broker.helpers.tools.profiles import PACKET_GUARD
from broker.host.network.addresses import (
    GATEWAY,
    GATEWAY6,
    GUEST,
    GUEST6,
    MAC,
    NOWHERE,
    NOWHERE6,
    RESOLVER,
    RESOLVER6,
    template_interface,
)
from broker.host.network.resolvers import (
    RESOLV_CONF,
    read_resolv_conf,
    resolver_sockets,
    search_domains,
)
from broker.host.processes.tracked import Tracked, few_files, ordinary, spawn_helper

__all__ = ("GATEWAY", "GUEST", "RESOLVER")


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


def forwarded_resolvers(resolv_conf: str) -> tuple[str, ...]:
    """Return the addresses at which passt has to forward a guest's questions.

    None if resolv.conf(5) names an IPv4 server that a guest reaches.  passt forwards a
    question to a server of its own family, so a machine in an IPv6-only network needs
    ``RESOLVER6``, although a guest could reach that server: DHCP names IPv4 servers.
    """
    lines = (line.split() for line in resolv_conf.splitlines())
    named = [line[1] for line in lines if line[:1] == ["nameserver"] and line[1:]]
    servers: list[IPv4Address | IPv6Address] = []
    for name in named:
        try:
            servers.append(ip_address(name))
        except ValueError:  # passt leaves it out, too
            continue
    four = [server for server in servers if server.version == 4]
    # passt parses no scope, which a link-local server needs.
    six = [s for s in servers if s.version == 6 and not s.is_link_local]
    if any(not server.is_loopback for server in four):
        return ()
    # resolv.conf(5): without a server, this machine's.
    return (*((RESOLVER,) if four or not six else ()), *((RESOLVER6,) if six else ()))


# passt alone does not isolate the host. `--no-map-gw` keeps a guest from the host's
# loopback only as long as the guest's routes are honest. A guest's root reached
# 127.0.0.1 of the host through Debian 12's passt with a few changed routes. A process
# of Vitrail between QEMU and passt drops frames for the host's own addresses, loopback,
# link-local, multicast and everything that is neither IPv4 nor plain IPv6.
def passt_args(
    passt: Path, fd: int, *, resolvers: Sequence[str], mtu: int | None = None
) -> list[str]:
    """Return passt's command line, see passt(1).

    ``resolvers``: addresses at which it forwards questions, only if that is needed:
    passt rewrites every answer of the host's resolver then, those to direct questions
    too.  ``mtu`` is announced to the guest; None: passt's own, 65520.
    """
    dns = [option for address in resolvers for option in ("--dns-forward", address)]
    size = () if mtu is None else ("--mtu", str(mtu))
    # Each flow has a socket of its own, with a port of this machine's.
    # guard: a sandbox takes few of the machine's ports
    few = [*ordinary(), *few_files(network_limits.PASST_FDS)]
    template, has_ipv6 = template_interface()
    # Only a socket of TCP is bound to this address of origin, which passt tries and goes
    # on without.  And passt of 2025 asks no other for the port that it believes to have.
    # guard: a passt that binds its ports itself opens none
    source, source6 = ("--outbound", NOWHERE), ("--outbound", NOWHERE6)
    ipv6 = ("--address", GUEST6, "--gateway", GATEWAY6, *source6)
    return [
        *few,
        *our_program(*PACKET_GUARD.start, "passt", port_library()),
        str(passt),
        "--foreground",
        "--quiet",
        "--stderr",
        *("--fd", str(fd)),
        *("--interface", template),
        *(ipv6 if has_ipv6 else ("--ipv4-only",)),
        *("--address", GUEST, "--netmask", "24", "--gateway", GATEWAY, *source),
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
    return our_program(*PACKET_GUARD.start, carried, interface, *words)


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
    text = read_resolv_conf(resolv_conf)
    resolvers = () if decided else forwarded_resolvers(text)
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
        argv = passt_args(passt, host.fileno(), resolvers=resolvers)
        started.append(spawn_helper("passt", argv, pass_fds=(host.fileno(),)))
        mine.pop_all()
    return GuestNetwork(
        tuple(started), flows, guest, kernel_args(text, decided=decided)
    )


def give_room(passt: socket.socket) -> None:
    """Enlarge the buffers of passt's socket, so that it loses no packets.

    The kernel gives what the machine lets a user have (wmem_max).
    """
    passt.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, network_limits.PASST_SOCKET_BYTES
    )


def require_passt(passt: Path | None) -> Path:
    """Return passt's path.  Raises SetupError if it, or its library, is not installed."""
    if passt is None:
        raise SetupError(
            'network = "user" requires passt, which is not installed',
            hint=f'{install_hint("passt")}, or set network = "none"',
        )
    port_library()
    return passt


def kernel_args(resolv_conf: str, *, decided: bool) -> tuple[str, ...]:
    """Return the arguments of the kernel's command line that give a guest its network."""
    resolvers = (RESOLVER,) if decided else forwarded_resolvers(resolv_conf)
    keys = {RESOLVER: "vitrail.dns", RESOLVER6: "vitrail.dns6"}
    search = ",".join(search_domains(resolv_conf))
    return (
        "vitrail.net=dhcp",
        *(f"{keys[address]}={address}" for address in resolvers),
        *((f"vitrail.search={search}",) if search else ()),
    )


def port_library() -> str:
    """Return the path of the library for passt.  Raises SetupError if it was not built."""
    spec = find_spec("broker.host.network._kernelports")
    if spec is None or spec.origin is None:
        raise SetupError(
            "a sandbox's network requires _kernelports, and Vitrail was installed without"
            " a C compiler",
            hint='install gcc and python3-dev and reinstall Vitrail, or set network = "none"',
        )
    return spec.origin


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _kill(started: Sequence[Tracked]) -> None:
    for process in started:
        process.kill_now()
