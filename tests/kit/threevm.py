"""A host VM, a viewer VM and an application's VM, as the mission draws them.

One vhost-device-vsock process makes them siblings: each has a CID of its own
and reaches the others by AF_VSOCK.  Besides, host and viewer give the test a
shell over their own hybrid socket.  What the lab's transport cannot do is said
in the link's settings: single writes of at most 3732 bytes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import trio

from broker.core.paths import find_paths
from broker.launch.accel import choose_accel
from broker.launch.guestargs import MACHINES, base_args
from broker.launch.hosttools import fetch_vhost_device_vsock
from broker.launch.image_build import build_image
from broker.launch.images import DEFAULT_PACKAGES, ImageSpec
from broker.launch.initramfs import Entry, write_cpio
from broker.launch.spawn import STDOUT, run_tool, spawn
from tests.kit.compositor import short_directory

HOST, VIEWER, APP = 10, 11, 20
PIECES = 3732
PACKAGES = (
    *DEFAULT_PACKAGES,
    *("sway", "grim", "wtype", "bubblewrap", "libseccomp2", "iproute2", "procps"),
    *("libsqlite3-0", "socat"),
)
SPEC = ImageSpec(name="twovm", packages=PACKAGES)
# What the brokers import; the rest of the environment stays outside.
SITE = (
    *("trio", "outcome", "attr", "attrs", "sniffio", "sortedcontainers", "idna"),
    *("msgspec", "cryptography", "cffi", "pycparser", "pywayland", "rich"),
    *("rich_click", "click", "markdown_it", "mdurl", "pygments", "tree_sitter"),
    *("tree_sitter_toml", "pyseccomp.py", "typing_extensions.py"),
)
ROOT = Path(__file__).parents[2]


@dataclass
class Guest:
    """A running VM and, for host and viewer, its shell."""

    name: str
    cid: int
    console: Path
    shell: trio.SocketStream | None = None
    _rest: bytes = b""

    async def run(self, command, *, user="vit", env=None, deadline=120):
        """Run a shell command; returns its output, fails with it on a bad exit."""
        code, output = await self.try_run(command, user, env, deadline)
        assert code == 0, f"{self.name}: {command!r} ended with {code}: {output}"
        return output

    async def try_run(self, command, user="vit", env=None, deadline=120):
        order = {"command": command, "user": user, "env": env or {}}
        await self.shell.send_all(json.dumps(order).encode() + b"\n")
        with trio.fail_after(deadline):
            while b"\n" not in self._rest:
                more = await self.shell.receive_some(65536)
                assert more, f"{self.name} hung up"
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        return answer["code"], base64.b64decode(answer["output"]).decode()

    async def write(self, path, text):
        """Put a file there."""
        encoded = base64.b64encode(text.encode()).decode()
        await self.run(
            f"mkdir -p $(dirname {path}) && echo {encoded} | base64 -d > {path}"
        )


async def project_disk(folder: Path) -> Path:
    """A read-only disk with this checkout and what it imports."""
    tree = folder / "disk"
    site = tree / "site"
    site.mkdir(parents=True)
    for name in ("broker", "policy", "shims"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    packages = Path(trio.__file__).parents[1]
    for name in SITE:
        source = packages / name
        if source.is_dir():
            shutil.copytree(source, site / name)
        else:
            shutil.copy(source, site / name)
    for extra in packages.glob("_cffi_backend*"):
        shutil.copy(extra, site / extra.name)
    for extra in packages.glob("*.libs"):
        shutil.copytree(extra, site / extra.name)
    shutil.copy(Path(__file__).with_name("vmshell.py"), tree / "vmshell.py")
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
    await run_tool([*words, str(disk), "400M"], deadline=120)
    shutil.rmtree(tree)
    return disk


def shell_init() -> bytes:
    """An archive whose /init gives the machine to ``vmshell`` instead."""
    text = (resources.files("broker") / "data/image/init").read_text()
    head, mark, _ = text.partition("# Imported, not run as a script")
    assert mark
    tail = (
        "until [ -b /root/dev/vdb ]; do $busybox usleep 50000; done\n"
        "$busybox mount -t ext4 -o ro /root/dev/vdb /root/srv || die 'no project disk'\n"
        "exec $busybox switch_root /root /usr/bin/python3 /srv/vmshell.py\n"
    )
    return write_cpio({"init": Entry(stat.S_IFREG | 0o755, (head + tail).encode())})


@asynccontextmanager
async def siblings():
    """The three machines, running; yields host, viewer and application."""
    paths = find_paths()
    tool = await fetch_vhost_device_vsock(paths, print)
    big = await build_image(paths, SPEC, print)
    small = await build_image(paths, ImageSpec(), print)
    qemu = Path(shutil.which("qemu-system-x86_64"))
    accel = (
        await choose_accel(qemu, small.kernel, small.initrd, cache=paths.cache)
    ).accel
    with short_directory() as base:
        disk = await project_disk(base)
        guests = [
            Guest("host", HOST, base / "host.log"),
            Guest("viewer", VIEWER, base / "viewer.log"),
            Guest("app", APP, base / "app.log"),
        ]
        vms = [
            f"guest-cid={g.cid},socket={base}/{g.name}.sock,"
            f"uds-path={base}/{g.name}.vsock,groups=g1"
            for g in guests
        ]
        words = [str(tool)]
        for vm in vms:
            words += ["--vm", vm]
        children = []
        try:
            with (base / "vhost.log").open("wb") as log:
                children.append(spawn(words, stdout=log.fileno(), stderr=STDOUT))
            listeners = {}
            for guest in guests[:2]:
                sock = trio.socket.socket(trio.socket.AF_UNIX)
                await sock.bind(f"{base}/{guest.name}.vsock_7000")
                sock.listen(2)
                listeners[guest.name] = sock
            for guest in guests:
                path = trio.Path(base / f"{guest.name}.sock")
                with trio.fail_after(10):
                    while not await path.exists():
                        await trio.sleep(0.02)
                image = small if guest.name == "app" else big
                initrd = base / f"{guest.name}.initrd"
                data = image.write_initrd(base).read_bytes()
                if guest.name != "app":
                    data += shell_init()
                initrd.write_bytes(data)
                children.append(_start(qemu, accel, guest, image, initrd, disk, base))
            async with trio.open_nursery() as nursery:
                for guest in guests[:2]:
                    nursery.start_soon(_meet, guest, listeners[guest.name])
            yield guests
        finally:
            for guest in guests:
                if guest.console.exists():
                    tail = guest.console.read_text("utf-8", "replace")[-1500:]
                    print(f"--- {guest.name}\n{tail}")
            with trio.CancelScope(shield=True):
                for guest in guests:
                    if guest.shell is not None:
                        await trio.aclose_forcefully(guest.shell)
                for child in reversed(children):
                    if child.returncode is None:
                        child.kill()
                        await child.wait()


async def _meet(guest, listener):
    with trio.fail_after(90), listener:
        conn, _ = await listener.accept()
        guest.shell = trio.SocketStream(conn)


def _start(qemu, accel, guest, image, initrd, disk, base):
    bus = MACHINES[accel].bus
    args = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"]
    args += MACHINES[accel].kernel_args
    if guest.name == "app":
        args += [
            "vitrail.name=app",
            f"VITRAIL_AGENT=vsock:{HOST}:6500",
            f"VITRAIL_DISPLAY=vsock:{HOST}:6501",
            f"VITRAIL_PIECES={PIECES}",
        ]
    memory = "640M" if guest.name == "app" else "1280M"
    words = [
        *base_args(qemu, accel, name=guest.name),
        *("-m", memory),
        *("-object", f"memory-backend-memfd,id=mem,size={memory},share=on"),
        *("-machine", "memory-backend=mem"),
        *("-kernel", str(image.kernel), "-initrd", str(initrd)),
        *("-append", " ".join(args)),
        *("-serial", f"file:{guest.console}"),
        *("-chardev", f"socket,id=vs,path={base}/{guest.name}.sock"),
        *("-device", f"vhost-user-vsock-{bus},chardev=vs"),
    ]
    for name, path in (("root", image.root), ("disk", disk)):
        node = {
            "driver": "raw",
            "node-name": name,
            "read-only": True,
            "file": {"driver": "file", "filename": str(path), "read-only": True},
        }
        words += ["-blockdev", json.dumps(node)]
        words += ["-device", f"virtio-blk-{bus},drive={name}"]
    return spawn(words, name=guest.name)
