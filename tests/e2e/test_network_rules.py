"""What a box with ``network = "rules"`` reaches: the hosts that rules name.

A small internet in namespaces of the test's own: *this machine* with a name server on
its loopback that says what the test wants, and *the internet* at a cable, with web
servers by TLS.  The box is a real one, its filter the real process, and the decisions
are those of real rules.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import struct
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.addresses import RESOLVER
from broker.host.network.box_network import start_box_network
from broker.host.network.box_resolver import resolver_lines
from tests.broker.host.network.test_quic_hello import crypto, initial, message
from tests.e2e.test_microvm_network import OTHER, THIS, _moved, ip
from tests.kit.boxes import start_held
from tests.kit.brokerctl import brokerctl
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import record as make_record
from tests.kit.world import world

GOOD, EVIL, SLOW = "93.184.216.34", "93.184.216.35", "93.184.216.36"
THIS6, OTHER6 = "2606:2800:220:2::2", "2606:2800:220:2::1"
GOOD6, EVIL6 = "2606:2800:220:1::34", "2606:2800:220:1::35"
INNER6 = "fd12:3456::1"
HOSTS = {
    "www.good.test": [GOOD],
    "www.evil.test": [EVIL],
    "steady.good.test": [SLOW],
    "rebound.good.test": ["127.0.0.1", THIS, "10.0.0.1"],
    "metadata.good.test": ["169.254.169.254"],
    "six.good.test": [GOOD6],
    "both.good.test": [GOOD, GOOD6],
    "rebound6.good.test": ["::1", THIS6, INNER6, f"::ffff:{THIS}", "64:ff9b::a00:1"],
}
TEXTS = [
    b"\xc0\x0c" + struct.pack(">HHIHB", 16, 1, 16, 251, 250) + bytes([65 + n]) * 250
    for n in range(12)
]
"""Records of TXT that are too long for a packet."""
RULES = """\
vitrail.Network +www.evil.test work @net deny
vitrail.Network +*.good.test work @net allow port=443 protocol=tcp,udp
vitrail.Network +fd12:3456::/32 work @net allow port=8443 protocol=tcp
"""
RECORD = """\
class = "persistent"
[launch]
kind = "bwrap"
network = "rules"
"""
LIMITS = """\
[network]
send_rate = "200K"
receive_rate = "400K"
"""

PROBE = r"""
import json, os, select, socket, ssl, subprocess, sys, time
out, good, evil, this, good6, evil6, this6, inner6, rebound6 = sys.argv[1:10]
said = {}
def tried(what):
    try:
        return what() or "done"
    except OSError as error:
        return type(error).__name__
def fetch(host, port=443, name=None, address=None):
    def go():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((address or host, port), 4) as sock:
            with context.wrap_socket(sock, server_hostname=name or host) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return tls.recv(200).decode().splitlines()[-1]
    return tried(go)
def dns(server, tcp=False):
    def go():
        query = b"\0\7\1\0\0\1\0\0\0\0\0\0\3www\4good\4test\0\0\1\0\1"
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(3)
            sock.connect((server, 53))
            sock.send(query)
            return sock.recv(500).hex()
    return tried(go)
said["before the name"] = fetch(good, name="www.good.test")
said["name"] = tried(lambda: socket.gethostbyname("www.good.test"))
said["good"] = fetch("www.good.test")
said["by its address"] = fetch("www.good.test", address=good)
said["other port"] = fetch("www.good.test", 8443)
said["other server"] = fetch("www.good.test", name="www.evil.test")
def datagram(data, port):
    def go():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(3)
            sock.bind(("", port))
            sock.connect((good, 443))
            sock.send(bytes.fromhex(data))
            return len(sock.recv(2000))
    return tried(go)
for port, (what, data) in enumerate(json.load(open(f"{out}/quic")).items(), 45600):
    said[f"quic, {what}"] = datagram(data, port)
