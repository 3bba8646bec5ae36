"""The process that draws for a machine: its jail, its machine's words, its end."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.helpers.process.identity import boot_id
from broker.host.gpu import gpu_renderer
from broker.host.gpu.gpu_renderer import own_node, renderer_view
from broker.host.images.initramfs import (
    GPU_MODULES,
    ORDER,
    ArchiveEntry,
    has_gpu,
    modules_overlay,
    read_entry,
    write_cpio,
)
from broker.host.processes.tracked import spawn_helper
from broker.host.vmm.qemu_arguments import Accel, VmSpec, Wiring, kernel_args, qemu_args
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import RENDERER, FoundState, VmState, find_processes
from broker.host.vmm.vmm_jail import jail_args


def test_its_jail_has_one_node_and_nothing_of_the_user(monkeypatch, tmp_path):
    given = []

    def words(nodes):
        given.extend(nodes)
        return ["--dev-bind", "node", "node"]

    monkeypatch.setattr(gpu_renderer, "render_words", words)
    node = tmp_path / "renderD128"
    view = renderer_view(Path("/usr/lib/qemu/vhost-user-gpu"), node)
    assert given == [node]
    assert not view.proc
    assert not view.writable
    assert not view.readable
    said = jail_args(view)
    assert "--unshare-net" in said
    assert "/home" not in " ".join(said)
    # A library of another vendor may start a program.
    assert said[said.index("__EGL_VENDOR_LIBRARY_FILENAMES") + 1].endswith("mesa.json")


def test_without_a_node_there_is_no_renderer(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_renderer, "render_nodes", tuple)
    with pytest.raises(SetupError, match="does not contain one"):
        own_node()
    node = tmp_path / "renderD128"
    node.touch()
    monkeypatch.setattr(gpu_renderer, "render_nodes", lambda: (node,))
    assert own_node() == node
    monkeypatch.setattr(gpu_renderer.os, "access", lambda *_: False)
    with pytest.raises(SetupError, match="permission denied") as name:
        own_node()
    assert f"-aG {node.group()} " in name.value.hint

    def nameless(_path):
        raise KeyError("getgrgid(): gid not found")

    monkeypatch.setattr(Path, "group", nameless)
    with pytest.raises(SetupError, match="permission denied") as number:
        own_node()
    assert f"-aG {node.stat().st_gid} " in number.value.hint


def _spec(tmp_path, **more):
    files = {
        name: tmp_path / name for name in ("kernel", "initrd", "directory", "logs")
    }
    return VmSpec(SandboxName("app"), root=None, **files, **more)


@pytest.mark.parametrize("accel", list(Accel))
def test_a_machine_has_a_gpu_where_its_record_says_so(tmp_path, accel):
    wiring = Wiring(3, 4, (), arena_fd=5, gpu_fd=6)
    spec = _spec(tmp_path, arena_bytes=1 << 27, gpu=True)
    words = qemu_args(spec, Path("/qemu"), accel, wiring)
    at = words.index("vhost-user-gpu-pci,chardev=gpu")
    assert words[at - 2 : at] == ["socket,id=gpu,fd=6", "-device"]
    # A console on its screen would end the renderer.
    assert "video=Virtual-1:d" in kernel_args(spec, accel, wiring).split()
    plain = _spec(tmp_path, arena_bytes=1 << 27)
    assert "vhost-user-gpu" not in " ".join(
        qemu_args(plain, Path("/qemu"), accel, wiring)
    )


def test_a_machine_is_adopted_without_its_renderer():
    state = VmState(
        boot="b", name="app", cid=5, vsock="hybrid", accel=Accel.TCG, network="none",
        disposable=True, logs="", helpers={"vhost-device-vsock": None, RENDERER: None},
    )  # fmt: skip
    vsock = SimpleNamespace(role="vhost-device-vsock")
    assert FoundState(None, (vsock,)).complete(state)
    assert not FoundState(None, (SimpleNamespace(role=RENDERER),)).complete(state)


async def test_it_is_not_waited_for_without_end_by_a_later_broker():
    child = spawn_helper(RENDERER, ["sleep", "100"])
    other = spawn_helper("passt", ["sleep", "100"])
    try:
        state = VmState(
            boot=boot_id(), name="app", cid=5, vsock="hybrid", accel=Accel.TCG,
            network="none", disposable=True, logs="",
            helpers={RENDERER: child.identity, "passt": other.identity},
        )  # fmt: skip
        found = find_processes(state).helpers
        assert {one.role: one.patience for one in found} == {
            RENDERER: limits.RENDERER_END_SECONDS,
            "passt": math.inf,
        }
        for one in found:
            one.close()
    finally:
        for one in (child, other):
            await one.end(0)
            one.close()


async def test_a_machine_ends_without_a_renderer_that_does_not(tmp_path, monkeypatch):
    child = spawn_helper(RENDERER, ["sleep", "100"])
    child.patience = 0.1
    vmm = spawn_helper("QEMU", ["sleep", "100"])
    vm = Vm(tmp_path, SimpleNamespace(cid=3), vmm=vmm, helpers=(child,), console=None)
    with monkeypatch.context() as stuck:
        stuck.setattr(child, "wait", trio.sleep_forever)
        with trio.fail_after(30):
            await vm._end_processes()
    assert vmm.ended
    await child.wait()
    for one in (child, vmm):
        one.close()


async def test_its_end_is_told_and_is_not_the_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "VM_DRAIN_SECONDS", 0.0)
    told, killed = [], []
    forever = trio.Event()
    vmm = SimpleNamespace(
        ended=False, wait=forever.wait, kill=lambda: killed.append(1), role="QEMU"
    )

    async def ended():
        return -9

    helper = SimpleNamespace(role=RENDERER, wait=ended, words="")
    vm = Vm(
        tmp_path, SimpleNamespace(cid=3), vmm=vmm, helpers=(), console=None,
        on_loss=told.append,
    )  # fmt: skip
    await vm._watch_helper(helper)
    (reason,) = told
    assert reason.startswith(
        "vhost-user-gpu ended with code -9: its programs now render"
    )
    assert not killed


def test_an_image_loads_its_driver_only_for_a_machine_with_a_gpu():
    names = (*GPU_MODULES, "virtio_blk")
    entries = {f"modules/{name}.ko": ArchiveEntry(0o100644, b"x") for name in names}
    entries[ORDER] = ArchiveEntry(0o100644, b"virtio_blk\n")
    archive = write_cpio(entries)
    assert has_gpu(archive)
    assert not modules_overlay(archive, folders=False, network=True)
    more = modules_overlay(archive, folders=False, network=True, gpu=True)
    assert read_entry(more, ORDER) == b"virtio_blk\nvirtio_gpu\n"
