"""Domains of libvirt's session, started by virsh: their windows, names and ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from pathlib import Path

import pytest

from broker.core.errors import RefusedError
from broker.helpers.process.spawn import run_tool
from broker.host.images.store import find_image
from broker.host.vmm.qemu_arguments import MACHINES, Accel
from broker.ipc.control.api import MachineEventRequest, Nothing
from broker.ipc.control.methods import LEASE_LIST, MACHINE_EVENT
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import needs
from tests.kit.vm import foreign_root
from tests.kit.vm.libvirt import RECORD, domain_xml, libvirt, require_libvirt
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

# The palette's colour of the record's label.
GREEN = (0, 158, 115)


@pytest.fixture(autouse=True)
def _needs():
    require_vm()
    require_libvirt()


async def leased(w, name):
    async def look():
        async with w.client() as client:
            return [
                e
                for e in (await client.call(LEASE_LIST, Nothing())).leases
                if e.sandbox == name
            ]

    (found,) = await eventually(look, deadline=60)
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_domain_started_by_virsh_has_its_window_and_its_end():
    records = {"work": RECORD.format("office pc")}
    async with world(records) as w, libvirt(w) as virt:
        await virt.start("office pc", "work")
        held = await leased(w, "work")
        assert held.pid == virt.pid("office pc")
        title = "in a domain"
        last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        # libvirtd restarted under a running guest: nothing happens to it.
        os.kill(virt.daemon(), signal.SIGTERM)
        assert "office pc" in await virt.virsh("list", "--name")
        assert (await leased(w, "work")).id == held.id
        assert windows(await w.comp.tree())
        # The same name and UUID once more, from another hand: no second lease.
        with pytest.raises(RefusedError, match="is already running"):
            await event(w, "prepare", "office pc")
        # A broker that was killed: the next one leases the domain again.
        os.kill(await w.broker_pid(), signal.SIGKILL)
        await w.start()
        again = await leased(w, "work")
        assert (again.pid, again.id != held.id) == (held.pid, True)
        await virt.virsh("destroy", "office pc")
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"

        async def gone():
            return not windows(await w.comp.tree())

        await eventually(gone)
        assert not (w.paths.runtime / "libvirt" / "work").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not foreign_root.there(),
    reason="make its disk first: python -m tests.kit.vm.foreign_root",
)
async def test_a_guest_that_we_did_not_build_has_its_window_by_the_guest_package():
    """Debian with its own kernel and systemd; the script put the agent into it."""
    foreign = foreign_root.foreign_root()
    async with world({"work": RECORD.format("debian")}) as w, libvirt(w) as virt:
        await virt.start("debian", "work", foreign=foreign, memory=1024)
        await leased(w, "work")
        # Under emulation systemd and the user's units take a minute or two.
        await w.wait_event(
            "stream.opened", sandbox="work", service="vitrail.Agent", deadline=400
        )
        title = "from Debian"
        last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        await virt.virsh("destroy", "debian")
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"


@pytest.mark.long
@pytest.mark.timeout(600)
@needs("virt-install", "virtinst")
async def test_a_domain_of_virt_install_is_prepared_and_leased():
    """virt-install makes it, and starts it without a vsock; the rest is ours."""
    async with world({"work": RECORD.format("office")}) as w, libvirt(w) as virt:
        image = find_image(w.paths)
        (w.base / "initrd.d").mkdir()
        initrd = w.base / "office.initrd"
        shutil.copy(image.write_initrd(w.base / "initrd.d", {}), initrd)
        words = " ".join(("panic=-1", *MACHINES[Accel.TCG].kernel_args))
        await virt.tool(
            "virt-install",
            *("--name", "office", "--memory", "512", "--vcpus", "1"),
            *("--virt-type", "qemu", "--osinfo", "detect=off,require=off"),
            *(
                "--import",
                "--disk",
                f"path={image.root},format=raw,readonly=on,bus=virtio",
            ),
            *("--network", "none", "--graphics", "none", "--noautoconsole"),
            *("--boot", f"kernel={image.kernel},initrd={initrd},kernel_args='{words}'"),
        )
        assert "office" in await virt.virsh("list", "--name")
        async with w.client() as client:
            assert (await client.call(LEASE_LIST, Nothing())).leases == []
        await virt.virsh("destroy", "office")
        prepare = ["-m", "broker.cli.app", "launcher", "prepare", "--yes", "office"]
        environ = {**virt.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        await run_tool(virt.alone(sys.executable, *prepare), env=environ)
        await virt.virsh("start", "office")
        held = await leased(w, "work")
        assert held.pid == virt.pid("office")
        title = "by virt-install"
        last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        await virt.virsh("destroy", "office")
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"
        await virt.virsh("undefine", "office")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_an_adopted_domain_has_its_window_and_is_restored():
    """Its user runs 'brokerctl adopt' and starts it; the agent is in its image."""
    async with world({}) as w, libvirt(w) as virt:
        file = w.base / "domain.xml"
        file.write_text(domain_xml(w, find_image(w.paths), "Office.PC"))
        await virt.virsh("define", str(file))
        # 'untrusted', the default, would draw a name strip, too.
        words = ("adopt", "--yes", "--colour", "green", "--for", "offline")
        words += ("--connect", "qemu:///session")
        adopt = [sys.executable, "-m", "broker.cli.app", *words, "Office.PC"]
        environ = {**virt.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        await run_tool(virt.alone(*adopt), env=environ)
        await virt.virsh("start", "Office.PC")
        held = await leased(w, "office-pc")
        assert held.pid == virt.pid("Office.PC")
        opened = {"sandbox": "office-pc", "service": "vitrail.Agent"}
        await w.wait_event("stream.opened", **opened, deadline=600)
        title = "from an adopted domain"
        last, _ = await w.run("office-pc", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "office-pc"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[office-pc] {title}": {GREEN}})
        await virt.virsh("destroy", "Office.PC")
        await w.wait_event("lease.end", sandbox="office-pc")
        undo = [*adopt[:4], "--undo", "office-pc", "--yes"]
        await run_tool(virt.alone(*undo), env=environ)
        restored = await virt.virsh("dumpxml", "Office.PC")
        assert "vhost" not in restored
        assert "vitrail-guest" not in restored
        await virt.virsh("undefine", "Office.PC")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_record_s_domain_is_defined_and_has_its_window():
    """What 'machine arguments --format libvirt' prints is all that virsh needs."""
    text = 'class = "persistent"\ndisplay = "allow"\n[label]\ncolour = "green"\n'
    text += '[launch]\nkind = "external"\n[peer]\nlibvirt = "Fox"\n'
    async with world({"fox": text}) as w, libvirt(w) as virt:
        words = ("machine", "arguments", "fox", "--format", "libvirt")
        printed = await brokerctl(*words, env=w.environ)
        assert printed.code == 0, printed.err
        file = w.base / "domain.xml"
        file.write_text(printed.out)
        for _ in range(2):  # the same domain again
            await virt.virsh("define", "--validate", str(file))
        await virt.virsh("start", "Fox")
        assert (await leased(w, "fox")).pid == virt.pid("Fox")
        opened = {"sandbox": "fox", "service": "vitrail.Agent"}
        await w.wait_event("stream.opened", **opened, deadline=600)
        await w.run("fox", "foot", "-T", "from a printed domain", "sleep", "1000")
        await wait_window(w.comp, title="from a printed domain")
        await wait_frames(w.comp, {"[fox] from a printed domain": {GREEN}})
        await virt.virsh("destroy", "Fox")
        await w.wait_event("lease.end", sandbox="fox")
        await virt.virsh("undefine", "Fox")


async def event(w, step, name, **more):
    request = MachineEventRequest(
        launcher="libvirt",
        event=step,
        name=name,
        uuid=more.pop("uuid", str(uuid.uuid4())),
        **more,
    )
    async with w.client() as client:
        return await client.call(MACHINE_EVENT, request)
