"""QEMU's command line and the state file: pure parts of the launcher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.helpers.process.identity import ProcessIdentity
from broker.host.vmm.launcher import _require_huge_pages
from broker.host.vmm.qemu_arguments import (
    Accel,
    Network,
    VmSpec,
    Wiring,
    qemu_args,
)
from broker.host.vmm.vm_state import (
    STATE_FILE,
    find_processes,
    read_state,
    remove_files,
    state_of,
    write_state,
)
from broker.host.vmm.vmm_jail import qemu_view
from broker.host.vmm.vsock_backend import hybrid_device, kernel_device

QEMU = Path("/usr/bin/qemu-system-x86_64")
HYBRID = Wiring(qmp_fd=5, console_fd=6, vsock=hybrid_device(7))
KERNEL = Wiring(qmp_fd=5, console_fd=6, vsock=kernel_device(42, 7))


@pytest.fixture
def spec(tmp_path):
    return VmSpec(
        name=SandboxName("work"),
        kernel=Path("/i/kernel"),
        initrd=Path("/i/initrd"),
        root=Path("/i/root"),
        directory=tmp_path / "run",
        logs=tmp_path / "logs",
    )


def after(words, flag):
    return [words[at + 1] for at, word in enumerate(words) if word == flag]


def test_under_tcg_it_is_a_q35_with_pci_devices(spec):
    words = qemu_args(spec, QEMU, Accel.TCG, HYBRID)
    machine, memory = after(words, "-machine")
    assert machine.startswith("q35,")
    assert memory == "memory-backend=mem"
    assert after(words, "-accel") == ["tcg,thread=multi,tb-size=96"]
    assert after(words, "-device") == [
        "virtio-balloon-pci,id=balloon,free-page-reporting=on",
        "virtio-blk-pci,drive=root",
        "vhost-user-vsock-pci,chardev=vsock",
    ]
    assert "no_timer_check" in after(words, "-append")[0]


def test_under_kvm_it_is_a_microvm_with_mmio_devices(spec):
    words = qemu_args(spec, QEMU, Accel.KVM, KERNEL)
    assert after(words, "-machine")[0].startswith("microvm,")
    assert after(words, "-cpu") == ["host"]
    assert after(words, "-accel") == ["kvm"]
    assert after(words, "-global") == ["virtio-mmio.force-legacy=false"]
    assert after(words, "-device") == [
        "virtio-balloon-device,id=balloon,free-page-reporting=on",
        "virtio-blk-device,drive=root",
        "vhost-vsock-device,guest-cid=42,vhostfd=7",
    ]
    assert "no_timer_check" not in after(words, "-append")[0]


def test_machine_types_of_kvm_are_emulated_for_tests(spec):
    kvm = qemu_args(spec, QEMU, Accel.KVM, HYBRID)
    emulated = qemu_args(spec, QEMU, Accel.KVM_TYPE, HYBRID)
    assert after(emulated, "-accel")[0].startswith("tcg,")
    for flag in ("-machine", "-global", "-device", "-blockdev", "-object"):
        assert after(emulated, flag) == after(kvm, flag)
    with_arena = replace(spec, arena_bytes=1 << 20)
    assert with_arena.machine(Accel.KVM_TYPE).bus == "pci"


def test_a_kvm_without_microvm_is_a_q35(spec):
    words = qemu_args(spec, QEMU, Accel.KVM_Q35, HYBRID)
    assert after(words, "-machine")[0].startswith("q35,")
    assert after(words, "-accel") == ["kvm"]
    assert not after(words, "-global")
    assert "no_timer_check" not in after(words, "-append")[0]


@pytest.mark.parametrize("accel", Accel)
def test_every_machine_is_paused_confined_and_bare(spec, accel):
    words = qemu_args(spec, QEMU, accel, HYBRID)
    for flag in ("-S", "-nodefaults", "-no-user-config", "-no-reboot", "-nographic"):
        assert flag in words
    assert after(words, "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]
    assert after(words, "-object") == ["memory-backend-memfd,id=mem,size=768M,share=on"]
    assert not after(words, "-netdev")


def test_translated_code_has_room_for_a_large_machine(spec):
    for memory, room in ((128, 64), (512, 64), (768, 96), (8192, 1024), (32768, 1024)):
        words = qemu_args(replace(spec, memory_mib=memory), QEMU, Accel.TCG, HYBRID)
        assert after(words, "-accel") == [f"tcg,thread=multi,tb-size={room}"]


def test_huge_pages_are_not_given_back_one_by_one(spec):
    words = qemu_args(replace(spec, huge_pages=True), QEMU, Accel.TCG, HYBRID)
    memory = "memory-backend-memfd,id=mem,size=768M,share=on,hugetlb=on,hugetlbsize=2M"
    assert after(words, "-object") == [memory]
    assert not any("balloon" in word for word in words)


@pytest.mark.parametrize("accel", Accel)
def test_a_shared_image_is_a_read_only_memory_device(spec, accel):
    """Of a q35 also under KVM: QEMU's microvm has no memory devices."""
    shared = replace(spec, root=Path("/i,j/root"), shared_image_bytes=(5 << 20) - 4096)
    words = qemu_args(shared, QEMU, accel, HYBRID)
    assert after(words, "-machine")[0].startswith("q35,")
    assert after(words, "-m") == ["768M,slots=1,maxmem=773M"]
    assert json.loads(after(words, "-object")[1]) == {
        "qom-type": "memory-backend-file",
        "id": "image",
        "mem-path": "/i,j/root",
        "size": (5 << 20) - 4096,
        "share": True,
        "readonly": True,
    }
    assert after(words, "-device")[1:] == [
        "virtio-pmem-pci,memdev=image",
        "vhost-user-vsock-pci,chardev=vsock",
    ]
    assert not after(words, "-blockdev")
    kernel_words = after(words, "-append")[0].split()
    # Memory above 4 GiB would cost 64 MiB for bounce buffers that no device needs.
    assert {"vitrail.root=pmem", "swiotlb=noforce"} <= set(kernel_words)
    # What calibrates a clock is for an emulated machine.
    assert ("no_timer_check" in after(words, "-append")[0]) is (not accel.uses_kvm)


