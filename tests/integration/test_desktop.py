"""Notifications on a real desktop: a bus, a notification daemon, a screen."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from broker.authority.questions import desktop as module
from broker.authority.questions.desktop import Desktop
from broker.core import limits
from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.helper_starter import helper_starter
from tests.kit.listening import takes_connections
from tests.kit.notified import no_other_server
from tests.kit.wayland.compositor import desktop, pixels


@asynccontextmanager
async def notified(**variables):
    """A Desktop whose words mako shows on sway; and what mako has."""
    async with desktop() as comp:
        stack = ExitStack()
        bus = comp.display.parent / "bus"
        env = {
            **os.environ,
            **comp.environment,
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
            **variables,
        }
        address = f"--address=unix:path={bus}"
        children = [
            spawn(
                ["dbus-daemon", "--session", "--nofork", "--nopidfile", address],
                env={**env, **no_other_server(bus.parent)},
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
        ]
        try:
            await eventually(lambda: there(bus))
            children.append(spawn(["mako"], env=env, stdout=DEVNULL, stderr=DEVNULL))

            async def shown():
                said = await run_tool(["makoctl", "list"], env=env)
                return [
                    (one["summary"]["data"], one["body"]["data"])
                    for one in json.loads(said)["data"][0]
                ]

            await eventually(lambda: answers(env))
            async with trio.open_nursery() as nursery:
                told = Desktop(stack.enter_context(helper_starter(env)))
                nursery.start_soon(told.run)
                yield comp, told, shown
                nursery.cancel_scope.cancel()
        finally:
            stack.close()
            for child in reversed(children):
                await child.stop()


async def there(path):
    return takes_connections(path)


async def answers(env):
    try:
        return await run_tool(["makoctl", "list"], env=env)
    except Exception:
        return b""


async def test_a_warning_is_on_the_screen():
    """And what a sandbox is called is text in it, never markup."""
    async with notified() as (comp, told, shown):
        empty = (await pixels(comp)).tobytes()
        told.notify("Vitrail: the rules have an error", "20-x.policy:2:1: <b>&\x1b[2J")
        (one,) = await eventually(shown)
        assert one == (
            "Vitrail: the rules have an error",
            "20-x.policy:2:1: &lt;b&gt;&amp;\\x1b[2J",
        )

        async def on_screen():
            return (await pixels(comp)).tobytes() != empty

        await eventually(on_screen)
        folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "prompt"
        folder.mkdir(parents=True, exist_ok=True)
        await comp.screenshot(folder / "warning.png")


async def test_a_refusal_is_shown_in_the_users_language():
    """Attack: a title that is a format string, markup and an escape of notify-send's."""
    title = "{name} %s {0.__class__} <b>\\n"
    speaks = {"LANG": "de_DE.UTF-8", "LANGUAGE": "de"}
    async with notified(**speaks) as (comp, told, shown):
        told.notify(
            "Vitrail: a request of work was refused",
            "vitrail.OpenURL: denied by /etc/vitrail/policy.d/30-own.policy:12",
        )
        told.notify("work prints 2 pages on A4", f"document, it says: {title}")
        await eventually(lambda: as_many(shown, 2))
        assert sorted(await shown()) == [
            (
                "Vitrail: Eine Anfrage von work wurde verweigert",
                "vitrail.OpenURL: von 30-own.policy:12 verweigert",
            ),
            (
                "work druckt 2 Seiten auf A4",
                "Dokument, nach eigener Angabe: {name} %s {0.__class__} &lt;b&gt;\\\\n",
            ),
        ]
        folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "prompt"
        folder.mkdir(parents=True, exist_ok=True)
        await comp.screenshot(folder / "refusal-german.png")


async def test_so_many_of_a_sandbox_and_the_persons_own_beside_them():
    async with notified() as (_, told, shown):
        for number in range(3 * limits.NOTIFICATIONS_PER_SANDBOX):
            told.notify("x", str(number), sandbox="web")
        told.notify("web → mail", "12 bytes of text")
        most = limits.NOTIFICATIONS_PER_SANDBOX + 1
        await eventually(lambda: as_many(shown, most))
        assert ("web → mail", "12 bytes of text") in await shown()


async def test_a_warning_leaves_the_screen(monkeypatch):
    """mako keeps one for ever that has no time."""
    monkeypatch.setattr(module, "_EXPIRE_SECONDS", {True: 1, False: 1})
    async with notified() as (_, told, shown):
        told.notify("web", "is denied the microphone", sandbox="web")
        await eventually(shown)
        await eventually(lambda: as_many(shown, 0))


async def as_many(shown, number):
    return len(await shown()) == number


async def test_without_a_bus_nothing_happens_but_a_word_in_the_log(capfd):
    """Nor does it where notify-send is not installed."""
    env = {"PATH": os.environ["PATH"], "DBUS_SESSION_BUS_ADDRESS": "unix:path=/none"}
    for environ, said in ((env, True), ({**env, "PATH": "/nowhere"}, False)):
        with helper_starter(environ) as starter:
            told = Desktop(starter)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told.run)
                told.notify("a", "b")
                told.notify("a", "c")
                with trio.move_on_after(1.5):
                    while not told._complained:
                        await trio.testing.wait_all_tasks_blocked(0.02)
                assert told._complained is said
                nursery.cancel_scope.cancel()
    assert capfd.readouterr().err.count("desktop notifications do not work") == 1
