"""The main job, whole: an application in a real micro VM, on a real compositor."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_frames, wait_window, windows
from tests.kit.world import record, world

RED = ("-o", "colors.background=cc0000")
BLUE = ("-o", "colors.background=0000cc")
# The palette's colours of the records' labels: green, red, blue.
GREEN, ORANGE, SEA = (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


def share(image, colour):
    """How much of the picture has about this colour."""
    near = sum(
        count
        for count, pixel in image.getcolors(1 << 24)
        if all(abs(a - b) < 24 for a, b in zip(pixel, colour, strict=True))
    )
    return near / (image.width * image.height)


async def test_a_window_of_a_micro_vm_typed_into_and_gone_with_its_program():
    async with world({"app": record(top='logs = "keep"\n')}) as w:
        before = set(w.processes())
        last, items = await w.run("app", "foot", "-T", "shell", *RED, "sh")
        sandbox = last.started.sandbox
        assert re.fullmatch(r"app-\d{4}", sandbox), "a disposable has a fresh name"
        steps = [i.progress.step for i in items if i.progress.state == "done"]
        assert steps[0] == "start the machine"
        assert "boot the guest" in steps

        (window,) = await wait_window(w.comp, title=f"[{sandbox}] shell")
        assert window["app_id"] == f"vitrail.{sandbox}.foot"

        async def red():
            return share(await pixels(w.comp), (0xCC, 0, 0)) > 0.5

        assert await eventually(red), "its pixels are on the screen"
        await wait_frames(w.comp, {f"[{sandbox}] shell": {GREEN}})

        # Typed text changes the title: seen from outside the guest.
        async def typed():
            await w.comp.type_text(' printf "\\033]2;typed-in-%s\\007" "$(uname -n)"\n')
            with trio.move_on_after(2):
                return await wait_window(
                    w.comp, title=f"[{sandbox}] typed-in-{sandbox}"
                )
            return []

        assert await eventually(typed)

        status = await w.status()
        (one,) = status.sandboxes
        assert (one.name, one.record, one.state) == (sandbox, "app", "running")
        assert [p.name for p in one.programs] == ["foot"]

        # A second run in it is a second program.
        second, items = await w.run(sandbox, "sh", "-c", "exit 3", window=False)
        assert (second.started.sandbox, second.started.program) == (sandbox, 2)
        assert "boot the guest" not in [i.progress.step for i in items]
        await w.wait_event("program.exited", sandbox=sandbox, code=3)
        assert len((await w.status()).sandboxes) == 1

        await w.comp.type_text(" exit 7\n")
        await w.wait_event("program.exited", sandbox=sandbox, code=7)
        ended = await w.wait_event("lease.end", sandbox=sandbox)
        spoken = await w.wait_event("stream.closed", service="vitrail.Agent")
        assert spoken["bytes_from_sandbox"] > 50, "the worker's count"
        assert "its last program has ended" in ended["reason"]

        async def gone():
            found = w.processes()
            words = [found[p] for p in set(found) - before]
            return not any(sandbox in text or "qemu" in text for text in words)

        assert await eventually(gone), "the machine leaves nothing"
        assert not w.paths.sandbox(sandbox).exists()
        assert (w.paths.logs(sandbox) / "console.log").stat().st_size > 0


@pytest.mark.slow
async def test_two_machines_each_with_a_way_of_its_own():
    records = {"red": record(colour="red"), "blue": record(colour="blue")}
    async with world(records) as w:
        red = await w.window("red", "red", *RED)
        blue = await w.window("blue", "blue", *BLUE)

        async def both():
            picture = await pixels(w.comp)
            return (
                share(picture, (0xCC, 0, 0)) > 0.2
                and share(picture, (0, 0, 0xCC)) > 0.2
            )

        assert await eventually(both)
        found = windows(await w.comp.tree())
        framed = {f"[{red}] red": {ORANGE}, f"[{blue}] blue": {SEA}}
        await wait_frames(w.comp, framed)
        tree = {n["name"].partition("] ")[2]: n["pid"] for n in found}
        # sway's pid is SO_PEERCRED's: the process that connected.
        assert tree["red"] == await w.pid_of("keeper", red)
        assert tree["blue"] == await w.pid_of("keeper", blue)
        keepers = {tree["red"], tree["blue"]}
        parsers = {await w.pid_of("worker", s) for s in (red, blue)}
        held = compositor_peers(w.comp)
        assert held, "ss knows who is connected to the compositor"
        assert held <= keepers | parsers, "only workers are connected to the compositor"
        assert len(parsers) == 2

        # One ends, the others stay.
        third = await w.window("red", "third")
        await w.stop(red)

        async def others_left():
            # The compositor may not have read yet that the worker has gone.
            shown = {n["name"] for n in windows(await w.comp.tree())}
            return shown == {f"[{blue}] blue", f"[{third}] third"}

        await eventually(others_left)
        # Nothing is left of a broker that ends with machines running.
        assert "control" in os.listdir(w.paths.runtime)
        await w.shutdown()  # world() looks for remaining files and processes
        assert len(w.events("lease.end")) == 3
        assert await w.wait_event("broker.stop")


def compositor_peers(comp):
    """Pids at the far end of the compositor's Wayland connections, as ss has them."""
    lines = subprocess.run(
        ["ss", "-xpnH"], capture_output=True, text=True, check=True, timeout=20
    ).stdout.splitlines()
    by_inode = {}
    ours = []
    for line in lines:
        words = line.split()
        local, inode, peer = words[4], words[5], words[7]
        pids = {int(p) for p in re.findall(r"pid=(\d+)", line)}
        by_inode[inode] = pids
        if local == str(comp.display):
            ours.append(peer)
    found = set()
    for inode in ours:
        found |= by_inode.get(inode, set())
    return found


