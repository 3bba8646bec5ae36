"""A program of another user takes the broker's vsock ports, or a machine's CID.

The guest must obey only the broker that launched it, and the broker must serve
only the guest that it launched.  UNIX sockets replace AF_VSOCK where bytes
matter; where ports matter they are AF_VSOCK's.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import socket
import stat
import struct
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import find_paths
from broker.core.services import AGENT, DEVICE, DISPLAY, FILE_COPY, PORTS, SECURITY_KEY
from broker.helpers.process.spawn import spawn
from broker.host import part, vsock_listeners
from broker.host.images.store import launch_settings
from broker.host.launchers.microvm import MicroVms
from broker.host.part import HostPart
from broker.host.vmm.launcher import Tools
from broker.host.vmm.qemu_arguments import Accel
from broker.host.vsock_listeners import PortTakenError, open_vsock_listeners
from broker.ipc import agent
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.peers.launch_secret import (
    FILE,
    HELLO_BYTES,
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    LaunchSecret,
    draw_secret,
    prove,
    read_secret,
)
from shims.bundle import guest_agent, with_constants
from tests.kit.eventually import eventually
from tests.kit.link.roles import (
    SilentViewer,
    journal,
    own_doors,
)
from tests.kit.shims import files_program, guest_program
from tests.kit.vm.agent_broker import AgentBroker
from tests.kit.wayland.compositor import short_directory

SHIMS = Path(__file__).parents[2] / "shims"
SECRET = LaunchSecret(bytes(range(32)))


# -- the guest, and a program that has taken the port ---------------------------------


@contextlib.asynccontextmanager
async def guest(tmp_path):
    """The real agent, as a process, with the secret of its launch."""
    (tmp_path / "secret").write_text(SECRET.value.hex())
    broker = AgentBroker(tmp_path / "agent", tmp_path / "display")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VITRAIL_AGENT": f"unix:{broker.path}",
        "VITRAIL_DISPLAY": f"unix:{broker.display_path}",
        "VITRAIL_RUNTIME": str(tmp_path / "run"),
        "VITRAIL_SECRET": str(tmp_path / "secret"),
    }
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-I", guest_program()]
        child = spawn(words, env=env, stdout=log.fileno(), stderr=log.fileno())
    try:
        with trio.fail_after(60):
            yield broker
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
            await broker.close_all()
        print((tmp_path / "log").read_text())


def run_message(path):
    body = json.dumps(
        {"type": "run", "program": 1, "argv": ["touch", str(path)], "display": False}
    ).encode()
    return struct.pack("<I", len(body)) + body


async def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            break
        data += more
    return data


async def all_of(stream):
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while more := await stream.receive_some():
            data += more
    return data


@pytest.mark.parametrize("answer", ["orders", "random", "reflected"])
async def test_a_guest_does_not_obey_who_has_taken_the_port(tmp_path, answer):
    async with guest(tmp_path) as broker:
        made = tmp_path / "made"
        for _ in range(2):  # it comes again, and learns no more
            stream = broker.keep(await broker._listener.accept())
            hello = await exactly(stream, HELLO_BYTES)
            assert hello.startswith(MAGIC)
            reply = {
                "orders": run_message(made).ljust(NONCE_BYTES + PROOF_BYTES, b" "),
                "random": os.urandom(NONCE_BYTES + PROOF_BYTES),
                "reflected": hello[-NONCE_BYTES:] * 2,
            }[answer]
            await stream.send_all(reply)
            assert await all_of(stream) == b"", "no hello, and no proof to pass on"
        assert not made.exists()
        assert "another program is listening" in (tmp_path / "log").read_text()


async def test_a_stream_has_no_byte_for_who_has_taken_the_port(tmp_path):
    async with guest(tmp_path) as broker:
        listener = broker.listen_display()
        broker.keep(await broker._listener.accept())  # the agent is up
        near = await broker.connect(tmp_path / "run" / "display")
        await near.send_all(b"what an application draws")
        far = await broker.accept_display(listener)
        assert len(await exactly(far, HELLO_BYTES)) == HELLO_BYTES
        await far.send_all(bytes(NONCE_BYTES + PROOF_BYTES))
        assert await all_of(far) == b""
        assert await all_of(near) == b"", "the application learns that there is none"


async def test_a_guest_obeys_the_broker_that_launched_it(tmp_path):
    async with guest(tmp_path) as broker:
        stream = broker.keep(await broker._listener.accept())
        await prove(stream.socket._sock, SECRET, AGENT)
        broker._stream = stream
        hello = await broker.receive(agent.AgentHello)
        assert hello.version == agent.VERSION
        await stream.send_all(run_message(tmp_path / "made"))
        assert await eventually((tmp_path / "made").exists)


CLIENTS = {
    FILE_COPY: lambda shim, path: (
        (
            os.environ.__setitem__("VITRAIL_COPY", f"unix:{path}"),
            shim["BrokerConnection"]("VITRAIL_COPY"),
        )[1].socket
    ),
    DEVICE: lambda shim, path: shim["open_proved"](f"unix:{path}", shim["SERVICE"]),
    SECURITY_KEY: lambda shim, path: shim["open_proved"](
        f"unix:{path}", shim["SERVICE"]
    ),
}
FILES = {
    FILE_COPY: "vitrail_files.py",
    DEVICE: "usb/usb_devices.py",
    SECURITY_KEY: "usb/security_key.py",
}


@pytest.mark.parametrize("service", CLIENTS, ids=FILES.values())
@pytest.mark.parametrize("honest", [True, False])
async def test_the_other_programs_of_a_guest_prove_it_too(
    tmp_path, monkeypatch, service, honest
):
    (tmp_path / "secret").write_text(SECRET.value.hex())
    monkeypatch.setenv("VITRAIL_SECRET", str(tmp_path / "secret"))
    monkeypatch.setenv("VITRAIL_COPY", "")
    program = files_program() if service == FILE_COPY else str(SHIMS / FILES[service])
    shim = runpy.run_path(program)
    got = []

    def client():
        try:
            with CLIENTS[service](shim, tmp_path / "port") as sock:
                sock.sendall(b"first byte")
                got.append("sent")
        except Exception as error:
            got.append(error)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "port"))
        listener.listen(1)
        thread = threading.Thread(target=client)
        thread.start()
        conn, _ = await trio.to_thread.run_sync(listener.accept)
    with conn:
        conn.settimeout(0)
        if honest:
            await prove(conn, SECRET, service)
        else:
            with contextlib.suppress(RefusedError):
                await prove(conn, draw_secret(), service)
        await trio.to_thread.run_sync(thread.join)
        if honest:
            assert got == ["sent"]
            assert conn.recv(100) == b"first byte"
        else:
            assert "did not launch this sandbox" in str(got[0])


# -- the broker, and a machine that has taken the CID -----------------------------------


def hello():
    return MAGIC + os.urandom(NONCE_BYTES)


def answer(reply, mine, service=DISPLAY, secret=SECRET, label=b"guest"):
    return secret.proof(label, service, mine[len(MAGIC) :] + reply[:NONCE_BYTES])


async def silent(stream):
    await stream.receive_some(1)


async def its_first_bytes(stream):
    await stream.send_all(b"x" * HELLO_BYTES)


async def no_proof(stream):
    await stream.send_all(hello())
    await exactly(stream, NONCE_BYTES + PROOF_BYTES)
    await stream.send_all(bytes(PROOF_BYTES))


async def reflected(stream):
    """The broker's own proof, sent back."""
    await stream.send_all(hello())
    reply = await exactly(stream, NONCE_BYTES + PROOF_BYTES)
    await stream.send_all(reply[NONCE_BYTES:])


