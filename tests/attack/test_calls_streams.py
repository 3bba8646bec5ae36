"""Attack: callers and services that hang, flood, recurse, die or speak out of turn."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.services import CALL, PORTS
from broker.ipc.control.api import LeaseReleaseRequest
from broker.ipc.control.methods import LEASE_RELEASE
from broker.ipc.pump import RelayMode
from shims.files.frames import CALL_HEADER, CallStream
from shims.files.protocol import frame
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.relay.sockets import forked_pump
from tests.kit.world import world

needs_guests = requires("waypipe")
RULES = """\
vitrail.Call +ping  work  vault  allow
vitrail.Call +pong  vault work   allow
vitrail.Call +deaf  work  vault  allow
vitrail.Call +cut   work  vault  allow
vitrail.Call +env   work  vault  allow
vitrail.Call +echo  *     vault  allow
"""
FEW = "[limits]\nprograms = 4\n"
SERVICES = {
    "vault": {
        "ping": "exec vitrail-call -t work pong",
        "deaf": "echo $$ >$HOME/deaf; exec sleep 600",
        "cut": "echo $$ >$HOME/cut; echo begun; exec cat",
        "env": "env",
        "echo": "exec cat",
    },
    "work": {"pong": "exec vitrail-call -t vault ping"},
}
# As many connections with a call as fit into two seconds; prints how many.
FLOOD = """\
import json, os, socket, struct, time
body = json.dumps({"type": "call", "service": "other", "target": "vault"}).encode()
path, count, end = os.environ["VITRAIL_CALL"][5:], 0, time.monotonic() + 2
held = []
while time.monotonic() < end and count < 10000:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(1)
    try:
        sock.connect(path)
        sock.sendall(struct.pack("<I", len(body)) + body)
    except OSError:
        pass
    held = [*held[-50:], sock]
    count += 1
print(count)
"""


@asynccontextmanager
async def sandboxes():
    async with world({}, image=False, rules=RULES) as w:
        tops = {"work": FEW, "vault": FEW}
        async with plain(w, "work", "vault", "honest", tops=tops) as guests:
            for name, services in SERVICES.items():
                offer(guests[name], services)
            yield w, guests["work"], guests["vault"], guests["honest"]


def offer(guest, services):
    folder = guest.home / ".config/vitrail-services"
    folder.mkdir(parents=True)
    for name, script in services.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


def runs(pid):
    with suppress(OSError, ValueError):
        state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(") ")[2][0]
        return state != "Z"
    return False


@needs_guests
async def test_callers_and_services_hurt_themselves_only():
    async with sandboxes() as (w, work, vault, honest):
        await recursion(work)
        await a_deaf_service(vault, work)
        await no_environment_of_the_caller(work)
        await a_flood(w, work, honest)
        await a_full_target(work, honest)
        await a_half_closed_caller(vault, work)
        await a_target_without_a_tool(work, vault)
        await a_target_that_dies(w, work, vault)


async def recursion(work):
    """A calls B calls A: it ends at the limit of programs, for each of them."""
    code, said = await work.script("vitrail-call -t vault ping </dev/null")
    assert code == 125, said
    code, said = await work.script("echo still | vitrail-call -t vault echo")
    assert (code, said) == (0, "still\n")


@asynccontextmanager
async def called(work, service):
    """A call by the sandbox's socket itself, which shows its end to the broker at once."""
    ask = frame({"type": "call", "service": service, "target": "vault"})
    door = f"{work.folder}/vm/s_{PORTS[CALL]}"

    async def begun():
        caller = await trio.open_unix_socket(door)
        await caller.send_all(ask)
        said = b""
        while b'"go"' not in said and b'"refused"' not in said:
            answer = await caller.receive_some()
            assert answer, said
            said += answer
        if b'"go"' in said:
            return caller
        # The call before it has ended for its caller, and perhaps not yet for the broker.
        assert b"too many calls" in said, said
        await caller.aclose()
        return None

    async with await eventually(begun) as caller:
        yield caller


