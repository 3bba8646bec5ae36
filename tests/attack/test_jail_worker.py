"""From inside a worker's jail nothing of the person's session can be reached.

Invariant: an attacker who has taken a worker over holds its descriptors and
can get nothing else: no file, no socket, no process, no network, no code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.limits import wayland as limits
from broker.core.names import SandboxName
from tests.kit.vm.probes import build, run_free, run_in_worker_jail, world
from tests.kit.wayland.compositor import short_directory
from tests.kit.workers import open_workers


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def around():
    with short_directory() as directory, world(directory) as made:
        yield made


# Attempt, its object, the filter's answer, and the answer of the walls after the
# filter answer when there is no filter.
REACH = [
    pytest.param("open", "/etc/passwd", "EPERM", "ENOENT", id="system-file"),
    pytest.param("open", "/proc/self/status", "EPERM", "ENOENT", id="proc"),
    pytest.param("open", "{home}", "EPERM", "ENOENT", id="home"),
    pytest.param("list", "/tmp", "EPERM", "ENOENT", id="directory"),
    pytest.param("unix", "{session_socket}", "EPERM", "ENOENT", id="session-socket"),
    pytest.param("unix", "{other_sandbox}", "EPERM", "ENOENT", id="other-sandbox"),
    pytest.param("abstract", "{abstract}", "EPERM", "ECONNREFUSED", id="abstract"),
    pytest.param("tcp", "{tcp}", "EPERM", "EACCES ENETUNREACH", id="tcp"),
    pytest.param("udp", "{tcp}", "EPERM", "ENETUNREACH", id="udp"),
    pytest.param("ptrace", "{victim}", "SIGSYS", "ESRCH", id="ptrace"),
    pytest.param("vmread", "{victim}", "SIGSYS", "ESRCH", id="memory"),
    pytest.param("getfd", "{victim}", "SIGSYS", "ESRCH", id="descriptors"),
    pytest.param("kill", "{victim}", "EPERM", "ESRCH", id="kill"),
    pytest.param("fork", "", "SIGSYS", "EAGAIN", id="fork"),
    pytest.param("shell", "", "SIGSYS", "ENOENT", id="shell"),
]


@pytest.mark.parametrize(("what", "on", "locked", "walls"), REACH)
def test_it_works_outside_and_each_wall_alone_stops_it(
    built, around, what, on, locked, walls
):
    argument = on.format_map(vars(around))
    assert run_free(built, what, argument) == "worked"
    assert run_in_worker_jail(built, what, argument) == locked
    assert run_in_worker_jail(built, what, argument, lock=False) in walls.split()


@pytest.mark.parametrize("what", ["exec-memory", "write-exec-memory", "netlink"])
def test_the_filter_refuses(built, what):
    assert run_free(built, what) == "worked"
    assert run_in_worker_jail(built, what) == "EPERM"


@pytest.mark.parametrize("what", ["create", "mkdir"])
def test_there_is_nowhere_to_write(built, what, tmp_path):
    assert run_free(built, what, str(tmp_path / "new")) == "worked"
    assert run_in_worker_jail(built, what, "/new") == "EPERM"
    assert run_in_worker_jail(built, what, "/new", lock=False) in ("EROFS", "EACCES")


# An ordinary user may not do all of these outside either, or the kernel has
# them not; being killed by the filter cannot be a coincidence.
@pytest.mark.parametrize(
    "what",
    ["unshare", "clone", "mount", "bpf", "io_uring", "keyctl", "userfaultfd", "perf"],
)
def test_what_only_an_attacker_calls_kills(built, what):
    assert run_in_worker_jail(built, what) == "SIGSYS"


# The filter makes memory files, and nothing that is more than it needs.
@pytest.mark.parametrize("what", ["memory-file", "map-file"])
def test_memory_for_pixels_is_to_be_had(built, what):
    assert run_free(built, what) == "worked"
    assert run_in_worker_jail(built, what) == "worked"


@pytest.mark.parametrize(
    "what", ["other-seal", "unsealable", "map-exec", "owner", "fallocate"]
)
def test_and_nothing_else_of_the_kind(built, what):
    assert run_free(built, what) == "worked"
    assert run_in_worker_jail(built, what) == "EPERM"


@pytest.mark.parametrize(("over", "outcome"), [(0, "worked"), (1, "EFBIG")])
def test_a_memory_file_ends_at_the_size_of_a_pool(built, over, outcome):
    size = str(limits.WAYLAND_POOL_BYTES + over)
    assert run_free(built, "grow", size) == "worked"
    assert run_in_worker_jail(built, "grow", size) == outcome
    assert run_in_worker_jail(built, "grow", size, lock=False) == outcome


def test_a_memory_file_is_no_program(built):
    assert run_free(built, "run-file") == "worked"
    assert run_in_worker_jail(built, "run-file") == "SIGSYS"
    # There is no interpreter in the empty root, and no process to be had.
    assert run_in_worker_jail(built, "run-file", lock=False) == "ENOENT"


def test_vsock_is_out_of_reach(built):
    assert run_in_worker_jail(built, "vsock") == "EPERM"


def test_the_probe_itself_runs_in_the_jail(built):
    assert run_in_worker_jail(built, "nothing") == "worked"


async def test_a_real_worker_stands_behind_these_walls():
    with short_directory() as directory:
        async with open_workers() as workers:
            name = SandboxName("work")
            worker = await workers.open_worker(name, directory, directory / "no")
            check_walls(worker.inner_pid)
            assert os.listdir(f"/proc/{worker.inner_pid}/root") == []
            # Sockets, /dev/null, the event loop's own, and the one pipe by which it
            # reports: a pipe carries no descriptors, and it has the writing end.
            pipes = []
            for fd in Path(f"/proc/{worker.inner_pid}/fd").iterdir():
                try:
                    target = os.readlink(fd)
                except FileNotFoundError:
                    continue  # it was closed meanwhile
                if target.startswith("pipe:"):
                    pipes.append(_access(worker.inner_pid, fd.name))
                    continue
                assert target.startswith("socket:") or target in (
                    "/dev/null",
                    "anon_inode:[eventpoll]",
                    "anon_inode:[eventfd]",
                ), target
            assert pipes == [os.O_WRONLY]


def _access(pid: int, fd: str) -> int:
    """The access mode of another process's descriptor, proc_pid_fdinfo(5)."""
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    (flags,) = [x.split()[1] for x in text.splitlines() if x.startswith("flags:")]
    return int(flags, 8) & os.O_ACCMODE


