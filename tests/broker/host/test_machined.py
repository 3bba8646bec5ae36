"""systemd-machined: replies as they come, and those that a hostile one sends."""

from __future__ import annotations

import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace

import msgspec
import pytest
import trio

from broker.core import limits
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.names import SandboxName
from broker.core.process_status import status_fields
from broker.helpers.process.identity import boot_id
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import ForeignMachine
from broker.host.launchers.machined import guests as machined_guests
from broker.host.launchers.machined.containers import make_directory, unit_of
from broker.host.launchers.machined.guests import (
    MachinedGuests,
    require_leader,
    require_owner,
)
from broker.host.launchers.machined.reply import Registered, call_list, read_reply
from broker.net.peers import credentials, peer_process
from broker.net.peers.identity import GroupClaim, HybridClaim, VsockClaim
from broker.net.peers.leases import LeaseTable
from policy.records.loader import load_records
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.records import external_record
from tests.kit.wayland.compositor import short_directory

RECORD = external_record('machine = "sbx1"', colour="green")
# As systemd 257.9 of Debian 13 answered.
REPLY = {
    "parameters": {
        "name": "sbx1",
        "class": "vm",
        "service": "lab",
        "unit": "sbx1.scope",
        "leader": {
            "pid": 4242,
            "pidfdId": 81231,
            "bootId": "2b0c9c1e4d8b4d0e8a5e6f7d8c9b0a11",
        },
        "timestamp": {"realtime": 1795298123000000, "monotonic": 1023000000},
        "vSockCid": 4711,
    }
}


def reply(**changes):
    """The recorded reply with other parameters; None removes one."""
    parameters = {**REPLY["parameters"], **changes}
    kept = {k: v for k, v in parameters.items() if v is not None}
    return json.dumps({"parameters": kept}).encode()


def test_a_call_asks_for_one_machine():
    call = call_list("sbx1")
    assert call.endswith(b"\0")
    assert json.loads(call[:-1]) == {
        "method": "io.systemd.Machine.List",
        "parameters": {"name": "sbx1"},
    }


def test_a_reply_of_a_real_machined_is_understood():
    assert read_reply(reply(), "sbx1") == Registered(
        "sbx1", "vm", 4242, 81231, "2b0c9c1e4d8b4d0e8a5e6f7d8c9b0a11", 4711
    )
    assert read_reply(reply(vSockCid=None), "sbx1").cid is None
    assert read_reply(reply(leader={"pid": 4242}), "sbx1").inode == 0


def test_no_such_machine_is_none():
    none = b'{"error":"io.systemd.Machine.NoSuchMachine","parameters":{}}'
    assert read_reply(none, "sbx1") is None


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"error":"io.systemd.System","parameters":{"errno":6}}',
        b'{"error":"\\u001b[2J"}',
        b'{"parameters":' + b"[" * 5000 + b"]" * 5000 + b"}",
        reply(name="other"),
        reply(name=None),
        reply(name=5),
        reply(leader=None),
        reply(leader=4242),
        reply(leader={"pid": "4242"}),
        reply(leader={"pid": 0}),
        reply(leader={"pid": 1}),
        reply(leader={"pid": -1}),
        reply(leader={"pid": 1 << 23}),
        reply(leader={"pid": 1 << 70}),
        reply(leader={"pid": 4242, "pidfdId": -1}),
        reply(leader={"pid": 4242, "pidfdId": 1 << 64}),
        reply(vSockCid=-1),
        reply(vSockCid=1 << 32),
        reply(vSockCid="4711"),
        reply(**{"class": "host"}),
        reply(**{"class": "\x1b[2J"}),
    ],
)
def test_another_reply_is_an_error(untrusted):
    with pytest.raises(PeerError) as caught:
        read_reply(untrusted, "sbx1")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("length", range(0, len(reply()), 7))
