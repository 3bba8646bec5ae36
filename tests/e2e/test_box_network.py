"""What a box or container with ``network = "user"`` reaches: not this machine.

The world is that of ``test_microvm_network``: *this machine* with a loopback and two
addresses, and *another machine* at a cable, in separate namespaces.  A
real box tries all of them; then the attack is made with rights over the box's network
that no program in it has, because the filter is outside and must not need that.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import run_tool
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.addresses import GATEWAY, GUEST
from broker.host.network.box_network import start_box_network
from broker.host.network.box_resolver import resolver_lines
from tests.e2e.test_microvm_network import (
    BEND_ROUTES,
    OTHER,
    OTHER6,
    PORT,
    SECOND,
    THIS,
    THIS6,
    listen,
    other_machine,
    resolver,
    said_by,
)
from tests.kit.boxes import start_held
from tests.kit.brokerctl import brokerctl
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import world

PROBE = """
import json, socket, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
def reach(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(3)
        try:
            sock.connect((address, int(port)))
            return sock.recv(100).decode() or "closed"
        except OSError as error:
            return type(error).__name__
def tried(what):
    try:
        return what() or "done"
    except OSError as error:
        return type(error).__name__
def name():
    return socket.gethostbyname("example.org")
def all_of(words):
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda word: reach(*word.rsplit(":", 1)), words)
        return dict(zip(words, found))
