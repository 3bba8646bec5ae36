"""A template's key changes with everything that a copy depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.names import SandboxName
from broker.launch.microvm.qemu_arguments import Accel, VmSpec
from broker.launch.template.arguments import ForkWiring, forkable_args, key_words
from broker.launch.template.key import TemplateInputs

QEMU = Path("/usr/bin/qemu-system-x86_64")
SPEC = VmSpec(
    name=SandboxName("a"),
    kernel=Path("/i/kernel"),
    initrd=Path("/i/initrd"),
    root=Path("/i/root"),
    directory=Path("/run/a"),
    logs=Path("/log/a"),
)
INPUTS = TemplateInputs("web", "image", "agent", "qemu", ["-m", "768M"])


@pytest.mark.parametrize("field", ["record", "image", "agent", "qemu", "host"])
def test_each_input_is_in_the_key(field):
    assert replace(INPUTS, **{field: "other"}).key() != INPUTS.key()


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
    assert "max" in words, "the CPU model: QEMU does not notice another one"


def test_name_and_places_are_not_in_the_words():
    other = replace(
        SPEC, name=SandboxName("b"), initrd=Path("/run/b/initrd"), directory=Path("/b")
    )
    words = key_words(SPEC, QEMU, Accel.TCG, ["foot"])
    assert key_words(other, QEMU, Accel.TCG, ["foot"]) == words


def test_neither_template_nor_copy_has_what_must_not_be_saved():
    """vhost-user cannot be saved, a NIC has a MAC."""
    wiring = ForkWiring(3, "guid", 4, [])
    words = " ".join(forkable_args(SPEC, QEMU, Accel.TCG, wiring, []))
    for device in ("vhost", "virtio-net", "-netdev", "virtio-mem"):
        assert device not in words
    assert "vitrail.name" not in words


def test_pages_are_given_back_only_of_memory_that_is_the_machines_own():
    """With a file that siblings map, too, a guest would free theirs."""
    wiring = ForkWiring(3, "guid", 4, [])
    words = forkable_args(SPEC, QEMU, Accel.TCG, wiring, [])
    memory = [word for word in words if "memory-backend-" in word]
    assert [word.rpartition(",")[2] for word in memory] == ["share=on"]
    assert sum("balloon" in word for word in words) == 1
