"""Root directories of other Debian suites, for their waypipe and applications.

Made once by mmdebstrap, without root, in the user's cache; run in with
bubblewrap.  Needs the network the first time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from broker.launch.packages import find_archive

PACKAGES = (
    "waypipe",
    "foot",
    "wl-clipboard",
    "weston",
    "fonts-dejavu-core",
    "xkb-data",
)


def suite_root(suite: str) -> Path:
    """Return the root of a suite; makes it, or skips and says why it cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = cache / "vitrail" / "tests"
    base.mkdir(parents=True, exist_ok=True)
    root = base / f"root-{suite}"
    with open(base / f".root-{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        fresh = base / f".root-{suite}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        archive = trio.run(find_archive)
        made = subprocess.run(
            f"mmdebstrap --variant=apt --quiet --include={','.join(PACKAGES)} "
            # Its programs are wanted, not their newest fixes.
            "--aptopt='Acquire::Check-Valid-Until \"false\"' "
            f"{suite} - {archive.mirror} | tar -x -C {fresh} --exclude=./dev/*",
            shell=True,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if not (fresh / "usr/bin/waypipe").exists():
            pytest.skip(f"no root of {suite} can be made: {made.stderr[-300:]}")
        fresh.rename(root)
    return root


def inside(root: Path, *shared: str) -> tuple[str, ...]:
    """The beginning of a command that runs in a root; ``shared`` paths are bound."""
    binds = [word for path in shared for word in ("--bind", path, path)]
    return (
        "bwrap", "--bind", str(root), "/", "--dev", "/dev", "--proc", "/proc",
        "--tmpfs", "/tmp", "--tmpfs", "/run", *binds, "--setenv", "HOME", "/tmp",
        "--unshare-pid", "--die-with-parent", "--",
    )  # fmt: skip