def test_a_cut_reply_is_an_error(length):
    with pytest.raises(PeerError):
        read_reply(reply()[:length], "sbx1")


# -- the leader ------------------------------------------------------------------------


@pytest.fixture
async def leader():
    child = spawn(["sleep", "1000"], stdout=DEVNULL)
    yield child
    child.kill()
    await child.wait()


def registered(pid, **changes):
    pidfd = os.pidfd_open(pid)
    try:
        inode = credentials.pidfd_inode(pidfd)
    finally:
        os.close(pidfd)
    facts = {"inode": inode, "boot": boot_id().replace("-", ""), "cid": 4711}
    return Registered("sbx1", "vm", pid, **{**facts, **changes})


def check(found):
    pidfd = os.pidfd_open(found.leader)
    try:
        require_leader(found, pidfd)
    finally:
        os.close(pidfd)


async def test_the_registered_leader_is_taken(leader):
    check(registered(leader.pid))
    check(registered(leader.pid, boot=None, inode=0))


async def test_a_process_that_has_the_pid_now_is_refused(leader):
    found = registered(leader.pid)
    if not found.inode:
        pytest.skip("this kernel's pidfds have no number of their own")
    with pytest.raises(RefusedError, match="not the registered leader"):
        check(registered(leader.pid, inode=found.inode + 1))


async def test_a_machine_of_another_boot_is_refused(leader):
    with pytest.raises(RefusedError, match="another boot"):
        check(registered(leader.pid, boot="0" * 32))


def check_owner(found):
    pidfd = os.pidfd_open(found.leader)
    try:
        require_owner(found, pidfd)
    finally:
        os.close(pidfd)


async def test_a_leader_of_another_user_is_refused(leader, monkeypatch):
    """Attack: a user of this host registers a machine of the record's name."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(RefusedError, match="a process of another user"):
        check_owner(registered(leader.pid))


async def test_a_setuid_program_of_another_user_s_is_refused(monkeypatch):
    """Attack: the leader waits in su(1), whose effective user is root."""
    words = ["su", "root", "-c", "true"]
    child = spawn(words, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
    try:

        def set_uid():
            uids = status_fields(child.pid)["Uid"]
            return uids[1] == "0" or child.popen.poll() is not None

        with trio.move_on_after(5):
            await eventually(set_uid)
        if os.stat(f"/proc/{child.pid}").st_uid != 0:
            pytest.skip("setuid programs are of no effect here")
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        with pytest.raises(RefusedError, match="a process of another user"):
            check_owner(registered(child.pid))
    finally:
        child.kill()
        await child.wait()
        child.popen.stdin.close()


@pytest.fixture
def of_root(monkeypatch):
    """A leader all of whose user ids are root's; without root it cannot be had."""
    uids = {"Uid": ["0", "0", "0", "0"]}
    monkeypatch.setattr(machined_guests, "status_fields", lambda _pid: uids)


@pytest.mark.parametrize(
    "group",
    [
        "/user.slice/user-1001.slice/session-2.scope",
        "/system.slice/cron.service",
        "/user.slice/user-1001.slice/user@1001.service/machine.slice/x.scope",
        "/",
        "",
    ],
)
async def test_a_process_that_has_become_sudo_is_refused(
    leader, of_root, monkeypatch, group
):
    """Attack: a user registers their process, which then runs sudo(8).

    That has no user id but root's while it asks for the password.
    """
    monkeypatch.setattr(credentials, "control_group", lambda _pid, _pidfd: group)
    with pytest.raises(RefusedError, match=r"machine\.slice"):
        check_owner(registered(leader.pid))


async def test_a_machine_of_root_s_is_taken(leader, of_root, monkeypatch):
    group = "/machine.slice/systemd-vmspawn@lab.service"
    monkeypatch.setattr(credentials, "control_group", lambda _pid, _pidfd: group)
    check_owner(registered(leader.pid))


