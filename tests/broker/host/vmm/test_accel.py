"""KVM or TCG: forced, not permitted, kept for this boot."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import trio

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
    answer = {
        "boot": boot_id(), "accel": "kvm", "reason": "seen",
        "tested_at": time.time(), "failures": 0, **changes,
    }  # fmt: skip
    (cache / "accel.json").write_text(json.dumps(answer))


FAILED = {"accel": "tcg", "failures": 1}


@pytest.mark.parametrize("answer", [{}, {"accel": "kvm-q35", "tested_at": 0}, FAILED])
async def test_the_answer_of_this_boot_is_used_again(tmp_path, device, answer):
    keep(tmp_path, **answer)
    texts = []
    choice = await choose_accel(
        **ONCE, cache=tmp_path, environ={}, device=device, progress=texts.append
    )
    assert texts == [], "no test is reported that does not take place"
    assert (choice.accel, choice.reason) == (answer.get("accel", "kvm"), "seen")
    assert not choice.tested
    assert ("run 'brokerctl doctor'" in choice.hint) is (answer is FAILED)


@pytest.fixture
def probes(monkeypatch):
    """What each accelerator's probe does: boots, or fails with a reason."""
    results, probed = {}, []

    async def probe(_qemu, _kernel, _initrd, accelerator):
        probed.append(accelerator)
        await trio.lowlevel.checkpoint()
        if accelerator in results:
            return results[accelerator]
        raise UpstreamError("the kernel printed nothing for 10 s")

    monkeypatch.setattr(accel, "boot_probe", probe)
    return results, probed


@pytest.mark.parametrize(
    "spoilt", [{"boot": "another"}, {"accel": 7}, {"more": 1}, {"tested_at": "now"}]
)
async def test_any_other_answer_is_not(tmp_path, device, spoilt, probes):
    keep(tmp_path, **spoilt)
    _, probed = probes
    for number in range(2):
        choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
        assert choice.accel is Accel.TCG
        assert choice.reason == (
            "KVM cannot boot a guest (microvm, q35: the kernel printed nothing for 10 s)"
        )
        assert choice.tested is (number == 0)
    assert probed == [Accel.KVM, Accel.KVM_Q35], "the second answer was kept"


async def test_kvm_without_microvm_uses_q35(tmp_path, device, probes):
    results, probed = probes
    results[Accel.KVM_Q35] = "Linux version"
    for _ in range(2):
        choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
        assert choice.accel is Accel.KVM_Q35
        assert "q35 (Linux version)" in choice.reason
    assert probed == [Accel.KVM, Accel.KVM_Q35]


@pytest.mark.parametrize(("failures", "minutes"), [(1, 5), (2, 10), (4, 40), (90, 40)])
async def test_failed_probe_is_repeated_after_minutes(
    tmp_path, device, probes, failures, minutes
):
    results, probed = probes
    results[Accel.KVM] = "Linux version"
    for age, accelerator in ((minutes * 60 - 9, "tcg"), (minutes * 60 + 9, "kvm")):
        keep(tmp_path, **FAILED | {"failures": failures}, tested_at=time.time() - age)
        choice = await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
        assert choice.accel == accelerator
    assert probed == [Accel.KVM]
    assert json.loads((tmp_path / "accel.json").read_text())["failures"] == 0


async def test_failures_are_counted_also_over_a_clock_that_was_set_back(
    tmp_path, device, probes
):
    keep(tmp_path, **FAILED, tested_at=time.time() + 3600)
    await choose_accel(**ONCE, cache=tmp_path, environ={}, device=device)
    assert json.loads((tmp_path / "accel.json").read_text())["failures"] == 2


@pytest.mark.parametrize("answer", [{}, FAILED])
async def test_doctor_tests_again(tmp_path, device, probes, answer):
    keep(tmp_path, **answer)
    results, probed = probes
    results[Accel.KVM] = "Linux version"
    choice = await choose_accel(
        **ONCE, cache=tmp_path, environ={}, device=device, again=True
    )
    assert (choice.accel, probed) == (Accel.KVM, [Accel.KVM])


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


async def test_test_of_kvm_is_reported(tmp_path, device, probes):
    texts = []
    await choose_accel(
        **ONCE, cache=tmp_path, environ={}, device=device, progress=texts.append
    )
    assert len(texts) == 1
    assert texts[0].startswith("testing KVM")
