"""KVM or TCG: forced, not permitted, kept for this boot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.identity import boot_id
from broker.host.vmm import accel
from broker.host.vmm.accel import (
    Accel,
    boot_probe,
    choose_accel,
    permission,
    probe_args,
)

NONE = Path("/nonexistent")
ONCE = {"qemu": NONE, "kernel": NONE, "initrd": NONE}


@pytest.mark.parametrize("word", Accel)
async def test_a_forced_choice_is_taken_without_a_look(tmp_path, word):
    device = tmp_path / "kvm"
    device.touch()
    choice = await choose_accel(
        **ONCE, cache=tmp_path, environ={"VITRAIL_ACCEL": word}, device=device
    )
    assert (choice.accel, choice.reason) == (Accel(word), f"VITRAIL_ACCEL={word}")


async def test_kvm_that_cannot_be_opened_is_not_forced_blindly(tmp_path):
    environ = {"VITRAIL_ACCEL": "kvm"}
    with pytest.raises(SetupError, match="no /nonexistent") as caught:
        await choose_accel(**ONCE, cache=tmp_path, environ=environ, device=NONE)
    assert "modprobe" in caught.value.hint
    assert (
        "to emulate machines, which is slower, unset VITRAIL_ACCEL" in caught.value.hint
    )


async def test_another_word_is_an_error(tmp_path):
    with pytest.raises(SetupError, match="'KVM'") as caught:
        await choose_accel(**ONCE, cache=tmp_path, environ={"VITRAIL_ACCEL": "KVM"})
    assert "'kvm' or 'tcg'" in caught.value.hint


async def test_a_machine_without_the_device_emulates(tmp_path):
    choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=NONE)
    assert choice.accel is Accel.TCG
    assert "no /nonexistent" in choice.reason
    assert "modprobe" in choice.hint
    assert list(tmp_path.iterdir()) == [], "nothing to keep"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
@pytest.mark.parametrize(("mode", "word"), [(0o060, "usermod -aG"), (0o000, "chmod")])
def test_without_permission_the_group_is_named(tmp_path, mode, word):
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    choice = permission(device)
    assert choice.accel is Accel.TCG
    assert "permission denied" in choice.reason
    assert word in choice.hint


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "kvm"
    path.touch()
    return path


def keep(cache, **changes):
    kept = {"boot": boot_id(), "works": True, "reason": "seen", **changes}
    (cache / "accel.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("works", [True, False])
async def test_the_answer_of_this_boot_is_used_again(tmp_path, device, works):
    keep(tmp_path, works=works)
    choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
    assert choice == accel.AcceleratorChoice(Accel.KVM if works else Accel.TCG, "seen")


@pytest.mark.parametrize("spoilt", [{"boot": "another"}, {"works": 7}, {"more": 1}])
async def test_any_other_answer_is_not(tmp_path, device, spoilt, monkeypatch):
    keep(tmp_path, **spoilt)
    asked = []

    async def probe(*args):
        asked.append(args)
        raise UpstreamError("the kernel printed nothing for 10 s")

    monkeypatch.setattr(accel, "boot_probe", probe)
    for _ in range(2):
        choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
        assert choice.accel is Accel.TCG
        assert choice.reason == (
            "KVM cannot boot a guest: the kernel printed nothing for 10 s"
        )
    assert len(asked) == 1, "the second answer came from the cache"


async def test_a_qemu_that_is_not_there_is_no_answer(tmp_path, device):
    with pytest.raises(SetupError, match="not installed"):
        await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
    assert not (tmp_path / "accel.json").exists()


def program(tmp_path, text):
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_a_machine_that_prints_only_firmware_is_none(tmp_path):
    qemu = program(tmp_path, "echo SeaBIOS; echo Probing EDD; exec sleep 100")
    with pytest.raises(UpstreamError, match=r"printed nothing for 0\.5 s"):
        await boot_probe(qemu, NONE, NONE, Accel.KVM, deadline=0.5)


async def test_a_qemu_that_fails_is_quoted(tmp_path):
    qemu = program(tmp_path, "echo no kvm for you >&2; exit 1")
    with pytest.raises(UpstreamError, match="no kvm for you"):
        await boot_probe(qemu, NONE, NONE, Accel.KVM)


@pytest.mark.parametrize("beyond", [False, True])
async def test_a_marker_beyond_the_limit_is_not_looked_for(tmp_path, beyond):
    marker = "vitrail-probe-ok"
    size = limits.KVM_PROBE_BYTES - len(marker) + beyond
    qemu = program(
        tmp_path, f"head -c {size} /dev/zero; printf {marker}; exec sleep 100"
    )
    try:
        said = await boot_probe(qemu, NONE, NONE, Accel.KVM, deadline=5)
    except UpstreamError:
        said = ""
    assert said == ("" if beyond else marker)


async def test_a_marker_may_come_in_pieces(tmp_path):
    qemu = program(tmp_path, "printf vitrail-pr; sleep 0.1; echo obe-ok; sleep 100")
    said = await boot_probe(qemu, NONE, NONE, Accel.KVM, deadline=5)
    assert said == "vitrail-probe-ok"


def test_the_probe_boots_what_will_be_run():
    words = probe_args(Path("/q"), Path("/k"), Path("/i"), Accel.KVM)
    assert words[0] == "/q"
    assert words[words.index("-kernel") + 1] == "/k"
    assert "vitrail.probe=1" in words[words.index("-append") + 1]
    assert words[words.index("-machine") + 1].startswith("microvm,")
