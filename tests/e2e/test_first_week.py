"""The first week by the menu: no rule, record or file is written by hand.

The steps are those of the table in ``docs/first-week.md``.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import PENDING
from tests.kit.brokerctl import brokerctl, home, paths_of, running
from tests.kit.eventually import eventually
from tests.kit.notified import screen
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import the_image


class Week:
    """A user at a desktop with notifications."""

    def __init__(self, s):
        self.s = s
        self.env = s.env
        self.home = Path(s.env["HOME"])

    async def does(self, *words, deadline=120):
        """Run a command that succeeds."""
        answer = await brokerctl(*words, env=self.env, deadline=deadline)
        assert answer.code == 0, (words, answer.out, answer.err)
        return answer

    async def types(self, text):
        """Type into the window that has the keyboard."""
        await self.s.comp.type_text(text)

    async def question(self, service):
        """Wait for the question about a service; returns it."""

        async def asked():
            try:
                async with open_client(paths_of(self.env).control) as client:
                    found = (await client.call(PENDING, Nothing())).questions
            except SetupError:
                return None
            return next((q for q in found if q.service == service), None)

        return await eventually(asked, deadline=90)

    async def answers(self, service, verdict):
        """Answer the question about a service."""
        question = await self.question(service)
        await self.does("answer", str(question.id), verdict)
        return question

    async def picture(self, name):
        folder = self.home / "pictures"
        folder.mkdir(exist_ok=True)
        await self.s.comp.screenshot(folder / name)


@asynccontextmanager
async def week():
    await the_image()
    with home() as plain:
        cache = str(find_paths().cache.parent)
        async with screen({**plain, "XDG_CACHE_HOME": cache}) as s:
            try:
                yield Week(s)
            finally:
                await brokerctl("stop", "--broker", env=s.env, deadline=60)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_the_first_week():
    async with week() as w:
        await w.does("new", "work")
        await w.does("policy", "starter")
        await w.does("policy", "lint")
        await w.does("menu", "start", "work", deadline=240)
        await wait_window(w.s.comp, title="[work")
        await a_file_out(w)
        await a_link_and_a_document(w)
        await a_colour(w)
        await w.does("menu", "stop", "work")
        await a_backup_in_a_fresh_home(w)
        await w.does("sandbox", "remove", "work", "--yes")
        entry = w.home / ".local/share/applications/vitrail-sandbox-work.desktop"
        assert not entry.exists()


async def a_file_out(w):
    """By typing in the sandbox's window, and one answer."""
    await w.types("echo hello > ~/out.txt; vitrail-copy ~/out.txt @adminvm\n")
    await w.answers("vitrail.FileCopy", "allow")

    async def arrived():
        return [file.read_text() for file in w.home.rglob("out.txt")] == ["hello\n"]

    assert await eventually(arrived, deadline=60)


async def a_link_and_a_document(w):
    """Both ask for a fresh disposable, and a no leaves nothing behind."""
    await w.types("xdg-open https://example.org/\n")
    asked = await w.answers("vitrail.OpenURL", "deny")
    assert asked.targets == ["@dispvm:web"]
    await w.types("cp ~/out.txt ~/a.pdf; xdg-open ~/a.pdf\n")
    asked = await w.answers("vitrail.OpenFile", "deny")
    assert asked.targets == ["@dispvm:viewer"]


async def a_colour(w):
    record = w.home / ".config/vitrail/sandboxes.d/work.toml"
    text = record.read_text()
    record.write_text(text.replace('colour = "blue"', 'colour = "purple"'))
    await w.does("menu", "refresh")
    icons = w.home / ".local/share/icons/hicolor/scalable/apps"
    assert "#cc79a7" in (icons / "vitrail-sandbox-work.svg").read_text()


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
        done = await brokerctl(*words, "--trust-record", env=env, deadline=240)
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
