"""A host VM whose QEMU plugs USB devices in, and a sibling that is given them.

They speak over hybrid vsock: the sibling's connection to the host's port comes
out at our UNIX socket and is carried into the host VM.  Both kernels are
Debian's ordinary ones, which have usbip-host, vhci-hcd and xhci.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from broker.cli.images.building.initramfs_build import read_modules
from broker.core.errors import RefusedError
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from broker.host.vmm.qmp import open_qmp
from tests.kit.link.three_machines import Guest, lab
from tests.kit.usb.hand import PORT, TEST_PORT

HOST, APP = 10, 20
SPEC = ImageSpec(
    name="usbvm",
    suite="bookworm",
    packages=(
        *("python3", "waypipe", "udev", "kmod", "iproute2", "procps", "usbutils"),
        "fido2-tools",
    ),
    kernel="linux-image-amd64",
)
HOST_MODULES = ("xhci_pci", "usbip_host")
"""Further modules of the host VM; the rest is in the initramfs of every image whose
kernel has vhci-hcd."""
_DAEMON = (
    # The capabilities of its unit, and no other.
    *("setpriv", "--bounding-set", "-all,+chown,+dac_override,+setuid,+setgid"),
    *("python3", "-m", "broker.programs.devices", "--user", "vit"),
    *("--records", "/run/devices.toml"),
)


def kernel_modules(
    folder: Path, release: str, more: tuple[str, ...] = ()
) -> dict[str, Path]:
    """The USB modules of a kernel, in the order in which they are loaded.

    The package is fetched from the machine's own archive and unpacked once.
    """
    cache = find_paths().cache / "tests" / "+".join((f"modules3-{release}", *more))
    if not (cache / "order").exists():
        cache.mkdir(parents=True, exist_ok=True)
        name = f"linux-image-{release}"
        subprocess.run(
            ["apt-get", "-qq", "download", name], cwd=folder, check=True, timeout=120
        )
        (package,) = folder.glob(f"{name}_*.deb")
        subprocess.run(
            ["dpkg-deb", "-x", package, folder / "kernel"], check=True, timeout=120
        )
        tree = folder / "kernel/lib/modules" / release
        found = read_modules(tree, (*HOST_MODULES, *more))
        for module, content in found.items():
            (cache / f"{module}.ko").write_bytes(content)
        (cache / "order").write_text("".join(f"{module}\n" for module in found))
        package.unlink()
        subprocess.run(["rm", "-rf", folder / "kernel"], check=True)
    return {path.name: path for path in cache.iterdir()}


class UsbHost:
    """The host VM with the socket of its QEMU."""

    def __init__(self, guest: Guest, qmp, base: Path):
        self.guest, self.qmp, self.base = guest, qmp, base
        self._starts = 0

    async def plug(self, driver: str, name: str, port: int, **more) -> None:
        """Plug a device in; the kernel of the VM sees real hot-plug."""
        words = {"driver": driver, "id": name, "port": str(port), "bus": "xhci.0"}
        await self.qmp.execute("device_add", {**words, **more})

    async def stick(self, name: str, port: int, image: Path, serial="A1") -> None:
        """Plug a USB stick in."""
        node = {
            "driver": "raw",
            "node-name": f"{name}-disk",
            "file": {"driver": "file", "filename": str(image)},
        }
        await self.qmp.execute("blockdev-add", node)
        await self.plug("usb-storage", name, port, drive=f"{name}-disk", serial=serial)

    async def unplug(self, name: str) -> None:
        """Pull it out, and forget its disk when QEMU has let go of it."""
        await self.qmp.execute("device_del", {"id": name})
        with trio.fail_after(60):
            async for event in self.qmp.events:
                if event.name == "DEVICE_DELETED" and event.data.get("device") == name:
                    break

    async def unplug_stick(self, name: str) -> None:
        await self.unplug(name)
        await self.qmp.execute("blockdev-del", {"node-name": f"{name}-disk"})

    async def start_service(self, records: str, *options: str) -> None:
        """Start ``vitrail-devices`` with these records."""
        await self.guest.write("/run/devices.toml", records, user="root")
        words = " ".join((*_DAEMON, *options))
        await self.guest.run(
            f"setsid {words} >>/tmp/daemon.log 2>&1 & echo $! >/run/daemon.pid",
            user="root",
        )
        # Appended to: the second start is ready when the second line says so.
        self._starts += 1
        await eventually(
            self.guest,
            f"test $(grep -c ready /tmp/daemon.log) = {self._starts}",
            deadline=240,
        )

    async def kill_service(self) -> None:
        """As a crash does."""
        await self.guest.run("kill -9 $(cat /run/daemon.pid)", user="root")

    @asynccontextmanager
    async def hand(self):
        """A broker's part; it is killed at the end of the block."""
        await self.guest.run(
            "rm -f /tmp/hand.log; setsid python3 /srv/extra/usb_hand.py "
            ">/tmp/hand.log 2>&1 & echo $! >/tmp/hand.pid"
        )
        await eventually(self.guest, "grep ready /tmp/hand.log", deadline=240)
        stream = await hybrid_connect(f"{self.base}/host.vsock", TEST_PORT)
        async with stream, trio.open_nursery() as nursery:
            made = HandClient(stream)
            nursery.start_soon(made.run)
            try:
                yield made
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await self.guest.run("kill -9 $(cat /tmp/hand.pid)")


