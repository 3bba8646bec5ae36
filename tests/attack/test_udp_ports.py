"""Attack from inside a sandbox with a network: a UDP port of this machine that it names.

passt opens a socket for each port that its guest sends from.  Older versions do not
connect it.  It had the guest's number and SO_REUSEADDR: a sandbox that sent one
datagram from port P read the answers to another sandbox's datagrams from P, and what
programs of this machine sent to P, also in the place of a service there; and no service
could be started at P for minutes.

Two real boxes, the attacker's with ``network = "user"`` and with ``"rules"``, real
passt, services of this machine, and another machine at a cable.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.box_network import start_box_network
from tests.e2e.test_microvm_network import OTHER, OTHER6, THIS, THIS6, _moved, ip
from tests.kit.boxes import start_held
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory

STRANGER, STRANGER6 = "192.0.2.77", "2606:2800:220:2::77"
SERVER, NAMED, SHARED, ECHO_ID = 7001, 40_001, 40_002, 4660
PORTS, DNS = (NAMED, SHARED), 53
ASKED = 5
"""Questions of the honest box from each port, by IPv4 and by IPv6."""
RULES = f"""\
vitrail.Network +{OTHER} work @net allow protocol=udp,icmp
vitrail.Network +{OTHER6} work @net allow protocol=udp,icmp
"""
RECORD = 'class = "persistent"\n[launch]\nkind = "bwrap"\nnetwork = "rules"\n'

SOCKETS = """
import json, select, socket, struct, sys, time
from pathlib import Path
out, ports, server, hosts = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
opened = {}
for host in hosts:
    for port in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
        opened[sock] = host
def answers(seconds):
    for sock in select.select(list(opened), [], [], seconds)[0]:
        yield sock.recvfrom(2000)[0].decode()
def save(name, value):
    (out / "part").write_text(json.dumps(value))
    (out / "part").rename(out / name)
"""
SPY = (
    SOCKETS
    + """
heard, known = [], 0
while not (out / "stop").exists():
    if known < len(opened) or (out / "again").exists():
        for sock, host in opened.items():
            sock.sendto(b"spy", (host, server))
        known, _ = len(opened), (out / "again").unlink(missing_ok=True)
    heard += answers(0.2)
    if len(heard) >= len(opened) and not (out / "ready").exists():
        save("ready", heard)
save("said", heard)
"""
)
ASKS = (
    SOCKETS
    + """
heard = []
for number in range(int((out / "asked").read_text())):
    while number and not (out / "go").exists():
        time.sleep(0.05)
    for sock, host in opened.items():
        sock.sendto(b"bank %d" % number, (host, server))
    end = time.monotonic() + 2
    while len(heard) < (number + 1) * len(opened) and time.monotonic() < end:
        heard += answers(0.2)
    save("first", heard)
save("said", heard)
"""
)
PING = """
import json, socket, struct, sys
number = int(sys.argv[1])
def total(data):
    found = sum(struct.unpack(f"!{len(data) // 2}H", data))
    found = (found >> 16) + (found & 0xFFFF)
    return ~(found + (found >> 16)) & 0xFFFF
said = []
for host in sys.argv[2:]:
    six = ":" in host
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(3)
        echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, number, 7) + b"vitrails"
        sock.sendto(echo[:2] + struct.pack("!H", total(echo)) + echo[4:], (host, 0))
        try:
            while True:
                data, sender = sock.recvfrom(2000)
                data = data if six else data[20:]
                if data[0] in (0, 129):
                    said.append([sender[0], int.from_bytes(data[4:6])])
                    break
        except OSError as error:
            said.append(type(error).__name__)
print(json.dumps(said))
"""


@pytest.fixture(scope="module", params=["user", "rules"])
def results(request):
    """Attack from a box with one of the networks; every test looks at the datagrams."""
    need_boxes_at_cables("bwrap", "passt", "ip", "nsenter")
    return played("tests.attack.test_udp_ports", request.param, deadline=150)


def test_port_of_machine_is_not_the_guests_number(results):
    for kind, services in (("udp", [SHARED]), ("udp6", [])):
        of_passt = sorted(results["ports"][kind])
        for port in services:
            of_passt.remove(port)
        assert len(set(of_passt)) == 2 * len(PORTS), "each port of a guest has its own"
        assert not set(of_passt) & set(PORTS)


def test_other_sandbox_keeps_its_answers(results):
    """From the same port, while the spy sends from it, too."""
    expected = [
        f"to bank {number} by IPv{version}"
        for number in range(ASKED)
        for version in "44" + "66"
    ]
    assert sorted(results["bank"]) == sorted(expected)


def test_spy_reads_answers_to_itself_only(results):
    """Nothing of the other sandbox, this machine's programs or the local network."""
    assert set(results["spy"]) == {"to spy by IPv4", "to spy by IPv6"}
    assert len(results["spy"]) == 8, "each question of the spy is answered"


