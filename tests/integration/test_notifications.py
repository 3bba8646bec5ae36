"""Notifications of sandboxes on a real desktop: mako, a real broker, notify-send.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
import trio

from broker.core.errors import VitrailError
from broker.helpers.process.spawn import DEVNULL, PIPE, run_tool, spawn
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notify_send, notifying
from tests.kit.needs import requires
from tests.kit.wayland.compositor import pixels

pytestmark = requires("waypipe", "mako", "dbus-daemon", "notify-send")
RULES = """\
vitrail.Notification +         work     @adminvm allow
vitrail.Notification +critical work     @adminvm allow
vitrail.Notification +         personal @adminvm allow
"""


async def test_a_notification_is_shown_under_the_sandboxs_name_and_answered():
    async with notifying(RULES, "work", "personal") as (w, screen, guests):
        work = guests["work"]
        async with bus_of(work):
            child = notify_send(
                work,
                *("--wait", "-A", "reply=Answer it", "-A", "default=Open"),
                *("New <b>mail</b>", "From <i>Ann</i> &amp; Bob\nsecond line"),
                stdout=PIPE,
            )
            one = await screen.one_with("mail")
            assert one[1] == "work: New <b>mail</b>"
            assert one[2] == ("From &lt;i&gt;Ann&lt;/i&gt; &amp;amp; Bob\nsecond line")
            assert set(one[3].values()) == {"Show work", "Answer it"}
            if out := os.environ.get("VITRAIL_OUT"):
                (await pixels(w.comp)).save(f"{out}/notification.png")
            await screen.click(one, "0")
            with child.popen.stdout as said:
                assert await child.wait() == 0
                assert said.read() == b"reply\n"
        event = await w.only_event("notification.shown", sandbox="work")
        assert event["service"] == "vitrail.Notification"
        assert "mail" not in str(event)
        answered = await w.only_event("notification.answered", sandbox="work")
        assert answered["notification"] == event["notification"]
        listed = await brokerctl("notifications", "work", env=w.environ)
        assert "work: New <b>mail</b> (answered)" in listed.out


async def test_urgency_numbers_and_connections_are_the_sandboxs_own():
    async with notifying(RULES, "work", "personal") as (w, screen, guests):
        async with bus_of(guests["work"]), bus_of(guests["personal"]):
            urgent = ("-u", "critical")
            await sent(guests["work"], *urgent, "one")
            await sent(guests["personal"], *urgent, "two")
            await screen.one_with("work: one")
            await screen.one_with("personal: two")
        urgency = {e["sandbox"]: e["urgency"] for e in w.events("notification.shown")}
        # No rule lets 'personal' be critical.
        assert urgency == {"work": 2, "personal": 1}
        decided = w.events("decision", service="vitrail.Notification")
        assert {(e["sandbox"], e.get("argument")) for e in decided} == {
            ("work", None),
            ("work", "+critical"),
            ("personal", None),
        }


async def test_a_rule_that_goes_takes_notifications_with_it():
    async with notifying(RULES, "work", "personal") as (w, screen, guests):
        work = guests["work"]
        async with bus_of(work), bus_of(guests["personal"]):
            child = notify_send(work, "--wait", "mine")
            await sent(guests["personal"], "stays")
            await screen.one_with("work: mine")
            await screen.one_with("personal: stays")
            rules = w.paths.config[0] / "policy.d/30-mine.policy"
            rules.write_text(
                RULES.replace("work     @adminvm allow", "work @adminvm deny")
            )

            async def gone():
                return await of_sandboxes(screen) == ["personal: stays"]

            await eventually(gone)
            # Its program is told.
            assert await child.wait() == 0
            # And asks for nothing any more.
            await sent(work, "again")
            await w.wait_event(
                "decision", verdict="deny", service="vitrail.Notification"
            )
            assert await gone()


async def test_a_flood_is_one_notification_that_counts():
    async with notifying(RULES, "work", "personal") as (w, screen, guests):
        async with bus_of(guests["work"]), bus_of(guests["personal"]):
            for number in range(12):
                await sent(guests["work"], f"flood {number}")
            await screen.one_with("work: 7 more notifications")
            await sent(guests["personal"], "hello")
            await screen.one_with("personal: hello")
            shown = await of_sandboxes(screen)
            assert len(shown) == 7, shown
        listed = await brokerctl("notifications", "--json", env=w.environ)
        rows = json.loads(listed.out)["notifications"]
        assert [row["outcome"] for row in rows].count("counted") == 7
        ended = await brokerctl("notifications", "--clear", env=w.environ)
        assert ended.code == 0
        assert (await brokerctl("notifications", env=w.environ)).code == 1


async def test_without_a_rule_and_without_a_server_nothing_is_shown():
    async with notifying("", "work") as (w, screen, guests), bus_of(guests["work"]):
        await sent(guests["work"], "nothing")
        await w.wait_event("decision", verdict="deny", service="vitrail.Notification")
        assert await of_sandboxes(screen) == []


async def test_a_refused_program_does_not_use_up_its_records_share_of_the_log():
    """Each call writes two events, and a program may notify many times a second."""
    async with notifying("", "work") as (w, screen, guests), bus_of(guests["work"]):
        work = guests["work"]
        for number in range(20):
            with trio.fail_after(20):
                # Its program is told that each is over.
                child = notify_send(work, "--wait", f"nothing {number}")
                assert await child.wait() == 0
        denied = w.events("decision", verdict="deny", service="vitrail.Notification")
        assert len(denied) == 1
        assert len(w.events("stream.opened", service="vitrail.Call")) == 1
        assert await of_sandboxes(screen) == []


async def test_daemons_of_a_sandbox_are_few():
    async with notifying(RULES, "work") as (w, _, guests), bus_of(guests["work"]):
        work = guests["work"]
        words = ("vitrail-call", "-t", "dom0", "vitrail.Notification")
        call = (str(work.folder / "runtime/bin/vitrail-call"), *words[1:])
        daemons = [
            spawn(call, env=work.env, stdin=PIPE, stdout=DEVNULL) for _ in range(4)
        ]

        async def serving():
            found = w.events("decision", service="vitrail.Notification")
            return len(found) == 4

        await eventually(serving)
        code, said = await work.command(*words)
        assert code == 125
        assert "too many calls" in said
        # A place comes free with its daemon.
        ended = daemons.pop()
        ended.popen.stdin.close()
        await ended.stop()

        async def free():
            return "too many calls" not in (await work.command(*words))[1]

        await eventually(free)
        for child in daemons:
            child.popen.stdin.close()
            await child.stop()


async def sent(guest, *words):
    """Notify, and wait until the guest's daemon has taken it."""
    assert await notify_send(guest, *words).wait() == 0