said["no rule"] = fetch("www.nowhere.test")
said["denied"] = fetch("www.evil.test")
said["denied by address"] = fetch("www.evil.test", address=evil)
said["rebound"] = fetch("rebound.good.test")
said["metadata"] = fetch("metadata.good.test")
said["name server"] = dns(good)
said["name server by tcp"] = dns(good, tcp=True)
def long_answer(tcp):
    def go():
        query = b"\0\7\1\0\0\1\0\0\0\0\0\0\4long\4good\4test\0\0\x10\0\1"
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(10)
            sock.connect(("10.0.2.3", 53))
            if not tcp:
                sock.send(query)
                return sock.recv(5000)[2] & 2
            sock.send(len(query).to_bytes(2, "big") + query)
            with sock.makefile("rb") as file:
                size = int.from_bytes(file.read(2), "big")
                found = len(file.read(size))
                sock.shutdown(socket.SHUT_WR)
                return [found, len(file.read())]
    return tried(go)
said["cut answer"] = long_answer(tcp=False)
said["whole answer by tcp"] = long_answer(tcp=True)
said["this machine"] = fetch(this)
said["six, before the name"] = fetch(good6, name="six.good.test")
said["six"] = fetch("six.good.test")
said["six, by its address"] = fetch("six.good.test", address=good6)
said["six, other port"] = fetch("six.good.test", 8443)
said["six, other server"] = fetch("six.good.test", name="www.evil.test")
said["six, denied by address"] = fetch("www.evil.test", address=evil6)
said["six, this machine"] = fetch(this6)
said["six, loopback"] = fetch("rebound6.good.test")
said["both"] = sorted({row[4][0] for row in socket.getaddrinfo("both.good.test", 443)})
for number, address in enumerate(rebound6.split(",")):
    said[f"six, rebound {number}"] = fetch("rebound6.good.test", address=address)
def ping6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 58) as sock:
        sock.settimeout(2)
        sock.connect((good6, 0))
        sock.send(b"\x80\0\0\0\0\1\0\1")
        return sock.recv(100).hex()
said["six, ping"] = tried(ping6)
said["six, inner by its network"] = fetch("inner", address=inner6, port=8443)
curl6 = ["curl", "-6sk", "--max-time", "5", "https://six.good.test/"]
said["six, curl"] = subprocess.call(curl6, stdout=subprocess.DEVNULL)
said["loopback's resolver"] = dns("127.0.0.53")
def ping():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(2)
        sock.connect((good, 0))
        sock.send(b"\x08\0\0\0\0\1\0\1")
        return sock.recv(100).hex()
said["ping"] = tried(ping)
def by_one_port(name):
    def go():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.socket() as sock:
            sock.settimeout(4)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", 45678))
            sock.connect((good, 443))
            with context.wrap_socket(sock, server_hostname=name) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b""
                while more := tls.recv(200):  # the server closes first
                    data += more
                return data.decode().splitlines()[-1]
    return tried(go)
hosts = ("www.good.test", "www.evil.test", "www.good.test")
said["by one port"] = [by_one_port(host) for host in hosts]
curl = ["curl", "-sk", "--max-time", "5"]
said["curl"] = subprocess.call([*curl, "https://www.good.test/"], stdout=subprocess.DEVNULL)
said["curl elsewhere"] = subprocess.call([*curl, "https://www.evil.test/"])
def seconds_of(send, receive):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((good, 443), 4) as sock:
        sock.settimeout(60)
        with context.wrap_socket(sock, server_hostname="www.good.test") as tls:
            began = time.monotonic()
            tls.sendall(b"MOVE %d %d ".ljust(100) % (send, receive))
            tls.sendall(bytes(send))
            got = 0
            while more := tls.recv(1 << 16):
                got += len(more)
            return (time.monotonic() - began) if got == receive else f"{got} bytes"
said["sent in"] = seconds_of(300 << 10, 1)
said["received in"] = seconds_of(1, 600 << 10)
took = []
for _ in range(20):
    began = time.monotonic()
    socket.create_connection((good, 443), 4).close()
    took.append(time.monotonic() - began)