async def of_another_service(stream):
    mine = hello()
    await stream.send_all(mine)
    reply = await exactly(stream, NONCE_BYTES + PROOF_BYTES)
    await stream.send_all(answer(reply, mine, AGENT))


async def of_another_launch(stream):
    mine = hello()
    await stream.send_all(mine)
    reply = await exactly(stream, NONCE_BYTES + PROOF_BYTES)
    await stream.send_all(answer(reply, mine, secret=draw_secret()))


async def too_short(stream):
    await stream.send_all(hello()[:-1])
    await stream.send_eof()


ATTACKS = (
    silent,
    its_first_bytes,
    no_proof,
    reflected,
    of_another_service,
    of_another_launch,
    too_short,
)


@contextlib.asynccontextmanager
async def doors(tmp_path):
    """Yield (viewer, connect): a lease's doors, which ask for the secret."""
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        viewer = SilentViewer()
        mine = own_doors(log, viewer, secret=SECRET)
        nursery.start_soon(mine.serve, {})
        await trio.testing.wait_all_tasks_blocked()

        async def connect():
            ours, theirs = socket.socketpair()
            theirs.settimeout(0)
            await mine.offer(DISPLAY, theirs)
            streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
            return streams[-1]

        streams = []
        yield viewer, connect
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_machine_of_another_launch_gets_no_stream(
    tmp_path, attack, monkeypatch
):
    monkeypatch.setattr(limits, "LAUNCH_PROOF_SECONDS", 0.3)
    async with doors(tmp_path) as (viewer, connect):
        stream = await connect()
        with trio.fail_after(30):
            await attack(stream)
            await all_of(stream)
        assert viewer.offered == 0
    with open_log(tmp_path / "audit.sqlite") as log:
        (event,) = log.find(Filters(kinds=("stream.refused",)))
        assert event.fields()["service"] == "vitrail.Display"


