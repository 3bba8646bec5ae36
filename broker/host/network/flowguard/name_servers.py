"""The name servers of this machine after a change of resolv.conf(5) or of its addresses.

A connected socket keeps the address of the network in which it was made, and the flow
filter can connect no other one.  A process that the filter's forks before it gives that
up looks again.  It is not the one that asks by TCP (``name_streams``): that one reads
what comes from name servers and opens no file, this one reads a file and nothing that
comes from a network.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from broker.core.errors import SetupError
from broker.helpers.filters.descriptor_filter import descriptor_rules
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.forked_part import fork_part
from broker.helpers.landlock import restrict
from broker.helpers.process.hardening import confine, prctl
from broker.host.network.resolvers import read_resolv_conf, sockets_of

LOOK = b"?"
LIST_BYTES = 4096
_PR_SET_NO_NEW_PRIVS = 38
_KIND = 0xF
# Where resolv.conf is a link to: of systemd-resolved, NetworkManager and so on.
_RUN = ("systemd/resolve", "NetworkManager", "resolvconf", "connman")


def start(
    resolvers: Sequence[socket.socket], path: Path
) -> tuple[socket.socket, socket.socket]:
    """Start the process; return the filter's end, and that of ``name_streams``.

    ``resolvers``: the sockets of before, ``path``: resolv.conf.  The process looks at each
    ``LOOK`` from the first end.  If the name servers have changed, the first end gets a
    packet of sockets that are connected to them (SCM_RIGHTS), and the second a list of
    their addresses.  Raises SetupError.
    """
    ours, looks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    streams, news = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    known = _state(read_resolv_conf(path), resolvers)
    with looks, news:
        run = partial(_become, looks, news, path, known)
        part = fork_part("vitrail-servers", run)
    os.close(part.pidfd)  # its end is that of the first socket
    ours.settimeout(0)
    return ours, streams


def close_others(*kept: socket.socket) -> None:
    """Close all descriptors but the standard ones and these."""
    at = 3
    for fd in sorted(one.fileno() for one in kept):
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, 1 << 20)


def _become(looks: socket.socket, news: socket.socket, path: Path, known: Any) -> None:  # noqa: ANN401
    # guard: the process that finds name servers holds nothing of its parent's
    close_others(looks, news)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # guard: the process that finds name servers reads no file of the user's
    restrict(read=(path.parent, *(Path("/run", name) for name in _RUN)))
    rules = descriptor_rules(libseccomp.KILL_PROCESS)
    rules.allow(("connect", "getsockname", "getpeername", "sendmsg"))
    rules.allow_if("openat", rules.clear(2, os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    datagrams = rules.masked(1, _KIND, socket.SOCK_DGRAM)
    for family in (socket.AF_INET, socket.AF_INET6):
        # guard: the process that finds name servers makes no other socket
        rules.allow_if("socket", rules.equal(0, family), datagrams)
    confine(rules.program())
    with suppress(OSError):  # the filter has ended
        serve(looks, news, path, known)
    os._exit(0)  # the interpreter's own end needs system calls that it gave up


def serve(looks: socket.socket, news: socket.socket, path: Path, known: Any) -> None:  # noqa: ANN401
    """Look as often as the filter asks; ``known``: the state of before."""
    while looks.recv(1):
        # Once: another file may take its place at any time, and what is passed on are the
        # servers of the text that is compared.
        text = read_resolv_conf(path)
        try:
            found = sockets_of(text, path)
        except SetupError:  # no network, or no file for a moment: the former ones stay
            continue
        state = _state(text, found)
        if state != known:
            known = state
            news.send(
                json.dumps([(one.family, one.getpeername()) for one in found]).encode()
            )
            socket.send_fds(looks, [LOOK], [one.fileno() for one in found])
        for one in found:
            one.close()


def _state(text: str, found: Sequence[socket.socket]) -> Any:  # noqa: ANN401
    """Return what shows a change: the file's text, and both ends without our port."""
    ends = [(one.getpeername(), one.getsockname()[0]) for one in found]
    return text, ends


def servers_of(data: bytes) -> list[tuple[int, Any]]:
    """Return families and addresses of such a list."""
    return [(family, tuple(server)) for family, server in json.loads(data)]
