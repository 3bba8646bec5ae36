"""Programs that confine themselves, taken over before they have read a byte.

Each is started as the broker starts it, and attacks from the moment that it has confined
itself: the user's files, session and processes (``tests.kit.attacker``).
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from broker.core.services import WAYLAND_DOOR
from broker.helpers import fork_command
from broker.helpers.filters.carrying_filters import acceptor_filter, pump_filter
from broker.helpers.process import hardening
from broker.helpers.process.hardening import confine
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.helpers.pump.process import start_pump
from broker.host.acceptor import Acceptors, end_acceptor
from broker.host.images import vmlinux
from broker.host.network import namespace, passt
from broker.host.network.switch import switches
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace
from broker.host.network.switch.switches import Switches
from broker.net.addresses import UnixEndpoint
from tests.kit import attacker
from tests.kit.attacker import Target
from tests.kit.eventually import eventually
from tests.kit.relay.sockets import forked_pump
from tests.kit.rulebook import rulebook
from tests.kit.usb.key_process import connected
from tests.kit.wayland.compositor import short_directory

_REFUSED = {"SIGSYS", "EPERM"}


@dataclass
class Session:
    """The user's session, as an attacker finds it."""

    place: Path
    target: Target
    report: Path
    stream: socket.socket
    received: list[socket.socket]

    def take_over(self, monkeypatch, module, name=""):
        """Have the programs that a module starts attack, or a child of that name."""
        honest = module.our_program

        def our_program(*words):
            return attacker.words(str(self.report), self.target, honest(*words), name)

        monkeypatch.setattr(module, "our_program", our_program)

    async def found(self):
        await eventually(self.report.exists, deadline=60)
        return json.loads(self.report.read_text())

    def check(self, found, **descriptors):
        """Nothing was achieved, and nothing of the session is there."""
        achieved = {w: o for w, o in found["outcomes"].items() if o not in _REFUSED}
        assert achieved == {}
        assert len(found["outcomes"]) > 50
        assert _kinds(found["descriptors"]) == Counter(descriptors)
        for fd in "012":
            target = found["descriptors"][fd]
            assert target.startswith(("/dev/null", "/memfd:stderr", "pipe:"))
        assert "secret of the session" not in str(found["variables"])
        assert b"secret of the session".hex() not in found["initial"]
        assert found["directory"] == "/"
        for one in (self.stream, *self.received):
            with pytest.raises(BlockingIOError):
                one.recv(1) if one is not self.stream else one.accept()


def _kinds(descriptors):
    return Counter(re.findall(r"\w+", one)[0] for one in descriptors.values())


@pytest.fixture
async def session(monkeypatch):
    """A session with a process, a file, sockets and a secret in a variable."""
    kept = os.dup(1), os.dup(2)
    with short_directory() as place:
        (place / "file").write_text("the user's")
        stream = socket.socket(socket.AF_UNIX)
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with (
            stream,
            datagrams,
            named,
            udp,
            (place / "terminal").open("w+b") as terminal,
        ):
            stream.bind(str(place / "bus"))
            stream.listen()
            datagrams.bind(str(place / "notify"))
            named.bind("\0" + str(place / "notify"))
            udp.bind(("127.0.0.1", 0))
            received = [datagrams, named, udp]
            for one in (stream, *received):
                one.setblocking(False)
            victim = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
            target = Target(
                str(victim.pid),
                *(str(place / name) for name in ("file", "bus", "notify")),
                str(udp.getsockname()[1]),
            )
            monkeypatch.setenv("TOKEN", "secret of the session")
            os.dup2(terminal.fileno(), 1)
            os.dup2(terminal.fileno(), 2)
            try:
                yield Session(place, target, place / "report", stream, received)
                assert victim.returncode is None
            finally:
                os.dup2(kept[0], 1)
                os.dup2(kept[1], 2)
                await victim.stop(0)
    for fd in kept:
        os.close(fd)


