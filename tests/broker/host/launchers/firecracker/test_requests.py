"""Requests to Firecracker, and the reading of its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.host.launchers.firecracker import requests
from broker.host.launchers.firecracker.requests import InstanceState
from broker.host.network.switch.switches import SwitchSeat
from broker.host.vmm.monitors.http import VmmReply
from broker.host.vmm.qemu_arguments import HomeDisk, Network, VmSpec

SPEC = VmSpec(
    name=SandboxName("work"),
    kernel=Path("/image/vmlinux"),
    initrd=Path("/run/work/initrd"),
    root=Path("/image/root"),
    directory=Path("/run/work"),
    logs=Path("/logs/work"),
    memory_mib=512,
    cpus=2,
    home=HomeDisk(Path("/homes/work"), frozenset({"home"}), 7),
    disposable=False,
)
UDS = Path("/run/work/vsock/vm.vsock")
SEAT = SwitchSeat(None, "10.0.3.20", "", "10.0.3.1", None)


def asked(spec=SPEC):
    return {
        request.path: request.body
        for request in requests.configuration(spec, cid=77, uds=UDS)
    }


def test_a_network_is_the_device_in_its_jail():
    found = asked(replace(SPEC, network=Network.USER))
    interface = {"iface_id": "vitrail0", "host_dev_name": "vitrail0"}
    assert found["/network-interfaces/vitrail0"] == interface
    assert not [path for path in asked() if "network" in path]
    found = asked(replace(SPEC, network=Network.RULES, seats=(SEAT,)))
    assert found["/network-interfaces/vitrail0"] == interface
    assert found["/network-interfaces/vitrail1"] == {
        "iface_id": "vitrail1",
        "host_dev_name": "vitrail1",
        "guest_mac": SEAT.mac,
    }


def test_a_machine_is_described_whole():
    found = asked()
    assert list(found) == [
        "/machine-config",
        "/boot-source",
        "/drives/root",
        "/drives/home",
        "/vsock",
        "/entropy",
    ]
    assert found["/machine-config"] == {"vcpu_count": 2, "mem_size_mib": 512}
    assert found["/vsock"] == {"guest_cid": 77, "uds_path": str(UDS)}
    boot = found["/boot-source"]
    assert boot["kernel_image_path"] == "/image/vmlinux"
    assert boot["initrd_path"] == "/run/work/initrd"
    words = boot["boot_args"].split()
    assert {"reboot=k", "panic=-1", "vitrail.off=reset"} <= set(words)
    assert {"vitrail.name=work", "vitrail.keep=home", "vitrail.disk=vdb"} <= set(words)


def test_the_image_is_read_only_and_first_and_the_home_is_written_through():
    found = asked()
    root, home = found["/drives/root"], found["/drives/home"]
    assert (root["is_root_device"], root["is_read_only"]) == (True, True)
    assert (home["is_root_device"], home["is_read_only"]) == (False, False)
    # "Unsafe" would tell the guest that flushed data is on the disk.
    assert home["cache_type"] == "Writeback"


def test_a_disposable_machine_has_one_disk():
    found = asked(replace(SPEC, home=None, disposable=True))
    assert "/drives/home" not in found
    assert "vitrail.disk" not in found["/boot-source"]["boot_args"]
    assert "vitrail.disposable=1" in found["/boot-source"]["boot_args"].split()


def test_more_processors_than_it_has_are_refused():
    requests.check(replace(SPEC, cpus=32))
    with pytest.raises(SetupError, match="33 processors"):
        requests.check(replace(SPEC, cpus=33))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"fault_message": "the vCPU number is invalid"}', "vCPU number is invalid"),
        (b'{"fault_message": "\\u001b[31m"}', "<1b>"),
        (b'{"error": "x"}', '{"error": "x"}'),
        (b"\xff\xfe", "400"),
        (b"", "400"),
    ],
)
def test_a_refusal_is_shown_in_its_own_words(body, text):
    with pytest.raises(UpstreamError) as caught:
        requests.require_done(requests.START, VmmReply(400, body))
    assert "Firecracker rejected PUT /actions (400)" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    if text != "<1b>":
        assert text in str(caught.value)


def test_its_state_is_one_of_three():
    body = b'{"app_name":"Firecracker","id":"x","state":"%s","vmm_version":"1.17.0"}'
    for state in InstanceState:
        reply = VmmReply(200, body % state.value.encode())
        assert requests.read_state(reply) is state
    for bad in (b"", b"[]", body % b"Gone", b'{"state": 1}', b"\xff"):
        with pytest.raises(UpstreamError, match="sent an invalid state"):
            requests.read_state(VmmReply(200, bad))
    with pytest.raises(UpstreamError, match="rejected GET /"):
        requests.read_state(VmmReply(500))