async def test_a_leader_that_has_ended_is_refused(leader):
    pidfd = os.pidfd_open(leader.pid)
    found = registered(leader.pid)
    try:
        leader.kill()
        await leader.wait()
        with pytest.raises(RefusedError, match="has ended"):
            require_owner(found, pidfd)
    finally:
        os.close(pidfd)


# -- the watch -------------------------------------------------------------------------


@dataclass
class Role:
    """A host that admits; ``admitted`` has the machines."""

    admitted: list = field(default_factory=list)

    def active_leases(self):
        return self.admitted

    busy: bool = False
    unrecorded: int = 0
    """So often a reading of the records fails."""
    acceptors: Acceptors = field(default_factory=Acceptors)
    leases: LeaseTable = field(default_factory=LeaseTable)
    refused: list = field(default_factory=list)

    async def admit(self, sandbox, record, machine):
        assert sandbox == record
        if self.busy:
            await machine.close()
            raise RefusedError("this CID was another machine's just now")
        try:
            self.leases.begin(
                sandbox=sandbox, record=record, claim=machine.claim, now=0
            )
        except RefusedError as error:
            self.refused.append(error.message)
            await machine.close()
            raise
        self.admitted.append(
            SimpleNamespace(machine=machine, lease=SimpleNamespace(sandbox=sandbox))
        )


@dataclass
class Log:
    """A journal of refusals."""

    refusals: list = field(default_factory=list)

    async def refused(self, event):
        self.refusals.append(event)


class Machined:
    """A stand-in for machined: answers each call with ``answer``."""

    def __init__(self, base):
        self.base = base
        self.path = base / "machine/io.systemd.Machine"
        self.path.parent.mkdir()
        self.directory = base / "machines"
        self.directory.mkdir()
        self.answer = b'{"error":"io.systemd.Machine.NoSuchMachine"}\0'
        self.calls = 0

    def register(self, pid, **changes):
        """Register a machine, as machined does: its file appears."""
        found = registered(pid)
        who = {"pid": pid, "pidfdId": found.inode, "bootId": found.boot}
        self.answer = reply(leader=who, **changes) + b"\0"
        self.touch()

    def touch(self):
        number = len(list(self.directory.iterdir()))
        (self.directory / f"machine-{number}").write_text("private")

    async def serve(self, task_status=trio.TASK_STATUS_IGNORED):
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(8)

        async def handle(stream):
            async with stream:
                await stream.receive_some(4096)
                self.calls += 1
                if self.answer:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(self.answer)
                else:
                    await trio.sleep_forever()

        await trio.serve_listeners(
            handle, [trio.SocketListener(sock)], task_status=task_status
        )


@pytest.fixture
async def watched(nursery, monkeypatch, request):
    """Yield (machined, role, log): the watch runs.

    A parameter is added to the record; {base} in it is the directory of ``machined``.
    """
    monkeypatch.setattr(limits, "MACHINED_LOOK_SECONDS", 0.02)
    more = getattr(request, "param", "")
    with short_directory() as base:
        folder = base / "sandboxes.d"
        folder.mkdir(mode=0o755)
        (folder / "work.toml").write_text(RECORD + more.format(base=base))
        records = load_records([folder])
        assert records.problems == ()
        machined, role, log = Machined(base), Role(), Log()
        await nursery.start(machined.serve)

        async def nothing():
            return False

        async def reload():
            if role.unrecorded:
                role.unrecorded -= 1
                raise UpstreamError("the log's disk is full")

        guests = MachinedGuests(
            host=role,
            log=log,
            records=lambda: records,
            reload=reload,
            listen_vsock=nothing,
            sockets=base / "sockets",
            machined=machined.base,
        )
        nursery.start_soon(guests.run)
        yield machined, role, log
        for held in role.admitted:
            await held.machine.close()
        await role.acceptors._server.close()
        nursery.cancel_scope.cancel()


