"""A domain's folder is served to the QEMU that has its lease, and to no other program.

Invariant: what a domain's XML names, and who connects first to a place's socket or puts
another one there, decides nothing about which machine has the user's folder.
"""

from __future__ import annotations

import socket
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.launchers.adoption.domain_folders import has_folders, with_folders
from broker.core.errors import RefusedError, SetupError
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.host.folders.folder_server import find_virtiofsd
from broker.host.launchers.libvirt.folder_places import peers_of, places_of
from broker.ipc.control.api import MachineEventRequest
from policy.records.loader import load_records
from tests.broker.host.launchers.libvirt.test_guests import Role, made
from tests.kit.eventually import eventually
from tests.kit.hooks import libvirt as hook
from tests.kit.needs import NEEDS_JAIL
from tests.kit.vm.libvirt import RECORD
from tests.kit.wayland.compositor import short_directory

WORK, BANK = str(uuid.uuid4()), str(uuid.uuid4())
CONNECT = """
import socket, sys
held = []
for path in sys.argv[1].split(":"):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(path)
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def role():
    return Role()


@pytest.fixture
def guests(tmp_path, role):
    folder = tmp_path / "sandboxes.d"
    folder.mkdir(mode=0o755)
    for name, domain in (("work", WORK), ("bank", BANK)):
        (folder / f"{name}.toml").write_text(RECORD.format(domain))
    records = load_records([folder])
    with short_directory() as run:
        yield made(run, role, records)


@asynccontextmanager
async def qemu(domain, *paths):
    """A process with the words of a domain's QEMU, connected to these sockets."""
    words = [":".join(str(path) for path in paths), "-uuid", domain]
    child = spawn(
        [sys.executable, "-I", "-c", CONNECT, *words],
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    try:
        assert child.popen.stdout.readline() == b"connected\n"
        yield child.pid
    finally:
        await child.kill_and_wait()
        child.popen.stdin.close()
        child.popen.stdout.close()


def step(event, domain=WORK, **more):
    facts = {"launcher": "libvirt", "event": event, "name": "any", "uuid": domain}
    return MachineEventRequest(**{**facts, **more})


def named(guests, record="work", count=1):
    """What the hook reads of a domain's XML, and the sockets."""
    places = places_of(guests._paths, record, count)
    return {p.tag: str(p.socket) for p in places}, [p.socket for p in places]


def serves(guests, number, pid):
    server = guests._expected["work"].folder_servers[number]
    return lambda: peers_of(server) == {pid}


@pytest.fixture
def virtiofsd():
    try:
        return find_virtiofsd()
    except SetupError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "of",
    [
        ("vitrail-0", "libvirt/bank/folders/0"),
        ("mine", "libvirt/bank/folders/0"),
        ("vitrail-0", "libvirt/work/folders/1"),
        ("vitrail-1", "libvirt/work/../bank/folders/1"),
        ("vitrail-8", "libvirt/work/folders/8"),
        ("vitrail-0", "control"),
    ],
)
async def test_xml_names_no_socket_of_another_sandbox(guests, of):
    tag, path = of
    sockets = {tag: str(guests._paths.runtime / path)}
    with pytest.raises(RefusedError, match="virtiofs device"):
        await guests.event(step("prepare", virtiofs=sockets))
    assert guests._expected == {}
    assert not (guests._paths.runtime / "libvirt/work").exists()


async def test_xml_names_no_place_elsewhere(guests):
    """A tag of ours with a socket of the user's own server would be mounted as a folder."""
    with pytest.raises(RefusedError, match="virtiofs device"):
        await guests.event(step("prepare", virtiofs={"vitrail-0": "/tmp/own"}))


async def test_a_server_of_the_user_s_own_is_not_ours(guests):
    await guests.event(step("prepare", virtiofs={"music": "/tmp/own"}))
    assert guests._expected["work"].folder_servers == {}


@NEEDS_JAIL
async def test_the_leased_qemu_has_its_places_until_its_lease_ends(
    guests, role, virtiofsd
):
    sockets, paths = named(guests, count=2)
    await guests.event(step("prepare", virtiofs=sockets))
    async with qemu(WORK, *paths) as pid:
        for number in (0, 1):
            await eventually(serves(guests, number, pid))
        await guests.event(step("started", cid=4711, leader=pid))
        (held,) = role.admitted
        servers = held.machine.folder_servers
        assert [number for number in servers if not servers[number].ended] == [0, 1]
        # A later broker takes them over.
        again = Role()
        later = made(guests._paths.runtime.parent, again, guests._records())
        assert await later.adopt() == []
        (taken,) = again.admitted
        found = taken.machine.folder_servers
        assert {n: one.pid for n, one in found.items()} == {
            n: one.pid for n, one in servers.items()
        }
        await held.machine.close()
        assert not (guests._paths.runtime / "libvirt/work").exists()
        assert all(one.ended for one in found.values())
        await taken.machine.close()


