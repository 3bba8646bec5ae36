"""What others' launchers may claim, and what identifies nothing."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.services import (
    AUDIO,
    DISPLAY,
    PORTS,
    SSH_AGENT,
    TRANSFERS,
    WAYLAND_DOOR,
)
from broker.helpers.process.spawn import DEVNULL, spawn, wait_ended
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import HeldMachine, hybrid_doors, take_foreign
from broker.host.launched_machine import LaunchedMachine
from broker.host.vmm.arena import ARENA_BYTES, make_arena
from broker.ipc.control.types.leases import HeldDescriptor, LeaseRequest
from broker.net.peers import credentials
from broker.net.peers.identity import ContainerClaim, HybridClaim, VsockClaim
from tests.kit.vm.silent_fuse import ANSWERED, NO_MOUNT, ask_about_silent_file


@pytest.fixture
async def sleeper():
    """A process that may be a VMM."""
    child = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
    yield child
    child.kill()
    await child.wait()


@pytest.fixture
def private(tmp_path):
    """A directory that no other user may write to."""
    directory = tmp_path / "sockets"
    directory.mkdir(mode=0o700)
    return directory


def take(**claims):
    return take_foreign(LeaseRequest(record="work", **claims))


def open_files():
    return len(os.listdir("/proc/self/fd"))


# -- claims ----------------------------------------------------------------------


async def test_a_hybrid_socket_is_its_processes(private, sleeper):
    mine = take(
        hybrid=str(private / "vm.vsock"), leader=sleeper.pid, connectors=[os.getpid()]
    )
    assert isinstance(mine.claim, HybridClaim)
    assert mine.claim.base == str(private / "vm.vsock")
    pids = {connector.pid for connector in mine.claim.connectors}
    assert pids == mine.alive() == {sleeper.pid, os.getpid()}
    assert (mine.facts.pid, mine.facts.cid) == (sleeper.pid, None)
    await mine.close()


async def test_the_leader_may_be_named_twice(private, sleeper):
    mine = take(
        hybrid=str(private / "vm.vsock"),
        leader=sleeper.pid,
        connectors=[sleeper.pid, sleeper.pid],
    )
    assert len(mine.claim.connectors) == 1
    await mine.close()


async def test_a_cid_needs_no_process():
    mine = take(cid=42)
    assert mine.claim == VsockClaim(credentials.network_namespace(), 42)
    assert (mine.facts.pid, mine.facts.cid) == (None, 42)
    assert await mine.open_doors(Acceptors()) == {}, "the listeners of all are shared"
    assert mine.alive() == frozenset()
    await mine.close()


REFUSED = {
    "nothing": ({}, "exactly one of"),
    "two": ({"cid": 42, "unix": "/x"}, "exactly one of"),
    "all": ({"cid": 42, "unix": "/x", "hybrid": "/y"}, "exactly one of"),
    "the host's CID": ({"cid": 2}, "is reserved or invalid"),
    "the loopback's": ({"cid": 1}, "is reserved or invalid"),
    "any CID": ({"cid": 0xFFFFFFFF}, "is reserved or invalid"),
    "a CID below all": ({"cid": -1}, "is reserved or invalid"),
    "a CID beyond all": ({"cid": 1 << 70}, "is reserved or invalid"),
    "a hybrid socket without a leader": (
        {"hybrid": "{}/vm.vsock"},
        "must set leader or connectors",
    ),
    "a container without a leader": (
        {"unix": "{}"},
        "PID of the container's first process",
    ),
    "no directory": (
        {"hybrid": "{}/none/vm.vsock", "leader": os.getpid()},
        "No such file or directory",
    ),
    "process 0": ({"cid": 42, "leader": 0}, "cannot be a sandbox's leader"),
    "process 1": ({"cid": 42, "leader": 1}, "cannot be a sandbox's leader"),
    "a negative process": ({"cid": 42, "leader": -5}, "cannot be a sandbox's leader"),
    "a process that cannot be": (
        {"cid": 42, "leader": 0x7FFFFFFF},
        "cannot bind the lease to process",
    ),
    "a number beyond all": (
        {"cid": 42, "leader": 1 << 40},
        "cannot bind the lease to process",
    ),
    "one good, one not": (
        {"cid": 42, "connectors": [os.getpid(), 1 << 40]},
        "cannot bind the lease to process",
    ),
}


@pytest.mark.parametrize(("claims", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_descriptions_that_identify_nothing(private, claims, reason):
    filled = {
        key: value.format(private) if isinstance(value, str) else value
        for key, value in claims.items()
    }
    before = open_files()
    with pytest.raises(RefusedError, match=reason):
        take(**filled)
    assert open_files() == before, "no pidfd is left"


@pytest.mark.parametrize(
    ("mode", "fine"),
    [(0o700, True), (0o755, True), (0o720, False), (0o702, False), (0o777, False)],
    ids=oct,
)
async def test_a_directory_that_others_may_write_to(private, mode, fine):
    private.chmod(mode)
    words = {"hybrid": str(private / "vm.vsock"), "leader": os.getpid()}
    if fine:
        await take(**words).close()
        return
    with pytest.raises(RefusedError, match="users other than you and root") as caught:
        take(**words)
    assert "chmod go-w" in caught.value.hint


def test_a_directory_of_another_user(private, monkeypatch):
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    if private.stat().st_uid == 0:
        pytest.skip("root's directories are anybody's")
    with pytest.raises(RefusedError, match="users other than you and root"):
        take(hybrid=str(private / "vm.vsock"), leader=os.getpid())


# -- containers ------------------------------------------------------------------


async def test_a_leader_without_a_namespace_of_its_own(private, sleeper):
    if not credentials.pid_namespaces(sleeper.pidfd):
        with pytest.raises(SetupError, match="cannot identify a container's"):
            take(unix=str(private), leader=sleeper.pid)
        return
    before = open_files()
    with pytest.raises(RefusedError, match="not in a separate PID namespace"):
        take(unix=str(private), leader=sleeper.pid)
    assert open_files() == before


def test_a_kernel_that_cannot_tell_namespaces(private, monkeypatch):
    monkeypatch.setattr(credentials, "pid_namespaces", lambda pidfd: ())
    with pytest.raises(SetupError, match="cannot identify") as caught:
        take(unix=str(private), leader=os.getpid())
    assert "6.11" in caught.value.hint


async def test_a_container_is_its_namespace(private, monkeypatch):
    monkeypatch.setattr(credentials, "pid_namespaces", lambda pidfd: (7, 8))
    monkeypatch.setattr(credentials, "pid_namespaces_of_self", lambda: (8,))
    mine = take(unix=str(private), leader=os.getpid())
    assert mine.claim == ContainerClaim(str(private), 7)
    acceptors = Acceptors()
    doors = await mine.open_doors(acceptors)
    wanted = {DISPLAY, AUDIO, SSH_AGENT, WAYLAND_DOOR, *TRANSFERS}
    assert set(doors) == wanted, "no agent of ours is in there"
    for service, door in doors.items():
        assert oct((private / service).stat().st_mode)[-3:] == "600"
        door.close()
        assert not (private / service).exists()
    await mine.close()
    await acceptors._server.close()


# -- life and death ----------------------------------------------------------------


async def test_a_leader_that_is_dead_already():
    """Not reaped yet, so its number is still its own: the lease ends at once."""
    child = spawn([sys.executable, "-c", ""], stdout=DEVNULL, stderr=DEVNULL)
    await trio.lowlevel.wait_readable(child.pidfd)
    try:
        mine = take(cid=42, leader=child.pid)
        assert mine.alive() == frozenset()
        with trio.fail_after(30):
            assert await mine.wait() == "it has ended"
        await mine.close()
    finally:
        await child.wait()
    with pytest.raises(
        RefusedError, match=f"cannot bind the lease to process {child.pid}"
    ):
        take(cid=42, leader=child.pid)


async def test_a_leader_that_dies(sleeper):
    mine = take(cid=42, leader=sleeper.pid)
    async with trio.open_nursery() as nursery:

        async def wait():
            assert await mine.wait() == "it has ended"

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        sleeper.kill()
    assert mine.alive() == frozenset()
    await mine.close()


@pytest.mark.parametrize("led", [True, False])
async def test_a_launcher_that_lets_go(led):
    """Neither its end nor our stop touches the machine."""
    mine = take(cid=42, leader=os.getpid() if led else None)
    async with trio.open_nursery() as nursery:

        async def wait():
            assert "its launcher released" in await mine.wait()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if led:
            await mine.power_down(60)
        else:
            mine.leave()
    await mine.close()


async def test_two_may_wait_for_it(sleeper):
    mine = take(cid=42, leader=sleeper.pid)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.wait)
        nursery.start_soon(mine.wait)
        await trio.testing.wait_all_tasks_blocked()
        sleeper.kill()
    await mine.close()


async def test_its_end_is_noticed_without_a_free_descriptor(sleeper, monkeypatch):
    """A lease does not end because others' connections have used them up."""
    mine = take(cid=42, leader=sleeper.pid)

    def full(_fd):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "dup", full)
    ended = []

    async def wait():
        ended.append(await mine.wait())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not ended
            sleeper.kill()
    assert ended == ["it has ended"]
    monkeypatch.undo()
    await mine.close()


