"""An image for toolbox and distrobox, and what these programs want to find here.

``python -m tests.kit.toolbox`` makes it.
"""

from __future__ import annotations

import fcntl
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
from tests.kit.podman import end_those_of
from tests.kit.podman_store import CONF, STORAGE, stop_waiting
from tests.kit.podman_store import run as podman
from tests.kit.wayland.compositor import short_directory

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
        with Path(w.environ["CONTAINERS_STORAGE_CONF"]).open("a") as storage:
            storage.write(
                f'[storage.options]\nadditionalimagestores = ["{_store()}"]\n'
            )
        yield
    finally:
        bus.kill()
        await bus.wait()


def _store() -> Path:
    """A store of Podman's that has the image for boxes; made once and kept.

    Podman only reads it.  To unpack the image into the store of each test, to give its
    files to the box's user, and to remove both takes half a minute of a processor.
    """
    made = find_paths().cache / "test-box-12.store"
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_suffix(".lock").open("a") as lock, short_directory() as runtime:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return made
        base = made.with_suffix(".fresh")
        env = _settings(base, runtime)
        try:
            if (base / "store").exists():  # of a process that was killed
                clear = 'umount --lazy "$1/overlay"; rm -rf "$1"'
                words = ("unshare", "sh", "-c", clear, "sh", str(base / "store"))
                podman(env, *words, seconds=600)
            podman(
                env,
                *("import", "-c", "LABEL=com.github.containers.toolbox=true"),
                *("-c", "CMD /bin/bash", str(debian_tarball()), IMAGE),
                seconds=600,
            )
            # Both programs create boxes so: it makes the layer with the user's files.
            mapped = ("create", "--userns=keep-id", "--network=none")
            podman(env, *mapped, IMAGE, "true", seconds=600)
            podman(env, "rm", "-af", "-t", "0")
        finally:
            stop_waiting(env)
            end_those_of(base)
        (base / "store").replace(made)
        shutil.rmtree(base)
    return made


def _settings(base: Path, runtime: Path) -> dict[str, str]:
    """An environment in which Podman has its store in ``base``."""
    base.mkdir(exist_ok=True)
    conf, storage = base / "containers.conf", base / "storage.conf"
    conf.write_text(CONF.format(runtime="runc" if shutil.which("runc") else "crun"))
    storage.write_text(
        STORAGE.format(base=base) + f'rootless_storage_path = "{base}/store"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_CONF": str(conf),
        "CONTAINERS_STORAGE_CONF": str(storage),
        "XDG_RUNTIME_DIR": str(runtime),
    }


def debian_tarball() -> Path:
    """Debian's packages for a box; made once and kept, under the lock of its store."""
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
    _store()