async def a_deaf_service(vault, work):
    """What its caller sends stops at full buffers, and its end ends the service."""
    async with called(work, "deaf") as caller:
        begun = vault.home / "deaf"
        await eventually(lambda: _text(begun))
        with trio.move_on_after(1):
            while True:
                await caller.send_all(piece(0, bytes(1 << 16)))

    async def ended():
        return not runs(begun.read_text())

    await eventually(ended)


async def _text(path):
    return path.exists() and path.read_text()


async def a_half_closed_caller(vault, work):
    """The end of its data is a frame: a connection that closes one way is one that ends."""
    begun = vault.home / "cut"
    begun.unlink(missing_ok=True)
    async with called(work, "cut") as caller:
        await eventually(lambda: _text(begun))
        await caller.send_eof()
        with trio.fail_after(60):
            while await caller.receive_some():
                pass

    async def ended():
        return not runs(begun.read_text())

    await eventually(ended)


async def no_environment_of_the_caller(work):
    code, said = await work.script(
        "LD_PRELOAD_OF_MINE=1 QREXEC_REMOTE_DOMAIN=other "
        "vitrail-call -t vault env </dev/null"
    )
    assert code == 0, said
    lines = said.splitlines()
    assert "QREXEC_REMOTE_DOMAIN=work" in lines
    assert not [line for line in lines if "OF_MINE" in line or "=other" in line]
    code, said = await work.script(
        "vitrail-call -t vault env 'key\nLD_PRELOAD=x' </dev/null"
    )
    assert code == 125, said
    assert "\nLD_PRELOAD" not in said


async def a_flood(w, work, honest):
    """Another sandbox calls meanwhile, and the log does not grow by each."""
    before = len(w.events("decision", verdict="deny"))
    (work.home / "flood.py").write_text(FLOOD)
    async with trio.open_nursery() as nursery:
        flooded = []

        async def flood():
            flooded.append(await work.script("python3 flood.py"))

        nursery.start_soon(flood)
        for number in range(3):
            code, said = await honest.script(
                f"echo {number} | vitrail-call -t vault echo"
            )
            assert (code, said) == (0, f"{number}\n")
    ((code, said),) = flooded
    assert code == 0, said
    denied = len(w.events("decision", verdict="deny")) - before
    # STREAMS_PER_SECOND and its burst for two seconds, at most.
    assert denied <= 800, (denied, said)