async def test_no_other_process_killed_at_end_of_lease(sleeper):
    """The lease ends while its process ends, and the number of its descriptor is reused."""
    leader = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
    os.kill(leader.pid, signal.SIGSTOP)  # it ends when this test says so
    processes = HeldMachine([leader.pid])
    number = processes.pidfd(leader.pid)
    state = SimpleNamespace(ours=True)
    machine = LaunchedMachine(state, VsockClaim(1, 42), processes, leader.pid)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.power_down, 1000)
            await trio.testing.wait_all_tasks_blocked()
            machine.let_go()
            os.dup2(sleeper.pidfd, number)
            leader.kill()
        await leader.wait()
    with trio.move_on_after(1) as scope:
        await wait_ended(sleeper.pidfd)
    os.close(number)
    assert scope.cancelled_caught


def test_held_processes_are_let_go_of():
    before = open_files()
    held = HeldMachine([os.getpid()])
    assert open_files() == before + 1
    held.close()
    held.close()
    assert open_files() == before


# -- doors -------------------------------------------------------------------------


async def test_doors_of_a_hybrid_socket(private):
    base = private / "vm.vsock"
    doors = await hybrid_doors(base)
    assert set(doors) == set(PORTS)
    assert {p.name for p in private.iterdir()} == {
        f"vm.vsock_{port}" for port in PORTS.values()
    }
    with pytest.raises(SetupError, match="in use"):
        await hybrid_doors(base)
    for door in doors.values():
        door.close()
    assert list(private.iterdir()) == []


