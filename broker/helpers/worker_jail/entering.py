"""The way into a worker's jail, from the fork server in its own (``process.jail``).

``fork_jailed`` makes

* a process in empty user, mount, pid, network, ipc, uts and cgroup
  namespaces: it is alone, its root is an empty read-only tmpfs without /proc,
  its network has not even a loopback that is up, abstract sockets of the
  session are out of reach;
* without capabilities, unable to gain any, with resource limits, with the
  descriptors that it was given and no others;
* under Landlock in addition, where the kernel has it: no file, no TCP, no
  abstract socket, no signal to the outside.  It cannot forbid connecting to
  a socket by path (landlock(7)), so it is never the only wall.

``seccomp`` comes last, by ``lock_worker``: the event loop makes its descriptors
first.  Sources: as ``process.jail``; pid_namespaces(7), capabilities(7), landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from broker.core import limits
from broker.core.errors import InternalError, SetupError, VitrailError
from broker.core.limits import wayland as wayland_limits
from broker.helpers import landlock as landlock_rules
from broker.helpers.apparmor import add_profile, namespaces_hint
from broker.helpers.process.hardening import check, lower_limit, prctl
from broker.helpers.process.jail import (
    CLONE_NEWUSER,
    CLONE_OTHERS,
    DIRECTORY,
    MS_PRIVATE,
    MS_REC,
    PR_SET_NO_NEW_PRIVS,
    TMPFS,
    become_root,
    mount,
    unshare,
)
from broker.helpers.process.process_name import set_name
from broker.helpers.worker_jail.worker_filter import worker_filter
from broker.ipc.fork_server import Jail

_libc = ctypes.CDLL(None, use_errno=True)

_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT = 36, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_HOST_NAME = "host name"
# Namespaces were made; what takes away this call alone is the filter of a container.
_CONTAINER_HINT = (
    "in a container, allow sethostname(2) in its seccomp filter: see 'In a rootless "
    "container' in two-machines.md"
)


@dataclass(frozen=True)
class Jailed:
    """The jailed process: its number as the caller sees it, and the applied measures.

    The caller is its parent; ``pidfd`` is the caller's to close.
    """

    pid: int
    pidfd: int
    jail: Jail


class _Report(msgspec.Struct, forbid_unknown_fields=True):
    """A report to the caller's pipe from the process that enters the jail."""

    pid: int = 0
    jail: Jail | None = None
    failed: str = ""


def fork_jailed(
    run: Callable[[Jail], None],
    keep: Sequence[int],
    *,
    allow_unjailed: bool = False,
    enclosed: bool = False,
    missing: str = "",
) -> Jailed:
    """Start ``run`` in a jail; it gets the applied measures and ``keep`` open.

    ``run`` has to call ``lock`` before it looks at anything from outside.
    It is not killed when the caller ends (its keeper does that).  With
    ``allow_unjailed`` a machine without user namespaces gets a process with
    the other walls only, and ``Jail.missing`` says so.  ``enclosed``: the caller has
    called ``enclose``; ``missing`` says why it could not.

    Raises SetupError when the namespaces are not available.
    """
    worker_filter()  # compiled and kept: in the jail there is no room to
    if enclosed:
        return _fork(run, keep, CLONE_OTHERS)
    try:
        return _fork(run, keep, CLONE_NEWUSER | CLONE_OTHERS)
    except SetupError as error:
        if not allow_unjailed:
            raise
        missing = missing or error.message
    return _fork(run, keep, 0, missing)


def _fork(
    run: Callable[[Jail], None], keep: Sequence[int], namespaces: int, missing: str = ""
) -> Jailed:
    """Fork through the namespaces; return the jailed process."""
    # A pid namespace is for children only, so there is a process in between;
    # when it has ended, the jailed one becomes our child (prctl(2)).
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with ExitStack() as ours, ExitStack() as theirs:
        report_in, report_out = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, report_in)
        theirs.callback(os.close, report_out)
        go_in, go_out = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, go_out)
        theirs.callback(os.close, go_in)
        middle = os.fork()
        if middle == 0:
            os.close(go_out)
            entry = _Entry(run, keep, report_out, go_in, namespaces, missing)
            _never_return(entry.middle, report_out)
        theirs.close()
        os.waitpid(middle, 0)
        with suppress(BrokenPipeError):
            os.write(go_out, b"g")
        return _judge(_read_reports(report_in))


def _read_reports(fd: int) -> list[_Report]:
    """Read reports until every process on its way in has closed the pipe."""
    data = bytearray()
    while chunk := os.read(fd, 65536):
        data += chunk
    decoder = msgspec.json.Decoder(_Report)
    return [decoder.decode(line) for line in data.splitlines()]


