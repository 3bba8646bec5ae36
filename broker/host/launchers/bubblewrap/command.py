"""What bubblewrap is started with: its words, its descriptors, and our ends of them.

Only brokerctl runs this, with the user's rights: it makes pipes and prepares words, and
starts nothing.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from broker.core import limits
from broker.core.files.zone_name import zone_name
from broker.helpers.bubblewrap_status import not_started
from broker.helpers.filters import box_filters
from broker.helpers.process.gate import READY, Gate, outer_limits
from broker.helpers.process.memory_file import memory_file
from broker.host.launchers.bubblewrap.arguments import Box, BoxDescriptors, bwrap_args
from broker.host.launchers.bubblewrap.subordinate import subordinate_namespace

_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
# Not the machine's, which may name a plug-in whose socket a box lacks (PipeWire's), or a
# card: a box has no other sound than this.  Without the plug-in ALSA reports that.
ALSA_SETTINGS = b"""pcm.!default { type pulse hint { show on description "Vitrail" } }
ctl.!default { type pulse }
"""
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


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
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        box = replace(self.box, sockets=sockets, memory=memory, zone=zone_name())
        words = bwrap_args(box, self._fds, os.getuid(), os.getgid())
        # A program could lower it again, where it may write to /proc.
        # guard: a box ends first where memory ends
        words = ["choom", "-n", str(limits.BOX_OOM), "--", *words]
        # guard: the shell of another system sets no limit of a box
        outer = [] if box.root is None else outer_limits(box.open_files)
        return [*outer, *words]


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
    hosts = memory_file(theirs, _hosts(os.uname().nodename).encode())
    machine_id = memory_file(theirs, f"{_machine_id(box)}\n".encode())
    resolver = (
        None if box.resolver is None else memory_file(theirs, box.resolver.encode())
    )
    x11 = memory_file(theirs, _x11_bridge()) if box.x11 else None
    own = (
        None if box.owns_files or beside else subordinate_namespace(theirs, (uid, gid))
    )
    alsa = memory_file(theirs, ALSA_SETTINGS)
    fds = BoxDescriptors(
        *(status, passwd, group, rules, resolver, hosts, machine_id, alsa),
        *(x11, own, beside),
    )
    named = tuple(fd for fd in (resolver, x11, own) if fd is not None)
    passed = (status, passwd, group, rules, hosts, machine_id, alsa, *named)
    passed += beside or ()
    return BoxCommand(passed, stdin, theirs, gate, heard, box, fds)


def _hosts(name: str) -> str:
    """Return a box's hosts(5), in which its host name is an address of its loopback.

    Its UTS namespace begins with the name of the machine, whose own hosts file may have
    more names than the box is to know.
    """
    own = f"127.0.1.1 {name}\n" if _HOST_NAME.fullmatch(name) else ""
    return _HOSTS + own


def _machine_id(box: Box) -> str:
    """Return a box's machine-id(5): for each run another one, or that of its home.

    Programs keep files by it, so a home that is kept keeps its number.  It is made of
    the machine's as that page says, by a hash from which that is not to be had.
    """
    if box.home is not None:
        # Late: most boxes have no home of their own.
        import hmac

        with suppress(OSError):
            key = Path("/etc/machine-id").read_bytes()
            return hmac.digest(key, os.fsencode(box.home), "sha256")[:16].hex()
    return os.urandom(16).hex()


def _x11_bridge() -> bytes:
    # Late: most boxes have no X11 programs, and start without making it.
    from broker.core.parts.absent import require
    from shims.bundle import x11_bridge

    require("x11", "the display of X11 programs")
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
