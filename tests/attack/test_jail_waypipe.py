"""From inside a waypipe client's jail only its own two sockets can be reached.

Invariant: the waypipe client, which decodes a sandbox's bytes in C and is
taken for taken over, reaches the socket of its sandbox's worker and nothing
else: no compositor, no file, no process, no network, no other sandbox.
"""

from __future__ import annotations

import os
import socket

import pytest
import trio

from broker.core.names import SandboxName
from broker.net.endpoints import UnixEndpoint, connect
from broker.viewer.waypipe.client import start_waypipe_client
from broker.viewer.workers.pool import open_workers
from tests.attack.test_jail_worker import check_walls
from tests.kit.vm.probes import build, run_free, run_in_waypipe_jail, world
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def around():
    with short_directory() as directory, world(directory) as made:
        yield made


@pytest.fixture
def display_dir():
    with short_directory() as directory:
        yield directory


REACH = [
    pytest.param("open", "/etc/passwd", "ENOENT", id="system-file"),
    pytest.param("open", "/proc/self/status", "ENOENT", id="proc"),
    pytest.param("open", "{home}", "ENOENT", id="home"),
    pytest.param("list", "/tmp", "ENOENT", id="directory"),
    pytest.param("unix", "{session_socket}", "ENOENT", id="session-socket"),
    pytest.param("unix", "{other_sandbox}", "ENOENT", id="other-sandbox"),
    pytest.param("abstract", "{abstract}", "ECONNREFUSED", id="abstract"),
    pytest.param("tcp", "{tcp}", "EPERM", id="tcp"),
    pytest.param("udp", "{tcp}", "EPERM", id="udp"),
    pytest.param("netlink", "", "EPERM", id="netlink"),
    pytest.param("ptrace", "{victim}", "SIGSYS", id="ptrace"),
    pytest.param("vmread", "{victim}", "SIGSYS", id="memory"),
    pytest.param("getfd", "{victim}", "SIGSYS", id="descriptors"),
    pytest.param("kill", "{victim}", "ESRCH", id="kill"),
    pytest.param("shell", "", "ENOENT", id="shell"),
    pytest.param("write-exec-memory", "", "EPERM", id="write-exec-memory"),
]


@pytest.mark.parametrize(("what", "on", "answer"), REACH)
async def test_it_works_outside_and_not_inside(
    built, around, display_dir, what, on, answer
):
    argument = on.format_map(vars(around))
    assert run_free(built, what, argument) == "worked"
    assert await run_in_waypipe_jail(built, display_dir, what, argument) == answer


@pytest.mark.parametrize("what", ["create", "mkdir"])
@pytest.mark.parametrize("where", ["/s/new", "/s/client/new"])
async def test_its_directories_take_no_files(built, display_dir, what, where):
    assert run_free(built, what, str(display_dir / "outside")) == "worked"
    assert await run_in_waypipe_jail(built, display_dir, what, where) == "EPERM"


@pytest.mark.parametrize(
    ("where", "answer"), [("/s/new", "EROFS"), ("/s/client/new", "worked")]
)
async def test_it_makes_sockets_in_one_directory_only(
    built, display_dir, where, answer
):
    """Until that one accepts, when the directory is removed."""
    assert await run_in_waypipe_jail(built, display_dir, "bind", where) == answer


@pytest.mark.parametrize(
    "what", ["unshare", "mount", "bpf", "io_uring", "keyctl", "userfaultfd", "perf"]
)
async def test_what_only_an_attacker_calls_kills(built, display_dir, what):
    assert await run_in_waypipe_jail(built, display_dir, what) == "SIGSYS"


@pytest.mark.parametrize("what", ["vsock", "clone"])
async def test_the_filter_refuses(built, display_dir, what):
    assert await run_in_waypipe_jail(built, display_dir, what) == "EPERM"


async def test_its_own_sockets_it_does_reach(built, display_dir):
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(str(display_dir / "wayland.sock"))
        worker.listen()
        reached = await run_in_waypipe_jail(
            built, display_dir, "unix", "/s/wayland.sock"
        )
        assert reached == "worked"
    # It forks for each connection; that it may, too.
    assert await run_in_waypipe_jail(built, display_dir, "fork") == "worked"


async def test_one_that_accepts_makes_no_names_any_more(built, display_dir):
    """Names of sockets have no limit, and are inodes of the person's session."""
    client = await start_waypipe_client(display_dir, built.program)
    try:
        assert client.place is not None
        with (
            await connect(UnixEndpoint(client.place.path)) as conn,
            trio.fail_after(20),
        ):
            conn.sendall(b"f")
            await trio.lowlevel.wait_readable(conn)
            assert conn.recv(1) == b"\0", "so many names were made"
        assert os.listdir(display_dir) == ["waypipe.sock"]
    finally:
        await client.stop()
    assert os.listdir(display_dir) == []


async def test_a_real_client_stands_behind_these_walls(display_dir):
    async with open_workers() as workers:
        name = SandboxName("work")
        await workers.open_worker(name, display_dir, display_dir / "no")
        client = await start_waypipe_client(display_dir)
        try:
            check_walls(client.pid)
            root = f"/proc/{client.pid}/root"
            own = {"s", "l", "waypipe", "proc"}
            assert set(os.listdir(root)) <= own | {"lib64", "lib"}
            # No file system of processes: one name, for the program itself.
            assert os.listdir(f"{root}/proc") == ["self"]
            assert os.listdir(f"{root}/proc/self") == ["exe"]
            assert os.readlink(f"{root}/proc/self/exe") == "/waypipe"
            assert set(os.listdir(f"{root}/s")) == {"wayland.sock", "waypipe.sock"}
            for name in os.listdir(f"{root}/l"):
                assert ".so" in name
        finally:
            await client.stop()
        assert os.listdir(display_dir) == ["wayland.sock"]
