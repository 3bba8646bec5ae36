"""What the doctor says of machines that libvirt and systemd-machined start."""

from __future__ import annotations

import pytest

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.launchers import check_launchers
from broker.cli.launchers import external
from broker.core.paths import find_paths
from broker.host.launchers.libvirt.hook import install_hook
from shims.bundle import BundleError

TEXT = 'class = "persistent"\n[launch]\nkind = "external"\n[peer]\n{} = "x"\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine without anything; returns what the doctor finds there."""
    for name in ("VHOST_VSOCK", "MACHINED", "HOOKS", "LIBRARIES"):
        monkeypatch.setattr(external, name, tmp_path / name)

    async def look(*keys, path="/nowhere"):
        environ = {
            "XDG_RUNTIME_DIR": "/nowhere",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "XDG_CONFIG_DIRS": "/nowhere",
            "HOME": str(tmp_path),
            "PATH": path,
        }
        folder = tmp_path / "config/vitrail/sandboxes.d"
        folder.mkdir(parents=True, exist_ok=True)
        for key in keys:
            (folder / f"{key}.toml").write_text(TEXT.format(key))
        return await check_launchers(Context(find_paths(environ), environ))

    return look


async def test_without_such_records_nothing_is_needed(place):
    (found,) = await place()
    assert found.state is FindingState.OK


async def test_what_libvirts_records_need_is_named_with_its_command(place, tmp_path):
    found = await place("libvirt")
    mends = [one.mend for one in found]
    assert "sudo apt install libvirt-clients" in mends
    assert "sudo brokerctl launcher install libvirt" in mends
    install_hook(None, tmp_path / "HOOKS", tmp_path / "settings")
    texts = [one.text for one in await place("libvirt")]
    assert not any("hook" in text.lower() or "missing" in text for text in texts[1:])


async def test_missing_drivers_of_libvirt_are_named_with_their_packages(
    place, tmp_path
):
    """Debian has those for machines and for containers in separate packages."""

    async def said():
        found = await place("libvirt")
        return [
            (f.state, f.text + f.mend)
            for f in found
            if "no driver of libvirt" in f.text or "for containers" in f.text
        ]

    (alone,) = await said()
    assert alone[0] is FindingState.WARN
    assert "libvirt-daemon-driver-qemu" in alone[1]
    folder = tmp_path / "LIBRARIES/lib/x86_64-linux-gnu/libvirt/connection-driver"
    folder.mkdir(parents=True)
    (folder / "libvirt_driver_qemu.so").touch()
    (machines,) = await said()
    assert machines[0] is FindingState.OK
    assert "libvirt-daemon-driver-lxc" in machines[1]
    (folder / "libvirt_driver_lxc.so").touch()
    assert await said() == []


async def test_a_hook_of_another_version_is_named(place, tmp_path):
    (hook,) = install_hook(None, tmp_path / "HOOKS", tmp_path / "settings")
    assert not [f for f in await place("libvirt") if "another version" in f.text]
    hook.write_text("#!/bin/sh\n")
    (found,) = [f for f in await place("libvirt") if "another version" in f.text]
    assert found.mend == "sudo brokerctl launcher install libvirt"


async def test_what_machineds_records_need_is_named(place, tmp_path):
    found = await place("machine")
    assert [f.state for f in found] == [FindingState.WARN, FindingState.WARN]
    assert "sudo modprobe vhost_vsock" in [f.mend for f in found]
    (tmp_path / "MACHINED").touch()
    (tmp_path / "VHOST_VSOCK").touch()
    (found,) = await place("machine")
    assert found.state is FindingState.OK


async def test_what_a_domain_for_a_run_needs_is_named(place, tmp_path):
    folder = tmp_path / "config/vitrail/sandboxes.d"
    folder.mkdir(parents=True)
    text = 'class = "disposable"\n[launch]\nkind = "libvirt-qemu"\n'
    (folder / "scan.toml").write_text(text)
    programs = tmp_path / "bin"
    programs.mkdir()
    missing = {one.mend for one in await place(path=str(programs))}
    assert {
        "sudo apt install libvirt-clients",
        "sudo apt install qemu-system-x86",
    } <= missing
    for name in ("virsh", "libvirtd", "qemu-system-x86_64"):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    (found,) = await place(path=str(programs))
    assert found.state is FindingState.OK


async def test_what_a_machine_of_vmspawn_needs_is_named(place, tmp_path):
    folder = tmp_path / "config/vitrail/sandboxes.d"
    folder.mkdir(parents=True)
    text = 'class = "disposable"\n[launch]\nkind = "vmspawn"\n'
    (folder / "scan.toml").write_text(text)
    found = await place()
    assert [f.mend for f in found] == [
        "sudo apt install systemd-container",
        "sudo apt install qemu-system-x86",
        "loginctl enable-linger",
    ]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemd-vmspawn", "qemu-system-x86_64"):
        (programs / name).touch(0o755)
    (found,) = await place(path=str(programs))
    assert "need the service manager of this user" in found.text


async def test_it_says_whether_guests_without_python_can_have_an_agent(
    place, monkeypatch
):
    monkeypatch.setattr(external, "minimal_agent", lambda: bytes(25 << 10))
    told = [f for f in await place("libvirt") if "without Python" in f.text]
    assert "(25 KiB)" in told[0].text

    def absent():
        raise BundleError("it was not built")

    monkeypatch.setattr(external, "minimal_agent", absent)
    (told,) = [f for f in await place("libvirt") if "without Python" in f.text]
    assert told.state is FindingState.WARN
    assert "gcc" in told.mend