async def test_the_machine_of_the_launch_is_served_from_its_first_byte(tmp_path):
    async with doors(tmp_path) as (viewer, connect):
        stream = await connect()
        mine = hello()
        await stream.send_all(mine)
        reply = await exactly(stream, NONCE_BYTES + PROOF_BYTES)
        assert reply[NONCE_BYTES:] == answer(reply, mine, label=b"broker")
        await stream.send_all(answer(reply, mine) + b"the service's own")
        with trio.fail_after(30):
            await viewer.wait_offered(1)


async def test_nothing_behind_the_proof_is_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0)
        mine = hello()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prove, theirs, SECRET, DISPLAY)
            ours.sendall(mine)
            await trio.lowlevel.wait_readable(ours)
            ours.sendall(answer(ours.recv(64), mine) + b"behind")
        assert theirs.recv(100) == b"behind"


# -- where the secret is ------------------------------------------------------------------


def test_a_secret_is_in_no_text_and_for_us_alone(tmp_path):
    assert SECRET.value.hex() not in repr(SECRET)
    SECRET.write(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert read_secret(tmp_path) == SECRET
    (tmp_path / FILE).unlink()
    assert read_secret(tmp_path) is None
    (tmp_path / FILE).write_text("00" * 31)
    with pytest.raises(SetupError, match="not a launch secret"):
        read_secret(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        read_secret(tmp_path)


@pytest.mark.parametrize("privileged", [True, False])
def test_an_agent_knows_its_launch_by_its_own_source(tmp_path, privileged):
    constants = launch_settings(SECRET.value, privileged=privileged)
    source = with_constants(guest_agent().decode(), constants)
    (tmp_path / "vitrail_guest.py").write_text(source)
    shim = runpy.run_path(str(tmp_path / "vitrail_guest.py"))
    settings = shim["Settings"]({}, "vitrail.name=work")
    assert settings.secret == SECRET.value
    port = PORTS[AGENT] - (6000 if privileged else 0)
    assert settings.agent.target == (2, port)


def test_an_agent_reads_its_launch_from_a_file_and_removes_it(tmp_path):
    """No program of the guest's user may read it later; it is root's before."""
    (tmp_path / "vitrail_guest.py").write_bytes(guest_agent())
    shim = runpy.run_path(str(tmp_path / "vitrail_guest.py"))
    path = tmp_path / "launch.json"
    shim["read_launch"](str(path))
    assert not shim["Settings"]({}, "").secret
    path.write_text(json.dumps(launch_settings(SECRET.value, privileged=True)))
    shim["read_launch"](str(path))
    assert not path.exists()
    settings = shim["Settings"]({}, "vitrail.name=work")
    assert settings.secret == SECRET.value
    assert settings.agent.target == (2, PORTS[AGENT] - 6000)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_an_agent_with_a_damaged_launch_file_does_not_start(tmp_path, text):
    (tmp_path / "launch.json").write_text(text)
    (tmp_path / "vitrail_guest.py").write_bytes(guest_agent())
    shim = runpy.run_path(str(tmp_path / "vitrail_guest.py"))
    with pytest.raises((ValueError, TypeError)):
        shim["read_launch"](str(tmp_path / "launch.json"))


@pytest.mark.parametrize("kernel", [True, False])
async def test_a_launch_with_the_kernel_s_vsock_has_a_secret(kernel):
    asked = []

    async def listen():
        asked.append(True)
        return False

    vms = MicroVms(
        paths=None, record=None, find_tools=None, listen_vsock=listen, log=None
    )
    backend = None if kernel else Path("/usr/bin/vhost-device-vsock")
    tools = Tools(Path("/usr/bin/qemu-system-x86_64"), Accel.TCG, backend)
    secret, settings = await vms._launch_secret(tools)
    assert bool(asked) == kernel, "no machine before its ports are ours"
    assert (secret is not None) == kernel
    assert settings == ({"LAUNCH_SECRET": secret.value.hex()} if kernel else {})


# -- ports -----------------------------------------------------------------------------------


@pytest.fixture
def ports(monkeypatch):
    """AF_VSOCK ports that no other test uses; those below 1024 are not ours."""
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError as error:
        pytest.skip(f"no AF_VSOCK: {error}")
    start = random.randrange(20_000, 2_000_000)
    names = {service: start + number for number, service in enumerate(PORTS)}
    monkeypatch.setattr(vsock_listeners, "PORTS", names)
    if os.geteuid() == 0:
        monkeypatch.setattr(vsock_listeners, "LOW_PORTS", {})
    return names


@contextlib.contextmanager
def taken(port):
    """Another program listens there."""
    with socket.socket(socket.AF_VSOCK) as sock:
        sock.bind((socket.VMADDR_CID_ANY, port))
        sock.listen(1)
        yield


def close(found):
    for _, listener in found.listeners:
        listener.close()


async def test_a_port_of_another_program_is_named(ports):
    with (
        taken(ports[DISPLAY]),
        pytest.raises(PortTakenError, match=str(ports[DISPLAY])) as caught,
    ):
        await open_vsock_listeners()
    assert caught.value.port == ports[DISPLAY]
    found = await open_vsock_listeners()
    assert len(found.listeners) == len(PORTS), "and none of ours was left open"
    close(found)


async def test_a_privileged_port_serves_where_the_other_is_taken(ports, monkeypatch):
    low = {service: port + 1000 for service, port in ports.items()}
    monkeypatch.setattr(vsock_listeners, "LOW_PORTS", low)
    with taken(ports[DISPLAY]):
        found = await open_vsock_listeners()
        close(found)
    assert found.privileged
    assert found.taken is not None
    assert found.taken.port == ports[DISPLAY]
    assert len(found.listeners) == 2 * len(PORTS) - 1


async def test_a_taken_port_is_an_event_and_a_notification(
    tmp_path, ports, monkeypatch
):
    """And the broker starts: others must not be able to keep it from that."""
    monkeypatch.setattr(limits, "VSOCK_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(part, "VHOST_VSOCK", tmp_path)
    told = []
    with short_directory() as base:
        paths = find_paths({"XDG_RUNTIME_DIR": str(base), "HOME": str(base)})
        await _alarm(tmp_path, paths, ports, told)
    with open_log(tmp_path / "audit.sqlite") as found:
        (event,) = found.find(Filters(kinds=("port.taken",)))
        assert event.fields()["port"] == ports[AGENT]


async def _alarm(tmp_path, paths, ports, told):
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        records = SimpleNamespace(now=SimpleNamespace(records={}), reload=None)
        host = HostPart(
            SimpleNamespace(paths=paths, records=records, log=log, role="host"),
            None,
            alarm=lambda title, text: told.append((title, text)),
        )
        with taken(ports[AGENT]):
            await host.run(nursery)
            with pytest.raises(PortTakenError):
                await host._listen_vsock()
            assert len(told) == 1, "once"
            assert str(ports[AGENT]) in told[0][1]
            assert str(ports[AGENT]) in host.warnings()[0]
        assert await eventually(lambda: host._ports is not None), "it tries again"
        nursery.cancel_scope.cancel()


async def test_the_shared_backlog_is_emptied_at_one_reading(tmp_path):
    """The kernel resets connections beyond it, whichever machine filled it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "port"))
        sock.listen(limits.VSOCK_BACKLOG)
        sock.settimeout(0)
        listener = vsock_listeners.Listener(None, sock)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(limits.VSOCK_BATCH + 5)]
        try:
            for client in clients:
                client.connect(str(tmp_path / "port"))
            first = await listener.accept_batch(limits.VSOCK_BATCH)
            second = await listener.accept_batch(limits.VSOCK_BATCH)
            assert (len(first), len(second)) == (limits.VSOCK_BATCH, 5)
        finally:
            for each in (*clients, *first, *second):
                each.close()
