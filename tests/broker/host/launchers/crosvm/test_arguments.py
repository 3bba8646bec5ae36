"""crosvm's command line, and what its exit codes mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.host.launchers.crosvm.arguments import arguments, guest_end
from broker.host.vmm.qemu_arguments import Network
from tests.broker.host.launchers.firecracker.test_requests import SEAT, SPEC


def words(spec=SPEC):
    return arguments(
        spec,
        Path("/usr/bin/crosvm"),
        control=Path("/run/work/api/api.sock"),
        vsock=Path("/run/work/vsock/vhost.sock"),
    )


def value(found, option):
    return found[found.index(option) + 1]


def test_a_machine_is_described_whole_and_suspended():
    found = words()
    assert found[:2] == ["/usr/bin/crosvm", "run"]
    assert "--suspended-vcpus" in found
    assert value(found, "--socket") == "/run/work/api/api.sock"
    assert (value(found, "--cpus"), value(found, "--mem")) == ("2", "512")
    vsock = "type=vsock,socket=/run/work/vsock/vhost.sock"
    assert value(found, "--vhost-user") == vsock
    assert value(found, "--initrd") == "/run/work/initrd"
    params = value(found, "--params").split()
    assert {"panic=-1", "vitrail.name=work", "vitrail.keep=home"} <= set(params)
    assert found[-1] == "/image/vmlinux"
    assert not [word for word in found if "net" in word or "tap" in word]


def test_the_image_is_read_only_and_first_and_the_home_has_its_name():
    found = words()
    disks = [found[n + 1] for n, word in enumerate(found) if word == "--block"]
    assert disks == [
        "path=/image/root,ro=true,id=vitrail-root",
        "path=/homes/work,ro=false,id=vitrail-home",
    ]


def test_a_machine_without_disks_has_none():
    assert "--block" not in words(replace(SPEC, root=None, home=None))


@pytest.mark.parametrize("bad", [",ro=false", "=", '"', "'", "[", "\\"])
def test_a_path_cannot_become_another_option(bad):
    with pytest.raises(SetupError, match="does not support the path"):
        words(replace(SPEC, root=Path(f"/image{bad}/root")))


def test_a_network_is_the_device_in_its_jail():
    found = words(replace(SPEC, network=Network.USER))
    assert value(found, "--net") == "tap-name=vitrail0"
    found = words(replace(SPEC, seats=(SEAT,)))
    assert value(found, "--net") == f'tap-name=vitrail0,mac="{SEAT.mac}"'


def test_its_exit_codes_name_the_guests_end():
    assert guest_end(0) == "the guest powered off"
    assert "rebooted" in guest_end(32)
    assert "panicked" in guest_end(34)
    assert [guest_end(code) for code in (None, 1, 35, -9)] == [""] * 4
