"""Attack: two containers in one pid, network or IPC namespace, each with a lease."""

from __future__ import annotations

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import podman_settings, podman_start, root_directory
from tests.kit.podman_store import run as podman
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = PID_NAMESPACES
RECORD = shown_record('kind = "podman"')
CONNECT = """
import socket
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect("/proc/1/root/run/vitrail/wayland-0")
    # wl_display.get_registry, wl_display.sync
    sock.send(bytes.fromhex("01000000 01000c00 02000000 01000000 00000c00 03000000"))
    print("served" if sock.recv(4096) else "refused")
except OSError as error:
    print(error)
"""


async def test_a_container_in_the_pid_namespace_of_another_is_not_leased():
    """It was: a program of one opened a display of the other by /proc/1/root."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        for name in ("vault", "work"):
            w.write_record(name, RECORD)
        root_directory(w.base)
        root = w.base / "root"
        await install_hook(w)
        words = hooked_words(root, "--name=first", name="vault")[1:]
        first = podman_start(w.environ, *words, "sleep", "1000")
        try:
            await w.wait_event("lease.begin", sandbox="vault")
            words = hooked_words(root, "--pid=container:first", name="work")[1:]
            second = podman_start(w.environ, *words, "python3", "-c", CONNECT)
            out, err = await trio.to_thread.run_sync(second.communicate)
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(first.communicate)
        assert not w.events("lease.begin", sandbox="work")
        # Without a lease its program is still one of the other's pid namespace.
        assert out, err
        await eventually(lambda: w.events("lease.end", sandbox="vault") != [])


@pytest.mark.parametrize("kind", ["network", "ipc"])
async def test_container_in_namespace_of_another_not_leased(kind):
    """They would share abstract sockets and loopback, or /dev/shm."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        for name in ("vault", "work"):
            w.write_record(name, RECORD)
        root_directory(w.base)
        root = w.base / "root"
        await install_hook(w)
        option = "--ipc=shareable" if kind == "ipc" else "--hostname=first"
        argv = hooked_words(root, option, "--name=first", name="vault")[1:]
        first = podman_start(w.environ, *argv, "sleep", "1000")
        try:
            await w.wait_event("lease.begin", sandbox="vault")
            argv = hooked_words(root, f"--{kind}=container:first", name="work")[1:]
            if kind == "network":
                argv.remove("--network=none")
            second = podman_start(w.environ, *argv, "true")
            await trio.to_thread.run_sync(second.communicate)
            refused = await w.wait_event("lease.refused", sandbox="work")
            name = "IPC" if kind == "ipc" else "network"
            assert f"shares the {name} namespace of 'vault'" in refused["reason"]
            # With separate ones, both are leased.
            argv = hooked_words(root, name="work")[1:]
            third = podman_start(w.environ, *argv, "true")
            await trio.to_thread.run_sync(third.communicate)
            await w.wait_event("lease.begin", sandbox="work")
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(first.communicate)