async def test_the_attempts_work_where_nothing_confines(session):
    """The control: what no filter refuses is achieved."""
    target, call = session.target, attacker._caller(_seccomp())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # Others are of the run of tests: a byte of ours would end its protocol.
        named = attacker.Attempts(target, call, [ours.fileno()]).named()
        found = {
            what: attacker.outcome(one, lambda: None) for what, one in named.items()
        }
    for what in (
        *("open", "openat", "openat2", "look", "statx", "may open", "watch"),
        *("look at a path as if at a descriptor", "mode", "truncate", "rename"),
        *("fork", "clone", "execute", "execute a descriptor", "signal"),
        *("signal a thread", "signal a thread of a group", "pidfd", "limit", "place"),
        *("socket of the session", "socket of the session by a name", "sockets"),
        *("socket of the network", "keyring"),
        *("memory file", "map code", "make code", "own", "own signal"),
        *("asynchronous", "owner", "asynchronous ioctl", "user", "priority"),
    ):
        assert found[what] == "achieved", what


def _seccomp():
    from broker.helpers.filters.libseccomp import seccomp

    return seccomp


async def test_a_brokers_pump(session, monkeypatch):
    session.take_over(monkeypatch, fork_command)
    async with forked_pump():
        found = await session.found()
    session.check(found, memfd=3, socket=1)


async def test_an_acceptor(session, monkeypatch, tmp_path):
    session.take_over(monkeypatch, fork_command, "vitrail-accept")
    acceptors = Acceptors()
    tmp_path.chmod(0o700)
    place = {WAYLAND_DOOR: UnixEndpoint(tmp_path / "door")}
    child, doors = await acceptors.start(place, WAYLAND_DOOR)
    try:
        found = await session.found()
    finally:
        for door in doors.values():
            door.close()
        await end_acceptor(child)
        await acceptors._server.close()
    # It sends messages; a connected socket's go to its far end, whatever the address.
    assert found["outcomes"].pop("send a message to a path") == "achieved"
    # The listening one, the channel and the pump's; that pump's words and pidfd.
    session.check(found, memfd=4, socket=3, anon_inode=1)


def _send_by_what_a_container_sent(session, confine):
    """Return how it ends that a container sends a socket of datagrams, to be used."""
    conn, container = socket.socketpair()
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with conn, container, datagrams:
        socket.send_fds(container, [b"x"], [datagrams.fileno()])

        def send():
            _, [given], _, _ = socket.recv_fds(conn, 1, 1)
            with socket.socket(fileno=given) as mine:
                mine.sendmsg([b"forged"], [], 0, session.target.datagrams)

        return attacker.outcome(send, confine)


async def test_an_acceptor_sends_nothing_by_a_socket_that_its_container_sends(session):
    program = acceptor_filter()
    refused = _send_by_what_a_container_sent(session, lambda: confine(program))
    assert refused in _REFUSED
    with pytest.raises(BlockingIOError):
        session.received[0].recv(10)
    assert _send_by_what_a_container_sent(session, lambda: None) == "achieved"
    assert session.received[0].recv(10) == b"forged", "the control"


async def test_a_forked_pump(session, monkeypatch):
    """It has the variables of the warm process, which has none of the session's."""
    monkeypatch.delenv("TOKEN")
    monkeypatch.setattr(hardening, "install", hardening.install)
    attacker.take_over(str(session.report), session.target)
    with _pump(start_pump(pump_filter())):
        found = await session.found()
    session.check({**found, "directory": "/"}, memfd=3, socket=1)


@contextmanager
def _pump(handle):
    try:
        yield
    finally:
        handle.close()
        os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        os.close(handle.pidfd)


async def test_a_process_of_a_security_key(session):
    prepare = f"""
from tests.kit import attacker
honest, place = module.our_program, {str(session.report)!r}
target = attacker.Target{astuple(session.target)!r}
module.our_program = lambda *words: attacker.words(place, target, honest(*words))
"""
    rule = "vitrail.SecurityKey * work @adminvm ask host=bank.example\n"
    async with rulebook(rule) as b, connected(b, prepare=prepare):
        found = await session.found()
    session.check(found, dev=1, memfd=2, socket=3)