@pytest.mark.slow
async def test_a_persistent_sandbox_keeps_its_name_and_runs_once():
    """Another run is one more program of it: by its record's name, and by its own."""
    async with world({"work": record("persistent")}) as w:
        first, _ = await w.run("work", "sleep", "1000", window=False)
        last, items = await w.run("work", "foot", "-T", "second", "sleep", "1000")
        assert first.started.sandbox == last.started.sandbox == "work"
        assert (first.started.program, last.started.program) == (1, 2)
        assert "boot the guest" not in [i.progress.step for i in items]
        await wait_window(w.comp, title="second")
        assert [s.name for s in (await w.status()).sandboxes] == ["work"]


@pytest.mark.slow
async def test_output_and_code_of_a_program_without_a_window():
    """And a guest without a network has only its loopback."""
    async with world({"app": record(top='logs = "keep"\n')}) as w:
        script = "ls /sys/class/net; echo err >&2; exit 5"
        code, said = await w.output("app", "sh", "-c", script)
        assert code == 5
        assert sorted(said.split()) == [b"err", b"lo"]
        assert (await w.status()).sandboxes == [], "gone before the answer"
        sandbox = (await w.wait_event("program.exited", code=5))["sandbox"]
        log = w.paths.logs(sandbox) / "program-1.log"
        assert sorted(log.read_bytes().split()) == [b"err", b"lo"]


@pytest.mark.slow
async def test_a_boot_that_hangs_is_tried_once_more_and_both_are_told():
    """Each machine is frozen as soon as its guest is to boot."""
    async with world({"hangs": record(launch="boot_deadline = 5")}) as w:
        items = []
        frozen = set()

        async def take(item):
            items.append(item)
            if item.progress is None or item.progress.step != "boot the guest":
                return
            for pid, words in w.processes().items():
                qemu = words.split()[0].endswith("qemu-system-x86_64")
                if qemu and "-name vitrail-hangs-" in words and pid not in frozen:
                    frozen.add(pid)
                    os.kill(pid, signal.SIGSTOP)

        async with w.client() as client:
            with pytest.raises(UpstreamError, match="could not boot the guest") as why:
                await client.call(RUN, RunRequest(record="hangs"), take)
        assert len(frozen) == 2
        assert "logs hangs-" in why.value.hint
        assert "--console" in why.value.hint
        steps = [(i.progress.step, i.progress.state) for i in items if i.progress]
        assert steps.count(("boot the guest", "failed")) == 2
        assert ("try again", "begun") in steps
        assert len(w.events("sandbox.start")) == 2
        failed = w.events("window.hop-failed")
        assert [e["hop"] for e in failed] == ["agent", "agent"]
        assert (await w.status()).sandboxes == []


@pytest.mark.slow
async def test_a_program_that_cannot_be_shown_names_its_hop():
    """No compositor any more: the hop is the last one, and nothing is left."""
    async with world() as w:
        await w.comp.close()
        with pytest.raises(UpstreamError, match="no window: could not reach the"):
            await w.run("app")
        failed = await w.only_event("window.hop-failed")
        assert failed["hop"] in {"waypipe", "compositor"}
        assert "no compositor answers" in failed["reason"]
