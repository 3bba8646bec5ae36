"""Requests to Cloud Hypervisor, and the reading of its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.host.launchers.cloud_hypervisor import requests
from broker.host.launchers.cloud_hypervisor.requests import VmStatus
from broker.host.vmm.monitors.http import VmmReply
from broker.host.vmm.qemu_arguments import Network
from tests.broker.host.launchers.firecracker.test_requests import SEAT, SPEC, UDS


def asked(spec=SPEC):
    return requests.create(spec, cid=77, uds=UDS).body


def test_a_machine_is_described_whole():
    found = asked()
    assert found["cpus"] == {"boot_vcpus": 2, "max_vcpus": 2}
    assert found["memory"] == {"size": 512 << 20}
    assert found["vsock"] == {"cid": 77, "socket": str(UDS)}
    assert found["payload"]["kernel"] == "/image/vmlinux"
    assert found["payload"]["initramfs"] == "/run/work/initrd"
    words = found["payload"]["cmdline"].split()
    assert {"vitrail.name=work", "vitrail.keep=home"} <= set(words)
    assert not [word for word in words if word.startswith("vitrail.off")]
    assert "net" not in found
    assert (found["serial"], found["console"]) == ({"mode": "Tty"}, {"mode": "Off"})


def test_a_network_is_the_device_in_its_jail():
    first, second = {"tap": "vitrail0"}, {"tap": "vitrail1", "mac": SEAT.mac}
    assert asked(replace(SPEC, network=Network.USER))["net"] == [first]
    found = asked(replace(SPEC, network=Network.RULES, seats=(SEAT,)))
    assert found["net"] == [first, second]


def test_the_image_is_read_only_and_first():
    root, home = asked()["disks"]
    assert (root["path"], root["readonly"]) == ("/image/root", True)
    assert (home["path"], home["readonly"]) == ("/homes/work", False)
    assert home["serial"] == "vitrail-home"


def test_disks_are_raw_whatever_a_guest_has_written_to_them():
    """With its first bytes a guest could make qcow2 of its disk."""
    assert {disk["image_type"] for disk in asked()["disks"]} == {"Raw"}


def test_a_machine_without_disks_has_none():
    assert asked(replace(SPEC, root=None, home=None))["disks"] == []


def test_the_api_is_a_socket_of_ours():
    words = requests.arguments(Path("/usr/bin/cloud-hypervisor"), Path("/run/api"))
    assert words == ["/usr/bin/cloud-hypervisor", "--api-socket", "path=/run/api"]


@pytest.mark.parametrize(
    "body",
    [b'["Error from API","The VM could not boot"]', b"The VM could not boot"],
)
def test_a_refusal_is_shown_in_its_own_words(body):
    with pytest.raises(UpstreamError, match="The VM could not boot") as caught:
        requests.require_done(requests.BOOT, VmmReply(500, body + b"\x1b[31m"))
    assert "Cloud Hypervisor rejected PUT /api/v1/vm.boot (500)" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_its_state_is_one_of_those_documented():
    for state in VmStatus:
        reply = VmmReply(200, b'{"config": {}, "state": "%s"}' % state.value.encode())
        assert requests.read_state(reply) is state
    for bad in (b"", b"{}", b'{"state": "Gone"}', b"\xff"):
        with pytest.raises(UpstreamError, match="invalid machine state"):
            requests.read_state(VmmReply(200, bad))
    with pytest.raises(UpstreamError, match="rejected GET"):
        requests.read_state(VmmReply(404))