async def test_a_switch(session, monkeypatch):
    session.take_over(monkeypatch, switches)
    seat = Switches().join(SwitchPlace("lan:lab", PortRole.MEMBER), "work")
    try:
        found = await session.found()
    finally:
        await seat.leave()
    session.check(found, dev=1, memfd=2, socket=1)


_GUARD = Path(sys.executable).name
"""The name of a filter's process; that which asks by TCP is forked before it."""


@pytest.mark.parametrize("decided", [False, True])
async def test_the_filter_of_a_machines_frames(session, monkeypatch, decided):
    session.take_over(monkeypatch, passt, _GUARD)
    program = Path("/bin/sleep")
    monkeypatch.setattr(passt, "passt_args", lambda *_, **__: [str(program), "1000"])
    network = passt.start_user_network(program, _resolver(session), decided=decided)
    try:
        found = await session.found()
    finally:
        await network.end()
    # Its two sides, two of rtnetlink; the viewer, a name server, who asks by TCP and who
    # finds others.
    session.check(found, dev=1, memfd=2, socket=8 if decided else 4)


async def test_the_process_that_asks_name_servers_by_tcp(session, monkeypatch):
    session.take_over(monkeypatch, passt, "vitrail-names")
    monkeypatch.setattr(passt, "passt_args", lambda *_, **__: ["/bin/sleep", "1000"])
    network = passt.start_user_network(
        Path("/bin/sleep"), _resolver(session), decided=True
    )
    try:
        found = await session.found()
    finally:
        await network.end()
    # It may connect, and has no socket of which that would be.
    assert found["outcomes"].pop("connect") in {"EPROTOTYPE", "ENOTSOCK"}
    session.check(found, dev=1, memfd=2, socket=2)


def _resolver(session):
    """A resolv.conf of one name server, so that there is a socket to it."""
    conf = session.place / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\n")
    return conf


@contextmanager
def _other_namespace():
    """Yield what a box or a VMM's jail is for its guard: a network namespace, a pidfd."""
    box = spawn(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            "echo; sleep 1000",
        ],
        stdout=PIPE,
    )
    try:
        assert box.popen.stdout is not None
        with box.popen.stdout as began:
            if not began.read(1):
                pytest.skip("no network namespaces to be had")
        there = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield there
        finally:
            os.close(there)
    finally:
        box.kill_now()


@pytest.mark.parametrize("decided", [False, True])
async def test_the_filter_of_an_interface(session, monkeypatch, decided):
    monkeypatch.setattr(namespace, "require_passt", lambda _: Path("/bin/sleep"))
    monkeypatch.setattr(namespace, "passt_args", lambda *_, **__: ["sleep", "1000"])
    session.take_over(monkeypatch, namespace, _GUARD)
    conf = _resolver(session)
    with _other_namespace() as there:
        network = await namespace.start_network(
            there, decided=decided, resolv_conf=conf
        )
        try:
            found = await session.found()
        finally:
            await network.end()
    # passt's, the interface's, two of rtnetlink; the viewer, a name server, who asks by
    # TCP and who finds others.
    session.check(found, dev=1, memfd=2, socket=8 if decided else 4)


async def test_the_cable_to_a_switch(session, monkeypatch):
    seat = Switches().join(SwitchPlace("lan:lab", PortRole.MEMBER), "work")
    session.take_over(monkeypatch, namespace)
    try:
        with _other_namespace() as there:
            network = await namespace.start_card(there, seat, "eth0")
            try:
                found = await session.found()
            finally:
                await network.end()
    finally:
        await seat.leave()
    session.check(found, dev=1, memfd=2, socket=4)


async def test_the_process_that_unpacks_a_kernel(session, monkeypatch):
    session.take_over(monkeypatch, vmlinux)
    kernel, cache = session.place / "kernel", session.place / "cache"
    kernel.write_bytes(b"MZ" * 500)
    await vmlinux.find_vmlinux(kernel, cache)
    # Pipes for its errors and its output; the kernel and the unpacked file.
    place = session.place.parts[1]
    session.check(await session.found(), dev=1, pipe=2, **{place: 2})
