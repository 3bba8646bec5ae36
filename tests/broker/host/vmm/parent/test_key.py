"""A parent's key changes with everything that a copy depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent.arguments import ForkWiring, forkable_args, key_words
from broker.host.vmm.parent.key import ParentInputs
from broker.host.vmm.parent.request import StartRequest, parent_key
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from broker.host.vmm.vmm_jail import qemu_view

QEMU = Path("/usr/bin/qemu-system-x86_64")
SPEC = VmSpec(
    name=SandboxName("a"),
    kernel=Path("/i/kernel"),
    initrd=Path("/i/initrd"),
    root=Path("/i/root"),
    directory=Path("/run/a"),
    logs=Path("/log/a"),
)
INPUTS = ParentInputs("web", "image", "agent", "qemu", ["-m", "768M"])


@pytest.mark.parametrize("field", ["record", "image", "agent", "qemu", "host", "mode"])
def test_each_input_is_in_the_key(field):
    assert replace(INPUTS, **{field: "other"}).key() != INPUTS.key()


CPU = """\
processor\t: 0
model name\t: Some CPU
microcode\t: 0x1
cpu MHz\t\t: 2596.122
flags\t\t: fpu vme

processor\t: 1
microcode\t: 0x1
"""


@pytest.mark.parametrize(
    ("old", "new", "other"),
    [
        ("microcode\t: 0x1", "microcode\t: 0x2", True),
        ("fpu vme", "fpu vme md_clear", True),
        ("Some CPU", "Another CPU", True),
        ("2596.122", "800.000", False),
    ],
)
def test_under_kvm_the_processor_is_in_the_key(tmp_path, monkeypatch, old, new, other):
    """The guest's kernel has chosen its mitigations by it, and QEMU asks no more."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr("broker.host.vmm.parent.request.CPU_INFO", cpuinfo)

    def key(accel, text):
        cpuinfo.write_text(text)
        tools = Tools(Path("/bin/sh"), accel, None)
        return parent_key(
            StartRequest("web", "shared", "image", lambda _: _, [], SPEC, tools)
        )

    changed = CPU.replace(old, new)
    assert (key(Accel.KVM, CPU) != key(Accel.KVM, changed)) is other
    assert key(Accel.TCG, CPU) == key(Accel.TCG, changed)


def test_words_are_in_the_key_and_their_borders_too():
    assert replace(INPUTS, words=["-m", "512M"]).key() != INPUTS.key()
    assert replace(INPUTS, words=["-m768M"]).key() != INPUTS.key()
    assert replace(INPUTS, words=("-m", "768M")).key() == INPUTS.key()


@pytest.mark.parametrize(
    "change",
    [{"memory_mib": 512}, {"cpus": 2}, {"kernel_args": ("x",)}, {"root": None}],
)
def test_another_machine_has_other_words(change):
    words = key_words(SPEC, QEMU, Accel.TCG, ["foot"])
    assert key_words(replace(SPEC, **change), QEMU, Accel.TCG, ["foot"]) != words
    assert key_words(SPEC, QEMU, Accel.KVM, ["foot"]) != words
    assert key_words(SPEC, QEMU, Accel.TCG, ["xterm"]) != words
    assert "max,-erms,-smap" in words, "the CPU model: QEMU does not notice another one"


@pytest.mark.parametrize("accel", Accel)
def test_parents_are_of_a_machine_type_with_a_pci_bus(accel):
    words = key_words(SPEC, QEMU, accel, [], shared=True)
    machine = words[words.index("-machine") + 1]
    assert machine.startswith("q35,")
    devices = {word.partition(",")[0] for word in words if word.startswith("virtio")}
    assert devices == {"virtio-blk-pci", "virtio-serial-pci", "virtio-rng-pci"}
    assert ("tsc_early_khz" in words[words.index("-append") + 1]) == (
        not accel.uses_kvm
    )


def test_name_and_places_are_not_in_the_words():
    other = replace(
        SPEC, name=SandboxName("b"), initrd=Path("/run/b/initrd"), directory=Path("/b")
    )
    words = key_words(SPEC, QEMU, Accel.TCG, ["foot"])
    assert key_words(other, QEMU, Accel.TCG, ["foot"]) == words


def test_neither_parent_nor_copy_has_what_must_not_be_saved():
    """vhost-user cannot be saved, a NIC has a MAC."""
    wiring = ForkWiring(3, "guid", 4, [])
    words = " ".join(forkable_args(SPEC, QEMU, Accel.TCG, wiring, []))
    for device in ("vhost", "virtio-net", "-netdev", "virtio-mem"):
        assert device not in words
    assert "vitrail.name" not in words


