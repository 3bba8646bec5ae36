"""The first week by the menu: no rule, record or file is written by hand.

The steps are those of the table in ``docs/first-week.md``.
"""

from __future__ import annotations

import base64
import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import PENDING
from tests.e2e.test_clipboard import held_from
from tests.kit.brokerctl import brokerctl, home, paths_of, running
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.notified import screen
from tests.kit.wayland.compositor import frames, wait_window
from tests.kit.wayland.input import CONTROL
from tests.kit.world import the_image

SECRET = "over two walls"
PURPLE = (0xCC, 0x79, 0xA7)
# In place of Firefox, whose image takes minutes: a terminal that shows the address,
# takes pasted content, and is a disposable like the shipped 'web'.
WEB = """
import os, sys
os.execvp("foot", ["foot", "-T", "at " + sys.argv[1], "sh", "-c", "cat > /tmp/typed"])
"""
VIEWER = """
import os, sys
text = open(sys.argv[1]).read().strip()
os.execvp("foot", ["foot", "-T", "shows " + text, "sleep", "1000"])
"""
DISPOSABLE = """class = "disposable"
display = "allow"
[label]
colour = "{colour}"
[launch]
kind = "microvm"
memory = "512M"
command = ["python3", "-c", '''{program}''']
"""


class Week:
    """A user at a desktop with notifications."""

    def __init__(self, s):
        self.s = s
        self.env = s.env
        self.home = Path(s.env["HOME"])
        self.person = Person(self)
        self.typed = 0

    async def does(self, *words, deadline=120):
        """Run a command that succeeds."""
        answer = await brokerctl(*words, env=self.env, deadline=deadline)
        assert answer.code == 0, (words, answer.out, answer.err)
        return answer

    async def types(self, text):
        """Type into the shell of 'work', once it has answered to its keys.

        A guest that is slow to learn of the focus loses the first ones, so the shell
        gives its window a new title first, until the title is seen.
        """
        self.typed += 1
        title = f"typed{self.typed}"

        async def answered():
            window = (await wait_window(self.comp, title="[work]"))[0]
            await self.comp.command(f"[con_id={window['id']}] focus")
            # A line that was cut off is given up (Control-U).
            await trio.to_thread.run_sync(self.person.keyboard.chord, CONTROL, "u")
            await self._keys(f"printf '\\033]2;{title}\\a'\n")
            with trio.move_on_after(20):
                return await wait_window(self.comp, title=title)
            return None

        await eventually(answered, deadline=180)
        await self._keys(text)

    async def _keys(self, text):
        await trio.to_thread.run_sync(self.person.keyboard.type, text)

    async def asks(self, text, service):
        """Type a command that asks; returns the question."""
        await self.types(text)
        return await self.question(service)

    async def question(self, service):
        """Wait for the question about a service; returns it."""

        async def asked():
            try:
                async with open_client(paths_of(self.env).control) as client:
                    found = (await client.call(PENDING, Nothing())).questions
            except SetupError:
                return None
            return next((q for q in found if q.service == service), None)

        return await eventually(asked, deadline=45)

    async def allows(self, question):
        """Say yes to a question."""
        await self.does("answer", str(question.id), "allow")

    async def picture(self, name):
        folder = Path(os.environ.get("VITRAIL_OUT") or self.home) / "first-week"
        folder.mkdir(parents=True, exist_ok=True)
        await self.s.comp.screenshot(folder / name)

    # -- as tests.kit.clipboard.person wants it ---------------------------------------

    @property
    def comp(self):
        """The screen."""
        return self.s.comp

    def client(self):
        """A connection to the broker."""
        return open_client(paths_of(self.env).control)


def copied(file, place):
    """Copy a link, or a directory with its sparse files."""
    place.parent.mkdir(parents=True, exist_ok=True)
    words = ["cp", "-a", "--sparse=always", "--reflink=auto", file, place]
    subprocess.run(words, check=True)


@asynccontextmanager
async def week():
    image = await the_image()
    with home() as plain:
        # The user's own, because it is built again.
        cache = Path(plain["HOME"]) / ".cache"
        mine = cache / "vitrail"
        images = image.directory.parent
        for file in (
            images / image.name,
            (images / image.name).resolve(),
            images.parent / "tools",
        ):
            place = mine / file.relative_to(images.parent)
            await trio.to_thread.run_sync(copied, file, place)
        async with screen({**plain, "XDG_CACHE_HOME": str(cache)}) as s:
            w = Week(s)
            try:
                with w.person:
                    yield w
            finally:
                await brokerctl("stop", "--broker", env=s.env, deadline=60)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_the_first_week():
    async with week() as w:
        await w.does("new", "work")
        await w.does("policy", "starter")
        await w.does("policy", "lint")
        for name, colour, program in (
            ("web", "orange", WEB),
            ("viewer", "sky", VIEWER),
        ):
            record = w.home / f".config/vitrail/sandboxes.d/{name}.toml"
            record.write_text(DISPOSABLE.format(colour=colour, program=program))
        await w.does("menu", "start", "work", deadline=240)
        await wait_window(w.s.comp, title="[work")
        await a_file_out(w)
        await a_link_in_a_fresh_browser(w)
        await a_paste(w)
        await a_document_in_a_fresh_viewer(w)
        await a_colour(w)
        await w.does("menu", "stop", "work")
        await an_update(w)
        await a_backup_in_a_fresh_home(w)
        await w.does("sandbox", "remove", "work", "--yes")
        entry = w.home / ".local/share/applications/vitrail-sandbox-work.desktop"
        assert not entry.exists()