async def test_a_registered_machine_is_leased_by_its_cid_and_leader(watched, leader):
    machined, role, log = watched
    await eventually(lambda: machined.calls == 1)
    assert role.admitted == []
    machined.register(leader.pid)
    (held,) = await eventually(lambda: list(role.admitted))
    claim = held.machine.claim
    assert isinstance(claim, VsockClaim)
    assert (claim.cid, claim.holder, held.lease.sandbox) == (4711, leader.pid, "work")
    # The lease ends with the process, whatever machined reports: its entry stays.
    leader.kill()
    with trio.fail_after(60):
        assert await held.machine.wait() == "it has ended"
    assert log.refusals == []


async def test_a_machine_that_was_refused_is_tried_again(watched, leader, monkeypatch):
    monkeypatch.setattr(limits, "MACHINED_RETRY_SECONDS", 0.1)
    machined, role, _log = watched
    role.busy = True
    machined.register(leader.pid)
    await eventually(lambda: machined.calls >= 3)
    role.busy = False
    await eventually(lambda: role.admitted)


async def test_a_look_that_failed_is_made_again(watched, leader, monkeypatch):
    """Its machine had no lease before another one came or went."""
    monkeypatch.setattr(limits, "MACHINED_RETRY_SECONDS", 0.1)
    machined, role, _log = watched
    await eventually(lambda: machined.calls == 1)
    role.unrecorded = 1
    machined.register(leader.pid)
    await eventually(lambda: role.admitted)
    assert role.unrecorded == 0


async def test_the_cid_of_a_machine_that_runs_is_not_another_one_s(watched, leader):
    """As of a domain of libvirt's, which machined's word cannot take it from."""
    machined, role, _log = watched
    claim = VsockClaim(credentials.network_namespace(), 4711, os.getpid())
    name = SandboxName("domain")
    role.leases.begin(sandbox=name, record=name, claim=claim, now=0)
    machined.register(leader.pid)
    refused = await eventually(lambda: list(role.refused))
    assert "is leased to sandbox domain" in refused[0]
    assert role.admitted == []
    (held,) = role.leases.live()
    assert (held.lease.sandbox, held.claim) == ("domain", claim)


async def test_the_group_of_a_container_that_runs_is_not_another_one_s(
    watched, leader, in_machine_slice
):
    machined, role, _log = watched
    machined.register(leader.pid, vSockCid=None, **{"class": "container"})
    (held,) = await eventually(lambda: list(role.admitted))
    name = SandboxName("other")
    with pytest.raises(RefusedError, match="is leased to sandbox work"):
        role.leases.begin(sandbox=name, record=name, claim=held.machine.claim, now=0)
    # Another process under the registered name, while the first one runs.
    machined.register(os.getpid(), vSockCid=None, **{"class": "container"})
    with trio.move_on_after(0.5):  # 25 looks
        await eventually(lambda: len(role.admitted) > 1)
    assert [one.machine.facts.pid for one in role.admitted] == [leader.pid]


async def test_machined_is_asked_only_when_something_has_changed(watched, monkeypatch):
    monkeypatch.setattr(limits, "MACHINED_RETRY_SECONDS", 0.1)
    machined, _role, _log = watched
    await eventually(lambda: machined.calls == 1)
    with trio.move_on_after(0.5):  # 25 looks
        await eventually(lambda: machined.calls > 1)
    assert machined.calls == 1
    machined.touch()
    await eventually(lambda: machined.calls == 2)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"class": "container"}, "only units of root in machine.slice"),
        ({"vSockCid": None}, "a VM without a vsock CID"),
        ({"vSockCid": 2}, "is reserved or invalid"),
        ({"vSockCid": 0xFFFFFFFF}, "is reserved or invalid"),
        ({"name": "other"}, ": 'other'"),
    ],
)
async def test_what_cannot_be_leased_is_recorded_once(watched, leader, changes, why):
    machined, role, log = watched
    for _ in range(3):
        machined.register(leader.pid, **changes)
        before = machined.calls
        await eventually(lambda before=before: machined.calls > before)
    (event,) = await eventually(lambda: list(log.refusals))
    assert why in event.reason
    assert (event.sandbox, event.peer, role.admitted) == ("work", "machine sbx1", [])