async def test_a_door_that_cannot_be_had_leaves_none(private):
    """The second one's place is taken by something that is no socket."""
    (private / "vm.vsock_6501").write_text("in the way")
    before = open_files()
    with pytest.raises(SetupError, match="not a socket"):
        await hybrid_doors(private / "vm.vsock")
    assert [p.name for p in private.iterdir()] == ["vm.vsock_6501"]
    assert open_files() == before


@pytest.mark.parametrize("over", [0, 1])
async def test_the_longest_path_of_a_socket(tmp_path, over):
    directory = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        stem = f"/proc/self/fd/{directory}/"
        room = limits.SOCKET_PATH_BYTES - len(stem) - len("_6500") + over
        base = type(tmp_path)(stem + "x" * room)
        if over:
            with pytest.raises(SetupError, match="too long"):
                await hybrid_doors(base)
        else:
            for door in (await hybrid_doors(base)).values():
                door.close()
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(directory)


# -- folders and an arena of a script's machine --------------------------------------


def arena_of(fd):
    """A request's words for a descriptor of ours."""
    return HeldDescriptor(pid=os.getpid(), number=fd)


async def test_an_arena_is_memory_that_keeps_its_size(private, sleeper, tmp_path):
    before, claims = open_files(), {"cid": 42, "leader": sleeper.pid}
    file = tmp_path / "file"
    file.write_bytes(bytes(4096))
    loose = os.memfd_create("vitrail-arena")
    os.ftruncate(loose, ARENA_BYTES)
    small, good = make_arena(4096), make_arena(ARENA_BYTES)
    others = [os.open(path, os.O_RDONLY) for path in (file, "/dev/null", private)]
    read, write = os.pipe()
    for wrong in (loose, small, *others, read, 9999):
        with pytest.raises(RefusedError, match="arena"):
            take(**claims, arena=arena_of(wrong))
    mine = take(**claims, arena=arena_of(good))
    assert os.path.samestat(os.fstat(mine.arena), os.fstat(good))
    await mine.close()
    assert mine.arena == -1
    for fd in (loose, small, good, *others, read, write):
        os.close(fd)
    assert open_files() == before


@pytest.mark.machine
def test_no_file_system_is_waited_for():
    """A process of the user's may hold a file whose server never answers."""
    answer = ask_about_silent_file(lend)
    if answer == NO_MOUNT:
        pytest.skip("no FUSE mount here, not even in a user namespace")
    assert answer == ANSWERED


def lend(fd):
    with pytest.raises(RefusedError, match="is not an arena"):
        take(cid=42, leader=os.getpid(), arena=arena_of(fd))


async def test_the_servers_of_folders_are_held_and_connect_as_nobody(private, sleeper):
    before = open_files()
    base, child = str(private / "vm"), spawn(["sleep", "1000"])
    claims = {"hybrid": base, "leader": sleeper.pid}
    mine = take(**claims, folder_servers=[child.pid])
    assert [server.pid for server in mine.folder_servers.values()] == [child.pid]
    assert {c.pid for c in mine.claim.connectors} == {sleeper.pid}
    assert child.pid not in mine.alive()
    await mine.close()
    child.kill()
    await child.wait()
    with pytest.raises(RefusedError, match="process"):
        take(**claims, folder_servers=[child.pid])
    with pytest.raises(RefusedError, match="at most"):
        take(**claims, folder_servers=[sleeper.pid] * 9)
    assert open_files() == before
