"""A world whose desktop shows notifications, and guests with a session bus each."""

from __future__ import annotations

from contextlib import asynccontextmanager

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.notified import notification_server
from tests.kit.plain_guests import plain
from tests.kit.world import record, world


@asynccontextmanager
async def notifying(rules, *names, env=()):
    """Yield the world, its screen with mako, and the guests by name.

    ``env``: more of the desktop's environment.
    """
    async with world({"app": record()}, start=False, image=False) as w:
        w.write_rules(rules)
        async with notification_server(w.comp, w.environ) as screen:
            w.environ.update(screen.env)
            w.environ.update(env)
            await w.start()
            async with plain(w, *names) as guests:
                for guest in guests.values():
                    guest.env["XDG_RUNTIME_DIR"] = f"{guest.folder}/runtime/session"
                yield w, screen, guests
                await w.shutdown()


@asynccontextmanager
async def bus_of(guest):
    """A session bus in a guest, for its programs from here on."""
    bus = guest.folder / "bus"
    address = f"unix:path={bus}"
    tools = guest.folder / "runtime/bin"
    path = f"{tools}:{guest.env['PATH']}"
    env = {**guest.env, "PATH": path}
    words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
    child = spawn(
        [*words, f"--address={address}"], env=env, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        await eventually(lambda: takes_connections(bus))
        guest.env["DBUS_SESSION_BUS_ADDRESS"] = address
        yield
    finally:
        await child.stop()


def notify_send(guest, *words, stdout=DEVNULL):
    """Start notify-send in a guest."""
    return spawn(["/usr/bin/notify-send", *words], env=guest.env, stdout=stdout)
