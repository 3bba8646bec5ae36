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
from broker.launch.image.store import find_image
from broker.launch.libvirt.domain import VsockWay, with_vsock
from broker.launch.process.spawn import run_tool
from tests.e2e.test_libvirt import GREEN, leased
from tests.kit.eventually import eventually
from tests.kit.vm.libvirt import RECORD, domain_xml, require_libvirt
from tests.kit.vm.system_libvirt import Place, system_libvirt
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

ROOT = Path(__file__).parents[2]
PLACE = os.environ.get("VITRAIL_SYSTEM_LIBVIRT", "")
USER = "vitrail"
REQUIRED = RECORD.replace("[launch]", "[launch]\nrequired = true")
AS_PERSON = pytest.mark.skipif(not PLACE, reason="root's half of this file runs it")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.root
@pytest.mark.parametrize("case", ["window_and_end", "required", "container"])
def test_as_root(case):
    require_libvirt()
    with system_libvirt(USER) as place:
        words = [".ci/as-user", "pytest", "-q", "-x", str(Path(__file__)), "-k", case]
        environ = {**os.environ, "VITRAIL_SYSTEM_LIBVIRT": str(place.base)}
        done = subprocess.run(
            words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr, (place.base / "libvirtd.log").read_text())
        assert done.returncode == 0
        assert "1 passed" in done.stdout


class System:
    """virsh on that libvirtd, as the person uses it."""

    def __init__(self, w):
        self.w = w
        self.place = Place(Path(PLACE))
        for name, target in (
            ("run", w.base / "run"),
            ("config", w.base / "config/vitrail"),
        ):
            link = self.place.person / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    async def virsh(self, *words, driver="qemu", deadline=90):
        argv = ["virsh", "--quiet", "--connect", self.place.driver(driver), *words]
        return (await run_tool(argv, env=dict(os.environ), deadline=deadline)).decode()

    async def start(self, name, record):
        """Start a domain whose QEMU runs as the person."""
        socket = self.w.paths.runtime / "libvirt" / record / "vsock/vhost.sock"
        way = VsockWay(socket, (os.getuid(), os.getgid()))
        xml = with_vsock(domain_xml(self.w, find_image(self.w.paths), name), way)
        file = self.w.base / f"{name}.xml"
        # The image is everybody's: root is not to change its owner.
        file.write_text(xml.replace('relabel="yes"', 'relabel="no"'))
        await self.virsh("create", str(file))

    async def names(self):
        return (await self.virsh("list", "--name")).split()


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
        with pytest.raises(UpstreamError, match="no lease for domain office"):
            await system.start("office", "work")
        assert await system.names() == []
        await w.start()
        await system.start("office", "work")
        await leased(w, "work")
        await system.virsh("destroy", "office")
        await w.wait_event("lease.end", sandbox="work")


CONTAINER = """\
<domain type='lxc'><name>office</name><memory unit='MiB'>512</memory>
<os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg><initarg>{script}</initarg>
<initenv name='WAYLAND_DISPLAY'>/run/vitrail/wayland-0</initenv>
<initenv name='XDG_RUNTIME_DIR'>/run</initenv><initenv name='LANG'>C.UTF-8</initenv>
</os><features><privnet/></features><devices>
<filesystem type='mount'><source dir='{root}'/><target dir='/'/></filesystem>
<filesystem type='mount'><source dir='/usr'/><target dir='/usr'/><readonly/></filesystem>
<filesystem type='mount'><source dir='/etc'/><target dir='/etc'/><readonly/></filesystem>
<filesystem type='mount'><source dir='{sockets}'/><target dir='/run/vitrail'/><readonly/>
</filesystem><console type='pty'/></devices></domain>
"""
SCRIPT = "until [ -S /run/vitrail/wayland-0 ]; do sleep 0.2; done; exec foot -T {} sleep 1000"


def container_xml(w, place, title):
    # Root makes directories in it, and removes them with the place.
    root = place.person / "root"
    for name in ("proc", "sys", "dev", "run/vitrail", "usr", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    sockets = w.paths.runtime / "libvirt-lxc/work"
    return CONTAINER.format(root=root, sockets=sockets, script=SCRIPT.format(title))


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
