"""The words of a script's machine: those of our own machines, and no more than words."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cli.launchers.scripts.script_arguments import (
    ScriptMachine,
    as_json,
    escape_option,
    firecracker_configuration,
    qemu_words,
    refuse_what_lacks,
    split_words,
)
from broker.core.errors import RefusedError
from broker.host.vmm.qemu_arguments import (
    Accel,
    HomeDisk,
    VmSpec,
    Wiring,
    qemu_args,
)

HOME = HomeDisk(Path("/homes/fox/current/disk"), frozenset({"home"}), lock=-1)
UDS = Path("/run/fox/vm.vsock")
MACHINE = ScriptMachine(
    "fox",
    1024,
    backend=Path("/run/fox/vm.vsock.vhost"),
    uds=UDS,
    image=Path("/images/root"),
    image_bytes=64 << 20,
    home=HOME,
    folders=(Path("/run/script-7/folder-0"), Path("/run/script-7/folder-1")),
    arena_bytes=128 << 20,
    arena=5,
    holder="7",
)
SHELLS = [words for words in (["bash"], ["dash"], ["busybox", "sh"]) if shutil.which(words[0])]  # fmt: skip


def test_what_it_has_is_that_of_our_own_machines():
    spec = VmSpec(
        name="fox", kernel=Path("/k"), initrd=Path("/i"), root=MACHINE.image,
        directory=Path("/d"), logs=Path("/l"), memory_mib=1024, home=HOME,
        shared_image_bytes=64 << 20, arena_bytes=128 << 20, folders=2,
    )  # fmt: skip
    wiring = Wiring(3, 4, [], arena_fd=5, folder_fds=[8, 9])
    own = qemu_args(spec, Path("/qemu"), Accel.TCG, wiring)
    # By path in place of a descriptor, which a script's QEMU does not inherit.
    changes = {
        "werror=report": "werror=enospc",
        "path=/run/script-7/folder-0": "fd=8",
        "path=/run/script-7/folder-1": "fd=9",
        "/proc/7/": "/proc/self/",
    }
    for word in qemu_words(MACHINE):
        for mine, theirs in changes.items():
            word = word.replace(mine, theirs)  # noqa: PLW2901
        if "vsock" not in word:
            assert word in own
    (kernel,) = (own[n + 1] for n, word in enumerate(own) if word == "-append")
    assert set(MACHINE.kernel_words().split()) <= set(kernel.split())


def test_a_machine_with_folders_shares_its_memory_with_their_servers():
    kernel_vsock = ScriptMachine("fox", 1024, folders=MACHINE.folders)
    assert "share=on" in " ".join(qemu_words(kernel_vsock))
    assert "share=off" in " ".join(qemu_words(replace(kernel_vsock, folders=())))


@pytest.mark.parametrize(
    ("more", "lacks"),
    [
        ({"folders": MACHINE.folders}, "folders"),
        ({"arena_bytes": 128 << 20}, "pixel_arena"),
    ],
)
def test_what_another_vmm_cannot_have_is_refused_by_its_key(more, lacks):
    machine = ScriptMachine("fox", 1024, uds=UDS, **more)
    with pytest.raises(RefusedError, match=lacks):
        firecracker_configuration(machine)
    with pytest.raises(RefusedError, match=lacks):
        refuse_what_lacks(replace(machine, uds=None), "libvirt")


def test_memory_is_shared_where_another_process_maps_it_and_private_else():
    shared = "memory-backend-memfd,id=mem,size=1024M,share="
    assert f"{shared}on" in qemu_words(MACHINE)
    kernel = ScriptMachine("fox", 1024, huge_pages=True, cid=42)
    assert f"{shared}off,hugetlb=on,hugetlbsize=2M" in qemu_words(kernel)
    assert qemu_words(kernel)[-1] == "vhost-vsock-pci,guest-cid=42"
    mmio = qemu_words(kernel, "device")
    assert mmio[-1] == "vhost-vsock-device,guest-cid=42"
    assert mmio[:2] == ["-global", "virtio-mmio.force-legacy=false"]
    assert "-global" not in qemu_words(kernel)


def test_a_machine_without_pci_maps_no_image():
    for more in ({"arena_bytes": 0}, {"image": None}):
        with pytest.raises(RefusedError, match="no memory devices"):
            qemu_words(replace(MACHINE, **more), "device")


def test_the_passphrase_is_read_from_the_process_that_holds_the_home():
    home = HomeDisk(HOME.path, HOME.keep, lock=-1, key=9, holder="4711")
    words = qemu_words(ScriptMachine("fox", 1024, home=home))
    assert "secret,id=homekey,file=/proc/4711/fd/9" in words


def test_the_kernel_is_told_of_home_image_and_arena():
    assert (
        MACHINE.kernel_words()
        == "vitrail.name=fox vitrail.keep=home vitrail.root=pmem vitrail.pixels=arena "
        "swiotlb=noforce"
    )


@pytest.mark.parametrize(
    "path",
    ["/a b", "/a\nb", "/a\tb", "/*", "/[a]", "/a?", "/a'b", "/a\\b", "/$(id)", "/a;b", "/`id`", "/é", "/~"],
)  # fmt: skip
def test_a_path_that_a_shell_would_change_is_refused(path):
    home = HomeDisk(Path(path), HOME.keep, lock=-1)
    for machine in (
        ScriptMachine("fox", 1024, home=home),
        ScriptMachine("fox", 1024, uds=Path("/r"), backend=Path(path)),
    ):
        with pytest.raises(RefusedError, match="a shell splits or expands"):
            split_words(qemu_words(machine))
        listed = json.loads(as_json(machine, "pci", ""))["qemu"]
        assert listed == qemu_words(machine)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.sampled_from(SHELLS))
def test_what_is_printed_is_the_same_words_to_a_shell(text, shell):
    home = HomeDisk(Path(f"/homes/{text}"), HOME.keep, lock=-1)
    machine = ScriptMachine("fox", 1024, home=home)
    try:
        line = split_words(qemu_words(machine))
    except RefusedError:
        return
    script = 'printf "%s\\n" $(cat)'
    done = subprocess.run(
        [*shell, "-c", script], input=line, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == qemu_words(machine)


def test_a_comma_in_a_path_ends_no_option_of_qemu():
    assert escape_option("/a,server=on") == "/a,,server=on"
    machine = ScriptMachine("f", 1024, uds=Path("/r"), backend=Path("/a,wait=off"))
    assert "socket,id=vsock,path=/a,,wait=off" in qemu_words(machine)
    disk = HomeDisk(Path("/a,driver=nbd"), HOME.keep, lock=-1)
    words = qemu_words(ScriptMachine("f", 1024, home=disk))
    node = json.loads(words[words.index("-blockdev") + 1])
    assert node["file"]["filename"] == "/a,driver=nbd"


def test_firecracker_has_vsock_memory_and_home():
    machine = ScriptMachine("fox", 512, huge_pages=True, uds=UDS, home=HOME)
    made = firecracker_configuration(machine)
    assert made["vsock"] == {"guest_cid": 3, "uds_path": str(UDS)}
    assert made["machine-config"] == {"mem_size_mib": 512, "huge_pages": "2M"}
    assert made["drives"][0]["path_on_host"] == str(HOME.path)
    key = HomeDisk(HOME.path, HOME.keep, lock=-1, key=3)
    for wrong in (
        ScriptMachine("fox", 512),
        ScriptMachine("fox", 512, uds=UDS, home=key),
        ScriptMachine("fox", 512, uds=UDS, image=Path("/i")),
    ):
        with pytest.raises(RefusedError, match="for Firecracker"):
            firecracker_configuration(wrong)
