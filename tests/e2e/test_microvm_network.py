"""What a guest with ``network = "user"`` reaches: other machines, never this one.

The test makes a small world in separate namespaces: *this machine* with a
loopback and two addresses, and *another machine* at a cable.  A real guest
then tries all of them, first politely, then as root with its routes bent so
that packets for 127.0.0.1 leave it.  Passt of 2023 without the frame filter
lets that through, which is why the last test checks the world's walls too.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.network import passt as network
from broker.host.vmm.qemu_arguments import Network
from tests.kit.cables import need_cables, played
from tests.kit.eventually import eventually
from tests.kit.vm.machines import machine, require_vm
from tests.kit.vm.tinyguest import shell_listener, tiny_guest
from tests.kit.wayland.compositor import short_directory

THIS, SECOND, OTHER = "192.0.2.2", "198.51.100.9", "192.0.2.1"
THIS6, OTHER6 = "2606:2800:220:2::2", "2606:2800:220:2::1"
PORT, COUNTED = 7001, 7002

# The guest's root makes its kernel send packets for 127.0.0.1 over the wire.
BEND_ROUTES = f"""
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
ip address del 127.0.0.1/8 dev lo
ip route del local 127.0.0.0/8 table local
ip route del local 127.0.0.1 table local
ip route add 127.0.0.0/8 via {network.GATEWAY} dev eth0
ip route get 127.0.0.1
"""


WAIT_IPV6 = """
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    ip -6 address show dev eth0 scope global | grep -v tentative | grep inet6 && break
    sleep 1
done
ip -6 route
"""
BEND_ROUTES6 = """
ip address del ::1/128 dev lo
ip -6 route del local ::1/128 table local
ip -6 route add ::1/128 dev eth0
ip -6 route get ::1
"""

MUCH = 3_000_000
"""Bytes: with virtio's offloads, frames of the greatest length are among them."""

# The other machine closes first: where a guest does, passt of 2023 may lose its answer.
SEND = f"""
mkfifo /much
sleep 900 >/much &
head -c {MUCH} /dev/zero >/much &
nc {OTHER} {COUNTED} </much >/out
cat /out
"""


@pytest.fixture(scope="module")
def results():
    """Run the world once; every test looks at what the guest said."""
    if require_vm().passt is None:
        pytest.skip("passt is not installed")
    tiny_guest()
    need_cables()
    return played("tests.e2e.test_microvm_network", deadline=150)


def test_the_other_machine_is_reached(results):
    assert results["other machine"] == [0, f"said {OTHER}\n"]


def test_the_other_machine_is_reached_by_ipv6(results):
    """By an address that the guest made of what passt announces."""
    assert results["other machine, IPv6"] == [0, f"said {OTHER6}\n"]
    assert "inet6 fd76:6974:7261:2:" in results["addresses 6"][1]


def test_sent_bytes_arrive_whole(results):
    assert results["much"] == [0, "missing: 0\n"]


@pytest.mark.parametrize(
    "what",
    [
        "loopback",
        "gateway",
        "own address",
        "second address",
        "any address",
        "metadata service",
        "own address, IPv6",
        "loopback, routes bent",
        "loopback, IPv6, routes bent",
        "resolver's loopback, routes bent",
    ],
)
def test_this_machine_is_not(results, what):
    code, said = results[what]
    assert code != 0, f"the guest reached it: {said}"
    assert "said" not in said


def test_the_routes_were_bent_indeed(results):
    assert f"127.0.0.1 via {network.GATEWAY} dev eth0" in results["bent"][1]


def test_names_are_resolved_by_the_hosts_resolver_on_loopback(results):
    code, said = results["name"]
    assert code == 0, said
    assert "203.0.113.77" in said


def test_the_guest_learns_nothing_of_the_network_we_are_in(results):
    _, said = results["addresses"]
    assert f"inet {network.GUEST}/24" in said
    assert THIS not in said


def test_every_wall_was_there_to_be_climbed(results):
    """The listeners that the guest missed answer this machine itself."""
    assert results["from this machine"] == {
        "127.0.0.1": "127.0.0.1",
        THIS: THIS,
        SECOND: SECOND,
        OTHER: OTHER,
        "::1": "::1",
        THIS6: THIS6,
        OTHER6: OTHER6,
    }


def test_the_end_of_passt_is_told_and_the_guest_lives_on(results):
    assert results["loss"] == ["passt"] or results["loss"] == ["frameguard"]
    assert results["lives on"] == [0, "still here\n"]


# -- inside the namespaces: this machine -------------------------------------------


async def greet(address: str, conn: trio.SocketStream) -> None:
    async with conn:
        await conn.send_all(address.encode())


async def listen(address: str, nursery: trio.Nursery) -> None:
    async def handler(conn: trio.SocketStream) -> None:
        await greet(address, conn)

    await nursery.start(_serve, handler, address)


async def count(conn: trio.SocketStream) -> None:
    """Answer when all has come."""
    async with conn:
        missing = MUCH
        while missing and (data := await conn.receive_some(65536)):
            missing -= len(data)
        await conn.send_all(b"missing: %d\n" % missing)


