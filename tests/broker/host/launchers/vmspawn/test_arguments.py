"""What systemd-vmspawn is started with, and the gate that it takes for QEMU."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from broker.host.launchers.vmspawn.arguments import (
    Spawned,
    gate_script,
    qemu_extra,
    vmspawn_args,
)
from broker.host.vmm.image_boot import ImageBoot
from broker.host.vmm.qemu_arguments import Accel

BOOT = ImageBoot(
    uuid="5d71e97b-d61d-4a3d-ac85-ad1585f5c6e7",
    sandbox="work",
    accel=Accel.TCG,
    kernel=Path("/images/kernel"),
    initrd=Path("/run/work/initrd"),
    root=Path("/images/root"),
    memory_mib=512,
    cpus=2,
)
SPEC = Spawned("vitrail-work", BOOT, vhost_user=Path("/run/wo rk/vhost.sock"))


def words(**changes):
    return vmspawn_args(replace(SPEC, boot=replace(BOOT, **changes)))


def test_it_boots_the_image_in_a_scope_of_its_own():
    found = words()
    assert found[:3] == ["systemd-run", "--user", "--scope"]
    options = found[found.index("systemd-vmspawn") :]
    assert {"--machine=vitrail-work", f"--uuid={BOOT.uuid}"} <= set(options)
    assert {"--ram=512M", "--cpus=2", "--image=/images/root"} <= set(options)
    assert {"--linux=/images/kernel", "--initrd=/run/work/initrd"} <= set(options)
    assert options[-1] == "vitrail.name=work"


def test_the_image_is_not_written_to():
    assert "--ephemeral" in words()
    assert "ro" in words()


def test_with_kvm_its_clock_is_the_machines_own():
    assert {"--kvm=no", "no_timer_check"} <= set(words())
    found = words(accel=Accel.KVM)
    assert "--kvm=yes" in found
    assert "no_timer_check" not in found


def test_its_vsock_is_the_kernels_or_that_of_a_process():
    extra = shlex.split(qemu_extra(SPEC))
    assert "socket,id=vsock,path=/run/wo rk/vhost.sock" in extra
    assert "memory-backend-memfd,id=shared,size=512M,share=on" in extra
    assert "--vsock=no" in words()
    kernel = replace(SPEC, vhost_user=None, cid=77)
    assert qemu_extra(kernel) == ""
    assert {"--vsock=yes", "--vsock-cid=77"} <= set(vmspawn_args(kernel))


@pytest.mark.parametrize("line", ["go", "", "no", "going"])
def test_the_gate_opens_by_its_word_only(tmp_path, line):
    fifo, qemu, ran = (tmp_path / name for name in ("a gate", "real qemu", "ran"))
    os.mkfifo(fifo)
    qemu.write_text(f"#!/bin/sh\nprintf '%s|' \"$@\" > {shlex.quote(str(ran))}\n")
    qemu.chmod(0o755)
    program = tmp_path / "qemu"
    program.write_text(gate_script(fifo, qemu))
    program.chmod(0o755)
    with subprocess.Popen([program, "-S", "a b"]) as child:
        writer = os.open(fifo, os.O_WRONLY)
        os.write(writer, f"{line}\n".encode())
        os.close(writer)
    assert ran.exists() == (line == "go")
    if line == "go":
        assert ran.read_text() == "-S|a b|"
    else:
        assert child.returncode != 0


def test_the_gate_stays_closed_when_its_command_has_died(tmp_path):
    fifo, ran = tmp_path / "gate", tmp_path / "ran"
    os.mkfifo(fifo)
    program = tmp_path / "qemu"
    program.write_text(gate_script(fifo, Path("/usr/bin/touch")))
    program.chmod(0o755)
    with subprocess.Popen([program, ran]) as child:
        os.close(os.open(fifo, os.O_WRONLY))
    assert child.returncode != 0
    assert not ran.exists()