async def a_full_target(work, honest):
    """Calls take half of the target's programs, and one caller leaves some of those."""
    over = trio.Event()

    async def hold():
        while not over.is_set():  # refused while a call before it ends
            await work.script(
                "test -p held || mkfifo held; exec 3<>held; echo $$ >pid; "
                "exec vitrail-call -t vault cut <held >held1"
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await eventually(lambda: _text(work.home / "held1"))
        echo = "vitrail-call -t vault echo </dev/null 2>&1; echo =$?"
        _, said = await work.script(echo)
        assert "too many calls are already running in the target\n=125" in said, said
        _, said = await honest.script(echo)
        assert said == "=0\n"
        over.set()
        os.kill(int((work.home / "pid").read_text()), signal.SIGKILL)

    async def free():
        return "=0" in (await work.script(echo))[1]

    await eventually(free)


async def a_target_without_a_tool(work, vault):
    """The target's program ends between the permit and its connection."""
    vault.replace_tool("#!/bin/sh\nexit 0\n")
    code, said = await work.script("vitrail-call -t vault echo </dev/null 2>&1")
    assert (code, "could not be reached" in said) == (125, True), said


async def a_target_that_dies(w, work, vault):
    """All of its machine ends there: the broker sees that by the end of its lease."""
    begun = vault.home / "begun"
    vault.replace_tool(f"#!/bin/sh\ntouch {begun}\nexec sleep 600\n")
    lease = await w.only_event("lease.begin", sandbox="vault")
    ended = []
    async with trio.open_nursery() as nursery:

        async def call():
            ended.append(await work.script("vitrail-call -t vault echo </dev/null"))

        nursery.start_soon(call)
        await eventually(begun.exists)
        async with w.client() as client:
            await client.call(LEASE_RELEASE, LeaseReleaseRequest(id=lease["lease"]))
    ((code, said),) = ended
    assert code == 125, said


@needs_guests
async def test_a_call_ends_with_its_rule_and_its_service_with_it():
    async with sandboxes() as (w, work, vault, _):
        async with trio.open_nursery() as nursery:
            ended = []

            async def call():
                ended.append(
                    await work.script(
                        "mkfifo in; exec 3<>in; vitrail-call -t vault cut <in >out"
                    )
                )

            nursery.start_soon(call)

            async def begun():
                out = work.home / "out"
                return out.exists() and out.read_text() == "begun\n"

            await eventually(begun)
            rules = w.paths.config[0] / "policy.d/30-mine.policy"
            rules.write_text(RULES.replace("+cut ", "+gone"))

            async def over():
                return ended

            await eventually(over)
        assert ended[0][0] == 125
        pid = (vault.home / "cut").read_text()

        async def service_ended():
            return not runs(pid)

        await eventually(service_ended)
        # One that comes with the revocation was decided by the new rules.
        code, _said = await work.script("vitrail-call -t vault cut </dev/null")
        assert code == 125


@pytest.mark.parametrize("mode", list(RelayMode))
async def test_a_descriptor_on_a_stream_goes_nowhere(mode):
    """Neither to the other end nor into the pump, which would hold it open."""
    async with forked_pump() as pump, trio.open_nursery() as nursery:
        near, ours = socket.socketpair()
        theirs, far = socket.socketpair()
        relay = partial(pump.relay, mode_ab=mode, mode_ba=mode, name="1")
        nursery.start_soon(relay, ours.detach(), theirs.detach())
        read, write = os.pipe()
        with near, far:
            socket.send_fds(near, [b"hello"], [write])
            os.close(write)
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(far)
                data, fds, _flags, _from = socket.recv_fds(far, 100, 8)
                assert (data, fds) == (b"hello", [])
                # Its last copy is closed: the pipe ends.
                async with trio.lowlevel.FdStream(read) as pipe:
                    assert await pipe.receive_some() == b""


# -- what the far end of a stream may send ---------------------------------------------


class _Given:
    """A connection, as ``CallStream`` takes it."""

    def __init__(self, sock):
        self.socket = sock
        self.reader = sock.makefile("rb")


def received(data):
    """Return the code, the output and the ends that a caller has of a stream."""
    near, far = socket.socketpair()
    read, write = os.pipe()
    ends = []
    with near, far:
        given = _Given(near)
        threading.Thread(target=lambda: (far.sendall(data), far.close())).start()
        with given.reader:
            code = CallStream(given.socket, given.reader).receive_to(
                write, lambda: ends.append(1)
            )
    os.close(write)
    with os.fdopen(read, "rb") as output:
        return code, output.read(), len(ends)


def piece(kind, data):
    return CALL_HEADER.pack(kind, len(data)) + data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (piece(1, b"\x07"), 7),
        (piece(0, b"") + piece(1, b"\xff"), 255),
        (piece(1, b"\x00\x00\x01\x00"), None),  # 256
        (piece(1, b""), None),
        (CALL_HEADER.pack(1, 1), None),
        (CALL_HEADER.pack(1, 0xFFFFFFFF), None),
        (CALL_HEADER.pack(2, 1) + b"x", None),
        (CALL_HEADER.pack(0, 0xFFFFFFFF) + b"x", None),
        (b"\x00\x00", None),
        (b"", None),
    ],
)
def test_an_exit_code_is_one_byte_and_all_else_is_a_broken_call(data, code):
    assert received(data)[0] == code


def test_data_behind_its_end_or_the_exit_code_is_not_output():
    data = piece(0, b"one") + piece(0, b"") + piece(0, b"two") + piece(1, b"\0")
    assert received(data) == (0, b"one", 1)
    assert received(piece(1, b"\0") + piece(0, b"two")) == (0, b"", 0)