@pytest.mark.parametrize(
    "answer", [b"\0", b"nonsense\0", b"x" * 2_000_000, b"", b"{}\0" * 1000]
)
async def test_a_machined_that_answers_badly_keeps_nothing_waiting(
    watched, leader, monkeypatch, answer
):
    """Attack: its socket is silent, endless or answers nonsense."""
    monkeypatch.setattr(limits, "MACHINED_ANSWER_SECONDS", 0.3)
    machined, role, log = watched
    await eventually(lambda: machined.calls >= 1)
    machined.answer = answer
    machined.touch()
    await eventually(lambda: log.refusals)
    assert role.admitted == []
    machined.register(leader.pid)
    await eventually(lambda: role.admitted)


async def test_a_socket_of_another_user_is_not_asked(watched, leader, monkeypatch):
    machined, role, log = watched
    await eventually(lambda: machined.calls == 1)
    real = os.getuid()
    if real == 0:
        pytest.skip("root's own socket is machined's")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    machined.register(leader.pid)
    (event,) = await eventually(lambda: list(log.refusals))
    assert f"belongs to user {real}" in event.reason
    assert role.admitted == []


# -- a vsock of the machine's own process --------------------------------------------

HYBRID = 'hybrid = "{base}/vm/vsock"'
BACKEND = """
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
time.sleep(1000)
"""


@asynccontextmanager
async def backend(machined):
    """A process that listens where the record says, as vhost-device-vsock does."""
    place = machined.base / "vm"
    place.mkdir(mode=0o700, exist_ok=True)
    words = [sys.executable, "-c", BACKEND, str(place / "vsock")]
    child = spawn(words, stdout=DEVNULL)
    try:
        await eventually(lambda: takes_connections(place / "vsock"))
        yield child
    finally:
        await child.stop()


@pytest.mark.parametrize("watched", [HYBRID], indirect=True)
@pytest.mark.parametrize("cid", [None, 4711])
async def test_a_machine_behind_a_socket_is_leased_by_its_processes(
    watched, leader, cid
):
    machined, role, log = watched
    async with backend(machined) as vsock:
        machined.register(leader.pid, vSockCid=cid)
        (held,) = await eventually(lambda: list(role.admitted))
        claim = held.machine.claim
        assert isinstance(claim, HybridClaim)
        assert claim.base == str(machined.base / "vm/vsock")
        assert {c.pid for c in claim.connectors} == {leader.pid, vsock.pid}
        doors = await held.machine.open_doors(role.acceptors)
        assert (machined.base / "vm/vsock_6501").is_socket()
        for door in doors.values():
            door.close()
        # The vsock's process may live on; the lease ends with the machine.
        leader.kill()
        with trio.fail_after(60):
            assert await held.machine.wait() == "it has ended"
    assert log.refusals == []


@pytest.mark.parametrize("watched", [HYBRID], indirect=True)
async def test_a_machine_whose_socket_is_not_there_is_refused(watched, leader):
    machined, role, log = watched
    (machined.base / "vm").mkdir(mode=0o700)
    machined.register(leader.pid, vSockCid=None)
    (event,) = await eventually(lambda: list(log.refusals))
    assert "No such file" in event.reason
    assert role.admitted == []


@pytest.mark.parametrize("watched", [HYBRID], indirect=True)
async def test_a_socket_where_others_may_write_is_refused(watched, leader):
    machined, role, log = watched
    async with backend(machined):
        (machined.base / "vm").chmod(0o777)
        machined.register(leader.pid, vSockCid=None)
        (event,) = await eventually(lambda: list(log.refusals))
        assert "users other than you and root" in event.reason
        assert role.admitted == []