def test_service_with_shared_port_keeps_its_datagrams(results):
    assert results["service"] == ["user's"] * 2


def test_later_service_gets_its_port(results):
    assert results["later"] == ["bound", "user's", "user's"]


def test_echo_identifier_of_machine_is_not_the_guests_number(results):
    """Two sandboxes ping with one identifier, and each has its answers."""
    expected = [[OTHER, ECHO_ID], [OTHER6, ECHO_ID]]
    assert results["pings"] == [expected, expected]
    for kind in ("icmp", "icmp6"):
        assert results["ports"][kind] == [] or ECHO_ID not in results["ports"][kind]


# -- inside the namespaces: this machine -------------------------------------------


def local_ports() -> dict[str, list[int]]:
    """Return the ports, or identifiers, of this namespace's sockets but those for names."""
    ports: dict[str, list[int]] = {}
    for kind in ("udp", "udp6", "icmp", "icmp6"):
        lines = Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
        ends = [[int(end[-4:], 16) for end in line.split()[1:3]] for line in lines]
        ports[kind] = sorted(local for local, remote in ends if remote != DNS)
    return ports


@asynccontextmanager
async def other_machine():
    """A network namespace at the other end of a cable, with a server."""
    here = our_program("tests.attack.test_udp_ports", "other")
    child = spawn(["unshare", "--net", *here], stderr=None)
    try:
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        await _moved(child.pid)
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("link", "set", "v0", "up")
        await ip("route", "add", "default", "via", OTHER)
        await ip("address", "add", f"{THIS6}/64", "dev", "v0", "nodad")
        await ip("route", "add", "default", "via", OTHER6)
        for host in (OTHER, OTHER6):
            await eventually(partial(serves, host), deadline=60)
        yield
    finally:
        await child.stop()


def datagrams(host: str = "") -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return trio.socket.socket(family, socket.SOCK_DGRAM)


async def serves(host: str) -> bool:
    with datagrams(host) as sock, trio.move_on_after(1), suppress(OSError):
        await sock.sendto(b"here", (host, SERVER))
        return bool(await sock.recv(100))
    return False


async def be_other_machine() -> None:
    """Answer datagrams; strike a port of this machine from a stranger's address."""
    has_cable = lambda: "v1" in [name for _, name in socket.if_nameindex()]  # noqa: E731
    await eventually(has_cable, deadline=60)
    for address in (OTHER, STRANGER):
        await ip("address", "add", f"{address}/24", "dev", "v1")
    for address in (OTHER6, STRANGER6):
        await ip("address", "add", f"{address}/64", "dev", "v1", "nodad")
    await ip("link", "set", "v1", "up")

    async def serve(host: str, stranger: str, version: int) -> None:
        with datagrams(host) as sock, datagrams(host) as strange:
            await sock.bind((host, SERVER))
            await strange.bind((stranger, SERVER))
            while True:
                data, sender = await sock.recvfrom(2000)
                command, _, port = data.decode().partition(" to ")
                if command == "strike":
                    await strange.sendto(b"stranger", (sender[0], int(port)))
                await sock.sendto(b"to " + data + b" by IPv%d" % version, sender)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, OTHER, STRANGER, 4)
        nursery.start_soon(serve, OTHER6, STRANGER6, 6)


