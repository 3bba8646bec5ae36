from __future__ import annotations

import pytest

from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.host.vmm import hosttools


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())


def put_program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_fetched_program_is_found(paths):
    assert hosttools.find_vhost_device_vsock(paths) is None
    program = put_program(paths.tools / "vhost-device-vsock")
    assert hosttools.find_vhost_device_vsock(paths) == program


def test_installed_program_comes_first(paths, tmp_path, monkeypatch):
    put_program(paths.tools / "vhost-device-vsock")
    installed = put_program(tmp_path / "bin/vhost-device-vsock")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    assert hosttools.find_vhost_device_vsock(paths) == installed


def test_kernel_device_must_be_ours_to_open(tmp_path):
    device = tmp_path / "vhost-vsock"
    assert not hosttools.kernel_vsock_usable(device)
    device.touch()
    assert hosttools.kernel_vsock_usable(device)


async def test_present_program_is_not_fetched(paths):
    program = put_program(paths.tools / "vhost-device-vsock")
    assert await hosttools.fetch_vhost_device_vsock(paths, pytest.fail) == program


async def test_unreachable_archive_says_what_to_do_instead(paths):
    said = []
    with pytest.raises(SetupError, match="cannot download") as caught:
        await hosttools.fetch_vhost_device_vsock(
            paths, said.append, mirror="http://127.0.0.1:9/nothing"
        )
    assert "modprobe vhost_vsock" in caught.value.hint
    assert said == ["downloading vhost-device-vsock from http://127.0.0.1:9/nothing"]
    assert not list(paths.tools.glob(".apt-*"))
