"""What a program in passt's place gets of bind(2) and socket options."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.helpers.process.popen import our_program
from broker.helpers.tools.profiles import PACKET_GUARD
from broker.host.network import passt
from broker.host.network.passt import port_library, require_passt

PROGRAM = """
import json, socket, sys
from contextlib import suppress
taken, free = map(int, sys.argv[1:])
found = {}
def opened(family, kind):
    sock = socket.socket(family, kind)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    return sock
def sharing(sock):
    options = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    return [sock.getsockopt(socket.SOL_SOCKET, option) for option in options]
for name, family, loopback in (("4", socket.AF_INET, "127.0.0.1"), ("6", socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = opened(family, kind)
        for port in (taken, free):
            with suppress(OSError):
                sock.bind(("", port))
        before = sock.getsockname()[1]
        if kind == socket.SOCK_DGRAM:
            sock.sendto(b"x", (loopback, taken))
        found[f"{kind} {name}"] = [sharing(sock), before, sock.getsockname()[1]]
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.bind((0, 0x10))
found["groups"] = netlink.getsockname()[1]
sock = opened(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", taken))
sock.send(b"ask")
found["answer"] = socket.socket.recv(sock, 100).decode()
print(json.dumps(found))
"""


def free_port():
    """Return a port for TCP by IPv4 and by IPv6, which nobody listens at."""
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def results():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(("127.0.0.1", 0))
        service.settimeout(60)
        port = service.getsockname()[1]
        argv = our_program(
            *PACKET_GUARD.start, "passt", port_library(), sys.executable, "-c", PROGRAM
        )
        ports = [str(port), str(free_port())]
        with subprocess.Popen([*argv, *ports], stdout=subprocess.PIPE) as process:
            data, sender = service.recvfrom(100)
            while data != b"ask":
                data, sender = service.recvfrom(100)
            service.sendto(b"answer", sender)
            yield json.loads(process.communicate(timeout=60)[0]) | {
                "port": port,
                "free": int(ports[1]),
            }


@pytest.mark.parametrize("version", "46")
def test_kernel_chooses_port_of_datagrams(results, version):
    """Also if a service that shares its port has the requested one."""
    _, bound, used = results[f"{int(socket.SOCK_DGRAM)} {version}"]
    assert bound == 0
    assert used not in {0, results["port"]}


@pytest.mark.parametrize("version", "46")
def test_stream_is_bound(results, version):
    """Older passt resets a connection if its target can be bound, or seems to be."""
    _, bound, used = results[f"{int(socket.SOCK_STREAM)} {version}"]
    assert bound == used
    assert used in {results["port"], results["free"]}


def test_no_socket_shares_its_port(results):
    kinds = [
        f"{int(k)} {v}" for k in (socket.SOCK_DGRAM, socket.SOCK_STREAM) for v in "46"
    ]
    assert [results[kind][0] for kind in kinds] == [[0, 0]] * 4


def test_missing_library_is_an_error(monkeypatch):
    """Without it, passt would have no UDP."""
    monkeypatch.setattr(passt, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match="without a C compiler"):
        require_passt(Path("/usr/bin/passt"))


def test_netlink_and_answers_work(results):
    assert results["groups"] == 0x10
    assert results["answer"] == "answer"
