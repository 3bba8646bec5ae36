"""Domains of libvirt: whose record, one at a time, and whose QEMU."""

from __future__ import annotations

import os
import signal
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.core.errors import RefusedError
from broker.core.paths import find_paths
from broker.helpers.process.identity import identity_of, open_pidfd
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.host.launchers.libvirt import guests as libvirt_guests
from broker.host.launchers.libvirt.guests import LibvirtGuests
from broker.host.processes.tracked import Tracked
from broker.host.vmm import hosttools
from broker.ipc.control.api import MachineEventRequest
from broker.net.peers import credentials
from broker.net.peers.identity import Connector, GroupClaim, VsockClaim
from broker.net.peers.leases import LeaseTable
from policy.records.loader import load_records
from tests.kit.eventually import eventually
from tests.kit.vm.libvirt import RECORD
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import short_directory

UUID = str(uuid.uuid4())


@dataclass
class Role:
    """A host that admits by the real leases; ``admitted`` has the machines."""

    admitted: list = field(default_factory=list)
    leases: LeaseTable = field(default_factory=LeaseTable)

    def active_leases(self):
        return self.admitted

    async def admit(self, sandbox, record, machine):
        assert sandbox == record
        try:
            self.leases.begin(
                sandbox=sandbox, record=record, claim=machine.claim, now=0
            )
        except RefusedError:
            await machine.close()
            raise
        self.admitted.append(
            SimpleNamespace(machine=machine, lease=SimpleNamespace(sandbox=sandbox))
        )


@pytest.fixture
def role():
    return Role()


@pytest.fixture
def guests(tmp_path, role):
    folder = tmp_path / "sandboxes.d"
    folder.mkdir(mode=0o755)
    for name, domain in (("work", "office pc"), ("bank", UUID)):
        (folder / f"{name}.toml").write_text(RECORD.format(domain))
    records = load_records([folder])
    assert records.problems == ()
    with short_directory() as run:
        yield made(run, role, records)


def made(run, role, records):
    paths = find_paths({"HOME": str(run), "XDG_RUNTIME_DIR": str(run)})

    async def listen():
        return False

    return LibvirtGuests(
        paths=paths, host=role, records=lambda: records, listen_vsock=listen
    )


@pytest.fixture
async def qemu():
    async with process(UUID) as pid:
        yield pid


