"""A separate machine for a test, on which /proc and /etc can be replaced.

``python -m tests.kit.changing_machine PROGRAM [ARG...]`` is executed by ``own_machine``:
as the first process of new user, mount and pid namespaces it lays an /etc over /etc that
the user owns, and starts the program, which can have /proc remounted (``remount_proc``).
/mnt is a small disk (``SMALL_DISK``) that the program may fill.
The program has no capabilities, as on the user's own machine; where the user has
subordinate ids it has them there, too, and a newuidmap(1) that maps them.
With ``network`` the machine has a cable to an internet of its own
(``tests.kit.far_network``), and the program orders its changes (``as_root``).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.kit.far_network import begin_network, resolver_is

_ORDERS = "VITRAIL_TEST_MACHINE"
SMALL_DISK = Path("/mnt")
"""On such a machine: an empty file system of 48 MiB, which the user owns."""
_NAMESPACES = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")
_WORDS = (*_NAMESPACES, "--pid", "--fork", "--mount-proc", "--kill-child")
_MORE_IDS = ("--map-auto",)
_NETWORK = ("--net",)
_ID_MAPPERS = ("newuidmap", "newgidmap")
_ORDER_BYTES = 1 << 16
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 2, 4, 8, 32, 4096
_MNT_DETACH = 2
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4
_REMOUNT = "remount"
_ENLARGE = "enlarge"
_libc = ctypes.CDLL(None, use_errno=True)


def _can_make(*more: str) -> bool:
    words = [*_WORDS, *more, "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


NEEDS = pytest.mark.skipif(
    not _can_make(), reason="needs unshare(1) and namespaces of the user's own"
)


def inside() -> bool:
    """Whether this process runs on such a machine."""
    return _ORDERS in os.environ


def own_machine(
    *words: str, seconds: float, network: bool = False, follow: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program on a machine of its own; its output is one text.

    ``follow``: each line is also printed at once.  After so many seconds all its
    processes are killed.
    """
    more = (
        *(_MORE_IDS if _can_make(*_MORE_IDS) else ()),
        *(_NETWORK if network else ()),
    )
    argv = [*_WORDS, *more, sys.executable, "-m", __name__, *_NETWORK[:network], *words]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            child.kill()

        end = threading.Timer(seconds, kill)
        end.start()
        lines = []
        try:
            for line in child.stdout:
                lines.append(line)
                if follow:
                    print(line, end="", flush=True)
            code = child.wait()
        finally:
            end.cancel()
            child.kill()
    if late.is_set():
        lines.append(f"killed: it has not ended within {seconds:g} s\n")
    return subprocess.CompletedProcess(argv, code, "".join(lines))


def remount_proc() -> None:
    """Have procfs make again all entries that no descriptor holds, as reclaim does."""
    as_root(_REMOUNT)


def enlarge_small_disk() -> None:
    """Give the small disk room for 400 MiB."""
    as_root(_ENLARGE)


def as_root(*words: str) -> str:
    """Have a command run with the machine's capabilities; return its output."""
    with socket.socket(fileno=os.dup(int(os.environ[_ORDERS]))) as sock:
        sock.sendall(json.dumps(words).encode())
        code, said = json.loads(sock.recv(_ORDER_BYTES))
    assert code == 0, (words, said)
    return said


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


def _own_id_mappers() -> None:
    """Lay copies over newuidmap and newgidmap that belong to this machine's user 0.

    The set-user-ID bit of the others is for a user that does not exist here.
    """
    maps = [_id_map(name) for name in ("uid_map", "gid_map")]
    if not all(any(first == 0 for first, _, _ in rows) for rows in maps):
        return  # the user has no further ids
    place = tempfile.mkdtemp(prefix="vt-ids-", dir="/tmp")
    _mount("ids", place, "tmpfs", _MS_NODEV, "mode=755,size=4m")
    user = subprocess.check_output(("id", "-nu"), text=True).strip()
    for program, name, rows in zip(
        _ID_MAPPERS, ("subuid", "subgid"), maps, strict=True
    ):
        found = shutil.which(program)
        if found is None:
            continue
        copy = Path(place, program)
        shutil.copyfile(found, copy)
        os.chown(copy, 0, 0)
        copy.chmod(0o4755)
        _mount(str(copy), found, "", _MS_BIND)
        # All ids of the machine but 0 and the user's own.
        ranges = [(max(1, at), at + n - max(1, at)) for at, _, n in rows if n > 1]
        lines = [f"{user}:{first}:{n}\n" for first, n in sorted(ranges)]
        Path("/etc", name).write_text("".join(lines))
    _libc.umount2(place.encode(), _MNT_DETACH)
    shutil.rmtree(place)


def _id_map(name: str) -> list[tuple[int, ...]]:
    lines = Path("/proc/self", name).read_text().splitlines()
    return [tuple(map(int, line.split())) for line in lines]


def _serve(orders: socket.socket) -> None:
    """Carry out orders with the capabilities that the program lacks."""
    flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    while order := orders.recv(_ORDER_BYTES):
        words = json.loads(order)
        if words == [_REMOUNT]:
            _mount("proc", "/proc", "proc", flags)
            answer = (0, "")
        elif words == [_ENLARGE]:
            more = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV
            _mount("small", str(SMALL_DISK), "tmpfs", more, "size=400m")
            answer = (0, "")
        else:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            answer = (done.returncode, done.stdout)
        orders.sendall(json.dumps(answer).encode())


def main() -> None:
    """Make the machine, run the program on it, and exit with its code."""
    _own_etc()
    small = "mode=700,size=48m"
    _mount("small", str(SMALL_DISK), "tmpfs", _MS_NOSUID | _MS_NODEV, small)
    _own_id_mappers()
    words = sys.argv[1:]
    if words[:1] == [*_NETWORK]:
        del words[0]
        begin_network()
        resolver_is()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        theirs.close()
        _serve(ours)
        os._exit(0)
    ours.close()
    if _libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up capabilities")
    os.environ[_ORDERS] = str(theirs.fileno())
    child = subprocess.Popen(words, pass_fds=[theirs.fileno()])
    theirs.close()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:  # orphans of the machine are the first process's
        pid, status = os.wait()
        if pid == child.pid:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
