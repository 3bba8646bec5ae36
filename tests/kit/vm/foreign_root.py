"""A Debian that is not of our image: with a kernel, initramfs and systemd, on a disk.

Made by mmdebstrap, without root, as a cloud's image is; kept in the user's cache.  The
guest package is installed in it by its script, which also has apt install waypipe.

``python -m tests.kit.vm.foreign_root`` makes it: that takes minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from broker.host.images.packages import find_archive
from shims.bundle import INSTALLER, guest_installer

SUITE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "libpam-systemd", "dbus", "udev", "kmod"),
    *("linux-image-cloud-amd64", "initramfs-tools", "foot", "fonts-dejavu-core"),
)
_LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
_BUILD_SECONDS = 500


@dataclass(frozen=True)
class ForeignRoot:
    """The files that boot it."""

    kernel: Path
    initrd: Path
    disk: Path


def foreign_root() -> ForeignRoot:
    """Return the files; makes them, or skips and gives the reason."""
    base = _cache()
    base.mkdir(parents=True, exist_ok=True)
    root = base / f"foreign-{SUITE}-{_contents()}"
    with open(base / f".foreign-{SUITE}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            for old in base.glob(f"foreign-{SUITE}-*"):
                shutil.rmtree(old, ignore_errors=True)
            fresh = base / f".foreign-{SUITE}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _make(fresh)
            fresh.rename(root)
    return ForeignRoot(root / "vmlinuz", root / "initrd", root / "disk")


def _make(fresh: Path) -> None:
    (fresh / INSTALLER).write_bytes(guest_installer())
    archive = trio.run(find_archive)
    settings = {**archive.options, "Acquire::Check-Valid-Until": "false"}
    argv = [
        *("mmdebstrap", "--mode=unshare", "--variant=apt", "--quiet"),
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
        *(f"--aptopt={key} {json.dumps(settings[key])}" for key in settings),
        "--customize-hook=chroot $1 useradd --create-home --shell /bin/bash ada",
        f"--customize-hook=copy-in {fresh / INSTALLER} /root",
        f"--customize-hook=chroot $1 sh /root/{INSTALLER}",
        "--customize-hook=echo guest >$1/etc/hostname",
        "--customize-hook=rm -f $1/etc/machine-id && touch $1/etc/machine-id",
        *(SUITE, "-", archive.mirror),
    ]
    tree = fresh / "tree"
    tree.mkdir()
    # Ownership is lost in our hands: the tar goes to genext2fs, which keeps it.
    tar = fresh / "root.tar"
    try:
        with tar.open("wb") as out:
            subprocess.run(
                argv,
                check=True,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=_BUILD_SECONDS,
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"")[-600:].decode(errors="replace")
        shutil.rmtree(fresh, ignore_errors=True)
        pytest.skip(f"no root of {SUITE} can be made here: {error} {said}")
    _run("tar", "-xf", tar, "-C", tree, "./boot")
    for name in ("vmlinuz", "initrd"):
        (found,) = (tree / "boot").glob(f"{name}*-amd64")
        shutil.copy(found, fresh / name)
    blocks = tar.stat().st_size // 4096 * 5 // 4 + 20_000
    _run(
        *("genext2fs", "--block-size", "4096", "--size-in-blocks", blocks),
        *("--number-of-inodes", 60_000, "--reserved-percentage", "0", "--allow-holes"),
        *("--tarball", tar, fresh / "disk"),
    )
    shutil.rmtree(tree)
    tar.unlink()


def there() -> bool:
    """Whether it has been made, so that a test need not wait for it."""
    return any(_cache().glob(f"foreign-{SUITE}-{_contents()}"))


def _cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vitrail" / "tests"


def _contents() -> str:
    made_of = " ".join(PACKAGES).encode() + guest_installer()
    return f"{zlib.crc32(made_of):08x}"


def _run(*words: object) -> None:
    argv = [str(word) for word in words]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr.decode()}"


if __name__ == "__main__":
    print(foreign_root())
