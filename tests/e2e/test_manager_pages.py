"""The manager's pages by AT-SPI: policy, images, hostile texts, two windows, a new broker."""

from __future__ import annotations

import json
import os
import unicodedata
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.host.images import store
from broker.host.images.store import ImageSpec
from broker.ipc.control import methods
from broker.ipc.control.api import (
    DevicesAnswer,
    DeviceStatus,
    EventItem,
    EventsRequest,
    GrantStatus,
    LockdownAnswer,
    LockdownRequest,
    PendingQuestion,
    ProgramStatus,
    SandboxStatus,
)
from broker.ipc.control.method import Exchange, serves
from tests.broker.host.images.test_store import put_image, replace_image
from tests.kit.accessibility import accessibility_bus
from tests.kit.brokerctl import brokerctl, running
from tests.kit.control import ScriptedBroker, serving
from tests.kit.eventually import eventually
from tests.kit.manager import managed, manager, person
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.virtual import compositor
from tests.kit.world import record, world

pytestmark = [PID_NAMESPACES, pytest.mark.timeout(400)]

RULES = "vitrail.OpenURL * mail @default ask target=@dispvm:web scheme=https\n"
"""A call without the scheme matches no such rule: the picture's calls have it."""
CONTROLS = frozenset(
    {"push button", "toggle button", "check box", "combo box", "text", "list"}
)
HOSTILE = "<b>&lt;i&amp;\x1b[31m\u202eevil\u2066\x07"
"""Markup, entities, a terminal's control and characters that turn the direction."""
SEEN = "<b>&lt;i&amp;"


def write_rules(w, text: str) -> None:
    file = w.paths.config[0] / "policy.d" / "30-user.policy"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


async def test_a_call_is_explained_and_the_picture_leads_to_it(tmp_path):
    records = {"mail": record("persistent"), "web": record()}
    async with world(records, image=False) as w:
        write_rules(w, RULES)
        async with managed(w, tmp_path, "policy") as env:
            await person(
                env,
                ("sees", "What is permitted"),
                ("press", "Calls of mail"),
                ("press", "Why? mail → a new web: vitrail.OpenURL"),
                ("sees", "You are asked each time: vitrail.OpenURL+, mail → no target"),
                ("sees", "30-user.policy:1"),
                ("sees", "This line would reverse it (deny)"),
                ("sees", "vitrail.OpenURL + mail @default deny"),
                ("press", "Done"),
                ("misses", "This line would reverse it"),
            )
            # The form: the first service, the first sandbox, and you.
            await person(
                env, ("press", "Decide"), ("sees", "It is allowed: vitrail.Agent+")
            )
            write_rules(w, "vitrail.Agent * mail @adminvm deny\n")
            await person(
                env,
                ("press", "Decide"),
                ("sees", "It is denied: vitrail.Agent+"),
                ("sees", "30-user.policy:1"),
            )


