"""The user's folders in a domain of libvirt's that was adopted."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import has_ended, run_tool
from broker.host.images.store import find_image
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import FOLDERS_VM
from tests.kit.shared_home import shared_home
from tests.kit.vm import foreign_root
from tests.kit.vm.libvirt import RECORD, domain_xml, libvirt, require_libvirt
from tests.kit.world import world

pytestmark = [FOLDERS_VM, pytest.mark.long, pytest.mark.timeout(900)]

FOLDERS = '[folders]\nread_only = ["{home}/docs"]\n'
RULES = """\
vitrail.Folder +docs      @anyvm @adminvm allow
vitrail.Folder +Downloads @anyvm @adminvm allow write=yes
"""


@asynccontextmanager
async def a_defined_domain():
    """A world with a domain that no record is about yet; yields its libvirt and home."""
    require_libvirt()
    async with world({}, start=False) as w:
        home = shared_home(w.base)
        w.environ["HOME"] = str(home)
        w.write_rules(RULES)
        await w.start()
        async with libvirt(w) as virt:
            file = w.base / "domain.xml"
            xml = domain_xml(w, find_image(w.paths), "Office.PC", folders=True)
            file.write_text(xml)
            await virt.virsh("define", str(file))
            yield w, virt, home


async def ctl(w, virt, *words):
    """Run a verb that calls libvirt; return its output."""
    argv = [sys.executable, "-m", "broker.cli.app", *words]
    root = str(Path(__file__).parents[2])
    environ = {**virt.environ, "PYTHONPATH": root, "HOME": w.environ["HOME"]}
    return (await run_tool(virt.alone(*argv), env=environ, deadline=120)).decode()


async def inside(w, script, code=0):
    return await w.said("exec", "office-pc", "--", "sh", "-c", script, code=code)


async def booted(w, count):
    async def look():
        opened = {"sandbox": "office-pc", "service": "vitrail.Agent"}
        return len(w.events("stream.opened", **opened)) >= count

    await eventually(look, deadline=400)


async def test_an_adopted_domain_reads_and_writes_its_folders():
    async with a_defined_domain() as (w, virt, home):
        words = ("--yes", "--colour", "green", "--for", "offline", "--folders", "1")
        await ctl(w, virt, "adopt", *words, "--connect", "qemu:///session", "Office.PC")
        record = w.paths.config[0] / "sandboxes.d/office-pc.toml"
        record.write_text(f"{record.read_text()}\n{FOLDERS.format(home=home)}")
        await ctl(w, virt, "launcher", "prepare", "--yes", "Office.PC")
        changed = await virt.virsh("dumpxml", "Office.PC")
        assert changed.count("<driver type='virtiofs' queue='1024'/>") == 2
        await virt.virsh("start", "Office.PC")
        await booted(w, 1)
        await by_the_record(w, home)
        await on_request(w, home)
        await a_copied_domain(w, virt)
        await after_a_crash(w)
        await virt.virsh("destroy", "Office.PC")
        await w.wait_event("lease.end", sandbox="office-pc", reason="it has ended")
        place = w.paths.runtime / "libvirt/office-pc"
        await eventually(lambda: not place.exists())
        # Without its broker nothing serves the sockets.
        broker = os.pidfd_open(await w.broker_pid())
        await w.said("stop", "--broker")
        await eventually(lambda: has_ended(broker), deadline=60)
        os.close(broker)
        with pytest.raises(UpstreamError, match="folders/0"):
            await virt.virsh("start", "Office.PC")
        await ctl(w, virt, "adopt", "--undo", "office-pc", "--yes")
        restored = await virt.virsh("dumpxml", "Office.PC")
        assert all(word not in restored for word in ("virtiofs", "memoryBacking"))
        await virt.virsh("undefine", "Office.PC")


async def by_the_record(w, home):
    """Mounted without a word of the user's; read-only; nothing beside it."""
    await inside(w, "until test -e /folders/docs/file; do sleep 0.1; done")
    assert await inside(w, "cat /folders/docs/file") == "docs"
    assert "Read-only" in await inside(w, "echo x 2>&1 >/folders/docs/file; true")
    assert (home / "docs/file").read_text() == "docs"
    await inside(w, "! cat /folders/docs/out && ! cat /folders/docs/absolute")


