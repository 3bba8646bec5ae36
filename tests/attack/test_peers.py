"""What a peer may do to us from inside a real machine, and that it gains nothing.

Invariants 1, 5 and 9: no lease, no stream; one sandbox cannot hurt another;
whatever ends, ends cleanly.  In every test another machine's window must continue
answering, and descriptors, sockets, tasks, processes and streams are counted
before and after.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import trio

from broker.core import limits
from broker.core.services import LINK_PORT, SERVICES
from tests.kit.eventually import eventually
from tests.kit.shared import Shared
from tests.kit.vm.siege import calm, census, end_of_log, settled, siege
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, world

besieged = Shared(partial(siege, hidden=record(display="none", colour="blue")))
"""Two machines for all tests: each counts what there is before it and after it."""

# As a waypipe server would say it: the header, then get_registry.
SESSION = """
registry = struct.pack("<III", 1, 12 << 16 | 1, 2)
SESSION = HEADER + struct.pack("<I", (4 + len(registry)) << 5 | 0) + registry
"""
CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
sock.connect(sys.argv[1])
try:
    print(sock.recv(100))
except ConnectionResetError:
    print(b"")
"""


@pytest.mark.slow
@besieged.test
async def test_a_process_that_is_not_the_machine_is_turned_away(s):
    """As the same user, at the machine's own sockets: the directory is not enough."""
    async with s.unharmed():
        uds = s.world.paths.sandbox(s.hostile) / "vsock" / "vm.vsock"
        for port in (6500, 6501):
            path = f"{uds}_{port}"
            stranger = await trio.run_process(
                [sys.executable, "-c", CONNECT, path], capture_stdout=True
            )
            assert stranger.stdout == b"b''\n", "not a byte for a stranger"
        for service in ("vitrail.Agent", "vitrail.Display"):
            event = await s.wait_refusal(
                "is not the VMM of this sandbox", service=service
            )
            assert f"uid {os.getuid()}" in event["reason"]
            assert event["peer"] == f"hybrid:{uds}"


@pytest.mark.slow
@besieged.test
async def test_a_service_that_it_may_not_have(s):
    """A third machine is the hostile one."""
    # The first port between those of services, and others that no sandbox is given.
    free = next(port for port in range(min(SERVICES), 1 << 16) if port not in SERVICES)
    last, _ = await s.world.run("hidden", "sleep", "100000", window=False)
    s = replace(s, hostile=last.started.sandbox)
    await s.attack("pass")
    async with s.unharmed():
        said = await s.attack(
            f"PORTS = ({free}, {LINK_PORT}, 1, 0xFFFFFFFE)"
            """
from concurrent.futures import ThreadPoolExecutor
sock = connected(DISPLAY)
try:
    sock.send(HEADER)
except OSError:
    pass
print(end_of(sock))
def tried(port):
    try:
        connected((2, port), 10)
        return f"connected {port}"
    except OSError as error:
        return errno.errorcode[error.errno]
# Beside each other: some are not answered at all.
with ThreadPoolExecutor(len(PORTS)) as pool:
    print(*pool.map(tried, PORTS), sep="\\n")
"""
        )
        shown, *others = said.split("\n")
        assert shown in {"end", "ECONNRESET"}
        # vhost-device-vsock says nothing at all about a port without a door.
        assert len(others) == 4
        assert set(others) <= {"ECONNRESET", "ETIMEDOUT"}, "no other port answers"
        asked = s.world.events("decision", sandbox=s.hostile, verdict="deny")
        assert [e["service"] for e in asked] == ["vitrail.Display"]
        assert asked[0]["rule"].endswith("hidden.toml:2:1")
        refused = s.refusals("denied", service="vitrail.Display")
        assert refused[0]["stream"] == asked[0]["stream"]
    opened = s.world.events("stream.opened", sandbox=s.hostile)
    assert {e["service"] for e in opened} == {"vitrail.Agent"}
    await s.world.stop(s.hostile)