@pytest.mark.parametrize("watched", [HYBRID], indirect=True)
async def test_a_socket_that_another_user_serves_is_refused(
    watched, leader, monkeypatch
):
    """Attack: another user's process would carry what the person's machine says."""
    machined, role, log = watched
    async with backend(machined) as vsock:
        real = peer_process.peer_numbers

        def another(sock):
            pid, uid, gid = real(sock)
            return pid, 54321 if pid == vsock.pid else uid, gid

        monkeypatch.setattr(peer_process, "peer_numbers", another)
        machined.register(leader.pid, vSockCid=None)
        (event,) = await eventually(lambda: list(log.refusals))
        assert "belongs to user 54321, not to you or root" in event.reason
        assert role.admitted == []


# -- containers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("/machine.slice/systemd-nspawn@a.service/payload", None),
        ("/machine.slice/machine-a.scope/payload/init.scope", None),
        ("/machine.slice/machine-a.slice/machine-a-b.scope", None),
        ("/machine.slice/machine-a.scope", None),
        ("/machine.slice", ""),
        ("/machine.slice/payload", ""),
        ("/user.slice/user-1000.slice/session-1.scope", ""),
        ("/user.slice/user-1000.slice/machine.slice/a.scope", ""),
        ("/machine.slicer/a.scope", ""),
        ("/../machine.slice/a.scope", ""),
        ("machine.slice/a.scope", ""),
        ("/machine/lxc-152-office.libvirt-lxc", "/machine/lxc-152-office.libvirt-lxc"),
        ("/machine/lxc-1-a.libvirt-lxc/b/c.scope", "/machine/lxc-1-a.libvirt-lxc"),
        ("/machine", ""),
        ("/machine/qemu-1-a.libvirt-qemu", ""),
        ("/machine/lxc-1-a", ""),
        ("/user/machine/lxc-1-a.libvirt-lxc", ""),
        ("machine/lxc-1-a.libvirt-lxc/x", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_unit_of_roots_slice_is_known_by_its_path(group, unit):
    wanted = unit
    if unit is None:
        names = {"systemd-nspawn@a.service", "machine-a.scope", "machine-a-b.scope"}
        parts = group.split("/")
        end = next(n for n, part in enumerate(parts) if part in names)
        wanted = "/".join(parts[: end + 1])
    assert unit_of(group) == (wanted or None)


PODMANS = f"/libpod_parent/libpod-{'0a' * 32}"


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        (PODMANS, PODMANS),
        (f"{PODMANS}/container/x", PODMANS),
        (f"/machine.slice/libpod-{'0a' * 32}.scope/container", None),
        ("/libpod_parent/conmon", ""),
        ("/libpod_parent", ""),
        (f"{PODMANS}0", ""),
        (f"/user.slice{PODMANS}", ""),
    ],
)
def test_a_container_of_podman_s_is_known_by_its_group(group, unit):
    wanted = group.rpartition("/")[0] if unit is None else unit
    assert unit_of(group) == (wanted or None)


@pytest.fixture
def in_machine_slice(monkeypatch):
    """The kernel's answer for a container of root's; without root it cannot be had."""
    group = "/machine.slice/systemd-nspawn@sbx1.service/payload"
    monkeypatch.setattr(credentials, "control_group", lambda _pid, _pidfd: group)