async def of_sandboxes(screen):
    """The titles of notifications that are not Vitrail's own."""
    titles = [one[1] for one in await screen.shown()]
    return [title for title in titles if not title.startswith("Vitrail: ")]


@pytest.mark.skipif(shutil.which("swaync") is None, reason="swaync is needed")
async def test_swaync_shows_a_notification_and_its_end_reaches_the_program(tmp_path):
    async with notifying(RULES, "work") as (w, screen, guests):
        await screen.server.stop()
        env = {**os.environ, **w.comp.environment, **screen.env}
        env.update(XDG_CONFIG_HOME=str(tmp_path), XDG_CONFIG_DIRS="/etc/xdg")
        swaync = spawn(["swaync"], env=env, stdout=DEVNULL, stderr=DEVNULL)

        async def count():
            try:
                words = ["swaync-client", "--count"]
                return (await run_tool(words, env=env)).decode().strip()
            except VitrailError:
                return ""

        async def shows(number):
            return await count() == number

        try:
            await eventually(lambda: shows("0"))
            async with bus_of(guests["work"]):
                words = (
                    "--wait",
                    "-A",
                    "reply=Answer it",
                    "a <b>title</b>",
                    "a <i>text</i>",
                )
                child = notify_send(guests["work"], *words)
                await eventually(lambda: shows("1"))
                if out := os.environ.get("VITRAIL_OUT"):
                    (await pixels(w.comp)).save(f"{out}/notification-swaync.png")
                await run_tool(["swaync-client", "--close-all"], env=env)
                with trio.fail_after(60):
                    assert await child.wait() == 0
        finally:
            await swaync.stop()


async def test_a_program_does_not_wait_while_the_user_is_asked():
    rules = RULES.splitlines()[0].replace("allow", "ask")
    async with notifying(rules, "work") as (w, screen, guests), bus_of(guests["work"]):
        with trio.fail_after(60):
            await sent(guests["work"], "one")
            await sent(guests["work"], "two")

        async def asked():
            done = await brokerctl("pending", "--json", env=w.environ)
            return json.loads(done.out)["questions"] if done.code == 0 else []

        await eventually(asked)
        (question,) = await asked()
        assert await of_sandboxes(screen) == []
        number = str(question["id"])
        assert (await brokerctl("answer", number, "allow", env=w.environ)).code == 0
        await screen.one_with("work: one")
        await screen.one_with("work: two")
