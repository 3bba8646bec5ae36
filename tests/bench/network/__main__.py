"""What each network of a sandbox costs, beside pasta and slirp4netns: a table and JSON.

``python -m tests.bench.network [REPETITIONS]``: in separate namespaces, *this machine*
and a server at the end of a cable.  A client in a network namespace reaches it directly, by
pasta, by slirp4netns, by passt with the frame filter (``user``), with the flow filter (``rules``),
and a server in another namespace by a switch (``lan:``).  Within each repetition all are
measured in turn.  The medians of: bytes a second each way by one TCP connection, a round
trip of one byte, and the time until a connection is open.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from broker.core.errors import VitrailError
from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.network.box_network import start_box_card, start_box_network
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace
from broker.host.network.switch.switches import Switches
from tests.e2e.test_microvm_network import OTHER, THIS, _moved, ip
from tests.kit.cables import UNSHARE
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory

SERVER, PORT = "93.184.216.34", 7000
RULES = f"vitrail.Network +{SERVER} work @net allow port={PORT} protocol=tcp\n"
RECORD = 'class = "persistent"\n[launch]\nkind = "bwrap"\nnetwork = "rules"\n'
MIB = 1 << 20
HOLD = "exec sleep 100000"
CLIENT = r"""
import json, socket, statistics, sys, time
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def dial(word):
    sock = socket.create_connection((host, port), 10)
    sock.settimeout(60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(word.ljust(32).encode())
    return sock
def moved(word, go):
    with dial(word) as sock:
        began = time.perf_counter()
        go(sock)
        return size / (time.perf_counter() - began)
def send(sock):
    left, piece = size, bytes(1 << 18)
    while left > 0:
        left -= sock.send(piece[:left])
    assert sock.recv(1) == b"."
def receive(sock):
    left, buffer = size, bytearray(1 << 18)
    while left > 0:
        found = sock.recv_into(buffer)
        assert found
        left -= found
def trip(sock):
    began = time.perf_counter()
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return time.perf_counter() - began
def opened():
    began = time.perf_counter()
    socket.create_connection((host, port), 10).close()
    return time.perf_counter() - began
dial("echo").close()
with dial("echo") as sock:
    trips = [trip(sock) for _ in range(500)]
found = {
    "round trip": statistics.median(trips) * 1e6,
    "open": statistics.median(opened() for _ in range(40)) * 1e6,
    "send": moved(f"take {size}", send) / (1 << 20),
    "receive": moved(f"give {size}", receive) / (1 << 20),
}
print(json.dumps(found))
"""
SERVE = r"""
import os, socket, sys, threading
def serve(conn):
    with conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        word = b""
        while len(word) < 32:
            piece = conn.recv(32 - len(word))
            if not piece:
                return
            word += piece
        what, *size = word.decode().split()
        if what == "echo":
            while piece := conn.recv(100):
                conn.sendall(piece)
        elif what == "give":
            left, piece = int(size[0]), bytes(1 << 18)
            while left > 0:
                left -= conn.send(piece[:left])
        else:
            left, buffer = int(size[0]), bytearray(1 << 18)
            while left > 0:
                left -= conn.recv_into(buffer)
            conn.sendall(b".")
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=100)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""
UNITS = {"send": "MiB/s", "receive": "MiB/s", "round trip": "us", "open": "us"}


class Held:
    """A network namespace, held by a process that does nothing."""

    def __init__(self, stack: AsyncExitStack, *words: str) -> None:
        argv = (
            [*words, "sh", "-c", HOLD] if words else [*UNSHARE[:-1], "sh", "-c", HOLD]
        )
        self.child = spawn(argv, stderr=None)
        stack.push_async_callback(self.child.stop)

    async def ready(self) -> None:
        mine = Path("/proc/self/ns/net").readlink()
        place = Path(f"/proc/{self.child.pid}/ns/net")
        await eventually(lambda: place.readlink() != mine, deadline=60)

    @property
    def enter(self) -> list[str]:
        """The words that run a program in it."""
        words = ["nsenter", f"--target={self.child.pid}", "--user", "--net"]
        return [*words, "--preserve-credentials"]


async def measure(enter: list[str], host: str, mib: int) -> dict[str, float]:
    """Run the client once."""
    argv = [*enter, sys.executable, "-c", CLIENT, host, str(PORT), str(mib * MIB)]
    return dict(json.loads(await run_tool(argv, deadline=300)))


async def boxed(stack: AsyncExitStack, nursery: trio.Nursery, conf: Path) -> dict:
    """Return the ways by our filters: by name, how to enter and whom to reach."""
    user, rules = Held(stack), Held(stack)
    for one in (user, rules):
        await one.ready()
    network = await start_box_network(os.pidfd_open(user.child.pid), conf)
    stack.push_async_callback(network.end)
    book = await stack.enter_async_context(rulebook(RULES))
    book.write_record("work", RECORD)
    await book.reload()
    flows = book.flows()
    pidfd = os.pidfd_open(rules.child.pid)
    network = await start_box_network(pidfd, conf, decided=True)
    stack.push_async_callback(network.end)
    opening = Opening(WORK, NETWORK, 1, "the benchmark")
    await nursery.start(partial(flows.carry, opening, network.flows))
    return {"user": (user.enter, SERVER), "rules": (rules.enter, SERVER)}