def _judge(reports: list[_Report]) -> Jailed:
    """Return the jailed process by its reports.  Raises SetupError."""
    pid = next((r.pid for r in reports if r.pid), 0)
    failed = next((r.failed for r in reports if r.failed), "")
    jail = next((r.jail for r in reports if r.jail), None)
    if pid and jail and not failed:
        return Jailed(pid, os.pidfd_open(pid), jail)
    if pid:
        os.waitpid(pid, 0)
    raise SetupError(
        f"cannot create a worker's jail: {failed or 'its process ended during setup'}",
        hint=_CONTAINER_HINT if failed.startswith(_HOST_NAME) else namespaces_hint(),
    )


@dataclass
class _Entry:
    """The way into the jail, in the order in which it has to be walked."""

    run: Callable[[Jail], None]
    keep: Sequence[int]
    report: int
    go: int
    namespaces: int
    missing: str

    def middle(self) -> None:
        """Run the process between the fork server and the worker.

        Replaces the standard streams by /dev/null, makes the namespaces (in a user
        namespace maps the caller's uid and gid), sets the host name, makes an empty root,
        forks the worker's process, and writes its pid to the report pipe.
        """
        null_streams()
        if self.namespaces:
            proc = (
                os.open("/proc", DIRECTORY) if self.namespaces & CLONE_NEWUSER else -1
            )
            unshare(self.namespaces, proc)
            name = b"worker"
            check(_libc.sethostname(name, len(name)), _HOST_NAME)
            _empty_root()
        pid = os.fork()
        if pid == 0:
            _never_return(self.inside, self.report)
        _tell(self.report, _Report(pid=pid))

    def inside(self) -> None:
        """Confine this process, the jail's process 1, then run."""
        if os.read(self.go, 1) != b"g":
            return
        close_others([*self.keep, self.report])
        _drop_capabilities()
        add_profile(
            "worker"
        )  # it has none of the capabilities that dropping them takes
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        limit_resources()
        landlock = landlock_rules.restrict()
        set_name("vitrail-worker")
        jail = Jail(bool(self.namespaces), True, landlock, self.missing)  # noqa: FBT003
        _tell(self.report, _Report(jail=jail))
        os.close(self.report)
        # From here on the pipe's number may be another file's.
        code = 3
        try:
            self.run(jail)
            code = 0
        finally:
            os._exit(code)


def _tell(fd: int, report: _Report) -> None:
    os.write(fd, msgspec.json.encode(report) + b"\n")


def _never_return(step: Callable[[], None], report: int) -> NoReturn:
    """Run a step of a forked process; its stack never unwinds into the caller's."""
    code = 1
    try:
        step()
        code = 0
    except (OSError, VitrailError) as error:
        _tell(report, _Report(failed=f"{error}"[:400]))
    finally:
        os._exit(code)


def close_others(keep: Sequence[int]) -> None:
    """Close all descriptors but ``keep``; /dev/null becomes the standard streams.

    An attacker who takes a worker over must not write to the broker's terminal.
    """
    if any(fd <= 2 for fd in keep):
        raise InternalError("a descriptor to keep is a standard stream")
    start = 3
    for fd in sorted(set(keep)):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 << 20)


def null_streams() -> None:
    """Make /dev/null of the standard streams, before the namespaces of a worker."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def limit_resources() -> None:
    """Set the resource limits of a worker (getrlimit(2))."""
    # A core would hold a guest's content.  1 and not 0: for 0 the kernel
    # still feeds a crash handler that is a pipe (core(5)).
    lower_limit(resource.RLIMIT_CORE, 1)
    lower_limit(resource.RLIMIT_NOFILE, limits.WORKER_FDS)
    lower_limit(resource.RLIMIT_NPROC, 0)
    # There is nowhere to make a file; this is for memory files (memfd_create).
    lower_limit(resource.RLIMIT_FSIZE, wayland_limits.WAYLAND_POOL_BYTES)
    lower_limit(resource.RLIMIT_MEMLOCK, 0)
    lower_limit(resource.RLIMIT_MSGQUEUE, 0)
    lower_limit(resource.RLIMIT_RTPRIO, 0)
    lower_limit(resource.RLIMIT_NICE, 0)
    lower_limit(resource.RLIMIT_AS, limits.WORKER_ADDRESS_BYTES)
    lower_limit(resource.RLIMIT_DATA, limits.WORKER_DATA_BYTES)


def _empty_root() -> None:
    """Make an empty, read-only tmpfs the root and let go of the old one."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    # Any directory that is everywhere; only this mount namespace sees it.
    place = "/tmp"  # noqa: S108
    mount("tmpfs", place, "tmpfs", TMPFS, "size=4k,nr_inodes=2,mode=555")
    become_root(place)


def _drop_capabilities() -> None:
    """Drop all capabilities: bounding, ambient, and the process's three sets."""
    capability = 0
    # EPERM without namespaces (we never had it), EINVAL beyond the last one.
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    check(_libc.capset(header, bytes(24)), "dropping capabilities")
