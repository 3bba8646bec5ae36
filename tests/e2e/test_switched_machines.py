"""Two micro VMs that share a network, whose root speaks for others (``lan:``)."""

from __future__ import annotations

import pytest
import trio

from broker.core.names import SandboxName
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace, mac_of
from broker.host.network.switch.switches import Switches
from tests.kit.vm.machines import machine, require_vm
from tests.kit.vm.tinyguest import shell_listener
from tests.kit.wayland.compositor import short_directory

LAB = SwitchPlace("lan:lab", PortRole.MEMBER)
PORT = 7000
UP = "ip link set lo up; ip link set eth0 up; ip address add {}/24 dev eth0"
SERVE = f"(while :; do echo served | nc -l -p {PORT}; done) >/dev/null 2>&1 &"


def other_address(*taken: str) -> str:
    """An address of the same network that no machine has."""
    return next(a for a in (f"10.0.3.{n}" for n in range(2, 9)) if a not in taken)


@pytest.fixture(scope="module")
def said():
    require_vm()
    return trio.run(_two_machines)


async def _two_machines() -> dict:
    switches = Switches()
    found: dict = {}
    with short_directory() as one, short_directory() as two:
        seats = [switches.join(LAB, name) for name in ("db", "app")]
        try:
            async with (
                machine(one, seats=(seats[0],), name=SandboxName("db")) as db,
                machine(two, seats=(seats[1],), name=SandboxName("app")) as app,
                shell_listener(db.uds) as db_accept,
                shell_listener(app.uds) as app_accept,
            ):
                await db.cont()
                await app.cont()
                server, client = await db_accept(), await app_accept()
                await server.run(UP.format(seats[0].address) + "; " + SERVE)
                await client.run(UP.format(seats[1].address))
                found = await _tried(client, *(seat.address for seat in seats))
        finally:
            for seat in seats:
                await seat.leave()
    return found


async def _tried(client, db: str, app: str) -> dict:
    reach = f"reach {db} {PORT}"
    other = other_address(db, app)
    mac = mac_of(bytes(map(int, other.split(".")))).hex(":")
    own = mac_of(bytes(map(int, app.split(".")))).hex(":")
    replace = "ip address flush dev eth0; ip address add {}/24 dev eth0; "
    card = "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up; "
    commands = {
        "reached": reach,
        "name": "echo nameserver 10.0.3.1 >/etc/resolv.conf; nslookup -type=a db",
        "another address": replace.format(other) + reach,
        "another card": card.format(mac) + reach,
        "both": replace.format(other) + reach,
        "outside": f"{replace.format(app)} ip route add default via {db}; reach 8.8.8.8 53",
        "reached again": card.format(own) + replace.format(app) + reach,
        "not this machine": f"reach 10.0.3.1 {PORT}",
    }
    return {what: await client.run(command) for what, command in commands.items()}


def test_machines_of_a_lan_reach_each_other(said):
    assert said["reached"] == (0, "said served\n\n")
    assert said["name"][0] == 0
    assert "10.0.3." in said["name"][1].partition("Name:")[2]


@pytest.mark.parametrize(
    "what", ["another address", "another card", "both", "outside", "not this machine"]
)
def test_root_in_a_machine_does_not_speak_for_others(said, what):
    code, words = said[what]
    assert code != 0
    assert "served" not in words


def test_a_machine_that_speaks_for_itself_again_is_heard(said):
    assert said["reached again"] == (0, "said served\n\n")
