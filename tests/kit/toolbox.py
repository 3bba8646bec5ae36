"""An image for toolbox and distrobox, and what these programs want to find here.

``python -m tests.kit.toolbox`` makes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.core.paths import find_paths
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.podman_store import run as podman

IMAGE = "localhost/vitrail-box:12"
PACKAGES = (
    *("foot", "foot-terminfo", "fonts-dejavu-core", "passwd", "sudo", "libcap2-bin"),
    *("mount", "hostname", "ca-certificates", "procps", "bash-completion", "bc"),
    *("curl", "diffutils", "dialog", "gnupg", "less", "lsof", "ncurses-base"),
    *("pinentry-curses", "time", "util-linux", "wget", "xdg-utils", "findutils"),
    *("apt-utils", "libnss-myhostname", "locales", "python3", "xz-utils"),
    *("pulseaudio-utils", "wl-clipboard"),
)
"""With what distrobox-enter would install at first, so that it needs no mirror."""


@asynccontextmanager
async def box_programs(w):
    """A PATH with brokerctl, an image, a bus: skips where one of them is missing."""
    wanted = ("toolbox", "distrobox-create", "distrobox-enter", "mmdebstrap")
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    root = Path(__file__).parents[2]
    address = f"unix:path={w.base}/bus"
    w.environ |= {
        "HOME": str(w.base),
        "SHELL": "/bin/bash",
        "PATH": f"{w.base}/.local/bin:{root}:{os.environ['PATH']}",
        # toolbox wants to find a system bus's socket.
        "DBUS_SYSTEM_BUS_ADDRESS": address,
    }
    words = ("--session", "--nofork", "--nopidfile", "--address", address)
    bus = spawn(["dbus-daemon", *words], stdout=DEVNULL, stderr=DEVNULL)
    try:
        await eventually(lambda: takes_connections(w.base / "bus"))
        podman(
            w.environ,
            *("import", "-c", "LABEL=com.github.containers.toolbox=true"),
            *("-c", "CMD /bin/bash", str(_tarball()), IMAGE),
            seconds=600,
        )
        yield
    finally:
        bus.kill()
        await bus.wait()


def _tarball() -> Path:
    """Debian's packages for a box; made once and kept."""
    made = find_paths().cache / "test-box-12.tar"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = made.with_name(f".test-box.{os.getpid()}.tar")
        include = f"--include={','.join(PACKAGES)}"
        words = ["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm"]
        try:
            subprocess.run([*words, fresh], check=True, timeout=600)
            fresh.replace(made)
        finally:
            fresh.unlink(missing_ok=True)
    return made


if __name__ == "__main__":
    _tarball()