@asynccontextmanager
async def service(port: int, *, shared: bool):
    """A user's program at a port; yields what it receives."""
    received: list[str] = []

    async def receive(sock) -> None:
        while True:
            received.append((await sock.recv(100)).decode())

    with datagrams() as sock:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind(("0.0.0.0", port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, sock)
            yield received
            nursery.cancel_scope.cancel()


async def send_as_user(port: int, *hosts: str) -> None:
    for host in hosts:
        with datagrams(host) as sock, suppress(ConnectionRefusedError):
            await sock.sendto(b"user's", (host, port))


async def strike(port: int) -> None:
    """Have the other machine send to a port from an address that nobody asked."""
    for host in (OTHER, OTHER6):
        with datagrams(host) as sock, trio.fail_after(20):
            await sock.sendto(b"strike to %d" % port, (host, SERVER))
            await sock.recv(100)


@asynccontextmanager
async def box(base: Path, program: str, network: str, book):
    """A box that runs a program; yields its directory and its first process."""
    out, sockets = base / "out", base / "s"
    for directory in (base, out, sockets):
        directory.mkdir()
    (out / "asked").write_text(str(ASKED))
    script = base / "program.py"
    script.write_text(program)
    argv = (str(script), str(out), json.dumps(PORTS), str(SERVER), OTHER, OTHER6)
    process = await start_held(
        Box(
            ("sh", "-c", f'python3 "$@" 2>{out}/error; exec sleep 1000', "sh", *argv),
            sockets,
            files=(script,),
            writable=(out,),
        )
    )
    pidfd = os.pidfd_open(process.leader)
    decided = network == "rules"
    async with trio.open_nursery() as nursery:
        try:
            running = await start_box_network(pidfd, decided=decided)
            if decided:
                opening = Opening(WORK, NETWORK, 1, "the test")
                carry = partial(book.flows().carry, opening, running.flows)
                await nursery.start(carry)
            process.release()
            yield out, process.leader
        finally:
            await process.end()
            os.close(pidfd)
        await eventually(lambda: all(p.ended for p in running.processes), deadline=60)
        await running.end()


async def read_saved(out: Path, name: str):
    """Wait for what the program of a box saves under a name."""
    error = out / "error"
    broken = lambda: error.exists() and error.read_text()  # noqa: E731
    await eventually(lambda: (out / name).exists() or broken(), deadline=60)
    assert not broken(), error.read_text()
    return json.loads((out / name).read_text())


async def ping(leader: int) -> list:
    """Ping with the number of all, with a right over the box's network."""
    enter = ["nsenter", f"--target={leader}", "--user", "--net"]
    argv = ["--preserve-credentials", "python3", "-c", PING, str(ECHO_ID)]
    return json.loads(await run_tool([*enter, *argv, OTHER, OTHER6], deadline=60))


async def be_this_machine(network: str) -> dict:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    results: dict = {}
    with short_directory() as directory:
        conf = directory / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        async with (
            other_machine(),
            rulebook(RULES, work=RECORD) as book,
            service(SHARED, shared=True) as received,
        ):
            await attack(directory, network, book, results)
            results["service"] = received
    return results


async def attack(directory: Path, network: str, book, results: dict) -> None:
    async with box(directory / "bank", ASKS, "user", book) as (bank, other):
        await read_saved(bank, "first")
        results["ports before"] = local_ports()
        async with box(directory / "spy", SPY, network, book) as (spy, leader):
            await read_saved(spy, "ready")
            results["ports"] = local_ports()
            (bank / "go").touch()
            results["bank"] = await read_saved(bank, "said")
            results["pings"] = [await ping(leader), await ping(other)]
            results["ports"] |= {k: v for k, v in local_ports().items() if "icmp" in k}
            await send_unasked(results)
            (spy / "again").touch()  # what came in between comes before these answers
            await eventually(lambda: not (spy / "again").exists(), deadline=30)
            (spy / "stop").touch()
            results["spy"] = await read_saved(spy, "said")


async def send_unasked(results: dict) -> None:
    """Send what no sandbox asked for, as this machine's programs and as a stranger."""
    await send_as_user(SHARED, "127.0.0.1", THIS)
    for port in sorted({NAMED, *results["ports"]["udp"], *results["ports"]["udp6"]}):
        if port != SHARED:
            await send_as_user(port, "127.0.0.1", THIS, "::1", THIS6)
            await strike(port)
    try:
        async with service(NAMED, shared=False) as received:
            await send_as_user(NAMED, "127.0.0.1", THIS)
            with suppress(TimeoutError):
                await eventually(lambda: len(received) == 2, deadline=5)
            results["later"] = ["bound", *received]
    except OSError as error:
        results["later"] = [error.strerror]


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(be_other_machine)
    else:
        print(json.dumps(trio.run(be_this_machine, sys.argv[1])))
