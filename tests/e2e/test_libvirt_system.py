"""Domains of the system's libvirtd, which root runs, as sandboxes of a person.

Root's half starts libvirtd and runs this file again as the ordinary user, for the
broker, the desktop and virsh; so it is for root alone:

    sudo .venv/bin/python -m pytest tests/e2e/test_libvirt_system.py
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from tests.e2e.test_libvirt import GREEN, leased
from tests.kit.eventually import eventually
from tests.kit.vm.libvirt import RECORD, names_sandbox, require_libvirt
from tests.kit.vm.system_libvirt import (
    PLACE,
    System,
    container_xml,
    system_libvirt,
)
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

ROOT = Path(__file__).parents[2]
USER = "vitrail"
REQUIRED = RECORD.replace("[launch]", "[launch]\nrequired = true")
AS_PERSON = pytest.mark.skipif(not PLACE, reason="root's half of this file runs it")
pytestmark = pytest.mark.timeout(600)
_LONG = pytest.mark.long
_LXC_DRIVER = "*/libvirt/connection-driver/libvirt_driver_lxc.so"


@pytest.mark.root
@pytest.mark.parametrize(
    "case",
    [
        "container",
        "second_container",
        pytest.param("window_and_end", marks=_LONG),
        pytest.param("required", marks=_LONG),
        pytest.param("restarted", marks=_LONG),
    ],
)
def test_as_root(case):
    require_libvirt()
    if case.endswith("container") and not list(Path("/usr/lib").glob(_LXC_DRIVER)):
        pytest.skip("libvirt's LXC driver is not installed (libvirt-daemon-driver-lxc)")
    with system_libvirt(USER) as place:
        words = [".ci/as-user", "pytest", "-q", "-x", f"{Path(__file__)}::test_{case}"]
        environ = {**os.environ, "VITRAIL_SYSTEM_LIBVIRT": str(place.base)}
        done = subprocess.run(
            words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr, (place.base / "libvirtd.log").read_text())
        assert done.returncode == 0
        assert "1 passed" in done.stdout


@AS_PERSON
async def test_window_and_end():
    async with world({"work": RECORD.format("office")}) as w:
        system = System(w)
        await system.start("office", "work")
        held = await leased(w, "work")
        words = Path(f"/proc/{held.pid}/cmdline").read_bytes().split(b"\0")
        assert b"guest=office,debug-threads=on" in words, "it is libvirt's QEMU"
        assert Path(f"/proc/{held.pid}").stat().st_uid == os.getuid()
        title = "of the system"
        last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        await system.virsh("destroy", "office")
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"

        async def gone():
            return not windows(await w.comp.tree())

        await eventually(gone)
        assert not (w.paths.runtime / "libvirt" / "work").exists()


@AS_PERSON
async def test_required():
    records = {"work": REQUIRED.format("office"), "free": RECORD.format("other")}
    async with world(records, start=False) as w:
        system = System(w)
        with pytest.raises(UpstreamError, match="cannot lease domain office"):
            await system.start("office", "work")
        assert await system.names() == []
        await w.start()
        await system.start("office", "work")
        await leased(w, "work")
        await system.virsh("destroy", "office")
        await w.wait_event("lease.end", sandbox="work")


@AS_PERSON
async def test_container():
    async with world({"work": RECORD.format("office")}, image=False) as w:
        system = System(w)
        file = w.base / "office.xml"
        file.write_text(container_xml(w, system.place, "boxed"))
        await system.virsh("create", str(file), driver="lxc")
        held = await leased(w, "work")
        assert os.stat(f"/proc/{held.pid}").st_uid == 0, "it is root's"
        await wait_window(w.comp, title="boxed")
        await wait_frames(w.comp, {"[work] boxed": {GREEN}})
        # A program of the person's, outside, is not the container.
        display = w.paths.runtime / "libvirt-lxc/work/wayland-0"
        with socket.socket(socket.AF_UNIX) as outside:
            outside.connect(str(display))
            await w.wait_event("stream.refused", sandbox="work")
        await system.virsh("destroy", "office", driver="lxc")
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"

        async def gone():
            return not windows(await w.comp.tree())

        assert await eventually(gone)
        assert not (w.paths.runtime / "libvirt" / "work").exists()


@AS_PERSON
async def test_second_container():
    """Attack: another container asks for the first one's record, and uses its socket."""
    async with world({"work": RECORD.format("office")}, image=False) as w:
        system = System(w)
        first = container_xml(w, system.place, "boxed")
        file = w.base / "office.xml"
        file.write_text(first)
        await system.virsh("create", str(file), driver="lxc")
        held = await leased(w, "work")
        await wait_window(w.comp, title="boxed")

        asks = f"<metadata>{names_sandbox('work')}</metadata>"
        other = first.replace("<name>office</name>", f"<name>other</name>{asks}")
        other = other.replace("-T boxed", "-T stolen")
        (w.base / "other.xml").write_text(other)
        await system.virsh("create", str(w.base / "other.xml"), driver="lxc")
        await w.wait_event("stream.refused", sandbox="work")
        assert await leased(w, "work") == held
        assert [one["name"] for one in windows(await w.comp.tree())] == ["[work] boxed"]

        async def only_the_first():
            return (await system.virsh("list", "--name", driver="lxc")).split() == [
                "office"
            ]

        # Its program has no display, so it ends; the first one's lease does not.
        await eventually(only_the_first)
        assert await leased(w, "work") == held

        # In turn: the same name again is another lease.
        await system.virsh("destroy", "office", driver="lxc")
        await w.wait_event("lease.end", sandbox="work")
        await system.virsh("create", str(file), driver="lxc")
        assert (await leased(w, "work")).id != held.id
        await wait_window(w.comp, title="boxed")
        await system.virsh("destroy", "office", driver="lxc")


@AS_PERSON
async def test_restarted():
    """libvirtd killed and started again beside a guest: its lease and window stay."""
    async with world({"work": RECORD.format("office")}) as w:
        system = System(w)
        await system.start("office", "work")
        held = await leased(w, "work")
        title = "of the system"
        agent = {"lease": held.id, "service": "vitrail.Agent"}
        await w.wait_event("stream.opened", deadline=200, **agent)
        await w.run("work", "foot", "-T", title, "sleep", "1000")
        await wait_window(w.comp, title=title)
        for number, name in enumerate(("TERM", "KILL"), 1):
            system.place.restart(name)
            again = ("office", "reconnect")

            def reported(number=number, again=again):
                return system.place.steps().count(again) == number

            await eventually(reported)
            assert await system.names() == ["office"]
            assert await leased(w, "work") == held
            await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        assert w.events("lease.end") == w.events("lease.refused") == []
        assert await w.output("work", "uname", "-n") == (0, b"office\n")
        await system.virsh("destroy", "office")
        await w.wait_event("lease.end", sandbox="work")
