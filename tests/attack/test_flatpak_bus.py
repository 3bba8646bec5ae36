"""A Flatpak application whose own permissions name services that run commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jeepney
import pytest
import trio
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

from broker.core.paths import find_paths
from broker.host.launchers.flatpak.files import (
    overrides_folder,
    system_bus_names,
    write_override,
)
from broker.host.launchers.flatpak.overrides import FlatpakPermissions
from tests.kit.flatpak import applications
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.long
APP = "org.example.Foot"
RUNS_COMMANDS = ("org.freedesktop.Flatpak", "org.freedesktop.systemd1")
HARMLESS = "org.freedesktop.Notifications"
POLICY = """\
[Session Bus Policy]
org.freedesktop.*=talk
org.freedesktop.Flatpak.*=talk
org.freedesktop.systemd1.*=talk
org.freedesktop.Notifications=talk
[System Bus Policy]
org.example.PowerOff=talk
"""
PROBE = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
bus = open_dbus_connection("SESSION")
for name in sys.argv[3:]:
    reply = bus.send_and_get_reply(message_bus.GetNameOwner(name))
    if reply.body[0].startswith(":"):
        print(name)
try:
    system = open_dbus_connection("SYSTEM")
    reply = system.send_and_get_reply(message_bus.GetNameOwner("org.example.PowerOff"))
    if reply.body[0].startswith(":"):
        print("system")
except OSError:
    pass  # closed
libc = ctypes.CDLL(None, use_errno=True)
if libc.shmget(int(sys.argv[2]), 4096, 0) >= 0:
    print("memory")
"""


def _probe(environ, library, memory):
    """What an instance reaches."""
    words = ("-c", PROBE, str(library), str(memory), *RUNS_COMMANDS, HARMLESS)
    done = subprocess.run(
        ["flatpak", "run", "--command=python3", APP, *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def _shared_memory():
    """System V shared memory of this session; its key and number."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x56000000 | os.getpid()
    number = libc.shmget(key, 4096, 0o1600)  # IPC_CREAT | 0600
    assert number >= 0
    return key, lambda: libc.shmctl(number, 0, None)


async def test_no_service_that_runs_commands_no_system_bus_and_no_memory_of_the_session():
    library = Path(jeepney.__file__).parent.parent
    with short_directory() as base:
        runtime = base / "run"
        runtime.mkdir(mode=0o700)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(base),
            "XDG_DATA_HOME": str(base / "data"),
            "XDG_RUNTIME_DIR": str(runtime),
        }
        apps = applications(base, environ, policy=POLICY, Foot=f"{library}:ro;")
        key, forget = _shared_memory()
        try:
            async with apps:
                bus = open_dbus_connection(environ["DBUS_SESSION_BUS_ADDRESS"])
                with bus:
                    for name in (*RUNS_COMMANDS, HARMLESS, "org.example.PowerOff"):
                        bus.send_and_get_reply(message_bus.RequestName(name))
                    probe = (environ, library, key)
                    found = await trio.to_thread.run_sync(_probe, *probe)
                    assert found == {*RUNS_COMMANDS, HARMLESS, "memory", "system"}
                    place = base / "data" / "flatpak" / "app" / APP / "current"
                    names = system_bus_names(place / "active")
                    wanted = FlatpakPermissions(
                        None, read_only=(library,), system_names=names
                    )
                    folder = overrides_folder(environ)
                    write_override(find_paths(environ), folder, APP, wanted)
                    found = await trio.to_thread.run_sync(_probe, *probe)
                    assert found == {HARMLESS}
        finally:
            forget()
