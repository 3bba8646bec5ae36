"""What a guest of another VMM than QEMU reaches with ``network = "rules"``.

The internet, the name server and the decisions are those of ``test_network_rules``, the
VMM is the stand-in of ``test_monitor_networks``: its QEMU attaches to the TAP device by
name, without any right over it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.spawn import run_tool
from broker.host.network.addresses import RESOLVER
from broker.host.vmm.qemu_arguments import Network
from tests.e2e import test_network_rules as world
from tests.e2e.test_microvm_network import MUCH
from tests.e2e.test_monitor_networks import KINDS, monitor_machine
from tests.e2e.test_network_rules import EVIL, GOOD, SLOW
from tests.kit.cables import played
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.vm.machines import require_vm
from tests.kit.vm.monitors.installed import install
from tests.kit.vm.tinyguest import shell_listener, tiny_guest
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import world as real_world

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
PORT, CLOSED = 8443, 443
RULES = f"""\
vitrail.Network +www.evil.test work @net deny
vitrail.Network +*.good.test work @net allow port={PORT} protocol=tcp
"""
RECORD = 'class = "persistent"\n[launch]\nkind = "{}"\nnetwork = "rules"\n'
ASK = "nslookup -type=a {}"
SEND = f"""
mkfifo /much
sleep 900 >/much & held=$!
head -c {MUCH} /dev/zero >/much &
nc {GOOD} {PORT} </much >/sent & sends=$!
for i in $(seq 100); do grep -o 'missing.*' /sent && break; sleep 0.2; done
kill $held; wait $sends
"""
HOLD = f"""
mkfifo /held
sleep 900 >/held &
(nc {SLOW} {PORT} </held >/got; echo over >/over) >/dev/null 2>&1 &
for i in $(seq 100); do grep {SLOW} /got && exit; sleep 0.1; done; exit 1
"""
ENDED = (
    "for i in $(seq 100); do [ -s /over ] && cat /over && exit; sleep 0.1; done; exit 1"
)
QUESTIONS = {
    "addresses": "ip address show dev eth0; cat /etc/resolv.conf",
    "before the name": f"reach {GOOD} {PORT}",
    "name": ASK.format("www.good.test"),
    "good": f"reach {GOOD} {PORT}",
    "other port": f"reach {GOOD} {CLOSED}",
    "denied name": ASK.format("www.evil.test"),
    "denied by address": f"reach {EVIL} {PORT}",
    "name server": f"reach {GOOD} 53",
    "much": SEND,
    "steady name": ASK.format("steady.good.test"),
    "steady": HOLD,
}


@pytest.fixture(scope="module", params=KINDS)
def results(request):
    """Run the world once; every test looks at what the guest said."""
    if require_vm().passt is None:
        pytest.skip("passt is not installed")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened by this user (chmod 666)")
    tiny_guest()
    with short_directory() as place:
        install(place / "bin", request.param)
        words = request.param, str(place)
        return played("tests.e2e.test_monitor_rules", *words, deadline=250)


def test_its_address_and_only_name_server_are_those_of_the_filter(results):
    _, said = results["addresses"]
    assert "inet 10.0.2.15/24" in said
    assert said.splitlines()[-1] == f"nameserver {RESOLVER}"


def test_a_named_host_is_reached_by_its_name(results):
    code, said = results["name"]
    assert (code, GOOD in said) == (0, True), said
    assert results["good"] == [0, f"said {GOOD}\n"]
    assert "www.good.test" in results["asked"]


@pytest.mark.parametrize(
    "what", ["before the name", "other port", "denied by address", "name server"]
)
def test_nothing_else_is(results, what):
    assert results[what] == [1, "connect: Connection refused\n"]


def test_a_denied_name_has_no_address(results):
    code, said = results["denied name"]
    assert code != 0
    assert "REFUSED" in said
    assert "www.evil.test" not in results["asked"]


def test_frames_of_the_greatest_length_arrive_whole(results):
    """The guest's kernel leaves cutting and checksums to the device."""
    assert results["much"] == [0, "missing: 0\n"]