async def test_a_container_of_roots_is_leased_by_its_unit(
    watched, leader, in_machine_slice
):
    machined, role, log = watched
    machined.register(leader.pid, vSockCid=None, **{"class": "container"})
    (held,) = await eventually(lambda: list(role.admitted))
    claim = held.machine.claim
    assert isinstance(claim, GroupClaim)
    assert claim.group == "/machine.slice/systemd-nspawn@sbx1.service"
    assert claim.holder == leader.pid
    doors = await held.machine.open_doors(role.acceptors)
    try:
        mode = os.stat(f"{claim.directory}/wayland-0").st_mode
        assert mode & 0o777 == 0o666
        assert os.stat(claim.directory).st_mode & 0o777 == 0o755
        assert os.stat(os.path.dirname(claim.directory)).st_mode & 0o077 == 0
    finally:
        for door in doors.values():
            door.close()
    assert os.listdir(claim.directory) == []
    leader.kill()
    with trio.fail_after(60):
        await held.machine.wait()
    assert log.refusals == []


async def test_the_directory_of_its_sockets_is_there_before_the_container(watched):
    machined, _role, _log = watched
    directory = machined.base / "sockets" / "work"
    await eventually(directory.is_dir)
    assert os.listdir(directory) == []


def test_the_users_of_a_container_may_enter_its_directory(tmp_path):
    """They are others outside; the broker's own umask is 077, and older ones left it so."""
    before = os.umask(0o077)
    try:
        for _ in range(2):
            make_directory(tmp_path / "machined/work")
            assert (tmp_path / "machined/work").stat().st_mode & 0o777 == 0o755
            assert (tmp_path / "machined").stat().st_mode & 0o777 == 0o700
            (tmp_path / "machined/work").chmod(0o700)
    finally:
        os.umask(before)


async def test_what_a_container_has_named_its_group_is_escaped_in_the_log(
    watched, leader, monkeypatch
):
    """Any bytes but a slash and a line end are a group's name (cgroups(7))."""
    machined, role, log = watched
    untrusted_group = os.fsdecode(b"/system.slice/lab.service/\xff\x1b]0;evil\x07")
    monkeypatch.setattr(credentials, "control_group", lambda *_: untrusted_group)
    machined.register(leader.pid, vSockCid=None, **{"class": "container"})
    (event,) = await eventually(lambda: list(log.refusals))
    assert msgspec.json.encode(event)
    assert "lab.service" in event.reason
    assert event.reason.isprintable()
    assert role.admitted == []


async def test_an_error_about_one_record_keeps_none_of_the_others_waiting(
    tmp_path, monkeypatch
):
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(RECORD)
    records = load_records([tmp_path])
    guests = MachinedGuests(
        host=Role(),
        log=Log(),
        records=lambda: records,
        reload=trio.lowlevel.checkpoint,
        listen_vsock=trio.lowlevel.checkpoint,
        sockets=tmp_path / "sockets",
        machined=tmp_path,
    )
    looked = []

    async def look_for(record, _name):
        looked.append(record.name)
        raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    monkeypatch.setattr(guests, "_look_for", look_for)
    await guests.look()
    assert sorted(looked) == ["first", "second"]


async def test_only_a_socket_is_opened_to_the_users_of_a_container(
    watched, leader, in_machine_slice, monkeypatch
):
    """Root's configuration may bind the directory so that those users write to it."""
    machined, role, _log = watched
    machined.register(leader.pid, vSockCid=None, **{"class": "container"})
    (held,) = await eventually(lambda: list(role.admitted))
    victim = machined.base / "victim"
    victim.touch(mode=0o600)
    directory = held.machine.claim.directory
    real = ForeignMachine.open_doors
    opened = []

    async def open_doors(machine, acceptors):
        doors = await real(machine, acceptors)
        opened.extend(doors.values())
        os.unlink(f"{directory}/wayland-0")
        os.symlink(victim, f"{directory}/wayland-0")
        return doors

    monkeypatch.setattr(ForeignMachine, "open_doors", open_doors)
    with pytest.raises(UpstreamError, match="wayland-0"):
        await held.machine.open_doors(role.acceptors)
    assert victim.stat().st_mode & 0o777 == 0o600
    assert opened
    assert all(door.channel.fileno() < 0 for door in opened)
    assert os.listdir(directory) == ["wayland-0"]
