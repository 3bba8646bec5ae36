"""A box has a session bus, with our notifications and settings on it."""

from __future__ import annotations

import os
import re
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.viewer.sandboxes.time_zone import LOCALES
from tests.integration.test_desktop_settings import GNOME, LOOKS, PORTAL, SHOWS, choose
from tests.integration.test_file_dialogs import ASKS, pick
from tests.kit.brokerctl import brokerctl, lines_of, running
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.notified import notification_server
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, requires("mako", "dbus-daemon", "notify-send", "gdbus")]
RULES = """\
vitrail.Notification + work @adminvm allow
vitrail.Settings + work @adminvm allow
vitrail.OpenURL + work other allow
"""
RECORD = """\
class = "{kind}"
display = "allow"
[label]
name = "{name}"
colour = "purple"
[launch]
kind = "bwrap"
"""
CONTAINER = shown_record(
    'kind = "podman"', 'rootfs = "{root}"', "bind_read_only = [{shared}]"
)
READ = " ".join((*PORTAL, "org.freedesktop.portal.Settings.ReadOne"))


@asynccontextmanager
async def boxes(kind="persistent", rules=RULES, extra=None):
    """Yield the world and its screen; 'work' and 'personal' are records of boxes."""
    async with world(image=False, start=False, extra=extra) as w:
        w.write_rules(rules)
        for name in ("work", "personal"):
            w.write_record(name, RECORD.format(name=name, kind=kind))
        async with notification_server(w.comp, w.environ) as screen:
            w.environ.update(screen.env)
            await w.start()
            yield w, screen
            await w.shutdown()


async def in_box(w, name, script):
    """Run a line of shell in a box; returns code and output."""
    told = await brokerctl("run", "-q", name, "--", "sh", "-c", script, env=w.environ)
    return told.code, told.out + told.err


@pytest.mark.parametrize("kind", ["persistent", "disposable"])
async def test_a_program_of_a_box_notifies_and_gets_the_answer(kind):
    async with boxes(kind) as (w, screen):
        words = "notify-send --wait --action=yes=Yes title 'a <b>text</b>'"
        async with running("run", "-q", "work", "--", "sh", "-c", words, env=w.environ):
            shown = await screen.one_with("title")
            assert shown[1].startswith("work")
            assert "a <b>text</b>" in shown[2] or "&lt;b&gt;" in shown[2]
            await screen.click(shown, next(iter(shown[3])))

            async def gone():
                return not await screen.shown()

            await eventually(gone)
            await w.wait_event(
                "lease.end", sandbox=w.events("lease.begin")[-1]["sandbox"]
            )
        # Without a rule nothing is shown.
        await in_box(w, "personal", "notify-send --wait other text")
        decided = w.events("decision", service="vitrail.Notification")
        assert [one["verdict"] for one in decided] == ["allow", "deny"]
        assert not any("other" in one[1] for one in await screen.shown())


