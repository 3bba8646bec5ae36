"""Parents, copies and homes with real QEMUs in their jail that never run.

The machines stay paused, so that these cost no emulation: the guest's words are
left out here, and ``tests/e2e`` has them.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.cli.homes.home_copies import HomeCopies
from broker.core.errors import UpstreamError, sole
from broker.core.names import SandboxName
from broker.host.homes.disk import ready_disk
from broker.host.homes.encrypted import passphrase_pipe, ready_encrypted_disk
from broker.host.homes.sparse import data_ranges
from broker.host.vmm import qmp
from broker.host.vmm.parent import fork, make
from broker.host.vmm.parent.standby import clean_standbys
from broker.host.vmm.qemu_arguments import HomeDisk, Network
from broker.host.vmm.vm_state import find_processes, read_state
from tests.kit.eventually import eventually
from tests.kit.vm.copies import stage
from tests.kit.vm.machines import alive, allow_copies, leftovers, machine, require_vm
from tests.kit.wayland.compositor import short_directory

NAME = SandboxName("tiny")
PLUGGED = "/machine/peripheral-anon"


@pytest.fixture(autouse=True)
def _paused(monkeypatch):
    require_vm()
    allow_copies(monkeypatch)
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
        await s.starter.make(await s.request("maker"))
        folder = s.place / "parents" / "web"
        assert sorted(p.name for p in folder.iterdir()) == [
            "memory",
            "meta.json",
            "state",
        ]
        started = await s.starter.start(await s.request("one", network=Network.USER))
        vm = started.vm
        try:
            assert (started.how, started.why) == ("copy", "")
            assert alive(vm) == ["QEMU", "vhost-device-vsock", "frameguard", "passt"]
            plugged = await vm.qmp.execute("qom-list", {"path": PLUGGED})
            kinds = {device["type"] for device in plugged}
            assert {"child<vhost-user-vsock-pci>", "child<virtio-net-pci>"} <= kinds
            maps = Path(f"/proc/{vm.vmm.pid}/maps").read_text()
            assert "/memfd:vitrail-guest" in maps
            assert str(folder) not in maps
        finally:
            await vm.close()
        assert leftovers(s.place / "one") in ([], ["initrd"])


def digest(fd: int) -> str:
    """Return the digest of a sparse file, and of where its holes are."""
    total = hashlib.sha256()
    for start, end in data_ranges(fd):
        total.update(f"{start} {end}\n".encode())
        total.update(os.pread(fd, end - start, start))
    return total.hexdigest()


def guest_memory(pid: int) -> dict[str, set[str]]:
    """Return how a process maps each file of a guest's memory: rights and inode."""
    found: dict[str, set[str]] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _range, rights, _offset, device, inode, *name = line.split()
        if name and name[0].startswith("/memfd:vitrail-"):
            found.setdefault(f"{device} {inode}", set()).add(rights)
    return found


async def test_forks_map_one_memory_that_none_of_them_writes():
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode="shared"))
        memory = os.open(s.place / "parents" / "web" / "memory", os.O_RDONLY)
        before = digest(memory)
        vms = []
        try:
            for name in ("one", "two"):
                wanted = await s.request(name, mode="shared", network=Network.USER)
                started = await s.starter.start(wanted)
                vms.append(started.vm)
                assert (started.how, started.why) == ("fork", "")
            roles = ["QEMU", "port-mux", "frameguard", "passt"]
            assert [alive(vm) for vm in vms] == [roles, roles]
            one, two = (guest_memory(vm.vmm.pid) for vm in vms)
            assert list(one.values()) == [{"rw-p"}]
            assert one == two
            for vm in vms:
                with pytest.raises(qmp.QmpError, match="balloon"):
                    await vm.qmp.execute("balloon", {"value": 64 << 20})
                kinds = await vm.qmp.execute("qom-list", {"path": PLUGGED})
                kinds = {device["type"] for device in kinds}
                assert "child<virtio-net-pci>" in kinds
                assert not any("vhost" in kind for kind in kinds)
            # A process of such a machine ends with it, and it with the process.
            vms[0].processes[1].kill()
            end = await vms[0].wait()
            assert end.reason.startswith("port-mux ended")
        finally:
            for vm in vms:
                await vm.close()
            after = digest(memory)
            os.close(memory)
        assert after == before
        for name in ("one", "two"):
            assert leftovers(s.place / name) in ([], ["initrd"])