said = all_of(sys.argv[1:])
said["name"] = tried(name)
said["raw packets"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
down = subprocess.run(["ip", "link", "set", "eth0", "down"], capture_output=True)
said["link down"] = down.returncode
for name in ("tcp_rmem", "tcp_wmem"):
    said[name] = open(f"/proc/sys/net/ipv4/{name}").read().split()
said["addresses"] = subprocess.check_output(["ip", "-br", "address"]).decode()
print(json.dumps(said))
"""
HERE = ("127.0.0.1", GATEWAY, THIS, SECOND, "0.0.0.0", "169.254.169.254", "::1")
HERE += (THIS6, "64:ff9b::7f00:1", f"::ffff:{THIS}")


LISTENING = ("127.0.0.1", THIS, SECOND, OTHER, "::1", THIS6, OTHER6)


@pytest.fixture(scope="module", autouse=True)
def _able():
    """Skip where boxes with a network cannot be."""
    need_boxes_at_cables("bwrap", "passt", "ip", "nsenter")


@pytest.fixture(scope="module")
def results():
    """Run the world once; every test looks at what the box said."""
    return played("tests.e2e.test_box_network", deadline=150)


def test_the_other_machine_and_names_are_reached(results):
    assert results["inside"][f"{OTHER}:{PORT}"] == OTHER
    assert results["inside"]["name"] == "203.0.113.77"
    assert results["inside"][f"{OTHER6}:{PORT}"] == OTHER6


@pytest.mark.parametrize("address", HERE)
def test_this_machine_is_not_reached(results, address):
    """Its listeners answer it itself, so they were there to be reached."""
    refused = {"TimeoutError", "ConnectionRefusedError", "OSError"}
    assert results["inside"][f"{address}:{PORT}"] in refused
    assert results["from this machine"] == [list(LISTENING)] * 2


def test_a_box_has_no_right_over_its_interface(results):
    # By its system-call filter, and without that for want of a capability.
    assert results["inside"]["raw packets"] in {"OSError", "PermissionError"}
    assert results["inside"]["link down"] != 0
    assert f"{GUEST}/32" in results["inside"]["addresses"]
    assert THIS not in results["inside"]["addresses"]


def test_a_connection_of_a_box_has_no_more_in_flight_than_passt_and_cable_take(results):
    """Longer windows: one of 20 downloads, one of 150 uploads of 64 MiB stood still."""
    inside = results["inside"]
    assert int(inside["tcp_rmem"][2]) // 2 <= 128 * 1460, "passt of 2023 builds 128"
    assert int(inside["tcp_wmem"][2]) <= 180 * 1460, "as many fit into rmem_max"


@pytest.mark.parametrize("what", ["loopback", "resolver", "own address"])
def test_bent_routes_lead_nowhere(results, what):
    """With rights over the box's network, which its programs do not have."""
    assert f"127.0.0.1 via {GATEWAY} dev eth0" in results["bent"]
    assert results["attack"][what] == "TimeoutError"
    assert results["attack"]["other machine"] == OTHER


def test_the_helpers_end_with_the_box(results):
    assert results["ended"] == ["netguard", "passt"]


def test_the_hosts_own_network_is_given_to_no_process():
    async def main():
        pidfd = os.pidfd_open(os.getpid())
        try:
            with pytest.raises(
                UpstreamError, match="not in a separate network namespace"
            ):
                await start_box_network(pidfd)
        finally:
            os.close(pidfd)

    trio.run(main)


# -- by record, on the machine's own network ----------------------------------------

LOOK = """
import json, socket, sys
def reach(address, port):
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, int(port))) == 0
print(json.dumps({
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "resolver": open("/etc/resolv.conf").read(),
    "reached": [a for a in sys.argv[2:] if reach(a, sys.argv[1])],
}))
"""
RECORD = """\
class = "disposable"
[launch]
kind = "{kind}"
network = "user"
bind_read_only = [{shared}]
"""


@pytest.mark.parametrize(
    "kind", ["bwrap", "nspawn", pytest.param("podman", marks=pytest.mark.long)]
)
async def test_a_record_gives_a_network_without_this_machine(kind):
    """And nothing of it is left when the sandbox ends."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        probe = w.base / "look.py"
        probe.write_text(LOOK)
        shared = [str(probe)]
        text = RECORD
        if kind != "bwrap":
            root = root_directory(w.base)
            if kind == "nspawn":
                skip_without_nspawn()
                # As systemd-resolved has it in a tree.
                link = root / "etc/resolv.conf"
                link.symlink_to("../run/systemd/resolve/stub-resolv.conf")
            text += f'rootfs = "{root}"\n'
            shared += [path for path in SHARED if Path(path).exists()]
        words = ", ".join(f'"{path}"' for path in shared)
        w.write_record("net", text.format(kind=kind, shared=words))
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            mine = own_addresses()
            answer = await brokerctl(
                *("run", "-q", "net", "--", "/usr/bin/python3", str(probe)),
                *(str(port), "127.0.0.1", *mine),
                env=w.environ,
            )
        assert answer.code == 0, answer
        said = json.loads(answer.out.splitlines()[-1])
        assert said["interfaces"] == ["eth0", "lo"]
        assert said["resolver"] == resolver_lines()
        assert said["reached"] == []
        await w.wait_event("lease.end")

        async def gone():
            running = w.processes().values()
            return not [p for p in running if "veth" in p or "passt" in p]

        await eventually(gone)


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine other than loopback's."""
    import subprocess

    said = subprocess.check_output(["ip", "-j", "-4", "address"])
    found = [a["local"] for link in json.loads(said) for a in link["addr_info"]]
    return [address for address in found if not address.startswith("127.")]


# -- inside the namespaces: this machine -------------------------------------------


async def from_here() -> list[str]:
    return [await said_by(a) for a in LISTENING]


async def be_this_machine() -> dict:
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        probe = place / "probe.py"
        probe.write_text(PROBE)
        async with other_machine(), trio.open_nursery() as nursery:
            await nursery.start(resolver)
            for address in ("127.0.0.1", THIS, SECOND, "::1", THIS6):
                await listen(address, nursery)
            before = await from_here()
            results = await ask_box(place, conf, probe)
            results["from this machine"] = [before, await from_here()]
            nursery.cancel_scope.cancel()
        return results


async def ask_box(place: Path, conf: Path, probe: Path) -> dict:
    sockets = place / "s"
    sockets.mkdir()
    words = [f"{address}:{PORT}" for address in (*HERE, OTHER, OTHER6)]
    out = place / "out"
    out.mkdir()
    text = f'python3 "$@" >{out}/said; touch {out}/done; exec sleep 1000'
    box = Box(
        ("/bin/sh", "-c", text, "sh", str(probe), *words),
        sockets,
        files=(probe,),
        writable=(out,),
        resolver=resolver_lines(conf),
    )
    held = await start_held(box)
    pidfd = os.pidfd_open(held.leader)
    results: dict = {}
    try:
        network = await start_box_network(pidfd, conf)
        held.release()
        await eventually((out / "done").exists, deadline=100)
        results["inside"] = json.loads((out / "said").read_text())
        results |= await attack(held.leader, probe)
    finally:
        await held.end()
        os.close(pidfd)
    await eventually(lambda: all(p.ended for p in network.processes), deadline=60)
    results["ended"] = [p.role for p in network.processes]
    await network.end()
    return results


async def attack(leader: int, probe: Path) -> dict:
    """From the box's network namespace, as its owner."""
    enter = ["nsenter", f"--target={leader}", "--user", "--net"]
    enter.append("--preserve-credentials")
    bent = await run_tool([*enter, "sh", "-c", BEND_ROUTES], deadline=30)
    aims = {
        "loopback": f"127.0.0.1:{PORT}",
        "resolver": "127.0.0.53:53",
        "own address": f"{THIS}:{PORT}",
        "other machine": f"{OTHER}:{PORT}",
    }
    ask = PROBE.partition("said = ")[0]
    ask += "print(json.dumps(all_of(sys.argv[1:])))"
    said = await run_tool([*enter, "python3", "-c", ask, *aims.values()], deadline=60)
    found = json.loads(said)
    return {
        "bent": bent.decode(),
        "attack": {what: found[word] for what, word in aims.items()},
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
