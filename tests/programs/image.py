"""An image of Debian 12 with the packages of the table's programs, for Podman.

Made once by mmdebstrap in a store of the user's cache, which a test's own store reads
beside it (``additionalimagestores`` of containers-storage.conf(5)).
``python -m tests.programs.image`` makes it: about 5 GB, from the network.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.kit.podman_store import STORAGE, run
from tests.programs.table import PROGRAMS

IMAGE = "localhost/vitrail-programs:12"
_ALWAYS = ("xwayland", "xkb-data", "xauth")
"""For X11 programs: the container's Xwayland shows them."""
_BUILD_SECONDS = 3600


def image_store() -> Path:
    """Return where the store with the image is, made or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vitrail" / "tests" / "programs"


def is_made() -> bool:
    """Return whether it is there, with all packages of the table."""
    made = image_store() / "made"
    return made.exists() and {*_packages()} <= {*made.read_text().split()}


def make_image() -> None:
    """Make the image where it is not there yet."""
    base = image_store()
    base.mkdir(parents=True, exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_made():
            return
        settings = base / "storage.conf"
        storage = STORAGE.format(base=base)
        settings.write_text(f'{storage}rootless_storage_path = "{base}/store"\n')
        env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(settings)}
        words = ["mmdebstrap", "--quiet", "--mode=unshare", "--variant=minbase"]
        words += [f"--include={','.join(_packages())}", "bookworm", "-"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as made:
            subprocess.run(
                ["podman", "import", "-", IMAGE],
                check=True,
                env=env,
                cwd="/",
                stdin=made.stdout,
                timeout=_BUILD_SECONDS,
            )
        if made.returncode:
            run(env, "rmi", IMAGE)
            raise subprocess.CalledProcessError(made.returncode, words)
        (base / "made").write_text(" ".join(_packages()))


def with_image(settings: Mapping[str, str]) -> None:
    """Let the store of ``podman_settings()`` read the image's."""
    path = Path(settings["CONTAINERS_STORAGE_CONF"])
    more = f'[storage.options]\nadditionalimagestores = ["{image_store()}/store"]\n'
    path.write_text(path.read_text() + more)


def _packages() -> list[str]:
    return sorted({*_ALWAYS, *(w for p in PROGRAMS for w in p.package.split())})


if __name__ == "__main__":
    make_image()
