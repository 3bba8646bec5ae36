"""A separate machine for a test, on which /proc and /etc can be replaced.

``python -m tests.kit.changing_machine PROGRAM [ARG...]`` is executed by ``own_machine``:
as the first process of new user, mount and pid namespaces it lays an /etc over /etc that
the user owns, and starts the program, which can have /proc remounted (``remount_proc``).
/mnt is a small disk (``SMALL_DISK``) that the program may fill.
The program has no capabilities, as on the user's own machine.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_ORDERS = "VITRAIL_TEST_MACHINE"
SMALL_DISK = Path("/mnt")
"""On such a machine: an empty file system of 48 MiB, which the user owns."""
_NAMESPACES = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")
_WORDS = (*_NAMESPACES, "--pid", "--fork", "--mount-proc", "--kill-child")
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 2, 4, 8, 32, 4096
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4
_libc = ctypes.CDLL(None, use_errno=True)


def _can_make() -> bool:
    words = [*_WORDS, "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


NEEDS = pytest.mark.skipif(
    not _can_make(), reason="needs unshare(1) and namespaces of the user's own"
)


def inside() -> bool:
    """Whether this process runs on such a machine."""
    return _ORDERS in os.environ


def own_machine(*words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program on a machine of its own; its output is one text."""
    argv = [*_WORDS, sys.executable, "-m", __name__, *words]
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[2],
        timeout=seconds,
        check=False,
    )


def remount_proc() -> None:
    """Have procfs make again all entries that no descriptor holds, as reclaim does."""
    with socket.socket(fileno=os.dup(int(os.environ[_ORDERS]))) as sock:
        sock.sendall(b"r")
        answer = sock.recv(1)
    assert answer == b"r", "the machine has not remounted /proc"


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (text.encode() or None for text in (source, target, kind))
    if _libc.mount(*words, flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def _own_etc() -> None:
    """Lay a copy of /etc over it, with the files that the user may read."""
    place = tempfile.mkdtemp(prefix="vt-etc-", dir="/tmp")
    _mount("etc", place, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=64m")
    subprocess.run(
        f"tar -C /etc --ignore-failed-read -cf - . 2>/dev/null | tar -C {place} -xf -",
        shell=True,
        check=True,
    )
    # A user of tests may have none: 'brokerctl shell' starts the guest's, which is this.
    passwd = Path(place, "passwd")
    passwd.write_text(passwd.read_text().replace("/usr/sbin/nologin", "/bin/sh"))
    _mount(place, "/etc", "", _MS_BIND)
    _libc.umount2(place.encode(), 0)
    shutil.rmtree(place)


def _serve(orders: socket.socket) -> None:
    """Remount /proc by order, with the capabilities that the program lacks."""
    flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    while orders.recv(1):
        _mount("proc", "/proc", "proc", flags)
        orders.sendall(b"r")


def main() -> None:
    """Make the machine, run the program on it, and exit with its code."""
    _own_etc()
    small = "mode=700,size=48m"
    _mount("small", str(SMALL_DISK), "tmpfs", _MS_NOSUID | _MS_NODEV, small)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        theirs.close()
        _serve(ours)
        os._exit(0)
    ours.close()
    if _libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up capabilities")
    os.environ[_ORDERS] = str(theirs.fileno())
    child = subprocess.Popen(sys.argv[1:], pass_fds=[theirs.fileno()])
    theirs.close()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:  # orphans of the machine are the first process's
        pid, status = os.wait()
        if pid == child.pid:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
