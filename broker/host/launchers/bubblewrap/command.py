"""What bubblewrap is started with: its words, its descriptors, and our ends of them."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from broker.helpers.bubblewrap_status import not_started
from broker.helpers.filters import box_filters
from broker.helpers.process.gate import READY, Gate
from broker.helpers.process.memory_file import memory_file
from broker.host.launchers.bubblewrap.arguments import Box, BoxDescriptors, bwrap_args
from broker.host.launchers.bubblewrap.subordinate import subordinate_namespace

_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"


@dataclass(frozen=True)
class BoxCommand:
    """A box that is about to be started, in a directory of sockets yet to be named.

    ``pass_fds`` and ``stdin`` are bubblewrap's, which the caller closes with
    ``theirs`` once it runs; ``gate`` and ``status`` are the caller's own.
    """

    pass_fds: tuple[int, ...]
    stdin: int
    theirs: ExitStack
    gate: Gate
    status: int
    """bubblewrap says here which process is the first one inside, and at the end how
    it was; it would die of a closed pipe."""
    box: Box
    _fds: BoxDescriptors

    def argv(self, sockets: Path) -> list[str]:
        """Return bubblewrap's words for a box with this directory of sockets."""
        box = replace(self.box, sockets=sockets)
        return bwrap_args(box, self._fds, os.getuid(), os.getgid())


def prepare(
    box: Box, ours: ExitStack, beside: tuple[int, int] | None = None
) -> BoxCommand:
    """Create the pipes and files of a box, and its command line; start nothing.

    Needs no lease, so it can be done while the broker answers.

    ``beside``: namespaces of another sandbox that it joins (``BoxDescriptors``).
    """
    uid, gid = os.getuid(), os.getgid()
    theirs = ours.enter_context(ExitStack())
    stdin, release = os.pipe()
    theirs.callback(os.close, stdin)
    gate = Gate(release)
    ours.callback(gate.abandon)
    heard, status = os.pipe()
    ours.callback(os.close, heard)
    theirs.callback(os.close, status)
    passwd = memory_file(theirs, f"user:x:{uid}:{gid}::/home/user:/bin/sh\n".encode())
    group = memory_file(theirs, f"user:x:{gid}:\n".encode())
    rules = memory_file(theirs, box_filters.box_filter(nested=box.user_namespaces))
    hosts = memory_file(theirs, _HOSTS)
    resolver = (
        None if box.resolver is None else memory_file(theirs, box.resolver.encode())
    )
    x11 = memory_file(theirs, _x11_bridge()) if box.x11 else None
    own = (
        None if box.owns_files or beside else subordinate_namespace(theirs, (uid, gid))
    )
    fds = BoxDescriptors(
        status, passwd, group, rules, resolver, hosts, x11, own, beside
    )
    named = tuple(fd for fd in (resolver, x11, own) if fd is not None)
    passed = (status, passwd, group, rules, hosts, *named, *(beside or ()))
    return BoxCommand(passed, stdin, theirs, gate, heard, box, fds)


def _x11_bridge() -> bytes:
    # Late: most boxes have no X11 programs, and start without making it.
    from shims.bundle import x11_bridge

    return x11_bridge()


def require_ready(output: bytes) -> None:
    """Raise UpstreamError where the box's output does not begin as its gate's does."""
    if output != READY:
        raise not_started("the box")


def kill(pidfd: int) -> None:
    """End the first process inside, and with it the box; it may have ended."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