class HandClient:
    """Requests to ``hand.py`` in the host VM."""

    def __init__(self, stream: trio.SocketStream):
        self._stream = stream
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel] = {}
        self._ended: dict[str, str] = {}
        self._news = trio.Event()

    async def run(self) -> None:
        """Hand out replies."""
        rest = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in self._stream:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))

    def _take(self, message) -> None:
        if "ended" in message:
            self._ended[message["ended"]] = message["reason"]
            self._news.set()
            self._news = trio.Event()
        else:
            self._waiting.pop(message["id"]).send_nowait(message)

    async def ask(self, do: str, deadline=60, **more):
        """Its result; a refusal is a RefusedError."""
        number = next(self._numbers)
        put, take = trio.open_memory_channel(1)
        self._waiting[number] = put
        order = json.dumps({"id": number, "do": do, **more}).encode()
        await self._stream.send_all(order + b"\n")
        with trio.fail_after(deadline):
            reply = await take.receive()
        if "refused" in reply:
            raise RefusedError(reply["refused"])
        return reply["result"]

    async def ended(self, attachment: str, deadline=60) -> str:
        """Why an attachment has ended."""
        with trio.fail_after(deadline):
            while attachment not in self._ended:
                await self._news.wait()
        return self._ended[attachment]


async def eventually(guest: Guest, command: str, deadline=60) -> str:
    """Wait in a VM until a command succeeds; gives its output.

    The loop is in there: each command from here costs a process and two messages,
    which slows down the awaited step.
    """
    loop = f"until {{ {command}; }} >/tmp/out 2>&1; do sleep 0.2; done; cat /tmp/out"
    code, output = await guest.try_run(
        f"timeout {deadline} sh -c {shlex.quote(loop)} || {{ cat /tmp/out; exit 1; }}",
        user="root",
        deadline=deadline + 60,
    )
    assert code == 0, f"{guest.name}: {command}: {output}"
    return output


async def hybrid_connect(target: str, port: int) -> trio.SocketStream:
    """Connect to a port in a VM.  Raises OSError when no program listens there."""
    stream = await trio.open_unix_socket(target)
    await stream.send_all(f"CONNECT {port}\n".encode())
    head = b""
    while not head.endswith(b"\n"):
        more = await stream.receive_some(1)
        if not more:
            await stream.aclose()
            raise ConnectionRefusedError(f"no program listens on port {port}")
        head += more
    assert re.match(rb"OK ", head)
    return stream


async def _carry(source: trio.SocketStream, target: str) -> None:
    """The sibling's connection into the host VM, both ways."""
    async with (
        source,
        await hybrid_connect(target, PORT) as other,
        trio.open_nursery() as nursery,
    ):

        async def pump(one, two):
            try:
                async for data in one:
                    await two.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(pump, source, other)
        nursery.start_soon(pump, other, source)


@asynccontextmanager
async def usb_machines(sibling=True, extra=None, modules=()):
    """The two VMs with their modules loaded; gives the host and the sibling.

    ``extra``: further files below ``/srv/extra``; ``modules``: further modules of the
    host VM, loaded after those of its buses.
    """
    scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"usbvm-{os.getpid()}"
    scratch.mkdir(exist_ok=True)
    here = Path(__file__).parent
    from broker.cli.images.building.build import build_image

    image = await build_image(find_paths(), SPEC, print)
    found = await trio.to_thread.run_sync(
        kernel_modules, scratch, image.manifest.kernel, tuple(modules)
    )
    extra = {**(extra or {})}
    extra |= {f"modules/{name}": path for name, path in found.items()}
    extra["usb_hand.py"] = here / "hand.py"
    async with lab(SPEC, extra, spec=SPEC) as made:
        monitor = made.base / "qmp"
        host = Guest(
            "host",
            HOST,
            devices=(
                *("-device", "qemu-xhci,id=xhci,p2=8,p3=8"),
                *("-qmp", f"unix:{monitor},server=on,wait=off"),
            ),
        )
        app = Guest("app", APP)
        used = (host, app) if sibling else (host,)
        await made.connect(*used)
        async with trio.open_nursery() as nursery:
            sock = trio.socket.socket(trio.socket.AF_UNIX)
            await sock.bind(f"{made.base}/app.vsock_{PORT}")
            sock.listen(8)

            async def carry(stream):
                with suppress(OSError):
                    await _carry(stream, f"{made.base}/host.vsock")

            nursery.start_soon(trio.serve_listeners, carry, [trio.SocketListener(sock)])
            async with trio.open_nursery() as booting:
                for guest in used:
                    booting.start_soon(made.boot, guest)
            # Its buses would take the first numbers: the test names ports of xhci's.
            load = (
                "rmmod vhci_hcd; for m in $(cat /srv/extra/modules/order); do "
                "insmod /srv/extra/modules/$m.ko 2>/dev/null; done; "
                "test -d /sys/bus/usb/drivers/usbip-host"
            )
            await host.run(load, user="root")
            qmp = await open_qmp(monitor)

            async def run_qmp():
                with trio.CancelScope():
                    await qmp.run()

            nursery.start_soon(run_qmp)
            try:
                yield UsbHost(host, qmp, made.base), app, made
            finally:
                nursery.cancel_scope.cancel()
