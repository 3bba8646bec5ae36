"""A guest of a few megabytes that boots in two seconds: kernel, busybox, shell.

The kernel is the one the images use, fetched with apt once and kept in the
cache.  The guest runs a shell on a vsock port of the host, so that a test
drives it as it would a remote machine.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

SOURCES = Path(__file__).with_name("guest")
PORT = 6500
TOOLS = ("vsockx", "vsockl", "reach", "complete")
# In this order: each needs those before it.
MODULES = (
    *("virtio_ring", "virtio", "virtio_mmio"),
    *("virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("virtio_blk", "failover", "net_failover", "virtio_net"),
    *("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    "button",
)


@dataclass(frozen=True)
class TinyGuest:
    kernel: Path
    initrd: Path


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return Path(base) / "vitrail" / "tests" / f"tinyguest-{digest.hexdigest()[:16]}"


def tiny_guest() -> TinyGuest:
    """Build the guest, or return the one that was built before."""
    target = _cache()
    if not (target / "initrd").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            built = _build(Path(scratch))
            try:
                built.rename(target)
            except OSError:  # another test run was faster
                assert (target / "initrd").exists()
    return TinyGuest(target / "vmlinuz", target / "initrd")


def _run(*argv, cwd):
    return subprocess.run(
        argv, cwd=cwd, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def _build(scratch: Path) -> Path:
    depends = _run("apt-cache", "depends", "linux-image-cloud-amd64", cwd=scratch)
    (name,) = {
        line.split()[-1] for line in depends.splitlines() if "Depends: linux" in line
    }
    _run("apt-get", "download", name, cwd=scratch)
    (package,) = scratch.glob("*.deb")
    unpacked = scratch / "kernel"
    _run("dpkg", "-x", package, unpacked, cwd=scratch)
    for tool in TOOLS:
        _run("gcc", "-static", "-Os", "-o", tool, SOURCES / f"{tool}.c", cwd=scratch)
    built = scratch / "built"
    built.mkdir()
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, built / "vmlinuz")
    tree = dict(_tree(unpacked, scratch))
    with gzip.open(built / "initrd", "wb", compresslevel=1) as file:
        file.write(cpio(tree))
    return built


def _tree(unpacked: Path, tools: Path) -> Iterable[tuple[str, bytes | None]]:
    for folder in ("bin", "dev", "proc", "sys", "etc", "modules"):
        yield folder, None
    yield "bin/busybox", Path("/usr/bin/busybox").read_bytes()
    for tool in TOOLS:
        yield f"bin/{tool}", (tools / tool).read_bytes()
    yield "init", (SOURCES / "init").read_bytes()
    yield "udhcpc", (SOURCES / "udhcpc").read_bytes()
    yield "modules/order", " ".join(MODULES).encode()
    for module in MODULES:
        (path,) = (unpacked / "lib/modules").glob(f"*/kernel/**/{module}.ko")
        yield f"modules/{module}.ko", path.read_bytes()


def cpio(tree: dict[str, bytes | None]) -> bytes:
    """An archive in the kernel's 'newc' format; None is a directory."""
    out = bytearray()
    entries = [*tree.items(), ("TRAILER!!!", b"")]
    for number, (name, data) in enumerate(entries, 1):
        mode = (stat.S_IFDIR if data is None else stat.S_IFREG) | 0o755
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data or b""), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        out += bytes(-len(out) % 4) + (data or b"")
        out += bytes(-len(out) % 4)
    return bytes(out)


class GuestShell:
    """The shell of a tiny guest."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def run(self, command: str, *, deadline: float = 30) -> tuple[int, str]:
        """Run a command; its exit code and output."""
        await self.stream.send_all(f"( {command} ) 2>&1; echo =END=$?\n".encode())
        said = b""
        with trio.fail_after(deadline):
            while not (b"=END=" in said and said.endswith(b"\n")):
                chunk = await self.stream.receive_some(65536)
                assert chunk, f"the guest hung up after {said!r}"
                said += chunk
        output, _, code = said.decode().rpartition("=END=")
        return int(code), output

    async def run_beside(
        self, commands: dict[str, str], *, deadline: float = 60
    ) -> dict[str, tuple[int, str]]:
        """Run commands at the same time: most of them wait for what does not answer."""
        begun = "".join(
            f"( ( {command} ) >/beside-{n} 2>&1; echo $? >/code-{n} ) </dev/null &\n"
            for n, command in enumerate(commands.values())
        )
        code, said = await self.run(f"{begun}wait", deadline=deadline)
        assert code == 0, said
        found = {}
        for n, what in enumerate(commands):
            _, output = await self.run(f"cat /beside-{n}")
            _, ended = await self.run(f"cat /code-{n}; rm /beside-{n} /code-{n}")
            found[what] = int(ended), output
        return found


@asynccontextmanager
async def shell_listener(uds: Path):
    """Listen for the guest's shell; gives a function that waits for it."""
    path = Path(f"{uds}_{PORT}")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen(8)

    async def accept(deadline: float = 60) -> GuestShell:
        with trio.fail_after(deadline):
            conn, _ = await listener.accept()
        shell = GuestShell(trio.SocketStream(conn))
        stack.push_async_callback(trio.aclose_forcefully, shell.stream)
        return shell

    async with AsyncExitStack() as stack:
        with listener:
            yield accept


def ordinary_user() -> None:
    """Fail with a sentence when a test that needs an ordinary user runs as root."""
    if os.geteuid() == 0:
        raise AssertionError(
            "this test runs as an ordinary user (sway refuses root, and the "
            "brokers are not meant for it): use 'make test', which drops to one"
        )