async def a_file_out(w):
    """By typing in the sandbox's window, and one answer."""
    text = "echo hello > ~/out.txt; vitrail-copy ~/out.txt @adminvm\n"
    await w.allows(await w.asks(text, "vitrail.FileCopy"))

    async def arrived():
        return [file.read_text() for file in w.home.rglob("out.txt")] == ["hello\n"]

    assert await eventually(arrived, deadline=60)


async def a_link_in_a_fresh_browser(w):
    asked = await w.asks("xdg-open https://example.org/\n", "vitrail.OpenURL")
    assert asked.targets == ["@dispvm:web"]
    await w.allows(asked)
    await wait_window(w.comp, title="at https://example.org/", deadline=240)
    await w.picture("link.png")


async def a_paste(w):
    """Into the browser's window: both chords, and one answer."""
    (window,) = await wait_window(w.comp, title="at https://example.org/")
    browser = window["name"].partition("] ")[0].lstrip("[")
    code = base64.b64encode(SECRET.encode()).decode()
    # A terminal takes a selection from its program (OSC 52), where it has the keyboard;
    # its next title tells that it has done so.
    await w.types(f"printf '\\033]52;c;{code}\\a\\033]2;copies\\a'\n")
    await wait_window(w.comp, title="copies")
    await w.person.copy("work", "copies")
    await held_from(w, "work")  # no person pastes before the notification
    await w.person.paste(browser, "at https://example.org/")
    asked = await w.question("vitrail.ClipboardPaste")
    assert asked.targets == [browser]
    await w.allows(asked)

    async def pasted():
        done = await w.does("audit", "--kind", "clipboard.pasted", "--json")
        return f'"bytes":{len(SECRET)}' in done.out.replace(" ", "")

    assert await eventually(pasted, deadline=60)


async def a_document_in_a_fresh_viewer(w):
    text = "printf '%%PDF-1.4\\n' > ~/a.pdf; xdg-open ~/a.pdf\n"
    asked = await w.asks(text, "vitrail.OpenFile")
    assert asked.targets == ["@dispvm:viewer"]
    await w.allows(asked)
    await wait_window(w.comp, title="shows %PDF-1.4", deadline=240)
    await w.picture("document.png")


async def a_colour(w):
    """By the editor: the window that is open, and the menu's icon."""
    editor = w.home / "editor"
    change = 's/^colour = .*/colour = "purple"/'
    editor.write_text(f"#!/bin/sh\nexec sed -i '{change}' \"$1\"\n")
    editor.chmod(0o755)
    w.env["EDITOR"] = str(editor)
    await w.does("policy", "edit", "work", "--yes")
    (window,) = await wait_window(w.comp, title="[work")

    async def purple():
        return (await frames(w.comp))[window["name"]] == {PURPLE}

    assert await eventually(purple)
    await w.picture("colour.png")
    icons = w.home / ".local/share/icons/hicolor/scalable/apps"
    assert "#cc79a7" in (icons / "vitrail-sandbox-work.svg").read_text()


async def an_update(w):
    """The image is built again from Debian's packages of today."""
    images = w.home / ".cache/vitrail/images"
    before = {*images.rglob("manifest.json")}
    await w.does("image", "rebuild", deadline=900)
    assert {*images.rglob("manifest.json")} != before


async def a_backup_in_a_fresh_home(w):
    secret = w.home / "secret"
    secret.write_text("long enough a secret\n")
    secret.chmod(0o600)
    file = w.home / "work.backup"
    passphrase = ("--passphrase-file", str(secret))
    await w.does("sandbox", "backup", "work", str(file), *passphrase, deadline=240)
    with home() as fresh:
        env = {**fresh, "XDG_CACHE_HOME": w.env["XDG_CACHE_HOME"]}
        words = ("sandbox", "import", str(file), "work", *passphrase)
        done = await brokerctl(*words, env=env, deadline=240)
        assert done.code == 0, done.err
        assert "work" in (await brokerctl("list", env=env)).out


@pytest.mark.long
async def test_a_refusal_is_allowed_in_one_step():
    """Without rules; the refusal in the sandbox's window leads to one command."""
    async with week() as w:
        await w.does("new", "work")
        async with running("run", "work", env=w.env):
            await wait_window(w.s.comp, title="[work", deadline=240)
            await w.types("echo hello > ~/out.txt; vitrail-copy ~/out.txt @adminvm\n")

            async def refused():
                found = await brokerctl("allow", "--list", env=w.env)
                return "vitrail.FileCopy: work" in found.out

            assert await eventually(refused, deadline=60)
            allowed = await w.does("allow", "--always")
            assert "vitrail.FileCopy" in allowed.err
            await w.types("vitrail-copy ~/out.txt @adminvm\n")

            async def arrived():
                return list(w.home.rglob("out.txt"))

            assert await eventually(arrived, deadline=60)
            with trio.move_on_after(1):
                await w.picture("allowed.png")