said["connect ms"] = sorted(took)[10] * 1000
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
sock = socket.create_connection(("steady.good.test", 443), 4)
tls = context.wrap_socket(sock, server_hostname="steady.good.test")
tls.sendall(b"stay\r\n\r\n")
tls.recv(500)
open(f"{out}/open", "w").close()
select.select([tls], [], [], 20)
said["open flow"] = tls.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
said["after"] = fetch("steady.good.test")
open(f"{out}/said", "w").write(json.dumps(said))
open(f"{out}/done", "w").close()
time.sleep(1000)
"""


@pytest.fixture(scope="module", autouse=True)
def _able():
    """Skip where boxes with a network cannot be."""
    need_boxes_at_cables("bwrap", "passt", "ip", "openssl", "curl")


@pytest.fixture(scope="module")
def results():
    """Run the world once; every test looks at what the box said."""
    return played("tests.e2e.test_network_rules", deadline=200)


REFUSED = {"ConnectionRefusedError", "ConnectionResetError", "TimeoutError", "OSError"}


def test_a_named_host_is_reached_by_its_name(results):
    inside = results["inside"]
    assert inside["name"] == GOOD
    assert inside["good"] == inside["by its address"] == f"hello from {GOOD}"
    assert inside["curl"] == 0


@pytest.mark.parametrize(
    "what",
    [
        "before the name",
        "other port",
        "other server",
        "denied by address",
        "rebound",
        "metadata",
        "this machine",
        "name server",
        "name server by tcp",
        "loopback's resolver",
        "six, before the name",
        "six, other port",
        "six, other server",
        "six, denied by address",
        "six, this machine",
        "six, loopback",
        *(f"six, rebound {number}" for number in range(5)),
    ],
)
def test_nothing_else_is(results, what):
    assert results["inside"][what] in REFUSED


def test_quic_is_carried_to_a_permitted_server(results):
    """In the real process, which cannot open a file any more; others hear of it (ICMP)."""
    assert results["inside"]["quic, good"] > 1000
    assert results["inside"]["quic, evil"] == "OSError"
    assert results["inside"]["quic, nothing"] == "OSError"


def test_an_answer_that_is_too_long_for_a_packet_comes_by_tcp(results):
    assert results["inside"]["cut answer"] == 2  # TC
    size, rest = results["inside"]["whole answer by tcp"]
    assert size > 3000
    assert rest == 0


def test_a_named_host_is_reached_by_ipv6(results):
    """By the addresses to which its name leads, and an inner one by its network."""
    inside = results["inside"]
    assert inside["six"] == inside["six, by its address"] == f"hello from {GOOD6}"
    assert inside["six, curl"] == 0
    assert inside["both"] == sorted([GOOD, GOOD6])
    assert inside["six, inner by its network"] == f"hello from {INNER6}"


def test_no_way_is_faster_than_its_rate(results):
    """Less what may pass at once; a slow machine only makes it slower."""
    inside = results["inside"]
    print(inside["sent in"], inside["received in"])
    assert inside["sent in"] > 0.5  # 300 KiB at 200 KiB a second
    assert inside["received in"] > 0.7  # 600 KiB at 400 KiB a second


@pytest.mark.parametrize("what", ["no rule", "denied"])
def test_names_of_others_have_no_address(results, what):
    """And this machine's name server was not asked for them."""
    assert results["inside"][what] == "gaierror"
    assert results["inside"]["curl elsewhere"] == 6  # it could not resolve the host
    asked = set(results["asked"])
    assert "www.good.test" in asked
    assert not {"www.nowhere.test", "www.evil.test"} & asked


def test_a_connection_by_the_ports_of_another_one_is_looked_at(results):
    """And is carried where its server is permitted."""
    hello = f"hello from {GOOD}"
    assert results["inside"]["by one port"] == [hello, "ConnectionResetError", hello]


def test_a_ping_needs_a_rule(results):
    for what in ("ping", "six, ping"):
        assert results["inside"][what] in REFUSED | {"PermissionError"}


def test_a_revoked_rule_ends_an_open_flow(results):
    """With a reset, within a second; and a later connection is refused."""
    assert results["inside"]["open flow"] == errno.ECONNRESET
    assert results["inside"]["after"] == "gaierror"
    assert results["revoked after"] < 1.0


