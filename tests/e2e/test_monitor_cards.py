"""Machines of other VMMs than QEMU that share a network (``through:``, ``lan:``).

One provides a network and has another one: two TAP devices.  The other one has a card
at the same switch, and no other network.  The VMM is the stand-in of
``test_monitor_networks``; the cards' addresses, which the agent of a real image would
set, are set by the test.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial

import pytest

from broker.host.network.switch.switch_ports import PortRole, SwitchPlace
from broker.host.network.switch.switches import Switches
from broker.host.vmm.qemu_arguments import Network
from tests.e2e.test_monitor_networks import KINDS, monitor_machine
from tests.kit.eventually import eventually
from tests.kit.vm.machines import require_vm
from tests.kit.vm.monitors.installed import install
from tests.kit.vm.tinyguest import shell_listener, tiny_guest
from tests.kit.wayland.compositor import short_directory

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
PROVIDER = SwitchPlace("through:vpn", PortRole.PROVIDER)
CLIENT = SwitchPlace("through:vpn", PortRole.CLIENT)
PORT = 7001
SERVE = f"(while echo hello | nc -l -p {PORT}; do :; done) >/dev/null 2>&1 &"
CARD = "complete {0}; ip link set {0} up; ip address add {1}/24 dev {0}; ip link show dev {0}"


@pytest.fixture(params=KINDS)
def machine(request, monkeypatch):
    """What starts a machine of the kind in a directory."""
    if require_vm().passt is None:
        pytest.skip("passt is not installed")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened by this user (chmod 666)")
    tiny_guest()
    with short_directory() as place:
        install(place / "bin", request.param)
        monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
        yield partial(monitor_machine, request.param, place)


async def test_a_machine_provides_a_network_to_another_one(machine):
    lost = []
    async with AsyncExitStack() as stack:
        switches = Switches()
        seats = [
            switches.join_all([place], name, stack)
            for name, place in (("vpn", PROVIDER), ("work", CLIENT))
        ]
        networks = (Network.USER, Network.NONE)
        shells, machines = [], []
        for seat, network in zip(seats, networks, strict=True):
            directory = stack.enter_context(short_directory())
            made = machine(directory, network=network, seats=seat, on_loss=lost.append)
            vm = await stack.enter_async_context(made)
            accept = await stack.enter_async_context(shell_listener(vm.uds))
            await vm.cont()
            shells.append(await accept())
            machines.append(vm)
        vpn, work = shells
        (provider,), (client,) = seats
        code, said = await vpn.run(CARD.format("eth1", provider.address) + f"; {SERVE}")
        assert (code, provider.mac in said) == (0, True), said
        _, said = await vpn.run("ip address show dev eth0")
        assert "inet 10.0.2.15/24" in said, "its own network is the first card's"
        code, said = await work.run(CARD.format("eth0", client.address))
        assert (code, client.mac in said) == (0, True), said
        assert await work.run(f"reach {provider.address} {PORT}") == (
            0,
            "said hello\n\n",
        )
        await _speaks_for_itself_alone(work, client, provider)
        assert lost == []
        # Its cable ends with the machine, and leaves the switch to the other one.
        (cable,) = [p for p in machines[1].processes if p.role == "netguard"]
        machines[1].vmm.kill()
        await eventually(lambda: cable.ended, deadline=60)
        assert not provider.switch.process.ended


async def _speaks_for_itself_alone(work, client, provider):
    """Another address, another card and a tag lead nowhere; its own do, after them."""
    reach = f"reach {provider.address} {PORT}"
    other = "10.0.4.99"
    change = f"ip address del {client.address}/24 dev eth0; ip address add {other}/24 dev eth0"
    code, _ = await work.run(f"{change}; {reach}")
    assert code != 0
    back = f"ip address del {other}/24 dev eth0; ip address add {client.address}/24 dev eth0"
    set_mac = "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up"
    code, _ = await work.run(f"{back}; {set_mac.format('52:56:0a:00:04:63')}; {reach}")
    assert code != 0
    code, said = await work.run(f"{set_mac.format(client.mac)}; {reach}")
    assert (code, said) == (0, "said hello\n\n")
