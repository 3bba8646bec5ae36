"""The jail of the fork server, in which it imports the worker.

A process with one thread leaves the session by ``enclose``: it has every namespace but
that of pids, a read-only root with Python and our modules, no home, no socket, no
network.  ``broker.helpers.worker_jail.entering`` makes the jails of workers from there.

Sources: user_namespaces(7), pivot_root(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path

from broker.core.errors import VitrailError
from broker.helpers.filters import seccomp
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.session_filters import leave_others
from broker.helpers.process.hardening import check, install, lower_limit, prctl

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWUSER, _CLONE_NEWNS, _CLONE_NEWPID = 0x10000000, 0x00020000, 0x20000000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID, NEWNET
CLONE_OTHERS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x60000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # the same number everywhere
_ATTR_RDONLY_NOSUID, _AT_RECURSIVE = 1 | 2, 0x8000
TMPFS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
PR_SET_NO_NEW_PRIVS = 38


def unshare(kinds: int, proc: int) -> None:
    """Unshare namespaces; in one of users, map only the caller.

    ``proc`` is /proc of before, and closed by this; -1 without a user namespace.
    """
    uid, gid = os.geteuid(), os.getegid()
    check(_libc.unshare(kinds), "new namespaces")
    if kinds & CLONE_NEWUSER:
        _write(proc, "self/setgroups", "deny")
        _write(proc, "self/uid_map", f"{uid} {uid} 1")
        _write(proc, "self/gid_map", f"{gid} {gid} 1")
        os.close(proc)


def _write(directory: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def become_root(place: str) -> None:
    """Make a mount this process's root, read-only, and let go of the old root.

    For the fork server and workers, which execute nothing afterwards.
    """
    os.chdir(place)
    # With both the same, the old root lies on top and goes by one umount
    # (pivot_root(2), "pivot_root . .").
    number = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, "pivot_root")
    check(_libc.syscall(number, b".", b"."), "pivot_root")
    check(_libc.umount2(b".", _MNT_DETACH), "leaving the old root")
    os.chdir("/")
    mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | TMPFS)


def why_enclose_fails() -> str:
    """Call ``enclose`` in a child of the fork server; return the error, or ""."""
    reason_in, reason_out = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            enclose()
        except (OSError, VitrailError) as error:
            os.write(reason_out, f"{error}".encode()[:400])
        finally:
            os._exit(0)
    os.close(reason_out)
    with open(reason_in, errors="replace") as reason:  # noqa: PTH123 -- a descriptor
        os.waitpid(pid, 0)
        return reason.read()


def enclose() -> None:
    """Confine the calling process, which has one thread, for good.

    Afterwards it reads Python, our modules and their libraries and no other file,
    writes none, has no network and no socket but those that it holds, and can fork
    but not execute.  It keeps the capabilities of its user namespace, which
    ``entering.fork_jailed`` needs.  Raises OSError, SetupError.
    """
    proc = os.open("/proc", DIRECTORY)
    unshare(CLONE_NEWUSER | _CLONE_NEWNS, os.dup(proc))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/proc", "tmpfs", TMPFS, "size=1m,nr_inodes=1k,mode=755")
    Path("/proc/tmp").mkdir()  # for the roots of workers
    for path in _program_files():
        _show(path, Path(f"/proc{path}"))
    become_root("/proc")
    # A second one of users: whoever has its capabilities cannot make the mounts of the
    # first one writable (mount_namespaces(7)).  None of pids: when the first process
    # of such a namespace ends, all others do.
    # guard: the fork server cannot make its root writable
    unshare(CLONE_NEWUSER | CLONE_OTHERS & ~_CLONE_NEWPID, proc)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    lower_limit(resource.RLIMIT_CORE, 1)
    # guard: the fork server starts no program
    install(fork_server_filter())


def _program_files() -> list[Path]:
    """Return the files that our modules and their libraries are loaded from."""
    named = ["/usr", sys.base_prefix, sys.prefix, sys.pycache_prefix, *sys.path]
    found = [Path(name) for name in named if name and Path(name).is_absolute()]
    found += list(Path("/").glob("lib*"))
    found += [Path("/etc/ld.so.cache"), Path("/dev/null")]
    return [
        path
        for path in dict.fromkeys(found)
        if path.exists() and not any(other in path.parents for other in found)
    ]


def _show(path: Path, target: Path) -> None:
    """Bind a path at its target in the new root, or copy a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    target.mkdir() if path.is_dir() else target.touch()
    mount(str(path), str(target), None, _MS_BIND | MS_REC)
    readonly = struct.pack("QQQQ", _ATTR_RDONLY_NOSUID, 0, 0, 0)
    name = os.fsencode(target)
    done = _libc.syscall(_MOUNT_SETATTR, -1, name, _AT_RECURSIVE, readonly, 32)
    check(done, f"read-only {path}")


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str = ""
) -> None:
    """Mount a file system or a path (mount(2)).  Raises OSError."""

    def c_text(text: str | None) -> bytes | None:
        return text.encode() if text else None

    done = _libc.mount(
        c_text(source),
        c_text(target),
        c_text(kind),
        ctypes.c_ulong(flags),
        c_text(data),
    )
    check(done, f"mount on {target}")


def fork_server_filter() -> bytes:
    """Compile the filter of the fork server: it imports, forks, and builds jails.

    A deny-list, which its children inherit.  The only signal that it sends is a signal
    that kills: a child, when the broker has gone.
    """
    rules = seccomp.SeccompRules(default=libseccomp.ALLOW)
    building = seccomp.words("mount umount2 pivot_root unshare capset")
    signals = seccomp.words("pidfd_open pidfd_send_signal")
    rules.kill(name for name in seccomp.NEVER if name not in building + signals)
    rules.kill(["execve", "execveat", "connect", "bind"])
    # guard: the fork server signals no thread
    rules.kill(["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    # guard: the fork server leaves other processes as they are
    leave_others(rules, pidfds=True)
    seccomp.close_pools(rules)
    killing = libseccomp.Arg(1, libseccomp.NE, signal.SIGKILL)
    rules.deny_if("pidfd_send_signal", killing)
    # guard: the fork server ends processes and no groups
    rules.deny_if("pidfd_send_signal", libseccomp.Arg(3, libseccomp.NE, 0))
    return rules.program()