def test_what_was_carried_is_in_the_log(results):
    """Name, address, port and rule at a flow's begin; bytes at its end."""
    opened = [e for e in results["events"] if e["kind"] == "stream.opened"]
    closed = [e for e in results["events"] if e["kind"] == "stream.closed"]
    first = opened[0]
    assert first["argument"] == "+www.good.test"
    assert first["detail"]["address"] == GOOD
    assert (first["detail"]["protocol"], first["detail"]["port"]) == ("tcp", 443)
    assert first["detail"]["rule"].endswith("50-test.policy:2")
    assert any(e["bytes_from_sandbox"] > 300 for e in closed)
    assert any(e["reason"] == "its permission was revoked" for e in closed)
    verdicts = {}
    for e in results["events"]:
        if e["kind"] == "decision" and e.get("argument"):
            asked = (e["argument"], e["detail"]["protocol"])
            verdicts.setdefault(asked, e["verdict"])
    assert verdicts["+www.good.test", "dns"] == "allow"
    assert verdicts["+www.good.test", "tcp"] == "allow"
    assert verdicts["+www.evil.test", "dns"] == "deny"
    assert verdicts[f"+{GOOD}", "tcp"] == "deny"
    assert verdicts["+10.0.0.1", "tcp"] == "deny"


def test_the_helpers_end_with_the_box(results):
    assert results["ended"] == ["netguard", "passt"]


# -- by record ---------------------------------------------------------------------

LOOK = """
import json, socket, sys
def reach(address, port):
    with socket.socket() as sock:
        sock.settimeout(2)
        return sock.connect_ex((address, port))
def name(host):
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "resolver": open("/etc/resolv.conf").read(),
    "denied": reach("93.184.216.34", 9),
    "name": name("www.denied.test"),
}))
"""


@pytest.mark.parametrize(
    "kind", ["bwrap", "nspawn", pytest.param("podman", marks=pytest.mark.long)]
)
async def test_a_record_has_its_flows_decided(kind):
    """By the broker; each refusal is on record."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        probe = w.base / "look.py"
        probe.write_text(LOOK)
        shared = [str(probe)]
        text = RECORD.replace("persistent", "disposable").replace("bwrap", kind)
        if kind == "nspawn":
            skip_without_nspawn()
        if kind != "bwrap":
            text += f'rootfs = "{root_directory(w.base)}"\n'
            shared += [path for path in SHARED if Path(path).exists()]
        words = ", ".join(f'"{path}"' for path in shared)
        w.write_record("net", f"{text}bind_read_only = [{words}]\n")
        answer = await brokerctl(
            *("run", "-q", "net", "--", "/usr/bin/python3", str(probe)), env=w.environ
        )
        assert answer.code == 0, answer
        said = json.loads(answer.out.splitlines()[-1])
        assert said["resolver"] == resolver_lines(network="rules")
        assert said["denied"] == 111  # ECONNREFUSED: it was told
        assert said["name"] == "gaierror"
        event = await w.wait_event("decision", service="vitrail.Network")
        assert event["verdict"] == "deny"


VM_LOOK = LOOK.replace(
    "print(",
    """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("192.0.2.1", 9))
    sock.send(b"x" * 100)
print(""",
)


async def test_a_micro_vm_has_its_flows_decided():
    """Its address by DHCP, its only name server, a refusal, and a permitted flow."""
    record = make_record("disposable", network="rules")
    async with world({"net": record}, start=False) as w:
        await flows_are_decided(w)


async def flows_are_decided(w):
    """Start a machine of the record ``net``, whose program looks at its network."""
    rule = "vitrail.Network +192.0.2.1 @anyvm @net allow port=9 protocol=udp\n"
    w.write_rules(rule, "50-net")
    await w.start()
    code, out = await w.output("net", "python3", "-c", VM_LOOK)
    assert code == 0, out
    said = json.loads(out.splitlines()[-1])
    assert RESOLVER in said["resolver"].split()
    assert said["denied"] == errno.ECONNREFUSED
    assert said["name"] == "gaierror"
    opened = await w.wait_event("stream.opened", service="vitrail.Network")
    assert opened["argument"] == "+192.0.2.1"
    assert opened["detail"]["rule"].endswith("50-net.policy:1")


TALK = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("192.0.2.1", 9))
while True:
    sock.send(b"x" * 100)
    time.sleep(0.2)
"""


async def test_open_flows_are_listed():
    """With their bytes and rule, by ``network``, ``status`` and ``top``."""
    async with world(image=False, start=False) as w:
        rule = "vitrail.Network +192.0.2.1 @anyvm @net allow port=9 protocol=udp\n"
        w.write_rules(rule, "50-net")
        probe = w.base / "talk.py"
        probe.write_text(TALK)
        shared = f'bind_read_only = ["{probe}"]\n'
        w.write_record("net", RECORD.replace("persistent", "disposable") + shared)
        await w.start()
        words = ("run", "-q", "net", "--", "/usr/bin/python3", str(probe))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(brokerctl, *words, env=w.environ))
            await _listed(w)
            stopped = await brokerctl("stop", "--all", env=w.environ)
            assert stopped.code == 0, stopped


