"""Fetch ``vhost-device-vsock`` for this user, in its jail of ``launch_jails``.

A separate index, the archive's signature checked as always, the package kept,
unpacked below the cache, nothing installed.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError
from broker.helpers.process.spawn import run_tool
from broker.host.images.packages import Archive, find_archive
from broker.host.vmm.hosttools import VHOST_DEVICE_VSOCK

_SUITE = "unstable"
_PLACES = ("usr/bin", "usr/libexec", "usr/lib/qemu")


def fetch_tool(folder: str, mirror: str) -> None:
    """Fetch ``vhost-device-vsock`` into a folder unless it is there.

    ``mirror``: of the archive; may be empty.  Exit with a message on failure.
    """
    tools = Path(folder)
    try:
        # Held until we end: no other process of this user fetches meanwhile.
        with (tools / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.access(tools / VHOST_DEVICE_VSOCK, os.X_OK):
                trio.run(_fetch, tools, mirror)
    except (VitrailError, OSError) as error:
        sys.exit(str(error))


async def _fetch(tools: Path, mirror: str) -> None:
    """Download the tools' package unless it is kept, and unpack its program.

    Starts the program to check that it runs on this system.
    """
    packages = tools / "packages"
    packages.mkdir(exist_ok=True)
    if not _kept(packages):
        archive = await find_archive(mirror)
        with tempfile.TemporaryDirectory(dir=tools, prefix=".apt-") as scratch:
            await _download(archive, Path(scratch), packages)
    with tempfile.TemporaryDirectory(dir=tools, prefix=".new-") as scratch:
        await run_tool(["dpkg-deb", "-x", str(_kept(packages)[-1]), scratch])
        found = [
            path
            for place in _PLACES
            if (path := Path(scratch, place, VHOST_DEVICE_VSOCK)).is_file()
        ]
        if not found:
            raise UpstreamError(f"the downloaded package has no {VHOST_DEVICE_VSOCK}")
        # It must start here: its libraries are those of a newer system.
        await run_tool([str(found[0]), "--version"])
        found[0].replace(tools / VHOST_DEVICE_VSOCK)


def _kept(packages: Path) -> list[Path]:
    return sorted(packages.glob(f"{VHOST_DEVICE_VSOCK}_*.deb"))


async def _download(archive: Archive, scratch: Path, packages: Path) -> None:
    """Fetch the package with a separate index and cache."""
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
        # A mirror may be late; the signature is checked nevertheless.
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