@pytest.mark.slow
@besieged.test
async def test_it_connects_and_says_nothing(s):
    """At both doors, one more than may be undecided at a time."""
    async with s.unharmed():
        before = await calm(s.world)
        number = limits.UNDECIDED_PER_SANDBOX + 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.keeps_answering, 3)
            said = await s.attack(
                f"""
silent = [connected(AGENT) for _ in range(3)]
silent += [connected(DISPLAY) for _ in range({number})]
print(*[end_of(sock) for sock in silent])
"""
            )
            now = await census(s.world)
        assert len(said.split()) == number + 3
        assert set(said.split()) <= {"end", "ECONNRESET"}, "each was ended by us"

        async def counted():
            found = s.refusals("0 bytes of the first 16 came within 5 s")
            return sum(e.get("count", 1) for e in found) == number

        assert await eventually(counted)
        started = {k for k in now if "process" in k and now[k] > before[k]}
        assert not started, "silence starts no process"
        silent = s.events("stream.closed")
        reasons = [e["reason"] for e in silent if e["service"] == "vitrail.Agent"]
        # A newer agent puts out an older one, and the honest one comes back.
        newer = "replaced by a newer connection of the guest agent"
        assert len(reasons) >= 3
        assert set(reasons) <= {newer, "the guest agent sent no message in time"}


@pytest.mark.slow
@besieged.test
async def test_it_sends_one_byte_at_a_time(s):
    """Drops hollow no deadline: it counts from the first, not from the last."""
    async with s.unharmed():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.keeps_answering, 3)
            said = await s.attack(
                """
import select
drips = {connected(AGENT): 0, connected(DISPLAY): 0}
start, ends = time.time(), []
while drips and time.time() < start + 40:
    for sock in list(drips):
        try:
            sock.send(HEADER[drips[sock] % 16:][:1])
            drips[sock] += 1
            ended = select.select([sock], [], [], 0.5)[0] and not sock.recv(1)
        except OSError:
            ended = True
        if ended:
            ends.append(drips.pop(sock))
print(*ends)
"""
            )
        display, agent = map(int, said.split())
        assert 1 < display <= 16, "it never had its first 16 bytes accepted"
        assert agent > 1
        await s.wait_refusal("of the first 16 came", service="vitrail.Display")

        async def agents_end():
            return s.events("stream.closed", service="vitrail.Agent")

        ended = (await eventually(agents_end))[-1]
        assert "guest agent" in ended["reason"]  # (its deadline: test_agent_shell)


@pytest.mark.long
async def test_it_opens_ten_thousand_connections():
    """One after the other, with and without a word; and thousands at one time."""
    async with siege() as s:
        async with s.unharmed(deadline=60):
            since = end_of_log(s.world)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(s.keeps_answering, 5)
                said = await s.attack(
                    """
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
made = failed = 0
def knock(address, words=b""):
    global made, failed
    sock = vsock(20)
    try:
        sock.connect(address)
        sock.send(words)
        made += 1
    except OSError:
        failed += 1
    sock.close()
for number in range(6000):
    knock(DISPLAY)
for number in range(1000):
    knock(DISPLAY, HEADER)
# All at once, held, silent, more than any process will accept.
for batch in range(3):
    socks = []
    for number in range(1000):
        socks.append(vsock(0))
        socks[-1].connect_ex(DISPLAY)
    time.sleep(1)
    for sock in socks:
        sock.close()
print(made, failed)
""",
                    deadline=240,
                )
            made, failed = map(int, said.split())
            assert made + failed == 7_000
            assert made > 6_500, "the test is of no use if they do not get here"

            async def decided():
                return (await s.world.status()).streams == [] or s.refusals("ended")

            assert await eventually(decided, deadline=60)
        refused = [
            e
            for e in s.world.events("stream.refused", sandbox=s.hostile)
            if e["sequence"] > since
        ]
        assert refused, "refusals are on record"
        assert len(refused) < 1000, "and counted, not listed"