async def _listed(w):
    async def moving():
        answer = await brokerctl("network", "--json", env=w.environ)
        assert answer.code == 0, answer
        flows = json.loads(answer.out)["flows"]
        return flows if flows and flows[0]["rate_from_sandbox"] else None

    (flow,) = await eventually(moving, deadline=60)
    assert flow["sandbox"].startswith("net")
    assert (flow["host"], flow["address"]) == ("192.0.2.1", "192.0.2.1")
    assert (flow["port"], flow["protocol"]) == (9, "udp")
    assert flow["bytes_from_sandbox"] >= 142
    assert flow["rule"].endswith("50-net.policy:1")
    shown = await brokerctl("network", "net", env=w.environ)
    head, row = shown.out.splitlines()
    assert head.split()[:4] == ["SANDBOX", "HOST", "ADDRESS", "PORT"]
    assert row.split()[1:4] == ["192.0.2.1", "-", "9/udp"]
    top = json.loads((await brokerctl("top", "--json", env=w.environ)).out)
    assert top["rows"][0]["network"]["flows"] == 1
    status = await brokerctl("status", "--all", env=w.environ)
    assert "NETWORK" in status.out
    unknown = await brokerctl("network", "nobody", env=w.environ)
    assert unknown.code == 1
    assert "no sandbox 'nobody' is running" in unknown.err


# -- inside the namespaces: this machine --------------------------------------------


async def name_server(asked, task_status):
    """A name server on 127.0.0.53 that knows the test's hosts."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.53", 53))
        task_status.started()
        while True:
            query, sender = await sock.recvfrom(2000)
            end = query.index(b"\0", 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            name = ".".join(labels)
            asked.append(name)
            wanted = int.from_bytes(query[end - 4 : end - 2])
            family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(wanted)
            found = [
                one
                for one in HOSTS.get(name, [])
                if family == (socket.AF_INET6 if ":" in one else socket.AF_INET)
            ]
            texts = TEXTS if wanted == 16 and name == "long.good.test" else []
            count = len(found) + len(texts)
            head = query[:2] + b"\x81\x80" + struct.pack(">4H", 1, count, 0, 0)
            body = b"".join(
                b"\xc0\x0c"
                + struct.pack(">HHIH", wanted, 1, 16, 4 if wanted == 1 else 16)
                + socket.inet_pton(family, one)
                for one in found
            )
            await sock.sendto(head + query[12:end] + body + b"".join(texts), sender)


@asynccontextmanager
async def internet(*words):
    """A network namespace at the other end of a cable, with web servers.

    ``words``: the module that is it and its arguments, where that is not this one.
    """
    words = words or ("tests.e2e.test_network_rules", "other")
    child = spawn(["unshare", "--net", *our_program(*words)], stderr=None)
    try:
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        await _moved(child.pid)
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("link", "set", "v0", "up")
        await ip("route", "add", "default", "via", OTHER)
        await ip("address", "add", f"{THIS6}/64", "dev", "v0", "nodad")
        await ip("-6", "route", "add", "default", "via", OTHER6)
        await eventually(_up, deadline=60)
        yield
    finally:
        await child.stop()


async def _up():
    try:
        with trio.fail_after(2):
            await (await trio.open_tcp_stream(GOOD, 443)).aclose()
    except (OSError, trio.TooSlowError):
        return False
    return True


async def be_internet(serve=None):
    """``serve``: a server of TLS, of its address and a stream."""
    await eventually(
        lambda: "v1" in [name for _, name in socket.if_nameindex()], deadline=60
    )
    await ip("address", "add", f"{OTHER}/24", "dev", "v1")
    await ip("address", "add", f"{OTHER6}/64", "dev", "v1", "nodad")
    await ip("link", "set", "v1", "up")
    await ip("link", "set", "lo", "up")
    with short_directory() as place:
        key, cert = place / "key", place / "cert"
        await run_tool(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
                *("-subj", "/CN=test", "-keyout", str(key), "-out", str(cert)),
            ]
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        async with trio.open_nursery() as nursery:
            for address in (GOOD, EVIL, SLOW, GOOD6, EVIL6, INNER6):
                bits = ["128", "nodad"] if ":" in address else ["32"]
                words = [f"{address}/{bits[0]}", "dev", "lo", *bits[1:]]
                await ip("address", "add", *words)
                for port in (443, 8443):
                    one = partial(serve or _serve_web, context, address)
                    await nursery.start(
                        partial(trio.serve_tcp, one, port, host=address)
                    )
            nursery.start_soon(_echo)


async def _echo():
    """Answer datagrams to the port of QUIC with the same."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind((GOOD, 443))
        while True:
            data, sender = await sock.recvfrom(2000)
            await sock.sendto(data, sender)


