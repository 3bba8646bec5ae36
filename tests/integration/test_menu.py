"""Starts from the menu: what happens, what failed and what mends it is notified."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections import deque
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.cli.menu import reported_start
from broker.cli.menu.entries import IDS_PER_SANDBOX, _plain
from broker.cli.menu.reported_start import _step_or_error, mend_of, shown_name
from tests.kit.brokerctl import brokerctl, home, paths_of, running
from tests.kit.eventually import eventually
from tests.kit.notified import screen
from tests.kit.wayland.compositor import wait_window

BOX = """class = "persistent"
display = "allow"
[label]
name = "My box"
colour = "#d55e00"
[launch]
kind = "bwrap"
command = [{command}]
"""


@asynccontextmanager
async def menu():
    """A new home on a desktop with notifications."""
    with home() as plain:
        async with screen({**plain, "XDG_CACHE_HOME": f"{plain['HOME']}/c"}) as s:
            try:
                yield s
            finally:
                await brokerctl("stop", "--broker", env=s.env)


def write(env, name, text):
    folder = paths_of(env).config[0] / "sandboxes.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)


async def keep_picture(s, name):
    folder = Path(os.environ.get("VITRAIL_OUT") or "/tmp") / "menu"
    folder.mkdir(parents=True, exist_ok=True)
    await s.comp.screenshot(folder / name)


async def test_a_box_starts_by_a_click_and_needs_no_notification():
    async with menu() as s:
        assert (await brokerctl("new", "box", env=s.env)).code == 0
        write(s.env, "box", BOX.format(command='"foot", "-T", "boxed"'))
        share = Path(s.env["HOME"]) / ".local/share/applications"
        async with running("menu", "start", "box", env=s.env) as started:
            await wait_window(s.comp, deadline=60)

            async def seen():
                return (share / "vitrail.box.foot.desktop").exists()

            assert await eventually(seen)
            assert not [one for one in await s.shown() if "My box" in one[1]]
            # Not killed: a window that has gone before it is looked for is a failed start.
            await s.comp.type_text("exit\n")
            with trio.fail_after(20):
                await started.wait()


async def test_a_program_that_is_not_there_is_told():
    async with menu() as s:
        write(s.env, "box", BOX.format(command='"no-such-program"'))
        async with running("menu", "start", "box", env=s.env) as started:
            one = await s.one_with("My box did not start")
            assert "Output of the program: " in one[2]
            assert "no-such-program" in one[2]
            assert one[3] == {"again": "Try again"}
            await keep_picture(s, "failed.png")
            # The same once more, because nothing was mended.
            await s.click(one, "again")
            again = await s.one_with("My box did not start", after=one)
            await s.click(again, "none")
            assert started.returncode is None


async def test_a_missing_image_has_a_button_that_builds_it():
    async with menu() as s:
        text = BOX.format(command='"foot"').replace("bwrap", "microvm")
        write(s.env, "vm", f'{text}image = "none"\n')
        async with running("menu", "start", "vm", env=s.env):
            one = await s.one_with("there is no guest image 'none'")
            assert one[3] == {"mend": "Build the image", "again": "Try again"}
            await keep_picture(s, "image.png")


SLOW_ARCHIVE = """#!/bin/sh
echo "I: automatically chosen mode: unshare"
echo "I: downloading packages with apt..."
while [ ! -e "$HOME/answered" ]; do sleep 0.1; done
echo "E: Unable to locate package gone"
exit 1
"""


async def test_the_button_s_build_shows_its_steps_and_why_it_failed():
    async with menu() as s:
        text = BOX.format(command='"foot"').replace("bwrap", "microvm")
        write(s.env, "vm", f'{text}image = "none"\n')
        programs = Path(s.env["HOME"]) / "programs"
        programs.mkdir()
        (programs / "mmdebstrap").write_text(SLOW_ARCHIVE)
        (programs / "mmdebstrap").chmod(0o755)
        env = {**s.env, "PATH": f"{programs}:{s.env['PATH']}"}
        async with running("menu", "start", "vm", env=env) as started:
            one = await s.one_with("there is no guest image 'none'")
            await s.click(one, "mend")
            step = await s.one_with("downloading packages")
            assert step[1] == "Building the image none"
            assert step[2].endswith("\nThis happens once and may take a few minutes.")
            await keep_picture(s, "building.png")
            (Path(s.env["HOME"]) / "answered").touch()
            told = await s.one_with("Cannot build the image")
            assert "the package archive does not contain the package gone" in told[2]
            with trio.fail_after(60):
                assert await started.wait() == 1
            titles = [one[1] for one in await s.shown()]
            assert "Building the image none" not in titles


async def test_an_unknown_record_is_told():
    async with menu() as s, running("menu", "start", "gone", env=s.env):
        one = await s.one_with("no sandbox and no record is named 'gone'")
        assert one[3]["mend"] == "Open brokerctl new gone"


def test_a_hint_gives_a_button_only_for_verbs_that_mend():
    assert mend_of("'brokerctl image build web' makes it") == ["image", "build", "web"]
    assert mend_of("'brokerctl doctor' looks") == ["doctor"]
    for hint in ("'brokerctl stop --all'", "'brokerctl policy edit $(id)'", "'sh'"):
        assert mend_of(hint) == []
    both = "'brokerctl run x' and 'brokerctl logs x'"
    assert mend_of(both) == ["logs", "x"]


async def test_an_entry_has_actions_and_the_class_of_its_windows():
    with home() as env:
        answer = await brokerctl("new", "mail", "--persistent", env=env)
        assert answer.code == 0, answer.err
        share = Path(env["HOME"]) / ".local/share/applications"
        file = share / "vitrail-sandbox-mail.desktop"
        parser = configparser.RawConfigParser(strict=True)
        parser.optionxform = str
        parser.read(file, encoding="utf-8")
        entry = parser["Desktop Entry"]
        assert entry["StartupWMClass"] == "vitrail.mail.foot"
        # Others look for a file of the window's name, when the window opens.
        assert "NoDisplay=true" in (share / "vitrail.mail.foot.desktop").read_text()
        assert entry["Actions"] == "terminal;files;stop;"
        for key in ("terminal", "files", "stop"):
            words = parser[f"Desktop Action {key}"]["Exec"].split()
            assert words[1:] == ["menu", key, "mail"]
        if shutil.which("desktop-file-validate"):
            subprocess.run(["desktop-file-validate", file], check=True)
        await brokerctl("menu", "refresh", env=env)
        assert (share / "vitrail.mail.foot.desktop").exists()
        await brokerctl("sandbox", "remove", "mail", "--yes", env=env)
        assert list(share.glob("vitrail*")) == []


async def test_open_windows_get_entries_with_their_label_s_icon():
    """And they go when the sandbox has ended; the icon follows the record."""
    async with menu() as s:
        assert (await brokerctl("new", "box", env=s.env)).code == 0
        write(s.env, "box", BOX.format(command='"foot", "-a", "my.app"'))
        share = Path(s.env["HOME"]) / ".local/share"
        icon = share / "icons/hicolor/scalable/apps/vitrail-sandbox-box.svg"
        async with running("run", "box", env=s.env) as started:
            await wait_window(s.comp, deadline=60)
            answer = await brokerctl("menu", "refresh", env=s.env)
            assert answer.code == 0, answer.err
            entry = share / "applications/vitrail.box.my.app.desktop"
            lines = entry.read_text().splitlines()
            assert f"Icon={icon}" in lines
            assert "StartupWMClass=vitrail.box.my.app" in lines
            assert "NoDisplay=true" in lines
            assert "#d55e00" in icon.read_text()
            await s.comp.command('[app_id="^vitrail.box"] kill')
            await started.wait()
        assert (await brokerctl("menu", "refresh", env=s.env)).code == 0
        assert not entry.exists()


async def test_a_disposable_has_its_icon_before_its_first_window():
    """Its name is new each time; this one never opens a window."""
    async with menu() as s:
        text = BOX.format(command='"sleep", "1000"').replace("persistent", "disposable")
        write(s.env, "box", text)
        share = Path(s.env["HOME"]) / ".local/share"
        async with running("menu", "start", "box", env=s.env):

            def written():
                found = list((share / "applications").glob("vitrail.box-*.desktop"))
                return [one for one in found if "Icon=" in one.read_text()]

            (entry,) = await eventually(written)
            _, sandbox, program, _ = entry.name.split(".")
            assert program == "sleep"
            lines = entry.read_text().splitlines()
            assert f"StartupWMClass=vitrail.{sandbox}.sleep" in lines
            assert f"X-Vitrail-Window={sandbox}" in lines
            assert "Name=My box" in lines
        assert (await brokerctl("stop", "--broker", env=s.env)).code == 0
        await brokerctl("menu", "refresh", env=s.env)
        assert not entry.exists()


async def test_a_record_written_by_hand_has_its_icon_before_its_first_window():
    """Plasma looks for a window's icon once; ids of this machine's programs count, too."""
    async with menu() as s:
        write(s.env, "box", BOX.format(command='"no-such-program"'))
        shared = Path(s.env["HOME"]) / "shared"
        (shared / "applications").mkdir(parents=True)
        for name, runs in (("org.x.Id", "/usr/bin/no-such-program %u"), ("b", "other")):
            text = f"[Desktop Entry]\nExec={runs}\n"
            (shared / f"applications/{name}.desktop").write_text(text)
        applications = Path(s.env["HOME"]) / ".local/share/applications"
        env = {**s.env, "XDG_DATA_DIRS": str(shared)}
        async with running("menu", "start", "box", env=env):
            await s.one_with("My box did not start")
            hidden = {file.stem for file in applications.glob("vitrail.*.desktop")}
            assert hidden == {"vitrail.box.no-such-program", "vitrail.box.org.x.Id"}
            lines = (applications / "vitrail.box.org.x.Id.desktop").read_text()
            icon = next(one for one in lines.splitlines() if one.startswith("Icon="))
            assert "#d55e00" in Path(icon.removeprefix("Icon=")).read_text()
        # It is in no menu until 'menu refresh' is asked for.
        own = applications / "vitrail-sandbox-box.desktop"
        assert not own.exists()
        assert (await brokerctl("menu", "refresh", env=env)).code == 0
        assert own.exists()


def test_only_plain_application_ids_become_files():
    hostile = ["../../x", "a/b", "", ".hidden", "a\nb", "x" * 200, "org.good.App"]
    assert _plain(hostile) == ["org.good.App"]
    assert len(_plain([f"a{number}" for number in range(1000)])) == 32


async def test_the_icon_follows_an_edited_record():
    with home() as env:
        for name, colour in (("shop", "#e69f00"), ("mail", "blue")):
            made = await brokerctl("new", name, "--label", colour, env=env)
            assert made.code == 0, made.err
        editor = Path(env["HOME"]) / "editor"
        change = 's/^colour = .*/colour = "#d55e00"/'
        editor.write_text(f"#!/bin/sh\nexec sed -i '{change}' \"$1\"\n")
        editor.chmod(0o755)
        words = ("policy", "edit", "mail", "--yes")
        edited = await brokerctl(*words, env={**env, "EDITOR": str(editor)})
        assert edited.code == 0, edited.err
        assert "#d55e00 looks like #e69f00 of 'shop'" in edited.err
        icons = Path(env["HOME"]) / ".local/share/icons/hicolor/scalable/apps"
        assert "#d55e00" in (icons / "vitrail-sandbox-mail.svg").read_text()


OPENS = "vitrail.OpenURL * @adminvm @default allow target=@dispvm:box\n"


def write_rules(env, text):
    folder = paths_of(env).config[0] / "policy.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10-test.policy").write_text(text)


async def test_a_link_that_cannot_be_opened_is_told_with_a_next_step():
    """As the default browser runs it: no terminal, and a box, which opens nothing."""
    async with menu() as s:
        text = BOX.format(command='"foot"').replace("persistent", "disposable")
        write(s.env, "box", text)
        write_rules(s.env, OPENS)
        async with running("menu", "open", "--", "https://a.example/", env=s.env) as it:
            one = await s.one_with("Cannot open https://a.example/")
            assert "'box' is a box or container" in one[2]
            assert "brokerctl run box -- PROGRAM ADDRESS" in one[2]
            assert one[3] == {"again": "Try again"}
            await keep_picture(s, "link-failed.png")
            await s.dismiss(one)
            with trio.fail_after(60):
                assert await it.wait() == 1


async def test_of_several_files_each_that_fails_is_told():
    async with menu() as s:
        write_rules(s.env, "vitrail.OpenFile * @adminvm @anyvm deny\n")
        home_of = Path(s.env["HOME"])
        files = [home_of / "a b.txt", home_of / "-x.txt"]
        for file in files:
            file.write_text("x")
        words = ["menu", "open", "--", f"file://{home_of}/a%20b.txt", str(files[1])]
        async with running(*words, env=s.env) as it:
            first = await s.one_with("Cannot open a b.txt")
            second = await s.one_with("Cannot open -x.txt")
            assert first[0] != second[0]
            assert "denied" in first[2]
            assert "begins with '-'" in second[2]
            for one in (first, second):
                await s.dismiss(one)
            with trio.fail_after(60):
                assert await it.wait() == 1


async def test_a_file_that_cannot_be_made_harmless_is_told():
    words = ("menu", "sanitize", "--", "/no/such.pdf")
    async with menu() as s, running(*words, env=s.env) as it:
        one = await s.one_with("Cannot make such.pdf harmless")
        await s.dismiss(one)
        with trio.fail_after(60):
            assert await it.wait() != 0


async def test_an_action_of_a_box_that_runs_says_why_it_did_nothing():
    """Its windows are those of its first program, not of the one that failed."""
    async with menu() as s:
        write(s.env, "box", BOX.format(command='"foot", "-T", "boxed"'))
        async with running("menu", "start", "box", env=s.env):
            await wait_window(s.comp, deadline=60)
            async with running("menu", "terminal", "box", env=s.env) as it:
                one = await s.one_with("My box runs already")
                await keep_picture(s, "action-failed.png")
                await s.dismiss(one)
                with trio.fail_after(60):
                    assert await it.wait() != 0


async def test_what_is_tried_again_is_what_has_failed(monkeypatch):
    """The next object is handled while the user reads of the first."""
    tried, last_began = [], trio.Event()

    async def reported(note, title, words, env):
        await trio.lowlevel.checkpoint()
        tried.append(words[-1])
        if words[-1] == "/b":
            last_began.set()
        return SimpleNamespace(code=int(tried == ["/a"]))

    async def again(note, title, result, env):
        await last_began.wait()
        return True

    monkeypatch.setattr(reported_start, "_reported", reported)
    monkeypatch.setattr(reported_start, "_failed", again)
    monkeypatch.setattr(
        reported_start,
        "DesktopNotification",
        lambda *_: SimpleNamespace(close=trio.lowlevel.checkpoint),
    )
    assert await reported_start.run_each("open", ["/a", "/b"], {}) == 1
    assert tried == ["/a", "/b", "/a"]


async def test_windows_of_before_are_not_those_of_a_start(monkeypatch):
    there = {("box", 1)}
    monkeypatch.setattr(reported_start, "_windows_of", lambda _: frozenset(there))
    seen = await reported_start._Seen.since_now("box")
    assert not seen._has_window()
    there.add(("box", 2))
    assert seen._has_window()
    there.discard(("box", 1))
    assert seen._has_window()


async def test_a_later_window_with_an_id_of_its_own_has_an_entry(monkeypatch):
    """Chromium's windows have an id for each site; a program may invent new ones."""
    untrusted_ids, written, changed = frozenset({"first"}), [], trio.Event()

    def follow():
        written.append(untrusted_ids)
        trio.from_thread.run_sync(changed.set)

    monkeypatch.setattr(reported_start, "_windows_of", lambda _: frozenset({("b", 1)}))
    monkeypatch.setattr(reported_start, "window_ids", lambda _: untrusted_ids)
    monkeypatch.setattr(reported_start, "follow_windows", follow)
    for name in ("_LOOK_SECONDS", "_LATER_SECONDS"):
        monkeypatch.setattr(reported_start, name, 0.001)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reported_start._Seen("box").run)
            # It ends by itself: so many entries are enough.
            for number in range(IDS_PER_SANDBOX - 1):
                await changed.wait()
                changed = trio.Event()
                untrusted_ids = frozenset({f"later-{number}"})
    assert written[:2] == [{"first"}, {"later-0"}]
    assert len(written) == IDS_PER_SANDBOX


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("  … start the machine: kernel", ["start the machine: kernel"]),
        ("  ✓ start the machine (3.1 s)", []),
        ("[  3 s] unpack", ["unpack\nThis happens once and may take a few minutes."]),
    ],
)
def test_steps_of_verbs_are_progress_and_no_errors(line, step):
    errors, shown = deque(), []
    _step_or_error(errors, SimpleNamespace(step=shown.append), line)
    assert (list(errors), shown) == ([], step)


def test_a_title_has_the_last_name_of_a_path_and_the_whole_of_an_address():
    assert shown_name("file:///home/me/a%20b.pdf") == "a b.pdf"
    assert shown_name("/tmp/x:y.txt") == "x:y.txt"
    assert shown_name("https://a.example/b") == "https://a.example/b"
    assert "\x1b" not in shown_name("/tmp/\x1b[31mred")
