"""A part of a test in a mount namespace with shared propagation, as systemd has it for ``/``.

What is mounted there later reaches every mount namespace whose mounts are copies of these
and were not made private (mount_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_MS_REC, _MS_SHARED = 0x4000, 1 << 20
_SOURCE = "later"
"""The name of what is mounted (proc(5), mountinfo)."""
_libc = ctypes.CDLL(None, use_errno=True)


def run_in_shared_mounts(body: Callable[[], None]) -> None:
    """Run a function in a child process, which may mount; fail if it fails.

    Its user has all capabilities there, and the programs that it starts have none.
    """
    uid, gid = os.getuid(), os.getgid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _call(_libc.unshare(_NEWUSER | _NEWNS))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
            _call(_libc.mount(None, b"/", None, _MS_REC | _MS_SHARED, None))
            body()
            code = 0
        except pytest.skip.Exception as skipped:
            print(skipped, flush=True)
            code = 77
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 77:
        pytest.skip("skipped in the child process; its output has the reason")
    assert code == 0, "the child process failed: its output has the reason"


def mount_memory(path: Path) -> None:
    """Mount a file system in memory, with the file ``secret``."""
    _call(_libc.mount(_SOURCE.encode(), bytes(path), b"tmpfs", 0, None))
    (path / "secret").write_text("unlocked")


def unmount(path: Path) -> None:
    """Unmount a file system.  Raises OSError, if it is busy with EBUSY."""
    _call(_libc.umount2(bytes(path), 0))


def namespaces_with_later_mounts() -> list[tuple[str, str]]:
    """Return the processes in other mount namespaces that have what was mounted here."""
    mounts = os.stat("/proc/self/ns/mnt")
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.path.samestat((entry / "ns/mnt").stat(), mounts):
                continue
            if f" - tmpfs {_SOURCE} " in (entry / "mountinfo").read_text():
                processes.append((entry.name, (entry / "comm").read_text().strip()))
    return processes


def _call(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
