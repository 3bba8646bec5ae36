"""The session's libvirt in a directory of its own, with our hook, for a world."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from broker.core.errors import UpstreamError
from broker.launch.image.store import find_image
from broker.launch.libvirt.domain import VsockWay, with_vsock
from broker.launch.libvirt.hook import install_hook
from broker.launch.microvm.qemu_arguments import MACHINES, Accel
from broker.launch.process.spawn import run_tool

RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "green"
[launch]
kind = "external"
[peer]
libvirt = "{}"
"""
_NAMESPACE = "https://vitrail.io/libvirt/1"


def require_libvirt() -> None:
    for program in ("virsh", "libvirtd"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed")


def domain_xml(w, image, name, *, metadata="", identity=None, memory=512, foreign=None):
    """A domain that boots the guest image under TCG, or another system's files."""
    words = " ".join(
        ("console=ttyS0", "panic=-1", "quiet", *MACHINES[Accel.TCG].kernel_args)
    )
    initrd = w.base / f"{name}.initrd"
    kernel, disk, access = image.kernel, image.root, "<readonly/>"
    if foreign is not None:
        words = "console=ttyS0 panic=-1 root=/dev/vda rw systemd.show_status=no"
        kernel, disk, access = foreign.kernel, w.base / f"{name}.disk", ""
        shutil.copy(foreign.disk, disk)
        shutil.copy(foreign.initrd, initrd)
    elif not initrd.exists():
        folder = w.base / f"{name}.d"
        folder.mkdir()
        shutil.copy(image.write_initrd(folder, {}), initrd)
    return f"""<domain type='qemu'><name>{name}</name>
<uuid>{identity or uuid.uuid4()}</uuid>
<metadata>{metadata}</metadata>
<memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>
<kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>{words} vitrail.name={name}</cmdline></os>
<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{disk}'/><target dev='vda' bus='virtio'/>{access}</disk>
<serial type='file'><source path='{w.base}/{name}.console'/></serial>
<memballoon model='none'/></devices></domain>"""


def names_sandbox(name, *, required=False):
    """Metadata by which a domain names its sandbox."""
    word = "yes" if required else "no"
    return (
        f"<v:sandbox xmlns:v={quoteattr(_NAMESPACE)} name={quoteattr(name)} "
        f"required={quoteattr(word)}/>"
    )


class Libvirt:
    """virsh on the session's libvirtd of a world."""

    def __init__(self, w):
        self.w = w
        self.environ = {
            **w.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "HOME": str(w.base),
            # Keeps the capabilities of QEMU; probing them takes 8 s.
            "XDG_CACHE_HOME": str(Path(w.environ["XDG_CACHE_HOME"]) / "vitrail-tests"),
        }

    async def virsh(self, *words, deadline=90):
        """Return the output of virsh.  Raises UpstreamError with its message."""
        return await self.tool("virsh", "--quiet", *words, deadline=deadline)

    async def tool(self, program, *words, deadline=90):
        """The same of another client of libvirt's."""
        argv = self.alone(program, "--connect", "qemu:///session", *words)
        return (await run_tool(argv, env=self.environ, deadline=deadline)).decode()

    def alone(self, *words):
        """A command that may start libvirtd.

        That has /etc/libvirt/hooks and no other place; so it gets an /etc/libvirt of
        the world's own.
        """
        etc = str(self.w.base / "etc-libvirt")
        return ["bwrap", "--dev-bind", "/", "/", "--bind", etc, "/etc/libvirt", *words]

    async def start(self, name, record=None, **changes):
        """Start a domain that has its vsock where the record's is."""
        image = find_image(self.w.paths)
        path = self.w.paths.runtime / "libvirt" / (record or name) / "vsock/vhost.sock"
        xml = with_vsock(domain_xml(self.w, image, name, **changes), VsockWay(path))
        file = self.w.base / f"{name}.xml"
        file.write_text(xml)
        await self.virsh("create", str(file))

    def pid(self, name):
        """QEMU's pid as libvirt knows it."""
        return int((self.w.base / f"run/libvirt/qemu/run/{name}.pid").read_text())

    def daemon(self):
        """The pid of libvirtd."""
        return int((self.w.base / "run/libvirt/libvirtd.pid").read_text())


@asynccontextmanager
async def libvirt(w):
    """The session's libvirt with our hook; every domain is destroyed at the end."""
    etc = w.base / "etc-libvirt"
    install_hook(None, etc / "hooks")
    made = Libvirt(w)
    try:
        yield made
    finally:
        for console in w.base.glob("*.console"):
            print(f"{console.name}:\n{console.read_text('utf-8', 'replace')[-4000:]}")
        with suppress(UpstreamError):
            for name in (await made.virsh("list", "--name")).split():
                await made.virsh("destroy", name)
        for file in ("libvirtd.pid", "virtlogd.pid"):
            with suppress(OSError, ValueError):
                pid = int((w.base / "run/libvirt" / file).read_text())
                os.kill(pid, signal.SIGTERM)
