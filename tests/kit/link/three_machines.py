"""A host VM, a viewer VM and an application's VM, as the mission draws them.

One vhost-device-vsock process makes them siblings: each has a different CID
and reaches the others by AF_VSOCK.  Besides, host and viewer give the test a
shell over another hybrid socket.  The link's settings state the limit of the
lab's transport: single writes of at most 3732 bytes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.helpers.process.spawn import STDOUT, Child, run_tool, spawn
from broker.host.images.initramfs import ArchiveEntry, write_cpio
from broker.host.images.store import DEFAULT_PACKAGES, Image, ImageSpec
from broker.host.vmm.accel import choose_accel
from broker.host.vmm.hosttools import fetch_vhost_device_vsock
from broker.host.vmm.qemu_arguments import (
    MACHINES,
    Accel,
    MachineType,
    base_args,
)
from broker.host.vmm.vsock_backend import hybrid_environment
from tests.kit.wayland.compositor import short_directory

HOST, VIEWER, APP = 10, 11, 20
PIECES = 3732
_TO_THE_HOST = [
    "vitrail.name=app",
    f"VITRAIL_AGENT=vsock:{HOST}:6500",
    f"VITRAIL_DISPLAY=vsock:{HOST}:6501",
    f"VITRAIL_PIECES={PIECES}",
]
KEPT = "kept"
"""The name of the disk that a machine writes to."""
PACKAGES = (
    *DEFAULT_PACKAGES,
    *("sway", "grim", "wtype", "bubblewrap", "libseccomp2", "iproute2", "procps"),
    *("libsqlite3-0", "socat", "systemd", "systemd-sysv", "dbus", "libpam-systemd"),
)
# Debian 12 in all of them: its Python is that of the packages in SITE, and its kernel
# sends a write as one packet.
SPEC = ImageSpec(name="twovm", suite="bookworm", packages=PACKAGES)
ROOT = Path(__file__).parents[3]


@dataclass
class Guest:
    """A running VM and, for host and viewer, its shell."""

    name: str
    cid: int
    shelled: bool = True
    systemd: bool = False
    memory: int = 0
    """MiB; 0: enough for a broker and a compositor."""
    devices: tuple[str, ...] = ()
    """More words for QEMU."""
    kept: bool = False
    """It keeps what it writes, for another boot."""
    initrd: bytes = b""
    """An archive that is put after the initramfs."""
    shell: trio.SocketStream | None = None
    console: Path | None = None
    child: Child | None = None
    _rest: bytes = b""
    _number: int = 0

    async def run(self, command, *, user="vit", env=None, deadline=300):
        """Run a shell command; returns its output, fails with it on a bad exit."""
        code, output = await self.try_run(command, user, env, deadline)
        assert code == 0, f"{self.name}: {command!r} ended with {code}: {output}"
        return output

    async def try_run(self, command, user="vit", env=None, deadline=300):
        self._number += 1
        order = {"number": self._number, "command": command}
        order |= {"user": user, "env": env or {}}
        await self.shell.send_all(json.dumps(order).encode() + b"\n")
        with trio.fail_after(deadline):
            answer = await self._answer()
            while answer["number"] != order["number"]:
                # Of a command that was given up.
                answer = await self._answer()
        return answer["code"], base64.b64decode(answer["output"]).decode()

    async def _answer(self):
        while b"\n" not in self._rest:
            more = await self.shell.receive_some(65536)
            assert more, f"{self.name} hung up"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def begin(self, shell):
        """Its commands go to this shell from now on."""
        self.shell = shell
        self._rest = b""

    async def write(self, path, text, user="vit"):
        """Put a file there."""
        encoded = base64.b64encode(text.encode()).decode()
        await self.run(
            f"mkdir -p $(dirname {path}) && echo {encoded} | base64 -d > {path}",
            user=user,
        )


def dependencies() -> set[str]:
    """Return the site-packages entries of all dependencies, indirect ones too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, known, found = list(project["dependencies"]), set(), set()
    while todo:
        requirement = todo.pop()
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" in requirement or name in known:
            continue
        known.add(name)
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        todo += dist.requires or []
        found |= {file.parts[0] for file in dist.files or []}
    return {n for n in found if n not in {"..", "__pycache__"} and "-info" not in n}


async def project_disk(folder: Path, extra: Mapping[str, Path]) -> Path:
    """A read-only disk with this checkout and its dependencies.

    ``extra``: further files, by their names below ``/srv/extra``.
    """
    tree = folder / "disk"
    site = tree / "site"
    site.mkdir(parents=True)
    for name in ("broker", "policy", "shims"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    packages = Path(trio.__file__).parents[1]
    for name in dependencies():
        source = packages / name
        if source.is_dir():
            shutil.copytree(source, site / name)
        else:
            shutil.copy(source, site / name)
    shutil.copy(ROOT / "tests/kit/vm/shell.py", tree / "vmshell.py")
    for name, source in extra.items():
        (tree / "extra" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / "extra" / name)
    # Compiled here: in there every start would compile all of it, emulated.
    await run_tool(
        [
            *(sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/srv"),
            *("--invalidation-mode", "unchecked-hash", str(tree)),
        ],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        deadline=240,
    )
    disk = folder / "project.ext4"
    words = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree)]
    await run_tool([*words, str(disk), "400M"], deadline=240)
    shutil.rmtree(tree)
    return disk