@pytest.mark.parametrize("mode", ["copy", "shared"])
@pytest.mark.parametrize("case", ["state of zeros", "cut state", "no memory"])
async def test_a_broken_parent_is_a_boot_and_is_removed(case: str, mode: str):
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode=mode))
        folder = s.place / "parents" / "web"
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
        started = await s.starter.start(await s.request("one", mode=mode))
        try:
            assert started.how == "boot"
            assert started.why
            assert alive(started.vm) == ["QEMU", "vhost-device-vsock"]
        finally:
            await started.vm.close()
        assert not folder.exists()
        assert leftovers(s.place / "one") in ([], ["initrd"])


async def test_qemu_holds_the_lock_of_a_home(tmp_path: Path):
    store = HomeCopies(tmp_path / "homes")
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


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_qemu_opens_an_encrypted_home_in_its_jail(tmp_path: Path):
    store = HomeCopies(tmp_path / "homes")
    passphrase = b"correct horse battery"
    with short_directory() as place, ExitStack() as held:
        lock = held.enter_context(store.lock(NAME))
        home = await ready_encrypted_disk(store, NAME, 32 << 20, passphrase)
        wrong = passphrase_pipe(b"wrong horse battery")
        held.callback(os.close, wrong)
        disk = HomeDisk(home.disk, frozenset({"home"}), lock.fd, wrong)
        with pytest.raises(ExceptionGroup) as caught:
            async with machine(place, home=disk):
                pass
        error = sole(caught.value)
        assert isinstance(error, UpstreamError)
        assert "exited while starting" in str(error)
        assert "horse" not in str(error)
        assert leftovers(place) in ([], ["logs", "logs/console.log"])
        right = passphrase_pipe(passphrase)
        held.callback(os.close, right)
        async with machine(place, home=replace(disk, key=right)) as vm:
            held.close()
            assert store.in_use(NAME)
            (block,) = await vm.qmp.execute("query-block")
            assert block["inserted"]["drv"] == "luks"
            assert block["inserted"]["image"]["virtual-size"] == 32 << 20
            words = Path(f"/proc/{vm.vmm.pid}/cmdline").read_bytes()
            assert b"horse" not in words


async def wanted(s, name, mode="copy"):
    """A request of a record of which a machine waits."""
    return replace(await s.request(name, mode=mode), standby_mib=4096)


@pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])
async def test_a_machine_that_waited_becomes_a_sandbox(mode: str, how: str):
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode=mode))
        first = await s.starter.start(await wanted(s, "one", mode))
        assert first.how == how
        await eventually(lambda: bool(s.starter.pool.records))
        waiting = {pid for _, _, pid in s.starter.pool.processes}
        (waited,) = (s.place / "standby").iterdir()
        state = read_state(waited)
        assert state is not None
        assert state.name == "web", "it has the name of its record until it is used"
        second = await s.starter.start(await wanted(s, "two", mode))
        try:
            assert (second.how, second.why) == ("standby", "")
            vm, place = second.vm, s.place / "two"
            assert {process.pid for process in vm.processes} == waiting
            state = read_state(place)
            assert state is not None
            assert (state.name, state.logs) == ("two", str(s.place / "logs" / "two"))
            found = find_processes(state)
            assert {process.pid for process in found.all} == waiting
            for process in found.all:
                process.close()
            assert vm.uds == place / "vsock" / "vm.vsock"
            assert {"qmp", "console", "vsock"} <= set(leftovers(place))
            assert vm.console.path.parent == s.place / "logs" / "two"
            assert (await vm.qmp.execute("query-status"))["running"] is False
            await eventually(lambda: bool(s.starter.pool.records))
            assert not waiting & {pid for _, _, pid in s.starter.pool.processes}
        finally:
            await first.vm.close()
            await second.vm.close()
        assert leftovers(s.place / "two") in ([], ["initrd"])
    assert not list(s.place.glob("standby/*"))


async def test_a_later_broker_ends_machines_that_waited():
    async with stage() as s:
        await s.starter.make(await s.request("maker"))
        started = await s.starter.start(await wanted(s, "one"))
        await eventually(lambda: bool(s.starter.pool.records))
        pids = [pid for _, _, pid in s.starter.pool.processes]
        assert len(pids) == 2
        assert await clean_standbys(s.place / "standby") == 2

        def gone():
            return not any(Path(f"/proc/{pid}").exists() for pid in pids)

        assert await eventually(gone)
        assert not list(s.place.glob("standby/*"))
        await eventually(lambda: not s.starter.pool.records)
        await started.vm.close()
