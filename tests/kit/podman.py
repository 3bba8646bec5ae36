"""Rootless Podman on a plain machine, and a root of the host's own programs."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.podman_store import CONF, STORAGE, run, stop_waiting
from tests.kit.wayland.compositor import short_directory

SHARED = ("/usr", "/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/pulse")
"""Paths that the host's programs need where the container's root is empty."""
SECOND = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/other/wayland-0")
sock.settimeout(60)
sys.exit(0 if sock.recv(1) == b"" else 3)
"""
"""In another container, which has the first one's sockets in /run/other."""
CONNECT_EACH = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        print(type(error).__name__)
    else:
        print("connected")
"""
"""What comes of a connection to each socket."""


@asynccontextmanager
async def podman_settings(**engine):
    """The environment of a Podman with a separate store; skips where it cannot be.

    ``engine`` is added to ``[engine]`` of containers.conf, as text.
    """
    runtime = shutil.which("runc") or shutil.which("crun")
    if None in (shutil.which("podman"), shutil.which("newuidmap"), runtime):
        pytest.skip("podman, runc or uidmap is not installed")
    with short_directory() as base:
        conf = CONF.format(runtime=Path(runtime).name)
        conf += "".join(f"{key} = {value}\n" for key, value in engine.items())
        (base / "containers.conf").write_text(conf)
        storage = STORAGE.format(base=base)
        # Without root, Podman takes this in place of graphroot.
        storage += f'rootless_storage_path = "{base}/store"\n'
        (base / "storage.conf").write_text(storage)
        env = {
            "CONTAINERS_CONF": str(base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(base / "storage.conf"),
        }
        try:
            yield env
        finally:
            everything = {**os.environ, **env}
            run(everything, "rm", "-af", "-t", "0", check=False)
            # Outside of the namespace that Podman's commands share, in which each of them
            # mounts the store on itself; its files are those of subordinate users.
            words = ("unshare", "--user", "--map-auto", "--map-root-user", "rm", "-rf")
            until = time.monotonic() + 60
            while True:
                end_those_of(base)
                # Tens of thousands of files, on a disk that other tests use, too.
                done = subprocess.run(
                    [*words, base / "store", base / "run"],
                    check=False,
                    stderr=subprocess.PIPE,
                    timeout=600,
                )
                if not (base / "store").exists():
                    break
                # What a container's end still starts writes there.
                assert time.monotonic() < until, done.stderr
                time.sleep(0.2)
            stop_waiting(everything)
            end_those_of(base)


def end_those_of(base: Path) -> None:
    """End what Podman left for its next command in runtime directories of worlds.

    It keeps their user namespace, and 'podman system migrate' ends only that of the
    present runtime directory.  What a container's end still starts ends as well: it
    would write into the store.
    """
    while left := _those_of(base):
        for ended in left:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            assert select.select([ended], [], [], 20)[0], "a process does not end"
            os.close(ended)


def _those_of(base: Path) -> list[int]:
    """The processes of Podman and its conmon that use this store, as pidfds.

    conmon, and its program at a container's end, has its paths among its words.
    """
    ours = f"{base}/".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text(errors="replace").strip()
            if name not in {"conmon", "podman", "podman pause"}:
                continue
            given = (process / "cmdline").read_bytes() + b"\0"
            if ours in given + (process / "environ").read_bytes():
                found.append(os.pidfd_open(int(process.name)))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def root_directory(base: Path) -> Path:
    """An almost empty root, into which SHARED of the host's is mounted."""
    root = base / "root"
    for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "run", "var", "home"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    return root


def shared_words() -> list[str]:
    """Podman's options that mount SHARED."""
    found = [path for path in SHARED if Path(path).exists()]
    return [word for path in found for word in ("--volume", f"{path}:{path}:ro")]


def containers(env) -> list[str]:
    """The names of all containers, running or not."""
    return run(env, "ps", "-a", "--format", "{{.Names}}").split()


def podman_start(env, *words) -> subprocess.Popen:
    """Start 'podman run' as a person does."""
    return subprocess.Popen(
        ["podman", "run", *words],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
