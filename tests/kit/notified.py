"""A desktop with a notification server: sway, a bus, mako; and a person who clicks."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import desktop


class Screen:
    """What mako shows.  ``env`` is for programs of this desktop."""

    def __init__(self, comp, env):
        self.comp = comp
        self.env = env
        self.server = None
        """mako's process, for a test that has another server in its place."""
        self.bus = None
        """The process of the session bus."""

    async def begin_bus(self):
        """Start the session bus at its address."""
        address = self.env["DBUS_SESSION_BUS_ADDRESS"]
        argv = ("dbus-daemon", "--session", "--nofork", "--nopidfile")
        env = {**self.env, **no_other_server(self.comp.display.parent)}
        words = [*argv, f"--address={address}"]
        self.bus = spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)
        bus = Path(address.removeprefix("unix:path="))
        await eventually(lambda: takes_connections(bus))

    async def begin_server(self):
        """Start mako on the desktop as it is now."""
        env = {**os.environ, **self.comp.environment, **self.env}
        self.server = spawn(["mako"], env=env, stdout=DEVNULL, stderr=DEVNULL)

        async def answers():
            try:
                return await run_tool(["makoctl", "list"], env=self.env)
            except Exception:
                return b""

        await eventually(answers)

    async def end(self):
        """End both, as a logout does."""
        for child in (self.server, self.bus):
            if child is not None:
                await child.stop()

    async def shown(self):
        """(id, title, text, buttons) of each notification."""
        listed = await run_tool(["makoctl", "list"], env=self.env)
        return [
            (
                one["id"]["data"],
                one["summary"]["data"],
                one["body"]["data"],
                one["actions"]["data"],
            )
            for one in json.loads(listed)["data"][0]
        ]

    async def one_with(self, text, deadline=60, after=None):
        """Wait for a notification with this text in it, another one than ``after``."""

        async def there():
            found = [
                one
                for one in await self.shown()
                if text in f"{one[1]}\n{one[2]}"
                and (after is None or one[0] != after[0])
            ]
            return found[0] if found else None

        found = await eventually(there, deadline=deadline)
        assert found, (text, await self.shown())
        return found

    async def click(self, one, button):
        """Press a button of a notification."""
        words = ["makoctl", "invoke", "-n", str(one[0]), button]
        await run_tool(words, env=self.env)

    async def dismiss(self, one):
        """Close a notification, as a click on its cross does."""
        await run_tool(["makoctl", "dismiss", "-n", str(one[0])], env=self.env)


def no_other_server(place):
    """Environment of a bus that starts no notification server by itself; ``place`` is its own.

    It would start an installed one for each call to the name while nobody has it, and the
    test's own server, which comes a moment later, would be refused the name.
    """
    services = place / "bus-data/dbus-1/services"
    services.mkdir(parents=True, exist_ok=True)
    (services / "none.service").write_text(
        "[D-BUS Service]\nName=org.freedesktop.Notifications\nExec=/bin/false\n"
    )
    return {"XDG_DATA_HOME": str(place / "bus-data")}


@asynccontextmanager
async def screen(env=None):
    """A headless desktop whose programs may show notifications."""
    async with desktop() as comp, notification_server(comp, env) as made:
        yield made


@asynccontextmanager
async def notification_server(comp, env=None):
    """A session bus and mako on a desktop; ``env`` is the one of its programs."""
    env = {
        **(os.environ if env is None else env),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={comp.display.parent / 'bus'}",
        "WAYLAND_DISPLAY": str(comp.display),
    }
    made = Screen(comp, env)
    try:
        await made.begin_bus()
        await made.begin_server()
        yield made
    finally:
        await made.end()