def check_walls(pid: int) -> None:
    """Separate namespaces, no capability, a filter, no way to new privileges."""
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        theirs = os.readlink(f"/proc/{pid}/ns/{kind}")
        assert theirs != os.readlink(f"/proc/self/ns/{kind}"), kind
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    assert status["NSpid"].split()[-1] == "1"


# In a separate process: a filter cannot be taken off again.
UNDER_THE_FILTER = """
import ctypes, os
from broker.core import limits
from broker.helpers.process.hardening import install
from broker.helpers.worker_jail import worker_filter
from broker.jail.worker.pipes import PipeWriter
from broker.jail.worker.wayland.waypipe_memory import StreamMachine

program = worker_filter.worker_filter()
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
read, write = os.pipe()
install(program)
machine = StreamMachine()
pool = machine.admit_pool(machine.file(4 << 20), 4 << 20)
pool.refresh(1 << 20, 1 << 20)
assert machine.touched == 1 << 20, machine.touched
writer = PipeWriter(write)
assert writer.take(b"pasted") == 6
writer.push()
assert os.read(read, 10) == b"pasted"
print("worked")
"""


def test_what_a_worker_does_with_memory_and_pipes_works_under_its_filter():
    done = subprocess.run(
        [sys.executable, "-c", UNDER_THE_FILTER],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout == "worked\n", done.stderr