@asynccontextmanager
async def process(domain):
    """A process with the words of a domain's QEMU."""
    child = spawn(
        ["sh", "-c", "read x", "qemu", "-name", "x", "-uuid", domain],
        stdin=-1,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    words = Path(f"/proc/{child.pid}/cmdline")

    def started():
        # Not setpriv any longer, which has the same words and becomes it.
        return words.read_bytes() == b"sh\0-c\0read x\0qemu\0-name\0x\0-uuid\0%b\0" % (
            domain.encode()
        )

    try:
        await eventually(started)
        yield child.pid
    finally:
        await child.kill_and_wait()
        child.popen.stdin.close()


def step(event, name="office pc", **more):
    facts = {"launcher": "libvirt", "event": event, "name": name, "uuid": UUID}
    return MachineEventRequest(**{**facts, **more})


async def test_a_domain_without_a_record_is_no_concern(guests, role):
    other = str(uuid.uuid4())
    for event in ("prepare", "started", "release"):
        answer = await guests.event(step(event, "else", uuid=other, leader=1))
        assert answer.sandbox is None
    assert role.admitted == []


async def test_a_domain_is_found_by_name_and_by_uuid(guests):
    other = str(uuid.uuid4())
    assert (await guests.event(step("prepare", uuid=other))).sandbox == "work"
    assert (await guests.event(step("prepare", "any"))).sandbox == "bank"


async def test_two_records_of_one_domain_lease_neither(guests):
    with pytest.raises(RefusedError, match="more than one record"):
        await guests.event(step("prepare"))


@pytest.mark.parametrize("named", ["bank", "other", "../x"])
async def test_a_domains_own_description_chooses_no_sandbox(guests, named):
    other = str(uuid.uuid4())
    with pytest.raises(RefusedError):
        await guests.event(step("prepare", uuid=other, record=named))
    agreed = await guests.event(step("prepare", uuid=other, record="work"))
    assert agreed.sandbox == "work"


async def test_a_domain_that_started_is_leased_by_its_cid_and_process(
    guests, role, qemu
):
    await guests.event(step("prepare", "any"))
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    (held,) = role.admitted
    assert isinstance(held.machine.claim, VsockClaim)
    assert (held.machine.claim.cid, held.machine.facts.pid) == (4711, qemu)
    # libvirtd was restarted under it: nothing changes.
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    assert len(role.admitted) == 1
    await held.machine.close()


LXC = {"launcher": "libvirt-lxc", "uuid": str(uuid.uuid4())}


@pytest.fixture
def in_libvirts_group(monkeypatch):
    """The kernel's answer for a container of root's; without root it cannot be had."""
    group = "/machine/lxc-7-office.libvirt-lxc/x"
    monkeypatch.setattr(credentials, "control_group", lambda _pid, _pidfd: group)


async def test_a_container_of_libvirts_is_leased_by_its_control_group(
    guests, role, qemu, in_libvirts_group
):
    await guests.event(step("prepare", **LXC))
    paths = guests._paths
    sockets = paths.runtime / "libvirt-lxc" / "work"
    assert sockets.is_dir(), "its XML mounts it"
    assert role.admitted == []
    await guests.event(step("started", leader=qemu, **LXC))
    (held,) = role.admitted
    claim = held.machine.claim
    assert claim == GroupClaim(str(sockets), "/machine/lxc-7-office.libvirt-lxc", qemu)
    assert held.machine.facts.pid == qemu
    await guests.event(step("started", leader=qemu, **LXC))
    assert len(role.admitted) == 1, "libvirtd was restarted under it"
    # A later broker takes it over, and nothing remains of it when it has ended.
    await guests.event(step("release", **LXC))
    role.admitted.clear()
    role.leases = LeaseTable()
    assert await guests.adopt() == []
    (again,) = role.admitted
    assert again.machine.claim == claim
    await again.machine.close()
    assert not (paths.runtime / "libvirt" / "work").exists()
    await held.machine.close()


async def test_a_container_outside_roots_groups_is_refused(guests, role, qemu):
    await guests.event(step("prepare", **LXC))
    with pytest.raises(RefusedError, match="only units of root in"):
        await guests.event(step("started", leader=qemu, **LXC))
    assert role.admitted == []


async def test_a_container_is_no_second_domain_of_a_record(
    guests, role, qemu, in_libvirts_group
):
    await guests.event(step("prepare", "any"))
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    with pytest.raises(RefusedError, match="is already running"):
        await guests.event(step("prepare", "any", launcher="libvirt-lxc"))
    with pytest.raises(RefusedError, match="is already running"):
        await guests.event(step("started", "any", launcher="libvirt-lxc", leader=1))
    (held,) = role.admitted
    await held.machine.close()


async def test_one_domain_at_a_time_is_a_sandbox(guests, role, qemu):
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    with pytest.raises(RefusedError, match="is already running"):
        await guests.event(step("prepare", "any"))
    with pytest.raises(RefusedError, match="is already running"):
        await guests.event(step("started", "any", cid=4712, leader=qemu + 1))
    await role.admitted[0].machine.close()


async def test_a_running_domain_s_cid_is_not_another_domain_s(guests, role, qemu):
    """Of libvirt's other daemon, for instance: each chooses the numbers itself."""
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    other = str(uuid.uuid4())
    async with process(other) as second:
        with pytest.raises(RefusedError, match="is leased to sandbox bank"):
            await guests.event(step("started", uuid=other, cid=4711, leader=second))
        (held,) = role.admitted
        await guests.event(step("started", uuid=other, cid=4712, leader=second))
    assert [one.lease.sandbox for one in role.admitted] == ["bank", "work"]
    for one in role.admitted:
        await one.machine.close()
    assert held.machine.claim.cid == 4711


@pytest.mark.parametrize("name", ["any", "else"])
async def test_a_second_domain_of_a_running_one_s_uuid_gets_nothing(
    guests, role, qemu, name
):
    await guests.event(step("started", "any", cid=4711, leader=qemu))
    async with process(UUID) as second:
        with pytest.raises(RefusedError, match="is already running"):
            await guests.event(step("started", name, cid=4712, leader=second))
    (held,) = role.admitted
    assert held.machine.facts.pid == qemu
    await held.machine.close()


async def test_a_second_domain_of_a_running_one_s_name_gets_nothing(guests, role, qemu):
    """As the session's and the system's libvirtd can each have one."""
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    async with process(first) as pid, process(second) as other:
        await guests.event(step("started", uuid=first, cid=4711, leader=pid))
        with pytest.raises(RefusedError, match="is already running"):
            await guests.event(step("prepare", uuid=second))
        with pytest.raises(RefusedError, match="is already running"):
            await guests.event(step("started", uuid=second, cid=4712, leader=other))
        (held,) = role.admitted
        assert held.machine.facts.pid == pid
        await held.machine.close()


async def test_a_running_container_s_group_is_not_another_container_s(
    guests, role, qemu, in_libvirts_group
):
    await guests.event(step("prepare", **LXC))
    await guests.event(step("started", leader=qemu, **LXC))
    async with process(UUID) as second:
        with pytest.raises(RefusedError, match="is already running"):
            await guests.event(step("started", leader=second, **LXC))
    (held,) = role.admitted
    assert held.machine.facts.pid == qemu
    await held.machine.close()


async def test_a_process_without_the_uuid_on_its_command_line_is_refused(guests, role):
    child = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
    try:
        with pytest.raises(RefusedError, match="is not the QEMU of domain"):
            await guests.event(step("started", "any", cid=4711, leader=child.pid))
    finally:
        child.kill()
        await child.wait()
    for leader in (None, 1, 1 << 40):
        with pytest.raises(RefusedError):
            await guests.event(step("started", "any", cid=4711, leader=leader))
    assert role.admitted == []


async def test_a_domain_without_a_vsock_is_refused_with_what_to_do(guests, qemu):
    with pytest.raises(RefusedError, match="no vsock") as caught:
        await guests.event(step("started", "any", leader=qemu))
    assert "brokerctl launcher prepare" in caught.value.hint


@pytest.mark.parametrize("path", ["/tmp/x", "../vhost.sock", "/run/other/vhost.sock"])
async def test_a_vsock_elsewhere_is_never_opened(guests, path):
    with pytest.raises(RefusedError, match="the vsock socket of domain"):
        await guests.event(step("prepare", "any", vhost_user=path))


@pytest.fixture
def helper(monkeypatch):
    """The real vhost-device-vsock, for guests whose HOME is elsewhere."""
    tools = require_vm()
    monkeypatch.setattr(
        hosttools, "find_vhost_device_vsock", lambda _: tools.vhost_device_vsock
    )


def prepared(guests):
    """The step of a domain with a vsock of the broker's, and its socket."""
    path = guests._paths.runtime / "libvirt/bank/vsock/vhost.sock"
    return step("prepare", "any", vhost_user=str(path)), path


@pytest.mark.machine
async def test_a_domain_that_never_starts_leaves_no_vsock_behind(guests, helper):
    """Neither does it when the broker ends before libvirt reports the release."""
    request, path = prepared(guests)
    for end in (lambda: guests.event(step("release", "any")), guests.end):
        await guests.event(request)
        assert path.is_socket()
        waiting = guests._expected["bank"].backend
        await end()
        assert waiting.ended
        assert not (guests._paths.runtime / "libvirt/bank").exists()
    with pytest.raises(RefusedError, match="shutting down"):
        await guests.event(request)


@pytest.mark.machine
async def test_a_killed_broker_s_prepared_domain_is_the_next_one_s(
    guests, helper, role, qemu, tmp_path
):
    request, _ = prepared(guests)
    await guests.event(request)
    first = guests._expected["bank"].backend
    later = LibvirtGuests(
        paths=guests._paths,
        host=role,
        records=guests._records,
        listen_vsock=guests._listen_vsock,
    )
    assert await later.adopt() == []
    await later.event(step("started", "any", leader=qemu))
    (held,) = role.admitted
    assert held.machine.claim.connectors == frozenset(
        {Connector(first.pid, first.identity.inode)}
    )
    await held.machine.close()
    assert first.ended
    # One whose record has gone meanwhile is ended in place of that.
    role.admitted.clear()
    await later.event(request)
    second = later._expected["bank"].backend
    empty = load_records([tmp_path / "none"])
    last = made(guests._paths.runtime.parent, role, empty)
    (warning,) = await last.adopt()
    assert "no longer exists" in warning
    assert second.ended
    for process in (first, second):
        await process.wait()


@pytest.mark.parametrize("words", [{"launcher": "xen"}, {"event": "migrate"}])
async def test_an_unknown_step_is_refused(guests, words):
    request = {"launcher": "libvirt", "event": "prepare", "name": "any", "uuid": UUID}
    with pytest.raises(RefusedError, match="unknown step"):
        await guests.event(MachineEventRequest(**(request | words)))


async def test_a_leader_that_ends_while_it_is_held_is_not_leased(monkeypatch):
    """Its number may be another process's by then."""
    async with process(UUID) as pid:
        pidfd = open_pidfd(pid)
        leader = Tracked("its leader", identity_of(pid, pidfd), pidfd)
        closed = []

        class Late:
            """Holds the number of a process that has just ended."""

            def __init__(self, pids):
                assert pids == [pid]
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)

            def close(self):
                closed.append(True)

        monkeypatch.setattr(libvirt_guests, "HeldMachine", Late)
        with pytest.raises(RefusedError, match="its domain has ended"):
            libvirt_guests._hold_living(leader, None)
        assert closed == [True]
        assert leader.pidfd == -1
