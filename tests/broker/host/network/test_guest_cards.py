"""What a guest makes of the cards on its kernel's command line."""

from __future__ import annotations

import shutil
import sys

import pytest

from broker.core.errors import VitrailError
from broker.helpers.process.spawn import run_tool
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace
from broker.host.network.switch.switches import Switches
from broker.host.vmm.qemu_arguments import agent_args
from shims.guest import network_cards
from shims.guest.network_cards import NetworkCard, card_commands, interfaces
from shims.guest.pid1 import UDHCPC
from shims.guest.settings import Settings
from tests.kit.cables import UNSHARE
from tests.kit.vm import machines
from tests.kit.vm.machines import tiny_spec
from tests.kit.vm.tinyguest import TinyGuest


async def test_a_guest_reads_what_its_machine_was_started_with(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "tiny_guest", lambda: TinyGuest(tmp_path, tmp_path))
    switches = Switches()
    places = [
        SwitchPlace("through:vpn", PortRole.CLIENT),
        SwitchPlace("through:work", PortRole.PROVIDER),
        SwitchPlace("lan:lab", PortRole.MEMBER),
    ]
    seats = tuple(switches.join(place, "work") for place in places)
    try:
        words = agent_args(tiny_spec(tmp_path, seats=seats))
        cards = Settings({}, " ".join(words)).cards
        assert cards == [
            NetworkCard(
                seat.mac,
                seat.address,
                seat.router,
                seat.name_server,
                seat.address6,
                seat.router6,
            )
            for seat in seats
        ]
        assert [(c.router, c.name_server, c.router6) for c in cards] == [
            ("10.0.4.1", "10.0.4.1", "fd76:6974:7261:4::1"),
            ("", "", ""),
            ("", "10.0.3.1", ""),
        ]
    finally:
        for seat in seats:
            await seat.leave()


def test_a_guest_knows_that_it_is_the_network_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "tiny_guest", lambda: TinyGuest(tmp_path, tmp_path))
    for router in (False, True):
        words = agent_args(tiny_spec(tmp_path, router=router))
        assert Settings({}, " ".join(words)).router is router


@pytest.mark.parametrize(
    ("cmdline", "resolvers", "search"),
    [
        ("vitrail.dns=10.0.2.3", ["10.0.2.3"], []),
        ("vitrail.dns6=FD76::3 vitrail.dns=1.2.3.4", ["1.2.3.4", "fd76::3"], []),
        ("vitrail.dns=fd76::3 vitrail.dns6=1.2.3.4", [], []),
        ("vitrail.dns=$(reboot)", [], []),
        ("vitrail.search=corp.example,lab", [], ["corp.example", "lab"]),
        ('vitrail.search=";reboot;",lab,', [], ["lab"]),
    ],
)
def test_guest_puts_only_addresses_and_domains_into_its_script(
    cmdline, resolvers, search
):
    settings = Settings({}, cmdline)
    assert (settings.resolvers, settings.search) == (resolvers, search)


_COMPLETE = """
import array, fcntl, socket, struct, subprocess
from shims.guest.network_cards import complete_frames
subprocess.run(["ip", "link", "add", "v0", "type", "veth"], check=True)
def left_to_the_device():
    value = array.array("I", [0x16, 0])  # ETHTOOL_GTXCSUM
    request = struct.pack("16sP", b"v0", value.buffer_info()[0]).ljust(40, b"\\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8946, request)
    return value[1]
before = left_to_the_device()
complete_frames("v0")
complete_frames("nothing")
print(before, left_to_the_device())
"""


async def test_a_cards_frames_are_complete():
    """A VMM's TAP device would pass on checksums that nobody has computed."""
    try:
        said = await run_tool([*UNSHARE, sys.executable, "-c", _COMPLETE])
    except VitrailError as error:
        if "RTNETLINK" not in str(error) and "unshare" not in str(error):
            raise
        pytest.skip(f"no namespaces with virtual cables to be had: {error}")
    assert said.split() == [b"1", b"0"]


_DHCP = """
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
mount --bind "$1/resolv.conf" /etc/resolv.conf
interface=v0 ip=10.0.2.15 mask=24 router=10.0.2.2 dns=192.0.2.1 sh "$1/script" bound
ip -o address show dev v0 | awk '{ print $4 }'
cat /etc/resolv.conf
"""


async def test_dhcp_answer_keeps_ipv6_and_adds_name_servers(tmp_path):
    """Without its link-local address an interface gets none by a router's announcement."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    (tmp_path / "resolv.conf").touch()
    values = {"busybox": busybox, "resolvers": "fd00::3", "search": "corp.example"}
    (tmp_path / "script").write_text(UDHCPC % values)
    try:
        output = await run_tool([*UNSHARE, "sh", "-ec", _DHCP, "sh", str(tmp_path)])
    except VitrailError as error:
        if "RTNETLINK" not in str(error) and "unshare" not in str(error):
            raise
        pytest.skip(f"no namespaces with virtual cables to be had: {error}")
    address, link_local, *resolv_conf = output.decode().splitlines()
    assert address == "10.0.2.15/24"
    assert link_local.startswith("fe80::")
    assert resolv_conf == [
        "search corp.example",
        "nameserver fd00::3",
        "nameserver 192.0.2.1",
    ]


def test_no_cards():
    assert Settings({}, "quiet vitrail.name=work").cards == []


def test_an_interface_is_found_by_its_address(tmp_path):
    for name, mac in (("lo", "00:00:00:00:00:00"), ("eth1", "52:56:0a:00:03:07")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(f"{mac}\n")
    assert interfaces(str(tmp_path)) == {"eth1": "52:56:0a:00:03:07"}


@pytest.mark.parametrize("has_ipv6", [False, True])
def test_a_client_has_a_way_out_and_a_member_has_none(tmp_path, monkeypatch, has_ipv6):
    there = tmp_path if has_ipv6 else tmp_path / "nothing"
    monkeypatch.setattr(network_cards, "IPV6", str(there))
    client = NetworkCard("m", "10.0.4.9", "10.0.4.1", "10.0.4.1", "fd::9", "fd::1")
    member = NetworkCard("m", "10.0.3.9", "", "10.0.3.1", "fd::9", "")
    way = ["route", "add", "default", "via", "10.0.4.1"]
    way6 = ["-6", "route", "add", "default", "via", "fd::1", "dev", "eth0"]
    assert way in card_commands(client, "eth0")
    assert (way6 in card_commands(client, "eth0")) is has_ipv6
    six = [["-6", "addr", "add", "fd::9/64", "dev", "eth1"]] if has_ipv6 else []
    assert card_commands(member, "eth1") == [
        ["link", "set", "eth1", "up"],
        ["addr", "add", "10.0.3.9/24", "dev", "eth1"],
        *six,
    ]