@NEEDS_JAIL
async def test_who_connects_first_has_no_folder(guests, role, virtiofsd):
    """A copied domain's QEMU, which connects where the first one's should."""
    sockets, paths = named(guests, count=2)
    await guests.event(step("prepare", virtiofs=sockets))
    servers = dict(guests._expected["work"].folder_servers)
    async with qemu(BANK, paths[0]) as stranger, qemu(WORK, paths[1]) as pid:
        await eventually(serves(guests, 0, stranger))
        await eventually(serves(guests, 1, pid))
        await guests.event(step("started", cid=4711, leader=pid))
        (held,) = role.admitted
        assert list(held.machine.folder_servers) == [1]
        assert (servers[0].ended, servers[1].ended) == (True, False)
        await held.machine.close()


@NEEDS_JAIL
async def test_a_socket_that_was_replaced_serves_no_folder(
    guests, role, virtiofsd, capfd
):
    sockets, (path,) = named(guests)
    await guests.event(step("prepare", virtiofs=sockets))
    server = guests._expected["work"].folder_servers[0]
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        await connected_elsewhere(guests, role, server, path, capfd)


async def connected_elsewhere(guests, role, server, path, capfd):
    async with qemu(WORK, path) as pid:
        assert peers_of(server) == set()
        await guests.event(step("started", cid=4711, leader=pid))
        (held,) = role.admitted
        assert held.machine.folder_servers == {}
        assert server.ended
        assert "serves no process" in capfd.readouterr().err
        await held.machine.close()


@NEEDS_JAIL
async def test_a_domain_that_never_starts_leaves_no_server(guests, virtiofsd):
    sockets, (path,) = named(guests)
    for end in (lambda: guests.event(step("release")), guests.end):
        await guests.event(step("prepare", virtiofs=sockets))
        server = guests._expected["work"].folder_servers[0]
        assert path.is_socket()
        await end()
        assert server.ended
        assert not (guests._paths.runtime / "libvirt/work").exists()


@NEEDS_JAIL
async def test_a_killed_broker_s_prepared_places_are_the_next_one_s(
    guests, role, virtiofsd
):
    sockets, paths = named(guests)
    await guests.event(step("prepare", virtiofs=sockets))
    first = guests._expected["work"].folder_servers[0]
    later = made(guests._paths.runtime.parent, role, guests._records())
    assert await later.adopt() == []
    async with qemu(WORK, *paths) as pid:
        await eventually(serves(later, 0, pid))
        await later.event(step("started", cid=4711, leader=pid))
        (held,) = role.admitted
        assert held.machine.folder_servers[0].pid == first.pid
        await held.machine.close()
    await first.wait()


XML = "<domain type='qemu'><name>a</name><devices>{}</devices></domain>"
OWN = "<filesystem type='mount'><driver type='virtiofs'/><source {}/><target dir='{}'/></filesystem>"


def test_the_hook_reads_what_was_added_and_nothing_else():
    places = {f"vitrail-{n}": Path(f"/run/user/1/vitrail/f/{n}") for n in (0, 1)}
    others = OWN.format("dir='/srv'", "vitrail-7") + OWN.format("socket='/x'", "own")
    new = with_folders(XML.format(others), places)
    assert has_folders(new, places)
    assert not has_folders(new, {})
    found = hook.read_domain(new.encode()).virtiofs
    assert found == {"own": "/x"} | {tag: str(path) for tag, path in places.items()}
    fewer = with_folders(new, {})
    assert hook.read_domain(fewer.encode()).virtiofs == {"own": "/x"}
    assert 'dir="/srv"' in fewer


@pytest.mark.parametrize(
    "devices",
    [
        OWN.format("socket='/a'", "vitrail-0") + OWN.format("socket='/b'", "vitrail-0"),
        "".join(OWN.format("socket='/a'", f"t{n}") for n in range(hook.FOLDERS + 1)),
    ],
    ids=["twice", "many"],
)
def test_a_place_is_named_once(devices):
    with pytest.raises(hook.HookError, match="filesystems"):
        hook.read_domain(XML.format(devices).encode())
