"""A session bus with gnome-keyring's Secret Service, unlocked, in a directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections

PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon", "secret-tool")
HAS_KEYRING = all(shutil.which(name) for name in PROGRAMS)
_SERVICE = "org.freedesktop.secrets"


@asynccontextmanager
async def keyring(folder):
    """Yield the environment in which secret-tool(1) finds it."""
    folder.mkdir(mode=0o700)
    bus = folder / "bus"
    env = {
        **os.environ,
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_RUNTIME_DIR": str(folder),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
    }
    words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
    words.append(f"--address=unix:path={bus}")
    children = [spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)]
    read, write = os.pipe()
    try:
        await eventually(lambda: takes_connections(bus))
        os.write(write, b"password")
        os.close(write)
        words = ["gnome-keyring-daemon", "--foreground", "--unlock"]
        words.append("--components=secrets")
        children.append(
            spawn(words, env=env, stdin=read, stdout=DEVNULL, stderr=DEVNULL)
        )

        async def answers():
            words = (
                "dbus-send",
                "--session",
                "--print-reply",
                "--dest=org.freedesktop.DBus",
            )
            call = ("/", "org.freedesktop.DBus.NameHasOwner", f"string:{_SERVICE}")
            return b"true" in await run_tool([*words, *call], env=env)

        await eventually(answers)
        yield env
    finally:
        os.close(read)
        for child in reversed(children):
            await child.stop()


def store(env, name, secret):
    """Store a secret under a name."""
    words = ("secret-tool", "store", f"--label={name}", "vitrail", name)
    subprocess.run(words, input=secret.encode(), env=env, check=True, timeout=60)
