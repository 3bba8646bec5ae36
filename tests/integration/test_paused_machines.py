"""Templates, copies and homes with real QEMUs in their jail that never run.

The machines stay paused, so that these cost no emulation: the guest's words are
left out here, and ``tests/e2e`` has them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from broker.core.names import SandboxName
from broker.launch.microvm import qmp
from broker.launch.microvm.launcher import HomeDisk, Network
from broker.launch.state.disk import ready_disk
from broker.launch.state.store import HomeStore
from broker.launch.template import fork, make
from tests.kit.vm.copies import stage
from tests.kit.vm.machines import alive, leftovers, machine, require_vm
from tests.kit.wayland.compositor import short_directory

NAME = SandboxName("tiny")


@pytest.fixture(autouse=True)
def _paused(monkeypatch):
    require_vm()
    monkeypatch.delenv("VITRAIL_FORK", raising=False)
    whole = qmp.Qmp.execute

    async def execute(self, command, arguments=None, **others):
        if command == "cont":
            return None
        return await whole(self, command, arguments, **others)

    async def hear(_port, _words):
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(qmp.Qmp, "execute", execute)
    monkeypatch.setattr(make, "hear", hear)
    monkeypatch.setattr(fork, "hear", hear)


async def test_a_copy_has_its_own_memory_and_its_devices_plugged():
    async with stage() as s:
        await s.starter.make(s.request("maker"))
        folder = s.place / "templates" / "web"
        assert sorted(p.name for p in folder.iterdir()) == [
            "memory",
            "meta.json",
            "state",
        ]
        started = await s.starter.start(s.request("one", network=Network.USER))
        vm = started.vm
        try:
            assert (started.how, started.why) == ("copy", "")
            assert alive(vm) == ["QEMU", "vhost-device-vsock", "frameguard", "passt"]
            path = {"path": "/machine/peripheral-anon"}
            plugged = await vm.qmp.execute("qom-list", path)
            kinds = {device["type"] for device in plugged}
            assert {"child<vhost-user-vsock-pci>", "child<virtio-net-pci>"} <= kinds
            maps = Path(f"/proc/{vm.vmm.pid}/maps").read_text()
            assert "/memfd:vitrail-guest" in maps
            assert str(folder) not in maps
        finally:
            await vm.close()
        assert leftovers(s.place / "one") in ([], ["initrd"])


@pytest.mark.parametrize("case", ["state of zeros", "cut state", "no memory"])
async def test_a_broken_template_is_a_boot_and_is_removed(case: str):
    async with stage() as s:
        await s.starter.make(s.request("maker"))
        folder = s.place / "templates" / "web"
        for name in ("memory", "state"):
            (folder / name).chmod(0o600)
        match case:
            case "state of zeros":
                size = (folder / "state").stat().st_size
                (folder / "state").write_bytes(bytes(size))
            case "cut state":
                (folder / "state").write_bytes((folder / "state").read_bytes()[:5000])
            case "no memory":
                (folder / "memory").unlink()
        started = await s.starter.start(s.request("one"))
        try:
            assert started.how == "boot"
            assert started.why
            assert alive(started.vm) == ["QEMU", "vhost-device-vsock"]
        finally:
            await started.vm.close()
        assert not folder.exists()
        assert leftovers(s.place / "one") in ([], ["initrd"])


async def test_qemu_holds_the_lock_of_a_home(tmp_path: Path):
    store = HomeStore(tmp_path / "homes")
    with short_directory() as place:
        with store.lock(NAME) as lock:
            home = await ready_disk(store, NAME, 64 << 20)
            disk = HomeDisk(home.disk, frozenset({"home"}), lock.fd)
            entered = machine(place, home=disk)
            vm = await entered.__aenter__()
        try:
            assert store.in_use(NAME)
            blocks = await vm.qmp.execute("query-block")
            serials = [block["qdev"] for block in blocks if block.get("inserted")]
            assert len(serials) == 1
            assert blocks[0]["inserted"]["ro"] is False
        finally:
            await entered.__aexit__(None, None, None)
        assert not store.in_use(NAME)
