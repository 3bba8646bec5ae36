"""Machines that share memory under KVM, with the kernel's vsock, in a Debian 13 machine.

This machine may have no KVM that boots.  In there QEMU runs once more under the KVM that
the emulated processor offers, as on a person's machine, where `auto` finds both.
"""

from __future__ import annotations

import json
import shlex

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from tests.e2e.test_podman_systemd import (
    RECORDS,
    framed,
    install_programs,
    leased,
    start_sway,
    unframed,
)
from tests.kit.vm.brokers import until_there
from tests.kit.vm.debian_guest import PERSON, UID, debian_guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400), pytest.mark.alone]

EXTRA = "/srv/extra"
GREEN = (0x00, 0x9E, 0x73)
RECORD = """\
class = "disposable"
display = "allow"
[label]
colour = "green"
[launch]
kind = "microvm"
memory = "512M"
network = "none"
fork = "shared"
boot_deadline = 600
"""
PARENT = "~/.cache/vitrail/parents/web/state"
LIMITS = "/srv/broker/core/limits/machines.py"


async def install(guest):
    # A nested guest on an emulated processor is slower than any real one.
    slower = r"s/^FORK_SECONDS = .*/FORK_SECONDS = 120.0/"
    await guest.run(
        "modprobe vhost_vsock && "
        f"sed -i '{slower}' {LIMITS} && "
        f"usermod -aG kvm {PERSON} && systemctl restart user@{UID}",
        user="root",
    )
    await install_programs(guest)
    await guest.write(f"{RECORDS}/web.toml", RECORD)
    await guest.run(
        "mkdir -p ~/.cache/vitrail/images && "
        f"ln -s {EXTRA}/image ~/.cache/vitrail/images/default && "
        "systemctl --user daemon-reload && "
        "systemctl --user enable --now vitrail-local.socket"
    )
    await start_sway(guest)
    await guest.run("systemctl --user start vitrail-local")


async def started(guest, title):
    """Start a machine with a window; returns its sandbox, its start, and its row."""
    run = ("brokerctl", "run", "web", "--", "foot", "-T", title, "sleep", "9000")
    words = ["systemd-run", "--user", "--quiet", f"--unit={title}", *run]
    begin = await leased(guest, "web", shlex.join(words))
    sandbox = begin["sandbox"]
    await framed(guest, title, GREEN)
    said = await guest.run("brokerctl audit --json --lines 2000")
    events = [json.loads(line) for line in said.splitlines()]
    (start,) = [
        e for e in events if e["kind"] == "sandbox.machine" and e["sandbox"] == sandbox
    ]
    rows = json.loads(await guest.run("brokerctl status --json"))["sandboxes"]
    (row,) = [one for one in rows if one["name"] == sandbox]
    print(f"{sandbox}: {start}", flush=True)
    return sandbox, start, row


async def output(guest, sandbox, script):
    command = shlex.join(["brokerctl", "exec", sandbox, "--", "sh", "-c", script])
    return (await guest.run(command)).split()


async def test_machines_under_kvm_share_memory(tmp_path):
    image = await build_image(find_paths(), ImageSpec(), print)
    extra = {"image": image.root.resolve().parent}
    async with debian_guest(memory_mib=5120, extra=extra) as guest:
        await install(guest)
        try:
            booted, start, row = await started(guest, "booted")
            assert (start["how"], row["accel"]) == ("boot", "kvm")
            words = await guest.run(f"tr '\\0' ' ' </proc/{row['pid']}/cmdline")
            assert "vhostfd=" in words, "it boots with the kernel's vsock"
            await until_there(guest, f"ls {PARENT}")
            forks = [await started(guest, title) for title in ("fork-1", "fork-2")]
            digests = f"sha256sum {PARENT} ~/.cache/vitrail/parents/web/memory"
            parent = await guest.run(digests)
            own = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname"
            seen = []
            for sandbox, start, row in forks:
                assert (start["how"], row["accel"]) == ("fork", "kvm")
                words = await guest.run(f"tr '\\0' ' ' </proc/{row['pid']}/cmdline")
                assert "accel kvm" in words
                assert "vhost" not in words
                assert "share=off" in words
                seen.append(await output(guest, sandbox, own))
                assert seen[-1][-1] == sandbox
            assert not set(seen[0]) & set(seen[1])
            assert await guest.run(digests) == parent
            # No secret, for their streams come to sockets in the person's directory.
            found = f"find /run/user/{UID}/vitrail -name launch-secret -printf '%h '"
            assert (await guest.run(found)).split() == [
                f"/run/user/{UID}/vitrail/sandboxes/{booted}"
            ]
            await guest.run(f"kill -9 {forks[0][2]['pid']}")
            await unframed(guest, "fork-1")
            assert await output(guest, forks[1][0], "echo here") == ["here"]
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(60):
                said = await guest.try_run(
                    "journalctl -b --no-pager | tail -60", user="root"
                )
                print(said[1])
                print((await guest.try_run("brokerctl audit --lines 40"))[1])
            raise
