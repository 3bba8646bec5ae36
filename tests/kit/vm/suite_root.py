"""Root directories of other Debian suites, for their waypipe, applications, compositors.

Made once by mmdebstrap in the user's cache; run in with bubblewrap.  Made by root, its
files are root's and their users', for a system that boots.  Needs the network the
first time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import trio

from broker.host.images.packages import find_archive

PACKAGES = (
    "labwc",
    "sway",
    "waypipe",
    "foot",
    "wl-clipboard",
    "weston",
    "fonts-dejavu-core",
    "xkb-data",
)

_BUILD_SECONDS = 280
"""Inside the deadline of a long test."""


def suite_root(
    suite: str,
    packages: tuple[str, ...] = PACKAGES,
    *,
    seconds: float = _BUILD_SECONDS,
) -> Path:
    """Return the root of a suite; makes it, or skips and says why it cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = cache / "vitrail" / "tests"
    base.mkdir(parents=True, exist_ok=True)
    # Another list of packages is another root.
    contents = zlib.crc32(" ".join(packages).encode())
    root = base / f"root-{suite}-{contents:08x}"
    with open(base / f".root-{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        fresh = base / f".root-{suite}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        archive = trio.run(find_archive)
        # Its programs are wanted, not their newest fixes.
        settings = {**archive.options, "Acquire::Check-Valid-Until": "false"}
        mode, owners = "--mode=unshare", "--no-same-owner"
        if os.geteuid() == 0:
            mode, owners = "--mode=root", "--same-owner"
        options = [f"--aptopt={key} {json.dumps(settings[key])}" for key in settings]
        make = shlex.join(
            (
                *("mmdebstrap", mode, "--variant=apt", "--quiet"),
                f"--include={','.join(packages)}",
                *options,
                *(suite, "-", archive.mirror),
            )
        )
        unpack = shlex.join(
            ["tar", "-x", owners, "--exclude=./dev/*", "-C", str(fresh)]
        )
        try:
            subprocess.run(
                ["bash", "-o", "pipefail", "-c", f"{make} | {unpack}"],
                check=True,
                capture_output=True,
                timeout=seconds,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"")[-300:].decode(errors="replace")
            shutil.rmtree(fresh, ignore_errors=True)
            pytest.skip(f"no root of {suite} can be made here: {error} {said}")
        fresh.chmod(0o755)
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
