"""The person sees who hears: a notification that stays as long as it is true."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import trio
from jeepney import MessageType, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.trio import open_dbus_connection

from tests.integration.test_pulse_microphone import audio
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.notified import no_other_server
from tests.kit.sound.servers import Recorder, microphone, proxy, sound_server, started
from tests.kit.wayland.compositor import desktop, pixels

NAME = "org.freedesktop.Notifications"


@asynccontextmanager
async def screen(bus: str):
    """A real name on a real bus that shows nothing and remembers everything."""
    shown: dict[int, tuple] = {}
    ever: list[tuple] = []
    async with await open_dbus_connection(bus) as connection:
        async with connection.router() as router:
            await router.send_and_get_reply(message_bus.RequestName(NAME))
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                while True:
                    message = await connection.receive()
                    if message.header.message_type is not MessageType.method_call:
                        continue
                    member = message.header.fields[3]
                    if member == "Notify":
                        number = len(ever) + 1
                        shown[number] = message.body
                        ever.append(message.body)
                        await connection.send(
                            new_method_return(message, "u", (number,))
                        )
                    elif member == "GetServerInformation":
                        facts = ("memory", "test", "1", "1.2")
                        await connection.send(new_method_return(message, "ssss", facts))
                    elif member == "GetCapabilities":
                        await connection.send(
                            new_method_return(message, "as", (["body"],))
                        )
                    elif member == "CloseNotification":
                        shown.pop(message.body[0], None)
                        await connection.send(new_method_return(message))

            nursery.start_soon(serve)
            yield shown
            nursery.cancel_scope.cancel()


async def test_it_is_shown_while_the_source_is_open_and_names_the_sandbox():
    async with sound_server("pulseaudio") as server:
        bus = f"unix:path={server.directory}/bus"
        argv = ("dbus-daemon", "--session", "--nofork", f"--address={bus}")
        env = {**server.environment, **no_other_server(server.directory)}
        async with started(*argv, env=env):

            async def there() -> bool:
                return takes_connections(server.directory / "bus")

            await eventually(there)
            server.environment["DBUS_SESSION_BUS_ADDRESS"] = bus
            await microphone(server)
            ask = ("--microphone", "ask", "--control")
            async with (
                screen(bus) as shown,
                proxy(server, *ask, name="mail") as filtered,
            ):
                async with Recorder.at(filtered) as recorder:
                    await recorder.more(19200)
                    assert not shown
                    await filtered.allow_microphone()

                    async def one():
                        return len(shown) == 1

                    await eventually(one)
                    (body,) = shown.values()
                    assert body[3] == "mail records your microphone"
                    assert body[7] == 0  # it stays
                    await audio(server, "microphone", "mail", "deny")

                    async def none():
                        return not shown

                    await eventually(none)
                    await filtered.allow_microphone()
                    await eventually(one)
                await eventually(
                    none
                )  # the recorder has ended, and the source is closed


async def test_the_person_sees_it_as_long_as_the_source_is_open():
    """A real notification daemon on a real screen; the pixels say so."""
    async with desktop() as comp, sound_server("pulseaudio") as server:
        bus = server.directory / "bus"
        server.environment |= {
            "WAYLAND_DISPLAY": str(comp.display),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
        }
        address = f"--address=unix:path={bus}"
        argv = ("dbus-daemon", "--session", "--nofork", "--nopidfile", address)
        env = {**server.environment, **no_other_server(server.directory)}
        async with started(*argv, env=env):

            async def there() -> bool:
                return takes_connections(bus)

            await eventually(there)
            await microphone(server)
            async with (
                started("mako", env=server.environment),
                proxy(
                    server, "--microphone", "ask", "--control", name="mail"
                ) as filtered,
            ):

                async def listed() -> list[str] | None:
                    done = await server.run("makoctl", "list", check=False)
                    if done.code:
                        return None
                    return [
                        n["summary"]["data"] for n in json.loads(done.out)["data"][0]
                    ]

                async def empty() -> bool:
                    return await listed() == []

                await eventually(empty, deadline=60)
                before = await pixels(comp)
                async with Recorder.at(filtered) as recorder:
                    await recorder.more(19200)  # wanted, and silent
                    assert await listed() == []
                    assert (await pixels(comp)).tobytes() == before.tobytes()
                    await filtered.allow_microphone()

                    async def told() -> bool:
                        return await listed() == ["mail records your microphone"]

                    async def seen() -> bool:
                        return (await pixels(comp)).tobytes() != before.tobytes()

                    await eventually(told, deadline=60)
                    await eventually(seen, deadline=60)
                    await audio(server, "microphone", "mail", "deny")

                    async def gone() -> bool:
                        return (await pixels(comp)).tobytes() == before.tobytes()

                    await eventually(gone, deadline=60)
                    assert await listed() == []
