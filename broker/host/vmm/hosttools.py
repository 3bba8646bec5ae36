"""Programs that a host needs and Debian's stable suites do not have.

Without ``/dev/vhost-vsock`` a machine's vsock is served by the program
``vhost-device-vsock``.  It is in Debian's unstable suite only; its package's
binary runs on Debian 12.  It is fetched for this user alone: an index of its
own, the archive's signature checked as always, the package kept, unpacked
below the cache, nothing installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.process.spawn import run_tool
from broker.host.images.packages import Archive, find_archive

VHOST_DEVICE_VSOCK = "vhost-device-vsock"
KERNEL_DEVICE = Path("/dev/vhost-vsock")
_SUITE = "unstable"
_PLACES = ("usr/bin", "usr/libexec", "usr/lib/qemu")


def kernel_vsock_usable(device: Path = KERNEL_DEVICE) -> bool:
    """Whether this user may open the kernel's vsock device."""
    return os.access(device, os.R_OK | os.W_OK)


def find_vhost_device_vsock(paths: Paths) -> Path | None:
    """Return the program: installed, or fetched by us; None when it is neither."""
    installed = shutil.which(VHOST_DEVICE_VSOCK)
    if installed:
        return Path(installed)
    fetched = paths.tools / VHOST_DEVICE_VSOCK
    return fetched if os.access(fetched, os.X_OK) else None


async def fetch_vhost_device_vsock(
    paths: Paths, progress: Callable[[str], None], *, mirror: str = ""
) -> Path:
    """Return the program, fetching it when this machine has none.

    Raises SetupError, with what to do instead, when it cannot be had.
    """
    paths.tools.mkdir(parents=True, exist_ok=True)
    async with _alone(paths.tools / ".lock"):
        present = find_vhost_device_vsock(paths)
        if present is not None:
            return present
        try:
            return await _fetch(paths, progress, mirror)
        except (UpstreamError, OSError) as error:
            raise SetupError(
                f"{VHOST_DEVICE_VSOCK} cannot be fetched: {error}",
                hint="install it, or load the kernel's own: "
                f"'sudo modprobe vhost_vsock' and access to {KERNEL_DEVICE}",
            ) from error


@contextlib.asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    """Wait until no other process of this user fetches."""
    with lock.open("a") as file:
        await trio.to_thread.run_sync(
            fcntl.flock, file, fcntl.LOCK_EX, abandon_on_cancel=True
        )
        yield


async def _fetch(paths: Paths, progress: Callable[[str], None], mirror: str) -> Path:
    packages = paths.tools / "packages"
    packages.mkdir(exist_ok=True)
    if not _kept(packages):
        archive = await find_archive(mirror)
        progress(f"asking {archive.mirror} for {VHOST_DEVICE_VSOCK} ({_SUITE})")
        with tempfile.TemporaryDirectory(dir=paths.tools, prefix=".apt-") as scratch:
            await _download(archive, Path(scratch), packages)
    progress(f"unpacking {VHOST_DEVICE_VSOCK}")
    with tempfile.TemporaryDirectory(dir=paths.tools, prefix=".new-") as scratch:
        await run_tool(["dpkg-deb", "-x", str(_kept(packages)[-1]), scratch])
        found = [
            path
            for place in _PLACES
            if (path := Path(scratch, place, VHOST_DEVICE_VSOCK)).is_file()
        ]
        if not found:
            raise UpstreamError(f"its package has no program {VHOST_DEVICE_VSOCK}")
        # It must start here: its libraries are those of a newer system.
        await run_tool([str(found[0]), "--version"])
        target = paths.tools / VHOST_DEVICE_VSOCK
        found[0].replace(target)
    return target


def _kept(packages: Path) -> list[Path]:
    return sorted(packages.glob(f"{VHOST_DEVICE_VSOCK}_*.deb"))


async def _download(archive: Archive, scratch: Path, packages: Path) -> None:
    """Fetch the package with an index and a cache of its own."""
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "archives" / "partial").mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text("".join(f"{line}\n" for line in archive.lines(_SUITE)))
    options = {
        **archive.options,
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": str(scratch / "lists"),
        "Dir::Cache": str(scratch),
        "Acquire::Languages": "none",
        # A mirror may lag behind; the signature is checked nevertheless.
        "Acquire::Check-Valid-Until": "false",
        "APT::Sandbox::User": "",
    }
    words = [
        word for key, value in options.items() for word in ("-o", f"{key}={value}")
    ]
    apt = ["apt-get", "--quiet=2", *words]
    await run_tool([*apt, "update"], deadline=limits.IMAGE_BUILD_SECONDS)
    await run_tool(
        [*apt, "download", VHOST_DEVICE_VSOCK],
        cwd=packages,
        deadline=limits.IMAGE_BUILD_SECONDS,
    )