async def _serve_web(context, address, stream):
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        asked = await tls.receive_some(1000)
        if asked.startswith(b"MOVE"):
            await _move(tls, asked)
            return
        await tls.send_all(f"HTTP/1.0 200 OK\r\n\r\nhello from {address}".encode())
        if asked.startswith(b"stay"):
            await trio.sleep_forever()
        await tls.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(stream)


async def _move(tls, asked):
    send, receive = map(int, asked.split()[1:3])
    while send > 0:
        send -= len(await tls.receive_some(1 << 16))
    await tls.send_all(bytes(receive))
    await tls.aclose()


async def be_this_machine():
    asked = []
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        probe = place / "probe.py"
        probe.write_text(PROBE)
        async with internet(), trio.open_nursery() as nursery:
            await nursery.start(name_server, asked)
            async with rulebook(RULES, work=RECORD + LIMITS) as book:
                found = await ask_box(place, conf, probe, book)
                found["events"] = book.events(
                    "stream.opened", "stream.closed", "decision"
                )
            nursery.cancel_scope.cancel()
    return {**found, "asked": asked}


async def ask_box(place, conf, probe, book):
    sockets, out = place / "s", place / "out"
    sockets.mkdir()
    out.mkdir()
    (out / "error").touch()
    quic = {
        "good": initial(crypto(message("www.good.test"))).hex(),
        "evil": initial(crypto(message("www.evil.test"))).hex(),
        "nothing": bytes(100).hex(),
    }
    (out / "quic").write_text(json.dumps(quic))
    rebound = ",".join(HOSTS["rebound6.good.test"])
    words = (str(probe), str(out), GOOD, EVIL, THIS)
    words += (GOOD6, EVIL6, THIS6, INNER6, rebound)
    box = Box(
        ("sh", "-c", f'exec python3 "$@" 2>{out}/error', "sh", *words),
        sockets,
        files=(probe,),
        writable=(out,),
        resolver=resolver_lines(network="rules"),
    )
    held = await start_held(box)
    pidfd = os.pidfd_open(held.leader)
    results = {}
    flows = book.flows()
    opening = Opening(WORK, NETWORK, 1, "the test")
    async with trio.open_nursery() as nursery:
        try:
            network = await start_box_network(pidfd, conf, decided=True)
            await nursery.start(partial(flows.carry, opening, network.flows))
            held.release()
            ready = out / "open"
            await eventually(
                lambda: ready.exists() or (out / "error").read_text(), deadline=100
            )
            assert ready.exists(), (out / "error").read_text()
            assert [row.host for row in flows.rows(WORK.id)][-1] == "steady.good.test"
            began = trio.current_time()
            await book.change("50-test.policy", RULES.replace("*.good", "www.good"))
            await eventually((out / "done").exists, deadline=60)
            results["revoked after"] = trio.current_time() - began
            results["inside"] = json.loads((out / "said").read_text())
        finally:
            await held.end()
            os.close(pidfd)
        await eventually(lambda: all(p.ended for p in network.processes), deadline=60)
        results["ended"] = [p.role for p in network.processes]
        await network.end()
    return results


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(be_internet)
    else:
        print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
