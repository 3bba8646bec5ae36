"""Rootless Podman for one test: a store of its own, with an image of waypipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.viewer.waypipe.client import find_program
from tests.kit.wayland.compositor import short_directory
from tests.kit.waypipe import rust_waypipe

IMAGE = "localhost/waypipe:test"
# Settings for a machine without systemd, or with mixed cgroups; harmless on others.
CONF = """\
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{base}/store"
runroot = "{base}/run"
"""


@asynccontextmanager
async def rootless(*, rust: bool = False):
    """The environment in which podman finds the image; skips where it cannot be.

    Its waypipe is this machine's, or a newer suite's, which is in Rust.
    """
    runtime = shutil.which("runc") or shutil.which("crun")
    if None in (shutil.which("podman"), shutil.which("newuidmap"), runtime):
        pytest.skip("podman, runc or uidmap is not installed")
    with short_directory() as base:
        (base / "containers.conf").write_text(CONF.format(runtime=Path(runtime).name))
        (base / "storage.conf").write_text(STORAGE.format(base=base))
        env = {
            "CONTAINERS_CONF": str(base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(base / "storage.conf"),
            "XDG_RUNTIME_DIR": str(base / "x"),
        }
        (base / "x").mkdir(mode=0o700)
        try:
            files = await (_in_rust() if rust else _of_this_machine())
            _import(base / "image.tar", {**os.environ, **env}, files)
            yield env
        finally:
            everything = {**os.environ, **env}
            run(everything, "rm", "-af", "-t", "0", check=False)
            run(everything, "unshare", "rm", "-rf", f"{base}/store", f"{base}/run")
            stop_waiting(everything)


def run(env, *words, check=True):
    """A podman command; its output."""
    done = subprocess.run(
        ["podman", *words],
        check=False,
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def stop_waiting(env):
    """End the process that keeps a user's namespace for the next podman."""
    run(env, "system", "migrate", check=False)


async def _of_this_machine() -> dict[str, Path]:
    program = await find_program(Path(shutil.which("waypipe")).resolve())
    files = {"bin/waypipe": program.path}
    for library in (program.interpreter, *program.libraries):
        files[str(library).lstrip("/")] = library.resolve()
    return files


async def _in_rust() -> dict[str, Path]:
    waypipe, needed = await trio.to_thread.run_sync(rust_waypipe.files)
    found = {path.lstrip("/"): source for path, source in needed.items()}
    return {"bin/waypipe": waypipe, **found}


def _import(path: Path, env: dict[str, str], files: dict[str, Path]) -> None:
    """An image of a waypipe and its libraries, and nothing else."""
    with tarfile.open(path, "w") as tar:
        for name, source in files.items():
            tar.add(source, name)
        empty = tarfile.TarInfo("s")
        empty.type = tarfile.DIRTYPE
        empty.mode = 0o755
        tar.addfile(empty)
    run(env, "import", str(path), IMAGE)
    path.unlink()