# Started as early as systemd starts anything: what the test asks for is done with
# systemctl, as a person would.
_SHELL_UNIT = """\
[Unit]
Description=The test's hand
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/python3 /srv/vmshell.py systemd
KillMode=process
[Install]
WantedBy=multi-user.target
"""


def shell_init(*, systemd: bool = False, kept: bool = False) -> bytes:
    """An archive whose /init gives the machine to ``vmshell`` or systemd instead.

    ``kept``: what it writes goes to its third disk.
    """
    text = (resources.files("broker") / "data/image/init").read_text()
    head, mark, _ = text.partition("# Imported, not run as a script")
    assert mark
    tail = (
        "until [ -b /root/dev/vdb ]; do $busybox usleep 50000; done\n"
        "$busybox mount -t ext4 -o ro /root/dev/vdb /root/srv || die 'no project disk'\n"
    )
    if kept:
        memory = "$busybox mount -t tmpfs -o mode=0755 layer /layer ||"
        assert memory in head
        disk = "$busybox mount -t ext4 /dev/vdc /layer ||"
        head = head.replace(memory, disk).replace("mkdir /layer", "mkdir -p /layer")
        # Before the first unit, which may be a broker's.
        tail += (
            "site=/root/usr/local/lib/python3.11/dist-packages\n"
            "$busybox mkdir -p $site\n$busybox mount -o bind /root/srv/site $site\n"
        )
    if systemd:
        units = "/root/etc/systemd/system"
        unit = f"{units}/vmshell.service"
        wants = f"{units}/multi-user.target.wants"
        tail += (
            f"cat >{unit} <<'END'\n{_SHELL_UNIT}END\n"
            f"$busybox mkdir -p {wants}\n$busybox ln -sf {unit[5:]} {wants}/\n"
            # Without udev the device that it wants never comes.
            f"$busybox ln -sf /dev/null {units}/serial-getty@ttyS0.service\n"
            "exec $busybox switch_root /root /lib/systemd/systemd"
            " systemd.unit=multi-user.target\n"
        ).replace("cat >", "$busybox cat >")
    else:
        tail += "exec $busybox switch_root /root /usr/bin/python3 /srv/vmshell.py\n"
    return write_cpio(
        {"init": ArchiveEntry(stat.S_IFREG | 0o755, (head + tail).encode())}
    )