async def switched(stack: AsyncExitStack) -> dict:
    """Return the way by a switch."""
    switches, place = Switches(), SwitchPlace("lan:lab", PortRole.MEMBER)
    seats, held = [], []
    for name in ("db", "app"):
        held.append(Held(stack))
        await held[-1].ready()
        seats.append(switches.join(place, name))
        stack.push_async_callback(seats[-1].leave)
        pidfd = os.pidfd_open(held[-1].child.pid)
        network = await start_box_card(pidfd, seats[-1], "eth0")
        stack.push_async_callback(network.end)
    argv = [*held[0].enter, sys.executable, "-c", SERVE, seats[0].address, str(PORT)]
    stack.push_async_callback(spawn(argv, stderr=None).stop)
    return {"lan": (held[1].enter, seats[0].address)}


def able(program: str) -> bool:
    """Whether a program that needs a TAP device can run; names missing parts."""
    missing = "" if shutil.which(program) else "it is not installed"
    if not missing and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        missing = "you may not open /dev/net/tun"
    if missing:
        print(f"{program} is not measured: {missing}", file=sys.stderr)
    return not missing


async def pasta(stack: AsyncExitStack) -> dict:
    """Return the way by pasta alone, where it can run."""
    if not able("pasta"):
        return {}
    held = Held(stack)
    await held.ready()
    words = ("--foreground", "--quiet", "--config-net", "--ipv4-only")
    child = spawn(["pasta", *words, str(held.child.pid)], stderr=None)
    stack.push_async_callback(child.stop)
    probe = [*held.enter, "ip", "-4", "route", "show", "default"]

    async def up() -> bool:
        return bool(await run_tool(probe))

    await eventually(up, deadline=60)
    return {"pasta alone": (held.enter, SERVER)}


async def slirp(stack: AsyncExitStack) -> dict:
    """Return the way by slirp4netns, where it can run."""
    if not able("slirp4netns"):
        return {}
    held = Held(stack)
    await held.ready()
    words = ("--configure", "--mtu=1500", "--disable-host-loopback")
    child = spawn(["slirp4netns", *words, str(held.child.pid), "tap0"], stderr=None)
    stack.push_async_callback(child.stop)
    probe = [*held.enter, "ip", "-4", "route", "show", "default"]

    async def up() -> bool:
        return bool(await run_tool(probe))

    await eventually(up, deadline=60)
    return {"slirp4netns": (held.enter, SERVER)}


async def inside(repetitions: int) -> dict:
    """Be *this machine*; returns the figures of each way."""
    found: dict[str, dict[str, list[float]]] = {}
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            await _internet(stack)
            ways = {"no sandbox": ([], SERVER), **await pasta(stack)}
            ways |= await slirp(stack)
            ways |= await boxed(stack, nursery, conf)
            ways |= await switched(stack)
            for number in range(repetitions + 1):
                for way, (enter, host) in ways.items():
                    try:
                        said = await measure(enter, host, 64 if number else 8)
                    except VitrailError as error:
                        if "pasta" not in way:
                            error.add_note(f"that was {way}, repetition {number}")
                            raise
                        # Debian 12's resets a busy connection now and then.
                        print(f"{way}: failed in repetition {number}", file=sys.stderr)
                        continue
                    if not number:
                        continue  # the first one warms up
                    for what, value in said.items():
                        values = found.setdefault(way, {})
                        values.setdefault(what, []).append(value)
            nursery.cancel_scope.cancel()
    return found


async def _internet(stack: AsyncExitStack) -> None:
    far = Held(stack, "unshare", "--net")
    await ip("link", "set", "lo", "up")
    await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    await _moved(far.child.pid)
    await ip("address", "add", f"{THIS}/24", "dev", "v0")
    await ip("link", "set", "v0", "up")
    enter = ["nsenter", f"--target={far.child.pid}", "--net"]
    for words in (
        f"address add {OTHER}/24 dev v1",
        "link set v1 up",
        "link set lo up",
        f"address add {SERVER}/32 dev lo",
    ):
        await run_tool([*enter, "ip", *words.split()])
    await ip("route", "add", "default", "via", OTHER)
    child = spawn([*enter, sys.executable, "-c", SERVE, SERVER, str(PORT)], stderr=None)
    stack.push_async_callback(child.stop)

    async def listens() -> bool:
        try:
            await (await trio.open_tcp_stream(SERVER, PORT)).aclose()
        except OSError:
            return False
        return True

    await eventually(listens, deadline=60)


def main() -> int:
    """Print the table, and the figures of each repetition as JSON."""
    if sys.argv[1:2] == ["inside"]:
        print(json.dumps(trio.run(inside, int(sys.argv[2]))))
        return 0
    repetitions = sys.argv[1] if sys.argv[1:] else "5"
    argv = [*UNSHARE, *our_program("tests.bench.network", "inside", repetitions)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':14}" + "".join(f"{w + ' ' + u:>18}" for w, u in UNITS.items()))
    for way, values in found.items():
        medians = (statistics.median(values[what]) for what in UNITS)
        print(f"{way:14}" + "".join(f"{value:18.1f}" for value in medians))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
