"""'brokerctl lockdown' with a real broker, a live call and a notification."""

from __future__ import annotations

import json

from broker.cli.run.start import end_broker
from tests.integration.test_calls import offer
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notify_send, notifying
from tests.kit.needs import requires

pytestmark = requires("waypipe", "mako", "dbus-daemon", "notify-send")
RULES = """\
vitrail.Call         *  work  vault     allow
vitrail.FileCopy     *  work  @adminvm  allow
vitrail.Notification *  work  @adminvm  allow
"""


async def test_a_lockdown_cuts_denies_and_survives_a_restart():
    async with notifying(RULES, "work", "vault") as (w, screen, guests):
        home = w.base / "person"
        home.mkdir()
        work, vault = guests["work"], guests["vault"]
        offer(vault, {"echo": "cat"})

        async def lockdown(*words, code=0):
            done = await brokerctl("lockdown", *words, "--json", env=w.environ)
            assert done.code == code, done.err
            return json.loads(done.out)

        assert not (await lockdown("--show", code=1))["locked"]
        async with bus_of(work):
            child = notify_send(work, "--wait", "still here")
            await screen.one_with("still here")
            started = work.folder / "started"
            call = work.script(
                f"(echo x; sleep 1000) | vitrail-call -t vault echo > {started}; echo $?"
            )
            results = []

            async def follow():
                results.append(await call)

            import trio

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await eventually(lambda: started.exists() and started.read_text())
                assert (await lockdown())["locked"]

                async def cut():
                    return w.events("stream.closed", service="vitrail.Call")

                await eventually(cut)
                nursery.cancel_scope.cancel()
            # Their VMM, this test, gives them a network or none: nobody can tell.
            assert sorted((await lockdown("--networks"))["open_networks"]) == [
                "vault",
                "work",
            ]
            done = await brokerctl("lockdown", "--show", env=w.environ)
            assert "may still use a network" in done.err.splitlines()[0]
            # It has hurt nothing else.
            assert await screen.one_with("still here")
            child.kill()
            await child.wait()
        (work.home / "f").write_text("f")
        code, said = await work.command("vitrail-copy", "f", "@adminvm")
        assert (code, "lockdown" in said) == (1, True), said
        done = await brokerctl("run", "app", env=w.environ)
        assert done.code == 1
        assert "lockdown" in done.err
        done = await brokerctl("status", env=w.environ)
        assert "LOCKDOWN is in force" in done.out + done.err
        async with w.client() as client:
            await end_broker(client)
        # The next broker begins with it, and lifts it at a word.
        await w.start()
        assert (await lockdown("--show"))["locked"]
        done = await brokerctl("run", "app", env=w.environ)
        assert "lockdown" in done.err
        assert not (await lockdown("--lift"))["locked"]
        changes = [e["locked"] for e in w.events("lockdown.changed")]
        assert changes == [True, True, False]
        async with w.client() as client:
            await end_broker(client)
        # Without a broker, for the next one.
        assert (await lockdown("--networks"))["networks"]
        await w.start()
        assert (await lockdown("--show"))["networks"]