class Lab:
    """Machines of a test, and their shared parts: tools, images, our own disk."""

    def __init__(
        self,
        base: Path,
        tool: Path,
        image: Image,
        kernel: Image,
        extra: Mapping[str, Path],
    ) -> None:
        self.base = base
        self._extra = extra
        self._tool = tool
        self._image = image
        self._kernel = kernel
        self._qemu = Path(shutil.which("qemu-system-x86_64"))
        self._accel: Accel | None = None
        self._disk: Path | None = None
        self._others: list[Child] = []
        self._listeners: dict[str, trio.SocketListener] = {}
        self.guests: list[Guest] = []

    async def prepare(self) -> None:
        """Make the disk and find out how machines run here."""
        self._disk = await project_disk(self.base, self._extra)
        choice = await choose_accel(
            self._qemu,
            self._kernel.kernel,
            self._kernel.initrd,
            cache=find_paths().cache,
            environ={},
        )
        self._accel = choice.accel

    async def connect(self, *guests: Guest, group: str = "") -> None:
        """Give them their vsock; those of a group reach each other by CID."""
        words = [str(self._tool)]
        for guest in guests:
            way = f"guest-cid={guest.cid},socket={self._at(guest, 'sock')}"
            way += f",uds-path={self._at(guest, 'vsock')}"
            words += ["--vm", way + (f",groups={group}" if group else "")]
        with (self.base / "vhost.log").open("ab") as log:
            env = {**os.environ, **hybrid_environment()}
            child = spawn(words, env=env, stdout=log.fileno(), stderr=STDOUT)
            self._others.append(child)
        for guest in guests:
            self.guests.append(guest)
            if guest.shelled:
                await self._listen(guest, self._at(guest, "vsock"))
            path = trio.Path(self._at(guest, "sock"))
            with trio.fail_after(60):
                while not await path.exists():
                    await trio.sleep(0.02)

    async def _listen(self, guest: Guest, vsock: Path) -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(f"{vsock}_7000")
        sock.listen(2)
        self._listeners[guest.name] = trio.SocketListener(sock)

    def _at(self, guest: Guest, what: str) -> Path:
        return self.base / f"{guest.name}.{what}"

    async def boot(self, guest: Guest) -> None:
        """Start it, or start it again; returns when its shell is there."""
        assert self._accel is not None
        machine = MACHINES[self._accel]
        words = base_args(self._qemu, self._accel, name=guest.name)
        words += _memory_words(guest)
        words += await self._boot_words(guest, machine)
        words += ["-chardev", f"socket,id=vs,path={self._at(guest, 'sock')}"]
        words += ["-device", f"vhost-user-vsock-{machine.bus},chardev=vs"]
        guest.child = spawn([*words, *guest.devices], name=guest.name)
        if guest.shelled:
            await self.booted(guest)

    async def booted(self, guest: Guest, deadline: float = 300) -> None:
        """Wait for the shell of a machine that was started now."""
        with trio.fail_after(deadline):
            guest.begin(await self._listeners[guest.name].accept())

    async def words_for_script(self, guest: Guest, vsock: Path) -> list[str]:
        """Return what a script's q35 boots here, in QEMU's words.

        ``vsock``: the UNIX socket that the script gives to its vsock.
        """
        self.guests.append(guest)
        await self._listen(guest, vsock)
        words = await self._boot_words(guest, MACHINES[Accel.TCG])
        if self._accel is Accel.KVM:
            return words
        emulated = base_args(self._qemu, Accel.TCG, name=guest.name)
        first = emulated.index("-accel")
        return [*emulated[first : first + 4], *words]

    async def _boot_words(self, guest: Guest, machine: MachineType) -> list[str]:
        """Write its initramfs; returns QEMU's words for all that it boots."""
        initrd = self._at(guest, "initrd")
        data = self._kernel.write_initrd(self.base).read_bytes()
        data += guest.initrd
        if guest.shelled:
            data += shell_init(systemd=guest.systemd, kept=guest.kept)
        initrd.write_bytes(data)
        guest.console = self._at(guest, "log")
        args = ["console=ttyS0", "panic=-1", "reboot=t", "quiet", *machine.kernel_args]
        if not guest.shelled:
            args += _TO_THE_HOST
        words = [
            *("-kernel", str(self._kernel.kernel), "-initrd", str(initrd)),
            *("-append", " ".join(args)),
            *("-serial", f"file:{guest.console}"),
        ]
        disks = [("root", self._image.root), ("disk", self._disk)]
        if guest.kept:
            disks.append((KEPT, await self._kept_disk(guest)))
        for name, path in disks:
            fixed = name != KEPT
            node = {
                "driver": "raw",
                "node-name": name,
                "read-only": fixed,
                "file": {"driver": "file", "filename": str(path), "read-only": fixed},
            }
            words += ["-blockdev", json.dumps(node)]
            words += ["-device", f"virtio-blk-{machine.bus},drive={name}"]
        return words

    async def _kept_disk(self, guest: Guest) -> Path:
        """Return its disk, which is made for its first boot."""
        disk = self._at(guest, "kept")
        if not disk.exists():
            await run_tool(["mke2fs", "-q", "-t", "ext4", str(disk), "1G"], deadline=60)
        return disk

    async def kill(self, guest: Guest) -> None:
        """As if its power were cut."""
        if guest.shell is not None:
            await trio.aclose_forcefully(guest.shell)
            guest.shell = None
        if guest.child is not None and guest.child.returncode is None:
            guest.child.kill()
            await guest.child.wait()

    async def close(self) -> None:
        """End everything; shows what the consoles said last."""
        for guest in self.guests:
            if guest.console is not None and guest.console.exists():
                tail = guest.console.read_text("utf-8", "replace")[-1500:]
                print(f"--- {guest.name}\n{tail}")
            await self.kill(guest)
        for listener in self._listeners.values():
            await listener.aclose()
        for child in self._others:
            child.kill()
            await child.wait()


@asynccontextmanager
async def lab(
    kernel: ImageSpec | None = None,
    extra: Mapping[str, Path] | None = None,
    *,
    spec: ImageSpec = SPEC,
):
    """A lab without machines; ``kernel``: the image whose kernel they run.

    ``extra``: see ``project_disk``; ``spec``: the image that they run.
    """
    paths = find_paths()
    tool = await fetch_vhost_device_vsock(paths, print)
    image = await build_image(paths, spec, print)
    other = image if kernel is None else await build_image(paths, kernel, print)
    with short_directory() as base:
        made = Lab(base, tool, image, other, extra or {})
        try:
            await made.prepare()
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.close()


@asynccontextmanager
async def siblings(*, application=True):
    """The three machines, running; yields host, viewer and application.

    Without ``application`` that machine is yielded too, but not run.
    """
    async with lab() as made:
        host, viewer = Guest("host", HOST), Guest("viewer", VIEWER)
        app = Guest("app", APP, shelled=False)
        used = (host, viewer, app) if application else (host, viewer)
        await made.connect(*used, group="g1")
        async with trio.open_nursery() as nursery:
            for guest in used:
                nursery.start_soon(made.boot, guest)
        yield host, viewer, app


def _memory_words(guest: Guest) -> list[str]:
    memory = f"{guest.memory or (1280 if guest.shelled else 640)}M"
    return [
        *("-m", memory),
        *("-object", f"memory-backend-memfd,id=mem,size={memory},share=on"),
        *("-machine", "memory-backend=mem"),
    ]