async def on_request(w, home):
    """Shared while it runs, changed, taken back, and refused outside the rules."""
    await w.said("share", "--write", str(home / "Downloads"), "office-pc")
    await inside(w, "echo from the guest >/folders/Downloads/new")
    made = home / "Downloads/new"
    assert (made.read_text(), made.stat().st_uid) == ("from the guest\n", os.getuid())
    found = json.loads(await w.said("share", "--json"))["folders"]
    assert {(f["inside"], f["write"]) for f in found} == {
        ("/folders/docs", False),
        ("/folders/Downloads", True),
    }
    await w.said("unshare", "Downloads", "office-pc")
    await inside(w, "! test -e /folders/Downloads")
    (home / "more").mkdir()
    refused = await brokerctl("share", str(home / "more"), "office-pc", env=w.environ)
    assert refused.code == 1
    assert "no rule" in refused.err or "policy" in refused.err, refused
    await w.said("share", "--write", str(home / "Downloads"), "office-pc")


async def after_a_crash(w):
    """The next broker takes the folders back; the domain runs on, and has a lease again."""
    opened = {"sandbox": "office-pc", "service": "vitrail.Agent"}
    before = len(w.events("stream.opened", **opened))
    server = os.pidfd_open(await w.pid_of("virtiofsd-0", "office-pc"))
    try:
        os.kill(await w.broker_pid(), signal.SIGKILL)
        await w.start()
        await booted(w, before + 1)
        # It may have files of the folder open for the guest.
        await eventually(lambda: has_ended(server), deadline=60)
    finally:
        os.close(server)
    assert await inside(w, "echo alive") == "alive\n"


async def a_copied_domain(w, virt):
    """A domain that was copied with its devices gets no folder of the first one."""
    xml = await virt.virsh("dumpxml", "Office.PC")
    # Without the vsock, whose socket is not free either.
    parts = ("<uuid>", "<qemu:", "</qemu:")
    kept = [line for line in xml.splitlines() if not any(p in line for p in parts)]
    text = "\n".join(kept).replace("<name>Office.PC", "<name>Copy")
    file = w.base / "copy.xml"
    file.write_text(text.replace("/Office.PC.console", "/copy.console"))
    await virt.virsh("define", str(file))
    with pytest.raises(UpstreamError, match="folders/0"):
        await virt.virsh("start", "Copy")
    await virt.virsh("undefine", "Copy")
    assert await inside(w, "cat /folders/docs/file") == "docs"


@pytest.mark.skipif(
    not foreign_root.there(),
    reason="make its disk first: python -m tests.kit.vm.foreign_root",
)
async def test_a_guest_that_we_did_not_build_has_its_folders():
    """Debian with its own kernel and systemd: a unit of the guest package mounts them."""
    require_libvirt()
    foreign = foreign_root.foreign_root()
    async with world({}, start=False) as w:
        home = shared_home(w.base)
        w.environ["HOME"] = str(home)
        w.write_rules(RULES)
        record = RECORD.format("debian") + FOLDERS.format(home=home)
        record = record.replace('kind = "external"', 'kind = "external"\nfolders = 1')
        w.write_record("office-pc", record)
        await w.start()
        async with libvirt(w) as virt:
            file = w.base / "domain.xml"
            image = find_image(w.paths)
            xml = domain_xml(w, image, "debian", foreign=foreign, memory=1024)
            file.write_text(xml)
            await virt.virsh("define", str(file))
            await ctl(w, virt, "launcher", "prepare", "--yes", "debian")
            await virt.virsh("start", "debian")
            await booted(w, 1)
            await by_the_record(w, home)
            await on_request(w, home)
            await virt.virsh("destroy", "debian")
            await virt.virsh("undefine", "debian")
