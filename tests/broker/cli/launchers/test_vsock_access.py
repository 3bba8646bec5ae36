"""The kernel's vsock device is used by who may open it: on systemd's hosts it exists."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli.launchers import libvirt_domain, vmspawn
from broker.cli.launchers.adoption import domains

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")


@pytest.fixture(params=[0o000, 0o600], ids=["denied", "allowed"])
def device(request, tmp_path, monkeypatch):
    """A device that exists; returns whether this user may open it."""
    path = tmp_path / "vhost-vsock"
    path.touch()
    path.chmod(request.param)
    for module in (libvirt_domain, vmspawn, domains):
        monkeypatch.setattr(module, "VHOST_VSOCK", path)
    return bool(request.param)


PATHS = SimpleNamespace(runtime=Path("/run/user/1000/vitrail"))
RECORD = SimpleNamespace(name="scan")


def test_session_domain_uses_the_device_if_it_may_be_opened(device):
    vsock = domains.vsock_way(PATHS, "scan", "qemu:///session")
    assert (vsock.vhost_user is None) is device


def test_system_domain_uses_the_device_that_its_libvirtd_opens(device):
    assert domains.vsock_way(PATHS, "scan", "qemu:///system").vhost_user is None


@pytest.fixture
def boot(monkeypatch):
    """Replace the programs and files of a machine."""

    async def describe(*_):
        return Path("/qemu"), SimpleNamespace(uuid="1")

    for module in (libvirt_domain, vmspawn):
        monkeypatch.setattr(module, "require_program", lambda *_: None)
        monkeypatch.setattr(module, "describe_boot", describe)
    monkeypatch.setattr(vmspawn, "write_gates", lambda *_: None)
    monkeypatch.setattr(libvirt_domain, "throwaway_xml", lambda _: "<domain/>")
    monkeypatch.setattr(libvirt_domain, "with_vsock", lambda xml, _: xml)


async def test_throwaway_domain_uses_the_device_if_it_may_be_opened(
    device, boot, tmp_path
):
    described = await libvirt_domain._described(PATHS, RECORD, tmp_path)
    assert (described.vhost_user is None) is device


async def test_vmspawn_uses_the_device_if_it_may_be_opened(device, boot, tmp_path):
    described = await vmspawn._described(PATHS, RECORD, tmp_path)
    assert (described.cid is not None) is device
    assert (described.vhost_user is None) is device