@pytest.mark.parametrize("accel", Accel)
@pytest.mark.parametrize("image", [0, 5 << 20])
def test_an_arena_is_memory_by_a_descriptor_behind_the_image(spec, accel, image):
    """The agent takes the last region; the first is the root, where that is memory."""
    shared = replace(spec, shared_image_bytes=image, arena_bytes=64 << 20)
    words = qemu_args(shared, QEMU, accel, replace(HYBRID, arena_fd=9))
    assert after(words, "-machine")[0].startswith("q35,")
    slots, most = (2, 768 + 64 + 5) if image else (1, 768 + 64)
    assert after(words, "-m") == [f"768M,slots={slots},maxmem={most}M"]
    backend = (
        "memory-backend-file,id=arena,share=on,mem-path=/proc/self/fd/9,size=67108864"
    )
    assert after(words, "-object")[-1] == backend
    devices = [word for word in after(words, "-device") if "pmem" in word]
    assert devices[-1] == "virtio-pmem-pci,memdev=arena"
    assert len(devices) == slots
    told = after(words, "-append")[0].split()
    assert {"vitrail.pixels=arena", "swiotlb=noforce"} <= set(told)
    assert ("vitrail.root=pmem" in told) is bool(image)
    # A name below /proc is there in the jail only if it has a /proc.
    assert qemu_view(shared, QEMU, accel).proc
    assert not qemu_view(spec, QEMU, accel).proc


@pytest.mark.parametrize("path", ["/a,b/root", '/a"b', "/a b,file.locking=off", "/ä"])
def test_no_character_of_a_path_means_anything_to_qemu(spec, path):
    words = qemu_args(replace(spec, root=Path(path)), QEMU, Accel.TCG, HYBRID)
    node = json.loads(after(words, "-blockdev")[0])
    assert node["file"]["filename"] == path
    assert node["read-only"] is True
    assert node["file"]["read-only"] is True


def test_without_a_root_there_is_no_disk(spec):
    argv = qemu_args(replace(spec, root=None), QEMU, Accel.TCG, HYBRID)
    assert not after(argv, "-blockdev")


def test_a_network_is_a_device_and_a_word_for_the_guest(spec):
    wiring = replace(HYBRID, nic_fd=9, kernel_args=("vitrail.net=dhcp",))
    argv = qemu_args(replace(spec, network=Network.USER), QEMU, Accel.TCG, wiring)
    assert after(argv, "-netdev") == [
        "stream,id=net,server=off,addr.type=fd,addr.str=9"
    ]
    assert "vitrail.net=dhcp" in after(argv, "-append")[0].split()