async def test_programs_of_a_box_have_the_looks_of_the_desktop_live():
    async with boxes() as (w, screen), desktop_portal(screen.env):
        await choose(screen, "color-scheme", "prefer-dark")
        code, said = await in_box(w, "work", f"{READ} {LOOKS} color-scheme")
        assert (code, said) == (0, "(<uint32 1>,)\n")
        code, said = await in_box(w, "work", f"{READ} {GNOME} clock-format")
        assert code != 0
        code, said = await in_box(w, "personal", f"{READ} {LOOKS} color-scheme")
        assert code != 0
        await choose(screen, "color-scheme", "default")
        words = ("run", "-q", "work", "--", "/usr/bin/python3", "-c", SHOWS)
        async with (
            running(*words, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            assert await anext(lines) == "light"
            await choose(screen, "color-scheme", "prefer-dark")
            assert await anext(lines) == "dark"


async def test_a_program_of_a_box_has_the_locale_that_its_record_chooses():
    async with boxes() as (w, _screen):
        w.environ["LANG"] = "C"
        text = "".join(path.read_text() for path in LOCALES if path.is_file())
        found = re.search(r'^LANG="?([^"\n]*)', text, re.MULTILINE)
        desktop = found[1] if found else "C"  # as the environment has it
        for chosen, lang in (("", "C"), ("POSIX", "POSIX"), ("desktop", desktop)):
            looks = f'[looks]\nlanguage = "{chosen}"\n' if chosen else ""
            w.write_record(
                "work", RECORD.format(name="work", kind="persistent") + looks
            )
            code, said = await in_box(w, "work", "echo $LANG")
            assert (code, said) == (0, f"{lang}\n")


async def test_a_program_of_a_box_opens_and_saves_what_the_user_chooses(tmp_path):
    file, saved = tmp_path / "notes.txt", tmp_path / "saved.txt"
    file.write_text("content")
    rules = f"{RULES}vitrail.FileDialog * work @adminvm allow\n"
    run = ("run", "-q", "work", "--", "env", "GDK_DEBUG=portals")
    run += ("/usr/bin/python3", "-c", ASKS, "4.0")
    async with (
        boxes(rules=rules) as (w, screen),
        desktop_portal(screen.env),
        running(*run, "OPEN", env=w.environ) as child,
        aclosing(lines_of(child)) as lines,
    ):
        # GLib warns in the same place, where the machine has GVfs.
        while await anext(lines) != "shown":
            pass
        await pick(screen, "work: open files", file)
        assert (await anext(lines)).endswith("/Incoming/desktop/notes.txt")
        (copy,) = w.paths.homes.rglob("notes.txt")
        assert copy.read_text() == "content"
        # A box is one at a time: while its home is in use, the next is refused.
        assert await child.wait() == 0
        async with running(*run, "SAVE", "first", env=w.environ):
            await pick(screen, "work: save a file", saved)
            await eventually(lambda: saved.exists() and saved.read_text() == "first")


def buses_in_boxes(w):
    """The session buses in boxes of this world: a directory of it is mounted there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            mounts = (entry / "mountinfo").read_text()
            address = b"/run/user/%d/bus" % os.getuid()
            if address in words and w.base.name in mounts:
                found.append(words)
    return found


async def test_the_bus_is_the_boxs_own_and_ends_with_it():
    async with boxes() as (w, _screen):
        code, said = await in_box(w, "work", "echo $DBUS_SESSION_BUS_ADDRESS")
        assert (code, said) == (0, f"unix:path=/run/user/{os.getuid()}/bus\n")
        assert not buses_in_boxes(w)
        words = ("run", "-q", "work", "--", "sleep", "1000")
        async with running(*words, env=w.environ):
            await eventually(lambda: buses_in_boxes(w))
            await brokerctl("stop", "work", env=w.environ)
        await eventually(lambda: not buses_in_boxes(w))
        # A box without a record has no files tool, and no bus either.
        told = await brokerctl(
            *(
                "run",
                "-q",
                "--bwrap",
                "--",
                "sh",
                "-c",
                "echo -$DBUS_SESSION_BUS_ADDRESS-",
            ),
            env=w.environ,
        )
        assert told.out == "--\n"


async def test_a_program_of_a_container_has_a_session_bus_where_it_asks_for_one():
    async with (
        podman_settings() as env,
        boxes(extra=env) as (w, screen),
        desktop_portal(screen.env),
    ):
        await choose(screen, "color-scheme", "prefer-dark")
        root = root_directory(w.base)
        # As every image has it: the bus looks its user up.
        (root / "etc/passwd").write_text("root:x:0:0::/home/user:/bin/sh\n")
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        record = CONTAINER.format(root=root, shared=shared)
        w.write_record("work", f'{record}[looks]\nlanguage = "POSIX"\n')
        script = f"echo $LANG; {READ} {LOOKS} color-scheme; exec notify-send --wait contained x"
        words = ("sh", "/run/vitrail/vitrail-session", "sh", "-c", script)
        async with (
            running("run", "-q", "work", "--", *words, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            assert await anext(lines) == "POSIX"
            assert await anext(lines) == "(<uint32 1>,)"
            shown = await screen.one_with("contained")
            assert shown[1].startswith("work")
            await screen.dismiss(shown)
            assert await child.wait() == 0
