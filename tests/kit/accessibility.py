"""An accessibility bus as a desktop has it, and a client that reads and presses."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import short_directory

LAUNCHER = Path("/usr/libexec/at-spi-bus-launcher")
CLIENT = """
import json, sys, time
import gi
gi.require_version("Atspi", "2.0")
from gi.repository import Atspi
def walk(node):
    yield node
    for n in range(node.get_child_count()):
        yield from walk(node.get_child_at_index(n))
def shown():
    desktop = Atspi.get_desktop(0)
    for n in range(desktop.get_child_count()):
        program = desktop.get_child_at_index(n)
        if program is not None and program.get_name() == "Vitrail" and program.get_child_count():
            return program.get_child_at_index(0)
    return None
def facts(node):
    states = node.get_state_set()
    made = {"name": node.get_name(), "role": node.get_role_name(), "states": [
        name for name in ("sensitive", "focused", "selected", "checked", "active", "showing")
        if states.contains(getattr(Atspi.StateType, name.upper()))]}
    action = node.get_action_iface()
    if action is not None:
        made["keys"] = [action.get_key_binding(n) for n in range(action.get_n_actions())]
    return made
until = time.monotonic() + 60
while (dialog := shown()) is None and time.monotonic() < until:
    time.sleep(0.1)
found = [*walk(dialog)]
def sensitive():
    return all("sensitive" in facts(node)["states"] for node in found)
pressed, armed, until = [], False, time.monotonic() + 60
while time.monotonic() < until:
    for node in found:
        action = node.get_action_iface()
        pressed += [action.do_action(0)] if action is not None else []
    if not armed and sensitive():
        armed, until = True, time.monotonic() + 1
    time.sleep(0.05)
print(json.dumps({"pressed": pressed, "shown": [facts(node) for node in found]}))
"""
"""libatspi's own client, as Orca uses it: it tries all actions until a second after the
dialog takes answers, then prints its attempts and the objects that it sees."""


def needed() -> None:
    """Skip where the machine has no AT-SPI."""
    typelibs = [*Path("/usr/lib").glob("*/girepository-1.0/Atspi-2.0.typelib")]
    missing = [
        package
        for package, there in {
            "at-spi2-core": LAUNCHER.exists(),
            "gir1.2-atspi-2.0": bool(typelibs),
            "python3-gi": Path("/usr/lib/python3/dist-packages/gi").exists(),
            "dbus": bool(shutil.which("dbus-daemon")),
        }.items()
        if not there
    ]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


@asynccontextmanager
async def accessibility_bus(*, reader: bool = True):
    """A session bus whose accessibility is on; yields the environment of programs."""
    needed()
    with short_directory() as place:
        address = f"unix:path={place}/bus"
        env = {
            **os.environ,
            "DBUS_SESSION_BUS_ADDRESS": address,
            "XDG_RUNTIME_DIR": str(place),
            "HOME": str(place),
        }
        words = [
            "dbus-daemon",
            "--session",
            "--nofork",
            "--nopidfile",
            "--address",
            address,
        ]
        children = [spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)]
        try:
            await eventually(lambda: takes_connections(place / "bus"), deadline=30)
            words = [str(LAUNCHER), "--launch-immediately", f"--a11y={int(reader)}"]
            children.append(spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL))
            bus = place / "at-spi" / "bus"
            await eventually(lambda: takes_connections(bus), deadline=30)
            yield env
        finally:
            for child in reversed(children):
                await child.stop()


async def pressed_and_shown(env: dict[str, str]) -> tuple[list[bool], list[dict]]:
    """What the actions of all objects returned, and the objects."""
    words = ["/usr/bin/python3", "-c", CLIENT]
    said = json.loads(await run_tool(words, env=env, deadline=150))
    return said["pressed"], said["shown"]
