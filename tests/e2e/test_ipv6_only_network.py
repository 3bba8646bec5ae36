"""A box in a network of IPv6 alone: names, a change of networks, and the search list.

*This machine* is in a network with one other machine, which is the name server and a
server of TCP.  In the second part it leaves a network of IPv4 for one of IPv6 while the
boxes run.  A name is looked up as programs do, by the C library.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from dns import flags, rdatatype, rrset
from dns.message import from_wire, make_response

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.box_network import start_box_network
from broker.host.network.box_resolver import resolver_lines
from tests.e2e.test_network_rules import RECORD
from tests.kit.boxes import start_held
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory

THIS, OTHER = "93.184.216.2", "93.184.216.1"
THIS6, OTHER6 = "2606:2800:21f::2", "2606:2800:21f::53"
PORT = 7000
RULES = "vitrail.Network * @anyvm @net allow\n"
PROBE = """
import json, pathlib, socket, sys, time
out = pathlib.Path(sys.argv[1])
def connect(name):
    found = {address[4][0] for address in socket.getaddrinfo(name, 7000)}
    for address in sorted(found):
        try:
            with socket.create_connection((address, 7000), timeout=5) as conn:
                return [address, conn.recv(100).decode()]
        except OSError:
            continue
    return [sorted(found), "no connection"]
def attempt(name):
    try:
        return connect(name)
    except OSError as error:
        return [type(error).__name__, str(error)]
def write(name, value):
    (out / "part").write_text(json.dumps(value))
    (out / "part").rename(out / name)
write("first", {name: attempt(name) for name in ("www.good.test", "intranet")})
while not (out / "moved").exists():
    time.sleep(0.1)
for _ in range(20):
    answer = attempt("www.good.test")
    if answer[-1] == "reached":
        break
    time.sleep(1)
write("second", answer)
time.sleep(1000)
"""


@pytest.fixture(scope="module", autouse=True)
def _able():
    need_boxes_at_cables("bwrap", "passt", "ip")


@pytest.fixture(scope="module")
def results():
    return played("tests.e2e.test_ipv6_only_network", deadline=250)


@pytest.mark.parametrize("network", ["user", "rules"])
@pytest.mark.parametrize("server", ["global", "loopback", "loopback6"])
@pytest.mark.parametrize("name", ["www.good.test", "intranet"])
def test_name_resolved_and_reached_without_ipv4(results, network, server, name):
    """``intranet`` is found by the search list."""
    assert results["six"][network][server][name] == [OTHER6, "reached"]


@pytest.mark.parametrize("network", ["user", "rules"])
def test_box_started_with_ipv4_follows_into_ipv6_network(results, network):
    answers = results["moved"][network]
    assert answers["first"]["www.good.test"] == [OTHER, "reached"]
    assert answers["second"] == [OTHER6, "reached"]


async def serve_names(address, task_status=trio.TASK_STATUS_IGNORED):
    """Know one name, in both families."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.bind((address, 53))
        task_status.started()
        while True:
            query, sender = await sock.recvfrom(2000)
            question = from_wire(query).question[0]
            answer = make_response(from_wire(query))
            answer.flags |= flags.RA
            addresses = {rdatatype.A: OTHER, rdatatype.AAAA: OTHER6}
            text = addresses.get(question.rdtype)
            kind = rdatatype.to_text(question.rdtype)
            domains = {"www.good.test.", "intranet.good.test."}
            if text and str(question.name).lower() in domains:
                answer.answer = [rrset.from_text(question.name, 1, "IN", kind, text)]
            await sock.sendto(answer.to_wire(), sender)


async def ip(*argv):
    await run_tool(["ip", *argv])


async def be_other_machine():
    await eventually(
        lambda: "v1" in [name for _, name in socket.if_nameindex()], deadline=60
    )
    await ip("link", "set", "lo", "up")
    await ip("address", "add", f"{OTHER}/24", "dev", "v1")
    await ip("address", "add", f"{OTHER6}/64", "dev", "v1", "nodad")
    await ip("link", "set", "v1", "up")

    async def answer(conn):
        async with conn:
            await conn.send_all(b"reached")

    async with trio.open_nursery() as nursery:
        for address in (OTHER, OTHER6):
            await nursery.start(serve_names, address)
            await nursery.start(partial(trio.serve_tcp, answer, PORT, host=address))
        await trio.sleep_forever()