@pytest.mark.slow
@besieged.test
async def test_it_opens_more_streams_than_it_may_hold(s):
    """Each with its header, so each is a real stream, until there are no more."""
    async with s.unharmed(deadline=60):
        most = limits.STREAMS_PER_SANDBOX
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.keeps_answering, 3)
            said = await s.attack(
                f"""
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
socks, late = [], 0
while len(socks) < {most} + 40 and late < 40:
    sock = vsock(10)
    try:
        sock.connect(DISPLAY)
        sock.send(HEADER)
        socks.append(sock)
    except OSError:
        late += 1
print(len(socks), late)
time.sleep(3)
"""
            )

        async def over():
            """Those that were one too many, for the worker or for the record."""
            refused = s.refusals(f"{most} open streams")
            closed = s.events("stream.closed")
            too_many = [e for e in closed if "Wayland clients" in e["reason"]]
            return sum(e.get("count", 1) for e in refused) + len(too_many) >= 30

        assert await eventually(over), said


@besieged.test
async def test_it_resets(s):
    """Connections closed with our bytes unread in them."""
    async with s.unharmed():
        await s.attack(
            SESSION
            + """
import select
for _ in range(20):
    sock = connected(DISPLAY)
    sock.send(SESSION)
    assert select.select([sock], [], [], 30)[0], "the compositor's globals"
    sock.close()
"""
        )

        async def all_closed():
            found = s.events("stream.closed")
            full = [e for e in found if e["bytes_to_sandbox"]]
            return len(full) == 20 and full

        closed = await eventually(all_closed)
        for event in closed:
            assert event["bytes_from_sandbox"] == 32
            assert event["reason"].split()[0] in {"end", "reset"}


@pytest.mark.slow
@besieged.test
async def test_it_dies_in_the_middle_of_a_message(s):
    """A program in the guest, killed while it sends and while it is sent to."""
    async with s.unharmed():
        for killed in range(3):
            await s.attack(
                SESSION
                + """
one, two = connected(DISPLAY), connected(AGENT)
one.send(SESSION + struct.pack("<I", 60000 << 5) + bytes(20000))
two.send(struct.pack("<I", 60000) + b'{"type": "hello"' + bytes(20000))
os.kill(os.getpid(), signal.SIGKILL)
""",
                check=False,
            )

            async def closed(number=killed + 1):
                found = s.events("stream.closed")
                inside = [e for e in found if "inside a mess" in e["reason"]]
                partly = [
                    e
                    for e in found
                    if e["service"] == "vitrail.Display"
                    and e["bytes_from_sandbox"] > 10000
                ]
                return len(inside) == number == len(partly)

            assert await eventually(closed)


@pytest.mark.slow
async def test_its_machine_dies_in_mid_stream():
    """kill -9 of the VMM while its window is drawn as fast as it can be."""
    records = {"hostile": record(colour="red"), "victim": record(colour="green")}
    async with world(records) as w:
        await w.window("victim", "victim")
        before = await calm(w)
        flood = "while :; do echo $RANDOM; done"
        last, _ = await w.run("hostile", "foot", "-T", "doomed", "sh", "-c", flood)
        hostile = last.started.sandbox
        await wait_window(w.comp, title="doomed")

        async def flows():
            streams = [x for x in (await w.status()).streams if x.sandbox == hostile]
            return any(x.bytes_from_sandbox > 100_000 for x in streams)

        assert await eventually(flows, deadline=60)
        os.kill(await w.pid_of("QEMU", hostile), signal.SIGKILL)
        died = await w.wait_event("process.died", sandbox=hostile)
        assert died["process"] == "vmm"
        ended = await w.wait_event("lease.end", sandbox=hostile)
        assert ended["reason"]
        closed = w.events("stream.closed", sandbox=hostile)
        assert {e["service"] for e in closed} == {"vitrail.Agent", "vitrail.Display"}
        assert all(e["sequence"] < ended["sequence"] for e in closed)
        await settled(w, before)
        (left,) = await wait_window(w.comp, title="victim")
        assert left["name"].endswith("] victim")
        assert not [x for x in (await w.status()).sandboxes if x.name == hostile]


@pytest.fixture(autouse=True)
def _ss_is_there():
    """The count of sockets is of no use without it."""
    subprocess.run(["ss", "-V"], check=True, capture_output=True, timeout=20)