async def test_an_image_is_removed_after_its_users_are_named(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    records = {"mail": record("persistent")}
    async with world(records, image=False, extra=cache) as w:
        w.paths.images.mkdir(parents=True)
        put_image(w.paths)
        assert store.find_image(w.paths, "default")
        async with managed(w, tmp_path, "images") as env:
            await person(
                env,
                ("sees", "used by mail"),
                ("press", "Remove… default"),
                ("sees", "This would be lost: the image 'default'"),
                ("sees", "mail cannot start until it is built again"),
                ("press", "Remove"),
                ("sees", "There is no image."),
            )
            assert not (w.paths.images / "default").exists()


SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> "$XDG_CACHE_HOME/systemctl"
"""
"""A stand-in: the user's own systemd is not changed by a test."""


async def test_an_image_is_rolled_back_and_the_weekly_rebuild_switched(tmp_path):
    cache, programs = tmp_path / "cache", tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    extra = {"XDG_CACHE_HOME": str(cache), "PATH": path}
    async with world({}, image=False, extra=extra) as w:
        w.paths.images.mkdir(parents=True)
        put_image(w.paths)
        replace_image(w.paths, "1")
        units = w.paths.config[0].parent / "systemd/user"
        async with managed(w, tmp_path, "images") as env:
            await person(
                env,
                ("press", "Roll back… default"),
                ("sees", "Nothing is lost: a second 'Roll back' exchanges them again."),
                ("press", "Roll back"),
                ("sees", "The former version of default is used"),
            )
            assert store.find_image(w.paths, "default").manifest.digest == "0" * 64
            await person(
                env,
                ("press", "Turn on weekly rebuild"),
                ("sees", "The weekly rebuild is on"),
            )
            (service,) = units.glob("*.service")
            assert "/brokerctl image rebuild\n" in service.read_text()
            await person(
                env,
                ("press", "Turn off weekly rebuild"),
                ("sees", "The weekly rebuild is off"),
            )
            assert not [*units.iterdir()]
            (programs / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
            await person(
                env,
                ("press", "Turn on weekly rebuild"),
                ("sees", "This was not done"),
                ("sees", "run 'brokerctl image rebuild' from cron"),
            )
            assert not [*units.iterdir()]
        said = (cache / "systemctl").read_text()
        assert "--user enable --now vitrail-image-rebuild.timer" in said
        assert "--user disable --now vitrail-image-rebuild.timer" in said


async def test_a_verb_that_runs_long_is_shown_and_cancelled(tmp_path):
    """What it had started ends with it."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    async with world({}, image=False, extra=cache) as w:
        w.paths.images.mkdir(parents=True)
        # An archive that does not answer: the build waits.
        silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = silent[0].socket.getsockname()[1]
        spec = ImageSpec(mirror=f"http://127.0.0.1:{port}/")
        put_image(w.paths, spec=spec)
        async with managed(w, tmp_path, "images") as env:
            await person(
                env,
                ("press", "Rebuild all…"),
                ("sees", "Running machines keep the image"),
                ("press", "Rebuild"),
                ("press", "Cancel rebuild all images"),
                ("misses", "Cancel rebuild all images"),
            )
        await silent[0].aclose()
        place = str(tmp_path / "cache").encode()

        def ended():
            return not [
                pid
                for pid in Path("/proc").iterdir()
                if pid.name.isdigit() and place in words_of(pid)
            ]

        await eventually(ended)
        assert store.find_image(w.paths, "default")


def words_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


class HostileBroker(ScriptedBroker):
    """A broker all of whose texts are a sandbox's, as bad as they can be."""

    @serves(methods.LOCKDOWN)
    async def lockdown(
        self, exchange: Exchange[LockdownAnswer], request: LockdownRequest
    ) -> LockdownAnswer:
        return LockdownAnswer(locked=False, networks=False)

    @serves(methods.EVENTS)
    async def events(
        self, exchange: Exchange[EventItem], request: EventsRequest
    ) -> EventItem:
        event = {
            "type": "decision",
            "time": "2026-11-29T14:02:00.5Z",
            "sandbox": "work",
            "service": HOSTILE,
            "verdict": "deny",
            "reason": HOSTILE,
            "object": f"https://{HOSTILE}\n",
        }
        number = 0
        while True:
            number += 1
            await exchange.emit(EventItem(sequence=number, event=json.dumps(event)))
            await trio.sleep(2)


def hostile_broker() -> HostileBroker:
    broker = HostileBroker()
    broker.state = broker.state.__class__(
        version=broker.state.version,
        role="local",
        pid=broker.state.pid,
        since=broker.state.since,
        monotonic=broker.state.monotonic,
        policy=broker.state.policy,
        warnings=[HOSTILE],
        sandboxes=[
            SandboxStatus(
                name="work-1",
                record="work",
                sandbox_class="disposable",
                label=HOSTILE,
                color="no colour <",
                state=HOSTILE,
                since=1.0,
                programs=[ProgramStatus(program=1, name=HOSTILE, since=1.0)],
                devices=[HOSTILE],
                folders=[HOSTILE],
            )
        ],
    )
    broker.questions = [
        PendingQuestion(
            id=1,
            sandbox="work-1",
            record="work",
            label=HOSTILE,
            color="red",
            service="vitrail.OpenURL",
            argument=HOSTILE,
            words=HOSTILE,
            details=[HOSTILE, HOSTILE],
            targets=[HOSTILE],
            default_target="",
            keeps=[],
            seconds=0,
            rule=HOSTILE,
            left=60.0,
            shown=True,
        )
    ]
    broker.held_grants = [
        GrantStatus(
            id="g1",
            sandbox="work-1",
            service="vitrail.OpenURL",
            argument=HOSTILE,
            target=HOSTILE,
            about=HOSTILE,
            keep="session",
            rule=HOSTILE,
            left=None,
        )
    ]
    device = DeviceStatus(
        port="2-1",
        title=HOSTILE,
        id="0951:1666",
        serial=HOSTILE,
        hash="",
        interfaces=[],
        state=HOSTILE,
        driver=HOSTILE,
        removable="",
        sandboxes=[],
    )
    broker.plugged = DevicesAnswer(devices=[device], strict=False, problems=[HOSTILE])
    return broker


async def test_hostile_texts_are_text_on_each_page(tmp_path):
    broken = f'class = "disposable"\n"{HOSTILE[:14]}" = 1\n'
    async with world({"broken": broken}, image=False, start=False) as w:
        folder = w.paths.control.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with (
            serving(w.paths.control, hostile_broker()),
            managed(w, tmp_path) as env,
        ):
            for page, ready in (
                ("Sandboxes", "Stop work-1"),
                ("Questions", "Deny question 1"),
                ("Devices", "Attach…"),
                ("Activity", "Why?"),
                ("Policy", "What if?"),
                ("Images", "Weekly rebuild"),
                ("Backups", "Import a backup"),
                ("New…", "What is it for?"),
                ("Set-up", "Warnings of the broker"),
            ):
                seen = await person(env, ("press", page), ("sees", ready), names=True)
                if page not in {"Policy", "Images", "Backups", "New…"}:
                    assert any(SEEN in name for _, name in seen), (page, seen)
                check(page, seen)
                if page in {"Sandboxes", "Activity"}:
                    assert ["list item", ""] not in seen, page
        assert "Pango" not in (tmp_path / "manager.log").read_text()
        assert "markup" not in (tmp_path / "manager.log").read_text()


async def test_a_question_is_denied_an_answer_revoked_and_a_device_attached(tmp_path):
    """Each by its verb, at the broker's socket."""
    broker = hostile_broker()
    async with world({}, image=False, start=False) as w:
        folder = w.paths.control.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with serving(w.paths.control, broker), managed(w, tmp_path) as env:
            await person(
                env,
                ("press", "Questions"),
                ("press", "Deny question 1"),
                ("press", "Revoke answer g1"),
                ("press", "Devices"),
                ("press", f"Attach… {printable(HOSTILE, 60)}"),
                ("press", "Attach work-1"),
                ("misses", "Attach work-1"),
            )
            await eventually(lambda: broker.handed == [("2-1", "work-1")])
        asked = dict(broker.asked)
        assert (asked["answer"].id, asked["answer"].allow) == (1, False)
        assert asked["revoke"].id == "g1"


def check(page, seen) -> None:
    """No name turns the direction or drives a terminal; each control has a name."""
    for role, name in seen:
        hidden = [c for c in name if unicodedata.category(c) in {"Cc", "Cf"}]
        assert not [c for c in hidden if c != "\n"], (page, role, name)
        # GTK names a widget without a name by its class.
        named = bool(name) and not name.startswith(("Gtk", "Adw"))
        assert named or role not in CONTROLS, (page, role, name)


async def test_a_second_user_window_and_a_new_broker(tmp_path):
    """Two managers of two session buses see the same; both follow a broker that restarts."""
    assert find_paths()
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    async with (
        world({"mail": record("persistent")}, image=False) as w,
        managed(w, one) as first,
        managed(w, two) as second,
    ):
        words = ("run", "-q", "--bwrap", "--", "sleep", "1000")
        async with running(*words, env=w.environ):
            await person(first, ("sees", "Stop box-"))
            await person(second, ("sees", "Stop box-"), ("press", "New…"))
            await person(
                second,
                ("press", "Create… media"),
                ("press", "Create"),
                ("press", "Back"),
            )
            # A record is no event of the broker: the other window sees it with the next.
            answer = await brokerctl("stop", "--broker", env=w.environ)
            assert answer.code == 0, answer.err
        for env in (first, second):
            await person(env, ("sees", "No broker is running"), ("sees", "Start media"))
        await w.start()
        for env in (first, second):
            await person(env, ("misses", "No broker is running"))
        log = [Path(folder, "manager.log").read_text() for folder in (one, two)]
        assert "Traceback" not in "".join(log)


@pytest.mark.parametrize("kind", ["kwin", "mutter"])
async def test_on_other_compositors(tmp_path, kind):
    """The window comes, shows the records, makes one, and explains a call."""
    async with (
        world(
            {"mail": record("persistent")},
            image=False,
            screen=partial(compositor, kind),
        ) as w,
        accessibility_bus() as bus,
    ):
        address = {"DBUS_SESSION_BUS_ADDRESS": bus["DBUS_SESSION_BUS_ADDRESS"]}
        async with manager({**w.environ, **address}, tmp_path / "manager.log"):
            await person(
                bus,
                ("sees", "Start mail"),
                ("press", "New…"),
                ("press", "Create… media"),
                ("sees", "Create media?"),
                ("press", "Create"),
                ("press", "Back"),
                ("sees", "Start media"),
                ("press", "Policy"),
                ("press", "Decide"),
                ("sees", "It is allowed: vitrail.Agent+"),
            )
        assert (w.paths.config[0] / "sandboxes.d/media.toml").exists()
        assert "Traceback" not in (tmp_path / "manager.log").read_text()
