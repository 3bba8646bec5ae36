"""Attack from inside a sandbox with a network: the UDP ports of this machine.

passt gives each flow a socket, and with it one of the ports that the kernel has for all
sockets that name none.  A guest that sends a datagram from each of its ports had them
all, for three minutes each time: then connect(2) of a UDP socket failed with EAGAIN for
every program of the machine, and so each question to a name server did.  Here machine,
ports and passt are in a network namespace of the test's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.core.limits.network import PASST_FDS
from broker.host.network.passt import GUEST, MAC, passt_args
from tests.attack.test_box_frames import arp

FIRST, PORTS = 40_000, 3_000
LEFT = PORTS - PASST_FDS
MACHINE = f"""
ip link set lo up
ip link add d0 type veth peer name d1
ip link set d1 up
ip addr add 192.0.2.2/24 dev d0
ip link set d0 up
ip route add default via 192.0.2.1
echo {FIRST} {FIRST + PORTS - 1} > /proc/sys/net/ipv4/ip_local_port_range
exec "$@"
"""
_IPV4, _UDP = 0x0800, 17


def _sum(header: bytes) -> int:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def datagram(port: int) -> bytes:
    """Return a frame of the guest's, from a port of its own."""
    ends = socket.inet_aton(GUEST) + socket.inet_aton("192.0.2.77")
    payload = struct.pack("!4H", port, 53, 12, 0) + b"asks"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, _UDP, 0)
    head = head[:10] + struct.pack("!H", _sum(head + ends))
    sender = bytes.fromhex("525400123456")
    ethernet = bytes.fromhex(MAC.replace(":", "")) + sender + struct.pack("!H", _IPV4)
    frame = ethernet + head + ends + payload
    return struct.pack("!I", len(frame)) + frame


def attack(passt: str) -> None:
    """Send from all ports, and print how many a neighbour gets."""
    guest, host = socket.socketpair()
    words = passt_args(Path(passt), host.fileno(), resolvers=())
    process = subprocess.Popen(words, pass_fds=(host.fileno(),))
    host.close()
    try:
        for port in range(FIRST, FIRST + PORTS):
            guest.sendall(datagram(port))
        deadline, before = time.monotonic() + 20, -1
        while before < (before := _opened(process.pid)) < PASST_FDS:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        print("taken", before, "running", process.poll() is None, "left", _ask())
    finally:
        process.kill()
        process.wait()


def bind_itself(passt: str) -> None:
    """Start passt without our library; print the ports of UDP after the guest's datagram."""
    guest, host = socket.socketpair()
    words = passt_args(Path(passt), host.fileno(), resolvers=())
    alone = words[words.index(passt) :]
    with subprocess.Popen(alone, pass_fds=(host.fileno(),)) as process:
        host.close()
        guest.settimeout(30)
        asks = arp(GUEST, mac=bytes.fromhex("525400123456"))
        for frame in (datagram(FIRST), struct.pack("!I", len(asks)) + asks):
            guest.sendall(frame)
        guest.recv(4 + len(asks))  # it has read the datagram before
        lines = Path("/proc/net/udp").read_text().splitlines()[1:]
        print("ports", [int(line.split()[1][-4:], 16) for line in lines])
        process.kill()


def _opened(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _ask() -> int:
    """Return how many sockets an honest program connects to a name server."""
    asking = []
    try:
        while len(asking) < LEFT:
            asking.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            asking[-1].connect(("192.0.2.53", 53))
    except OSError:
        return len(asking) - 1
    return len(asking)


def played(name: str) -> str:
    """Run an attack in namespaces of its own; return what it prints."""
    passt = shutil.which("passt")
    if passt is None or shutil.which("ip") is None:
        pytest.skip("passt and ip are needed")
    enter = ["unshare", "--map-root-user", "--net", "sh", "-ec", MACHINE, "sh"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces with veth here")
    argv = [*enter, "prlimit", "--nofile=4096", sys.executable, __file__, name, passt]
    path = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=90, env=env, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


def test_a_sandbox_leaves_ports_to_the_others():
    output = played("attack")
    assert "running True" in output
    assert int(output.split()[-1]) == LEFT, output


def test_passt_that_binds_itself_opens_no_port():
    """As a passt does that is static, or gets no environment by a security module."""
    assert played("bind_itself") == "ports []\n"


if __name__ == "__main__":
    {"attack": attack, "bind_itself": bind_itself}[sys.argv[1]](sys.argv[2])