async def _serve(handler, address, task_status, port=PORT):
    await trio.serve_tcp(handler, port, host=address, task_status=task_status)


async def resolver(task_status) -> None:
    """A name server on 127.0.0.53 that knows one address for every name."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        await sock.bind(("127.0.0.53", 53))
        task_status.started()
        while True:
            query, sender = await sock.recvfrom(2000)
            head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x10\0\4" + bytes([203, 0, 113, 77])
            question = query[12 : query.index(b"\0", 12) + 5]
            await sock.sendto(head + question + answer, sender)


async def ip(*words: str) -> None:
    await run_tool(["ip", *words])


@asynccontextmanager
async def other_machine():
    """A network namespace at the other end of a cable, with a listener."""
    here = our_program("tests.e2e.test_microvm_network", "other")
    child = spawn(["unshare", "--net", *here], stderr=None)
    try:
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        await _moved(child.pid)
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("link", "set", "v0", "up")
        await ip("route", "add", "default", "via", OTHER)
        await ip("address", "add", f"{SECOND}/32", "dev", "lo")
        await ip("address", "add", f"{THIS6}/64", "dev", "v0", "nodad")
        await ip("route", "add", "default", "via", OTHER6)
        yield
    finally:
        await child.stop()


async def _moved(pid: int) -> None:
    mine = Path("/proc/self/ns/net").readlink()
    await eventually(
        lambda: Path(f"/proc/{pid}/ns/net").readlink() != mine, deadline=60
    )
    await ip("link", "set", "v1", "netns", str(pid))


async def be_other_machine() -> None:
    await eventually(
        lambda: not ("v1" not in [name for _, name in socket.if_nameindex()]),
        deadline=60,
    )
    await ip("address", "add", f"{OTHER}/24", "dev", "v1")
    await ip("address", "add", f"{OTHER6}/64", "dev", "v1", "nodad")
    await ip("link", "set", "v1", "up")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(_serve, port=COUNTED), count, OTHER)
        await listen(OTHER, nursery)
        await listen(OTHER6, nursery)


async def said_by(address: str) -> str:
    with trio.fail_after(60):
        while True:
            try:
                conn = await trio.open_tcp_stream(address, PORT)
                break
            except OSError:
                await trio.sleep(0.05)
        async with conn:
            return bytes(await conn.receive_some(100)).decode()


async def be_this_machine(machine=machine) -> dict:
    """Make the world and have a guest try it; ``machine`` starts the guest."""
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        async with other_machine(), trio.open_nursery() as nursery:
            await nursery.start(resolver)
            for address in ("127.0.0.1", THIS, SECOND, "::1", THIS6):
                await listen(address, nursery)
            mine = {
                address: await said_by(address)
                for address in (
                    *("127.0.0.1", THIS, SECOND, OTHER),
                    *("::1", THIS6, OTHER6),
                )
            }
            results = await ask_guest(place, machine)
            nursery.cancel_scope.cancel()
        return {**results, "from this machine": mine}


async def ask_guest(place: Path, machine) -> dict:
    lost: list[str] = []
    results: dict = {}
    async with (
        machine(place, network=Network.USER, on_loss=lost.append) as vm,
        shell_listener(vm.uds) as accept,
    ):
        await vm.cont()
        shell = await accept()
        shown = {
            "addresses": "ip address show dev eth0; ip route; cat /etc/resolv.conf",
            "addresses 6": WAIT_IPV6,
        }
        for what, command in shown.items():
            results[what] = await shell.run(command)
        results |= await shell.run_beside(
            {
                "name": "nslookup -type=a example.org",
                "other machine": f"reach {OTHER} {PORT}",
                "other machine, IPv6": f"reach {OTHER6} {PORT}",
                "own address, IPv6": f"reach {THIS6} {PORT}",
                "loopback": f"reach 127.0.0.1 {PORT}",
                "gateway": f"reach {network.GATEWAY} {PORT}",
                "own address": f"reach {THIS} {PORT}",
                "second address": f"reach {SECOND} {PORT}",
                "any address": f"reach 0.0.0.0 {PORT}",
                "metadata service": f"reach 169.254.169.254 {PORT}",
            }
        )
        results["bent"] = await shell.run(BEND_ROUTES)
        results["bent, IPv6"] = await shell.run(BEND_ROUTES6)
        results |= await shell.run_beside(
            {
                "loopback, routes bent": f"reach 127.0.0.1 {PORT}",
                "resolver's loopback, routes bent": "reach 127.0.0.53 53",
                "loopback, IPv6, routes bent": f"reach ::1 {PORT}",
            }
        )
        results["much"] = await shell.run(SEND)
        (passt,) = [p for p in vm.processes if p.role == "passt"]
        passt.kill()
        await eventually(lambda: lost, deadline=60)
        results["loss"] = [lost[0].split()[0]]
        results["lives on"] = await shell.run("echo still here")
    return results


if __name__ == "__main__":
    if sys.argv[1:] == ["other"]:
        trio.run(be_other_machine)
    else:
        assert shutil.which("passt")
        print(json.dumps(trio.run(be_this_machine)))