def test_a_revoked_rule_ends_an_open_flow(results):
    assert results["steady"] == [0, f"{SLOW}\n"]
    assert results["ended"] == [0, "over\n"]


def test_what_was_decided_and_carried_is_in_the_log(results):
    of_kind = {"decision": [], "stream.opened": [], "stream.closed": []}
    for event in results["events"]:
        of_kind[event["kind"]].append(event)
    decisions = {(e.get("argument"), e["verdict"]) for e in of_kind["decision"]}
    assert {("+www.good.test", "allow"), (f"+{EVIL}", "deny")} <= decisions
    opened = {e["argument"] for e in of_kind["stream.opened"]}
    assert opened == {"+www.good.test", "+steady.good.test"}
    reasons = {e["reason"] for e in of_kind["stream.closed"]}
    assert "its permission was revoked" in reasons


def test_the_filter_ends_with_the_vmm(results):
    assert results["helpers"] == ["netguard", "passt"]


@pytest.fixture(params=KINDS)
def installed(request):
    """A kind, and the environment of a broker that finds its stand-in."""
    with short_directory() as place:
        install(place, request.param)
        yield request.param, {"PATH": f"{place}:{os.environ['PATH']}"}


async def test_a_record_has_its_flows_decided(installed):
    """By the broker, of a machine of a real image."""
    kind, settings = installed
    program = "tests.kit.vm.monitors.broker"
    record = RECORD.format(kind).replace("persistent", "disposable")
    record += 'memory = "512M"\nboot_deadline = 300\n'
    async with real_world(
        {"net": record}, start=False, extra=settings, program=program
    ) as w:
        await world.flows_are_decided(w)


# -- inside the namespaces: the internet, and this machine ---------------------------


async def serve(_context, address, stream):
    """Greet, and count the answers."""
    try:
        await stream.send_all(address.encode())
        missing = MUCH
        while missing and (data := await stream.receive_some(1 << 16)):
            missing -= len(data)
        if not missing:
            await stream.send_all(b"missing: 0\n")
        await stream.aclose()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)


async def be_this_machine(kind, base):
    asked, results = [], {}
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        other = ("tests.e2e.test_monitor_rules", "other")
        async with world.internet(*other), trio.open_nursery() as nursery:
            await nursery.start(world.name_server, asked)
            async with rulebook(RULES, work=RECORD.format(kind)) as book:
                await ask_guest(
                    place, partial(monitor_machine, kind, base), book, results
                )
                kinds = ("stream.opened", "stream.closed", "decision")
                results["events"] = book.events(*kinds)
            nursery.cancel_scope.cancel()
    return {**results, "asked": asked}


async def ask_guest(place, machine, book, results):
    flows = book.flows()
    opening = Opening(WORK, NETWORK, 1, "the test")
    async with (
        trio.open_nursery() as nursery,
        machine(place, network=Network.RULES, on_loss=print) as vm,
        shell_listener(vm.uds) as accept,
    ):
        await nursery.start(partial(flows.carry, opening, vm.flows))
        await vm.cont()
        shell = await accept()
        for what, command in QUESTIONS.items():
            results[what] = await shell.run(command)
        # Its bytes are in the next report.
        await eventually(lambda: carried(flows, "www.good.test") > MUCH, deadline=60)
        await book.change("50-test.policy", RULES.replace("*.good", "www.good"))
        results["ended"] = await shell.run(ENDED)
        helpers = [p for p in vm.processes if p.role in {"netguard", "passt"}]
        vm.vmm.kill()
        await eventually(lambda: all(p.ended for p in helpers), deadline=60)
        results["helpers"] = sorted(p.role for p in helpers)
    return results


def carried(flows, host):
    """Return the bytes from the sandbox of the flow to a host that had most."""
    return max((row.sent for row in flows.rows(WORK.id) if row.host == host), default=0)


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(world.be_internet, serve)
    else:
        kind, base = sys.argv[1], Path(sys.argv[2])
        os.environ["PATH"] = f"{base / 'bin'}:{os.environ['PATH']}"
        assert shutil.which("bwrap") == str(base / "bin/bwrap")
        print(json.dumps(trio.run(be_this_machine, kind, base)))
