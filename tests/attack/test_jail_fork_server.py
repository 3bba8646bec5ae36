"""The fork server, taken over while it imports a module: its reach in the session.

Each attempt first works outside, or is another error there, and fails inside.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.helpers.process import jail
from broker.ipc.fork_server import ALLOW_UNJAILED
from broker.programs import fork_server
from tests.kit.workers import open_workers

_ROOT = Path(__file__).parents[2]

_PROBE = """
import ctypes, fcntl, os, resource, signal, socket, sys
import broker
from broker.helpers.process import jail
from broker.ipc.fork_server import ALLOW_UNJAILED
inside, attempt, place = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "failed")

def remount(target):
    if libc.mount(None, target.encode(), None, 0x20 | 0x1000, None):
        raise OSError(ctypes.get_errno(), "remount")

attempts = {
    "read a file": lambda: open(f"{place}/secret").read(),
    "list a directory": lambda: os.listdir(place),
    "write a module": lambda: open(f"{place}/module.py", "w").close(),
    "connect by path": lambda: socket.socket(socket.AF_UNIX).connect(f"{place}/socket"),
    "connect by name": lambda: socket.socket(socket.AF_UNIX).connect("\\0" + place),
    "reach the network": lambda: socket.create_connection(("127.0.0.1", int(os.environ["PORT"]))),
    "start a program": lambda: os.execv("/usr/bin/true", ["true"]),
    "interrupt a process": lambda: signal.pidfd_send_signal(
        os.pidfd_open(os.getppid()), signal.SIGCONT),
    "signal a process": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "signal a thread": lambda: checked(libc.syscall(
        234, os.getppid(), os.getppid(), signal.SIGCONT)),
    "have a socket signal": lambda: fcntl.fcntl(
        socket.socketpair()[0], fcntl.F_SETOWN, os.getppid()),
    "change another's limits": lambda: resource.prlimit(
        os.getppid(), resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)),
    "signal a group": lambda: signal.pidfd_send_signal(
        os.pidfd_open(os.getpgrp()), signal.SIGKILL, None, 1 << 2),
    "make a mount writable": lambda: remount("/usr"),
}
if inside == "inside":
    jail.enclose()
attempts[attempt]()
"""

_WORKS_OUTSIDE = [
    "read a file",
    "list a directory",
    "write a module",
    "connect by path",
    "connect by name",
    "reach the network",
    "start a program",
    "interrupt a process",
    "signal a process",
    "signal a thread",
    "have a socket signal",
    "change another's limits",
]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "secret").write_text("of the user")
    with (
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as by_name,
        socket.create_server(("127.0.0.1", 0)) as network,
    ):
        by_path.bind(str(tmp_path / "socket"))
        by_path.listen()
        by_name.bind("\0" + str(tmp_path))
        by_name.listen()
        os.environ["PORT"] = str(network.getsockname()[1])
        yield tmp_path


def _probe(where, attempt, place):
    return subprocess.run(
        [sys.executable, "-c", _PROBE, where, attempt, str(place)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "attempt", [*_WORKS_OUTSIDE, "make a mount writable", "signal a group"]
)
def test_probe_in_the_fork_servers_jail(attempt, place):
    if attempt in _WORKS_OUTSIDE:
        assert _probe("outside", attempt, place).returncode == 0
    inside = _probe("inside", attempt, place)
    assert inside.returncode != 0
    assert "Error" in inside.stderr or inside.returncode == -signal.SIGSYS


async def test_the_running_fork_server_is_in_that_jail(tmp_path):
    async with open_workers() as workers:
        await workers.open_worker(SandboxName("work"), tmp_path, tmp_path / "no")
        pid = workers.fork_server_pid
        for kind in ("user", "mnt", "net", "ipc", "uts", "cgroup"):
            theirs = os.readlink(f"/proc/{pid}/ns/{kind}")
            assert theirs != os.readlink(f"/proc/self/ns/{kind}"), kind
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        assert [
            m
            for m in mounts
            if "ro" not in m.split()[3].split(",")[:1] and m.split()[1] != "/dev/null"
        ] == []


def test_a_fork_server_without_a_jail_imports_nothing(monkeypatch):
    imported, served, achieved = [], [], []
    honest = fork_server.import_module

    def import_module(name):
        if name == "broker.helpers.worker_jail.server_jail":
            return honest(name)
        imported.append(name)
        start = SimpleNamespace(starts=None, present=None)
        return SimpleNamespace(
            prepare=lambda missing: achieved.append(missing) or start
        )

    monkeypatch.setattr(jail, "why_enclose_fails", lambda: "new namespaces: no")
    monkeypatch.setattr(jail, "enclose", lambda: None)
    monkeypatch.setattr(
        fork_server, "serve", lambda _, start, **__: served.append(start)
    )
    monkeypatch.setattr(fork_server, "import_module", import_module)
    monkeypatch.setattr(sys, "argv", ["fork server", "workers", "3"])
    fork_server.main()
    assert imported == []
    [refuse] = served[0].values()
    with pytest.raises(SetupError, match="new namespaces: no"):
        refuse(None, [], lambda: None)
    argv = ["fork server", "workers", "3", ALLOW_UNJAILED]
    monkeypatch.setattr(sys, "argv", argv)
    fork_server.main()
    assert imported == ["broker.programs.forks.workers"]
    assert achieved == ["new namespaces: no"]