def test_the_guest_is_told_its_name_and_whether_it_is_disposable(spec):
    told = after(qemu_args(spec, QEMU, Accel.TCG, HYBRID), "-append")[0].split()
    assert {"vitrail.name=work", "vitrail.disposable=1"} <= set(told)
    kept = replace(spec, disposable=False, kernel_args=("vitrail.orphan=3",))
    told = after(qemu_args(kept, QEMU, Accel.TCG, HYBRID), "-append")[0].split()
    assert "vitrail.disposable=1" not in told
    assert told[-1] == "vitrail.orphan=3"


@pytest.mark.parametrize("mib", [127, 65537, 0, -1])
def test_memory_outside_its_limits_is_refused(spec, mib):
    with pytest.raises(SetupError, match="MiB"):
        replace(spec, memory_mib=mib)


@pytest.mark.parametrize("mib", [128, 65536])
def test_memory_at_its_limits_is_accepted(spec, mib):
    assert replace(spec, memory_mib=mib).memory_mib == mib


@pytest.mark.parametrize("cpus", [0, 65])
def test_processors_outside_their_limits_are_refused(spec, cpus):
    with pytest.raises(SetupError, match="processors"):
        replace(spec, cpus=cpus)


@pytest.mark.parametrize("word", ["a b", 'a"b', "a\nb", "ä"])
def test_a_kernel_argument_is_one_word(spec, word):
    with pytest.raises(SetupError, match="kernel argument"):
        replace(spec, kernel_args=(word,))


# -- the state file --------------------------------------------------------------


@pytest.fixture
def state(spec):
    spec.directory.mkdir()
    return state_of(spec, cid=70000, hybrid=True, accel=Accel.TCG)


def test_a_state_is_read_as_it_was_written(spec, state):
    full = msgspec.structs.replace(
        state, helpers={"passt": ProcessIdentity(3, 4, 5)}, vmm=ProcessIdentity(6, 7, 8)
    )
    write_state(spec.directory, full)
    assert read_state(spec.directory) == full
    assert (spec.directory / STATE_FILE).stat().st_mode & 0o777 == 0o600


def test_no_file_is_no_machine(tmp_path):
    assert read_state(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"{" * 1000, b" " * (limits.VM_STATE_BYTES + 1)],
)
def test_a_file_that_is_not_ours_is_an_error(tmp_path, content):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(UpstreamError):
        read_state(tmp_path)


def test_a_file_at_the_limit_is_read(spec, state):
    write_state(spec.directory, state)
    path = spec.directory / STATE_FILE
    path.write_bytes(path.read_bytes().ljust(limits.VM_STATE_BYTES))
    assert read_state(spec.directory) == state


def test_a_link_is_not_followed(tmp_path, spec, state):
    write_state(spec.directory, state)
    (tmp_path / STATE_FILE).symlink_to(spec.directory / STATE_FILE)
    with pytest.raises(UpstreamError):
        read_state(tmp_path)


def test_processes_of_another_boot_are_not_ours(state):
    import os

    from broker.helpers.process import identity

    mine = ProcessIdentity(
        os.getpid(),
        identity.start_time(os.getpid()),
        os.fstat(fd := os.pidfd_open(os.getpid())).st_ino,
    )
    os.close(fd)
    now = msgspec.structs.replace(state, vmm=mine)
    found = find_processes(now)
    assert found.vmm is not None
    found.vmm.close()
    assert find_processes(msgspec.structs.replace(now, boot="another")).all == ()


def test_other_peoples_files_stay(spec, state):
    write_state(spec.directory, state)
    (spec.directory / "vsock").mkdir()
    for name in ("vm.vsock", "vm.vsock_6500", "vm.vsock_6501"):
        (spec.directory / "vsock" / name).touch()
    (spec.directory / "other").touch()
    remove_files(spec.directory)
    assert [path.name for path in spec.directory.iterdir()] == ["other"]
    (spec.directory / "other").unlink()
    remove_files(spec.directory)
    assert not spec.directory.exists()
    remove_files(spec.directory)  # again is harmless


@pytest.mark.parametrize(
    ("free", "enough"), [("384\n", True), ("383\n", False), (None, False)]
)
def test_huge_pages_must_be_free(spec, tmp_path, free, enough):
    if free is not None:
        (tmp_path / "free_hugepages").write_text(free)
    if enough:
        _require_huge_pages(spec, tmp_path)
        return
    with pytest.raises(SetupError, match="384 huge pages of 2 MiB") as caught:
        _require_huge_pages(spec, tmp_path)
    missing = 384 - int(free or 0)
    assert f"increase vm.nr_hugepages by {missing} " in caught.value.hint