@asynccontextmanager
async def other_machine():
    argv = our_program("tests.e2e.test_ipv6_only_network", "other")
    child = spawn(["unshare", "--net", *argv], stderr=None)
    try:
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        current = Path("/proc/self/ns/net").readlink()
        await eventually(
            lambda: Path(f"/proc/{child.pid}/ns/net").readlink() != current, deadline=60
        )
        await ip("link", "set", "v1", "netns", str(child.pid))
        yield
    finally:
        await child.stop()


async def join(*, ipv6):
    """Be in a network of one family alone."""
    await ip("address", "flush", "dev", "v0", "scope", "global")
    await ip("link", "set", "v0", "up")
    if ipv6:
        await ip("address", "add", f"{THIS6}/64", "dev", "v0", "nodad")
        await ip("-6", "route", "replace", "default", "via", OTHER6)
    else:
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("route", "replace", "default", "via", OTHER)
    await eventually(partial(_reached, OTHER6 if ipv6 else OTHER), deadline=60)


async def _reached(address):
    try:
        with trio.fail_after(2):
            await (await trio.open_tcp_stream(address, PORT)).aclose()
    except (OSError, trio.TooSlowError):
        return False
    return True


@asynccontextmanager
async def running_box(base, conf, network, book):
    """Run the probe in a box; yield the directory of its answers."""
    out, sockets = base / "out", base / "s"
    for folder in (base, out, sockets):
        folder.mkdir()
    probe = base / "probe.py"
    probe.write_text(PROBE)
    box = Box(
        ("python3", str(probe), str(out)),
        sockets,
        files=(probe,),
        writable=(out,),
        resolver=resolver_lines(conf, network=network),
    )
    box_process = await start_held(box)
    pidfd = os.pidfd_open(box_process.leader)
    decided = network == "rules"
    async with trio.open_nursery() as nursery:
        link = await start_box_network(pidfd, conf, decided=decided)
        try:
            if decided:
                opening = Opening(WORK, NETWORK, 1, "the test")
                await nursery.start(partial(book.flows().carry, opening, link.flows))
            box_process.release()
            yield out
        finally:
            await box_process.end()
            os.close(pidfd)
            await link.end()
            nursery.cancel_scope.cancel()


async def read_answer(out, name):
    await eventually((out / name).exists, deadline=100)
    return json.loads((out / name).read_text())


async def be_this_machine():
    results = {"six": {"user": {}, "rules": {}}, "moved": {}}
    with short_directory() as base:
        conf = base / "resolv.conf"
        conf.write_text("")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        async with (
            other_machine(),
            rulebook(RULES, work=RECORD) as book,
            trio.open_nursery() as nursery,
        ):
            await join(ipv6=True)
            await nursery.start(serve_names, "127.0.0.53")
            await nursery.start(serve_names, "::1")
            servers = {"global": OTHER6, "loopback": "127.0.0.53", "loopback6": "::1"}
            for server, address in servers.items():
                conf.write_text(f"nameserver {address}\nsearch good.test\n")
                for network in ("user", "rules"):
                    folder = base / f"{server}-{network}"
                    async with running_box(folder, conf, network, book) as out:
                        answers = await read_answer(out, "first")
                        results["six"][network][server] = answers
            await ip("-6", "route", "flush", "default")
            await join(ipv6=False)
            conf.write_text("nameserver 127.0.0.53\n")
            async with AsyncExitStack() as stack:
                boxes = {
                    network: await stack.enter_async_context(
                        running_box(base / f"moved-{network}", conf, network, book)
                    )
                    for network in ("user", "rules")
                }
                first = {n: await read_answer(out, "first") for n, out in boxes.items()}
                await join(ipv6=True)
                for network, out in boxes.items():
                    (out / "moved").touch()
                    second = await read_answer(out, "second")
                    answers = {"first": first[network], "second": second}
                    results["moved"][network] = answers
            nursery.cancel_scope.cancel()
    return results


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(be_other_machine)
    else:
        print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
