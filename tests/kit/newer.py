"""Compositors of a newer Debian than ours, in a root of their own.

The root is made once by mmdebstrap, without root, and kept in the user's
cache; programs run in it under bubblewrap, with our runtime directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.launch.compositor import HeadlessCompositor
from broker.launch.spawn import DEVNULL, spawn
from tests.kit.compositor import short_directory
from tests.kit.tinyguest import ordinary_user

SUITE = "trixie"
_PACKAGES = "sway,labwc,weston"
_BUILD_SECONDS = 400


def root() -> Path:
    """The directory; builds it at first use, skips where that is not possible."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "vitrail-tests"
    home.mkdir(parents=True, exist_ok=True)
    place = home / SUITE
    with (home / f"{SUITE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "usr/bin/sway").exists():
            _build(home, place)
    return place


def _build(home: Path, place: Path) -> None:
    making = Path(tempfile.mkdtemp(prefix="making-", dir=home))
    make = (
        f"mmdebstrap --mode=unshare --variant=apt --include={_PACKAGES} {SUITE} - "
        f"| tar -x --no-same-owner --exclude=./dev/* -C {making} && chmod -R u+rwX {making}"
    )
    try:
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", make],
            check=True,
            capture_output=True,
            timeout=_BUILD_SECONDS,
        )
        making.rename(place)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(making, ignore_errors=True)
        said = (error.stderr or b"")[-300:].decode(errors="replace")
        pytest.skip(f"no root of {SUITE} can be made here: {error} {said}")


def argv(runtime: Path, *program: str) -> list[str]:
    """A program inside the root, with ``runtime`` at the same place as outside."""
    return [
        "bwrap", "--ro-bind", str(root()), "/", "--dev", "/dev", "--proc", "/proc",
        "--tmpfs", "/tmp", "--bind", str(runtime), str(runtime), "--die-with-parent", "--",
        *program,
    ]  # fmt: skip


@asynccontextmanager
async def newer(kind: str, config: str = "", size: tuple[int, int] = (1280, 800)):
    """A newer ``sway`` or ``labwc``, headless."""
    ordinary_user()
    with short_directory() as directory:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        program = [kind]
        if kind == "sway":
            conf = runtime / "sway.conf"
            conf.write_text(
                f"output * resolution {size[0]}x{size[1]} position 0 0\n"
                f"xwayland disable\nswaybg_command -\ndefault_border none\n{config}\n"
            )
            program += ["-c", str(conf)]
        elif config.startswith("<"):
            conf = runtime / ".config/labwc/rc.xml"
            conf.parent.mkdir(parents=True)
            conf.write_text(config)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(runtime),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(runtime),
            "SWAYSOCK": str(runtime / "sway.sock"),
        }
        headless = {
            "WLR_BACKENDS": "headless",
            "WLR_RENDERER": "pixman",
            "WLR_LIBINPUT_NO_DEVICES": "1",
        }
        said = runtime / "said"
        with said.open("wb") as out:
            child = spawn(
                argv(runtime, *program),
                env={**environment, **headless},
                stdout=DEVNULL,
                stderr=out.fileno(),
            )
        try:
            with trio.move_on_after(20) as patience:
                while not (found := list(runtime.glob("wayland-[0-9]"))):
                    assert child.popen.poll() is None, said.read_text()[-2000:]
                    await trio.sleep(0.05)
            assert not patience.cancelled_caught, said.read_text()[-2000:]
            display = found[0]
            yield HeadlessCompositor(
                child, display, {**environment, "WAYLAND_DISPLAY": str(display)}
            )
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