def test_a_copy_has_no_kernel_to_load():
    """QEMU would keep it in memory, and no instruction would ever read it."""
    wiring = ForkWiring(3, "guid", 4, [], streams_fd=5, private=True)
    parent = forkable_args(SPEC, QEMU, Accel.TCG, wiring, ["foot"])
    copy = forkable_args(
        SPEC, QEMU, Accel.TCG, replace(wiring, incoming=True), ["foot"]
    )
    assert copy[copy.index("-incoming") + 1] == "defer"
    assert "-incoming" not in parent
    for option in ("-kernel", "-initrd", "-append"):
        assert option in parent
        assert option not in copy
    view = qemu_view(SPEC, QEMU, Accel.TCG, boots=False)
    assert view.readable == (SPEC.root,)


def test_pages_are_given_back_only_of_memory_that_is_the_machines_own():
    """With a file that siblings map, too, a guest would free theirs."""
    wiring = ForkWiring(3, "guid", 4, [])
    words = forkable_args(SPEC, QEMU, Accel.TCG, wiring, [])
    memory = [word for word in words if "memory-backend-" in word]
    assert [word.rpartition(",")[2] for word in memory] == ["share=on"]
    assert sum("balloon" in word for word in words) == 1


def shared_words(spec=SPEC, **changes):
    wiring = ForkWiring(3, "guid", 4, [], streams_fd=5)
    return forkable_args(spec, QEMU, Accel.TCG, replace(wiring, **changes), [])


def test_machines_that_share_memory_have_other_words():
    words = key_words(SPEC, QEMU, Accel.TCG, ["foot"], shared=True)
    assert words != key_words(SPEC, QEMU, Accel.TCG, ["foot"])
    assert "vitrail.streams=port" in words[words.index("-append") + 1]


def test_a_machine_maps_its_parent_for_itself():
    """Written by the parent alone; and no other process merges its pages."""
    (made,) = (word for word in shared_words() if "memory-backend-" in word)
    assert made.endswith(",share=on")
    (used,) = (w for w in shared_words(private=True) if "memory-backend-" in w)
    assert used.endswith(",share=off,merge=off")


def test_a_machine_that_shares_memory_cannot_free_it():
    for private in (False, True):
        words = " ".join(shared_words(private=private))
        for device in ("balloon", "vhost", "virtio-mem", "memfd", "nvdimm"):
            assert device not in words


@pytest.mark.parametrize(
    "extra",
    [
        ("-device", "virtio-balloon-pci,id=balloon"),
        ("-device", "virtio-balloon-pci-non-transitional"),
        ("-device", "vhost-user-vsock-pci,chardev=vsock"),
        ("-device", "vhost-user-fs-pci,chardev=folder0"),
        ("-device", "vhost-vsock-pci,guest-cid=42,vhostfd=3"),
        ("-object", "memory-backend-memfd,id=more,size=1G"),
        ("-device", "virtio-mem-pci,memdev=more"),
        ("-device", "pc-dimm,memdev=more"),
        ("-device", "of a later version"),
    ],
)
def test_no_device_that_frees_memory_is_wired(extra):
    with pytest.raises(
        SetupError, match="a machine that shares memory does not support"
    ):
        shared_words(extra=extra, private=True)
    # Copies have separate memory.
    assert extra[1] in forkable_args(
        SPEC, QEMU, Accel.TCG, ForkWiring(3, "guid", 4, [], extra), []
    )


def test_both_ports_have_a_number_of_their_own():
    words = [word for word in shared_words() if word.startswith("virtserialport")]
    assert [word.split(",")[2] for word in words] == ["nr=1", "nr=2"]
    assert [word.rpartition("=")[2] for word in words] == [
        "vitrail.fork",
        "vitrail.streams",
    ]


@pytest.mark.parametrize("incoming", [False, True])
@pytest.mark.parametrize("private", [False, True])
def test_translated_code_of_a_parent_and_a_copy_is_bounded(incoming, private):
    """A copy whose programs start again and again took a GiB, whatever its memory."""
    wiring = ForkWiring(3, "", 4, (), private=private, incoming=incoming)
    wiring = replace(wiring, streams_fd=5 if private else None)
    spec = replace(SPEC, memory_mib=2048)
    words = forkable_args(spec, QEMU, Accel.TCG, wiring, ())
    assert words[words.index("-accel") + 1].split(",")[-1] == "tb-size=256"
    kvm = forkable_args(spec, QEMU, Accel.KVM, wiring, ())
    assert not any("tb-size" in word for word in kvm)
