"""The probe of an accelerator boots a real kernel; KVM where it really boots."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.host.vmm.accel import (
    DEVICE,
    Accel,
    boot_probe,
    choose_accel,
    permission,
)
from broker.host.vmm.launcher import Tools, start_vm
from broker.host.vmm.running import EndKind
from tests.kit.vm.machines import require_vm, tiny_spec
from tests.kit.vm.tinyguest import shell_listener, tiny_guest
from tests.kit.wayland.compositor import short_directory


@pytest.fixture
def tools() -> Tools:
    return require_vm()


def ask(tools: Tools) -> dict:
    guest = tiny_guest()
    return {"qemu": tools.vmm, "kernel": guest.kernel, "initrd": guest.initrd}


async def test_a_kernel_that_runs_is_seen_at_once(tools):
    guest = tiny_guest()
    said = await boot_probe(
        tools.vmm, guest.kernel, guest.initrd, Accel.TCG, deadline=30
    )
    assert said == "Linux version"


async def test_a_kernel_that_is_none_is_not(tools, tmp_path):
    guest = tiny_guest()
    nonsense = tmp_path / "kernel"
    nonsense.write_bytes(b"no kernel" * 1000)
    with pytest.raises(UpstreamError):
        await boot_probe(tools.vmm, nonsense, guest.initrd, Accel.TCG, deadline=3)


async def test_this_machines_choice_has_a_reason_and_is_kept(tools, tmp_path):
    first = await choose_accel(**ask(tools), cache=tmp_path, environ={})
    assert first.reason
    # Without a VMM nothing can be probed again.
    again = ask(tools) | {"qemu": tmp_path / "none"}
    assert await choose_accel(**again, cache=tmp_path, environ={}) == first


@pytest.fixture
def kvm(tools, tmp_path):
    async def choose():
        return await choose_accel(**ask(tools), cache=tmp_path, environ={})

    choice = trio.run(choose)
    if choice.accel is not Accel.KVM:
        pytest.skip(f"needs a KVM that boots: {choice.reason}")
    return replace(tools, accel=Accel.KVM)


@pytest.mark.machine
async def test_where_kvm_boots_a_machine_runs_under_it(kvm):
    assert permission(DEVICE) is None
    with short_directory() as place:
        async with trio.open_nursery() as nursery:
            vm = await start_vm(tiny_spec(place), kvm, nursery=nursery)
            async with shell_listener(vm.uds) as accept:
                await vm.cont()
                shell = await accept(20)
                assert (await shell.run("true"))[0] == 0
                await shell.stream.send_all(b"poweroff -f\n")
                with trio.fail_after(60):
                    assert (await vm.wait()).kind is EndKind.GUEST
            await vm.close()
