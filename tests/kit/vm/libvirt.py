"""The session's libvirt in a separate directory, with our hook, for a world."""

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
from broker.helpers.process.spawn import run_tool
from broker.host.images.store import find_image
from broker.host.launchers.libvirt.domain import VsockWay, with_vsock
from broker.host.launchers.libvirt.hook import install_hook
from broker.host.vmm.qemu_arguments import MACHINES, Accel
from tests.kit.records import external_record

RECORD = external_record('libvirt = "{}"', colour="green")
_STEPS = "hook-steps"
_NAMESPACE = "https://vitrail.io/libvirt/1"


def require_libvirt() -> None:
    for program in ("virsh", "libvirtd"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed")


def domain_xml(
    w,
    image,
    name,
    *,
    metadata="",
    identity=None,
    memory=512,
    foreign=None,
    folders=False,
):
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
        shutil.copy(image.write_initrd(folder, {}, folders=folders), initrd)
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
    """virsh on the session's libvirtd of a world.

    ``runtime`` and ``config`` are directories for it only: another session's libvirtd of
    the same person has others, and the same broker.
    """

    def __init__(self, w, runtime=None, config=None):
        self.w = w
        self.runtime = runtime or w.base / "run"
        self.environ = {
            **w.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(config or w.environ["XDG_CONFIG_HOME"]),
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

    async def start(self, name, record=None, *, vhost=None, **changes):
        """Start a domain that has its vsock where the record's is, or at ``vhost``."""
        image = find_image(self.w.paths)
        path = vhost or self.vhost(record or name)
        xml = with_vsock(domain_xml(self.w, image, name, **changes), VsockWay(path))
        file = self.w.base / f"{name}.xml"
        file.write_text(xml)
        await self.virsh("create", str(file))

    def vhost(self, record):
        """Where the vsock of a record's domain is."""
        return self.w.paths.runtime / "libvirt" / record / "vsock/vhost.sock"

    def pid(self, name):
        """QEMU's pid as libvirt knows it."""
        return int((self.runtime / f"libvirt/qemu/run/{name}.pid").read_text())

    def daemon(self):
        """The pid of libvirtd."""
        return int((self.runtime / "libvirt/libvirtd.pid").read_text())

    def steps(self):
        """What libvirtd has called its hooks for, oldest first: (domain, step)."""
        return read_steps(self.w.base / _STEPS)


def trace_steps(hooks: Path, file: Path) -> None:
    """Write one more hook, which libvirtd calls as it calls ours."""
    trace = hooks / "qemu.d/steps"
    trace.write_text(f'#!/bin/sh\necho "$1 $2" >> {file}\n')
    trace.chmod(0o755)


def read_steps(file: Path) -> list[tuple[str, str]]:
    """The steps of each domain that a traced libvirtd has reported: (name, step)."""
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = [line.rsplit(" ", 1) for line in lines]
    return [(name, step) for name, step in pairs]


@asynccontextmanager
async def libvirt(w):
    """The session's libvirt with our hook; every domain is destroyed at the end."""
    hooks = w.base / "etc-libvirt/hooks"
    install_hook(None, hooks)
    trace_steps(hooks, w.base / _STEPS)
    async with running(Libvirt(w)) as made:
        yield made


@asynccontextmanager
async def second_libvirt(w):
    """One more libvirtd of the same person, whose hook reports to the same broker."""
    base = w.base / "second"
    (base / "run").mkdir(mode=0o700, parents=True)
    (base / "run/vitrail").symlink_to(w.base / "run/vitrail")
    async with running(Libvirt(w, base / "run", base / "config")) as made:
        yield made


@asynccontextmanager
async def running(made):
    """Yield it; at the end its domains are destroyed and libvirtd ends."""
    w = made.w
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
                pid = int((made.runtime / "libvirt" / file).read_text())
                os.kill(pid, signal.SIGTERM)
