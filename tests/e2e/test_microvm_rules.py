"""What a micro VM with ``network = "rules"`` reaches by TCP: the hosts that rules name.

The internet, its name server and the rules are those of ``test_network_rules``; the
guest is a real one, and its root writes the first bytes of real TLS connections.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.spawn import run_tool
from broker.host.network.resolvers import RESOLV_CONF
from broker.host.vmm.qemu_arguments import Network
from tests.broker.host.network.test_flow_filter import hello
from tests.e2e.test_network_rules import (
    EVIL,
    GOOD,
    RULES,
    internet,
    name_server,
)
from tests.kit.cables import need_cables, played
from tests.kit.rulebook import WORK, rulebook
from tests.kit.vm.machines import machine, require_vm
from tests.kit.vm.tinyguest import shell_listener, tiny_guest
from tests.kit.wayland.compositor import short_directory

RECORD = """\
class = "persistent"
[launch]
kind = "microvm"
network = "rules"
"""
SERVER_HELLO = "16 03 03"
"""A handshake record of TLS 1.2 and later (RFC 8446, 5.1)."""
ANSWER = "head -c 3 | hexdump -v -e '1/1 \"%02x \"'"


def says_hello(host: str, name: str, port: int = 443) -> str:
    """Send a client's hello to a host, and print how it is answered."""
    text = "".join(f"\\{byte:03o}" for byte in hello(name))
    return f"(printf '{text}'; sleep 3) | nc -w 8 {host} {port} | {ANSWER}"


@pytest.fixture(scope="module")
def results():
    if require_vm().passt is None:
        pytest.skip("passt is not installed")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    tiny_guest()
    need_cables()
    return played("tests.e2e.test_microvm_rules", deadline=200)


def test_a_named_host_is_reached_by_tcp(results):
    assert GOOD in results["name"]
    assert results["good"].strip() == SERVER_HELLO
    assert results["by its address"].strip() == SERVER_HELLO


@pytest.mark.parametrize(
    "what",
    [
        "before the name",
        "other port",
        "other server",
        "denied by address",
        "denied",
        "other name server",
    ],
)
def test_nothing_else_is(results, what):
    assert SERVER_HELLO not in results[what]


def test_a_revoked_rule_ends_the_guests_flow(results):
    assert results["open flow"] == ["www.good.test"]
    assert results["ended"].strip() == "over"
    assert SERVER_HELLO not in results["after"]


def test_its_flows_are_in_the_log(results):
    opened = [e for e in results["events"] if e["kind"] == "stream.opened"]
    closed = [e for e in results["events"] if e["kind"] == "stream.closed"]
    assert {e["argument"] for e in opened} == {"+www.good.test"}
    assert {(e["detail"]["address"], e["detail"]["port"]) for e in opened} == {
        (GOOD, 443)
    }
    assert any(e["bytes_from_sandbox"] > 500 for e in closed)
    assert any(e["reason"] == "its permission was revoked" for e in closed)
    refused = {
        e.get("argument") for e in results["events"] if e.get("verdict") == "deny"
    }
    assert {f"+{GOOD}", f"+{EVIL}", "+www.evil.test"} <= refused


# -- inside the namespaces: this machine --------------------------------------------


async def be_this_machine():
    asked = []
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), str(RESOLV_CONF)])
        async with internet(), trio.open_nursery() as nursery:
            await nursery.start(name_server, asked)
            async with rulebook(RULES, work=RECORD) as book:
                found = await ask_guest(place, book)
                found["events"] = book.events(
                    "stream.opened", "stream.closed", "decision"
                )
            nursery.cancel_scope.cancel()
    return found


async def ask_guest(place, book):
    flows = book.flows()
    opening = Opening(WORK, NETWORK, 1, "the test")
    async with (
        machine(place, network=Network.RULES) as vm,
        shell_listener(vm.uds) as accept,
        trio.open_nursery() as nursery,
    ):
        assert vm.flows is not None
        await nursery.start(partial(flows.carry, opening, vm.flows))
        await vm.cont()
        shell = await accept()
        good, evil = "www.good.test", "www.evil.test"
        found = {}
        _, found["before the name"] = await shell.run(says_hello(GOOD, good))
        _, found["name"] = await shell.run(f"nslookup -type=a {good}", deadline=60)
        questions = {
            "good": says_hello(good, good),
            "by its address": says_hello(GOOD, good),
            "other port": says_hello(good, good, 8443),
            "other server": says_hello(good, evil),
            "denied": says_hello(evil, evil),
            "denied by address": says_hello(EVIL, good),
            "other name server": f"nslookup -type=a {good} {GOOD}",
        }
        said = await shell.run_beside(questions)
        found |= {what: output for what, (_, output) in said.items()}
        # A connection that stays open until its rule goes.
        stays = f"(nc {GOOD} 443 </stay; echo over >/over) >/dev/null 2>&1 &"
        is_open = "until grep -q ':01BB 01 ' /proc/net/tcp; do sleep 0.2; done"
        begin = f"mkfifo /stay; sleep 900 >/stay & {stays} {is_open}"
        await shell.run(begin, deadline=60)
        found["open flow"] = sorted({row.host for row in flows.rows(WORK.id)})
        await book.change("50-test.policy", RULES.replace("*.good", "steady.good"))
        wait = "for i in $(seq 40); do [ -e /over ] && break; sleep 1; done; cat /over"
        found["ended"] = (await shell.run(wait, deadline=60))[1]
        found["after"] = (await shell.run(says_hello(GOOD, good), deadline=60))[1]
        nursery.cancel_scope.cancel()
    return found


if __name__ == "__main__":
    print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
