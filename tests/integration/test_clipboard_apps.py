"""Copy and paste between sandboxes with real applications and a real compositor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland import sandbox
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from broker.viewer.clipboard.exchange.reasons import NOTHING
from tests.kit.clipboard.stand import DEADLINE, A, C, Desk, V, X, desk
from tests.kit.wayland.apps import TOOLKITS
from tests.kit.wayland.compositor import wait_window

TEXT = "over the wall"
END = 107
READ = 'until [ -n "$x" ]; do IFS= read -r x || exit; done'
"""For a shell: a line that is not empty, as Enter may come before the paste."""
PAGE = (
    "<title>paper</title><textarea autofocus style='width:90%;height:80%'></textarea>"
)


def environment(room):
    return {
        **room.comp.environment,
        "WAYLAND_DISPLAY": str(room.path),
        "HOME": str(room.path.parent),
    }


async def pasted(room, *options):
    """What wl-paste finds in a sandbox's own clipboard."""
    argv = ["wl-paste", "--no-newline", *options]
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            argv, env=environment(room), capture_stdout=True, check=False
        )
    return done.stdout


async def copied(room, *words, data=b""):
    """Have wl-copy make a selection; it continues by itself when that is done."""
    with trio.fail_after(DEADLINE):
        await trio.run_process(["wl-copy", *words], env=environment(room), stdin=data)


async def window(it: Desk, name, title, *argv, shown="", **env):
    """A window of a sandbox, in front."""
    argv = argv or ("foot", "-T", title, "sleep", "1000")
    it.run(name, *argv, **env)
    await wait_window(it.comp, title=shown or title, deadline=DEADLINE)
    await it.focus(name, shown or title)


async def test_more_programs_may_copy_than_windows_come_at_once(monkeypatch):
    """Each wl-copy shows a window when a sync is answered, a protocol error ends it.

    Of a short minute: those above its limit wait for the next one.
    """
    monkeypatch.setattr(sandbox, "_MINUTE", 5.0)
    monkeypatch.setattr(limits, "WAYLAND_MAPPINGS_PER_MINUTE", 4)
    async with desk("red") as it:
        for number in range(limits.WAYLAND_MAPPINGS_PER_MINUTE + 2):
            await copied(it.rooms["red"], f"{number}")
        assert await pasted(it.rooms["red"]) == str(number).encode()


async def test_text_crosses_by_two_chords_and_is_wiped():
    async with desk("red", "blue") as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], TEXT)
        assert await pasted(it.rooms["red"]) == TEXT.encode()
        await it.focus("red", "source")
        record = await it.copy()
        assert (record.outcome, record.size) == (Outcome.COPIED, len(TEXT)), record
        await window(it, "blue", "target")
        record = await it.paste()
        assert record.outcome is Outcome.PASTED, record
        assert await pasted(it.rooms["blue"]) == TEXT.encode()
        await it.focus("blue", "target")
        record = await it.paste()
        assert (record.outcome, record.reason) == (Outcome.REFUSED, NOTHING)
        # Withdrawn by the person: the sandbox's clipboard is empty again.
        await it.feed("", w.Cleared())
        assert await pasted(it.rooms["blue"]) == b""


async def test_without_the_chords_a_sandbox_has_nothing_of_another():
    async with desk("red", "blue") as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], TEXT)
        await window(it, "blue", "target")
        assert await pasted(it.rooms["blue"]) == b""
        # Nor have the person's own programs, nor does it have theirs.
        with trio.fail_after(DEADLINE):
            await trio.run_process(["wl-copy", "mine"], env=it.comp.environment)
        assert await pasted(it.rooms["red"]) == TEXT.encode()
        await it.focus("blue", "target")
        assert await pasted(it.rooms["blue"]) == b""


async def test_a_megabyte_crosses_whole_where_a_rule_lets_it():
    size = 1 << 20
    terms = w.CopyTerms(max_bytes=size)
    content = os.urandom(size // 2).hex().encode()

    def policy(*_):
        return w.PasteTerms(max_bytes=size)

    async with desk("red", "blue", terms=terms, policy=policy) as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], data=content)
        await it.focus("red", "source")
        record = await it.copy()
        assert (record.outcome, record.size) == (Outcome.COPIED, size), record
        await window(it, "blue", "target")
        assert (await it.paste()).outcome is Outcome.PASTED
        assert await pasted(it.rooms["blue"]) == content


async def test_one_byte_too_many_is_refused_whole():
    async with desk("red", terms=w.CopyTerms(max_bytes=100)) as it:
        await window(it, "red", "source")
        for size, outcome in ((100, Outcome.COPIED), (101, Outcome.DROPPED)):
            await copied(it.rooms["red"], "x" * size)
            await it.focus("red", "source")
            record = await it.copy()
            assert record.outcome is outcome, record


async def test_a_terminal_pastes_what_another_sandbox_copied(tmp_path):
    mark = tmp_path / "typed"
    tmp_path.chmod(0o755)
    async with desk("red", "blue") as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], TEXT)
        await it.focus("red", "source")
        assert (await it.copy()).outcome is Outcome.COPIED
        shell = ("foot", "-T", "shell", "sh", "-c", f"{READ}; echo $x > {mark}")
        await window(it, "blue", "shell", *shell)
        assert (await it.paste()).outcome is Outcome.PASTED
        with trio.fail_after(DEADLINE):
            while not (mark.exists() and mark.read_text()):
                # The terminal may not have been told of it yet, so again.
                await it.control(V, shift=True)
                await trio.sleep(0.1)
                await it.press(28)
                await trio.sleep(0.1)
        assert mark.read_text().replace(TEXT, "") == "\n"


APPLICATIONS = {
    "gtk3": (["zenity", "--entry", "--title=paper"], "paper"),
    "gtk4": (["gtk4-demo", "--run=entry_undo"], "Undo"),
    "qt": (["featherpad", "--standalone"], "Untitled"),
    "firefox": (["firefox-esr", "--no-remote", "--new-instance", "PAGE"], "paper"),
    "chromium": (
        [
            *("chromium", "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu"),
            *("--no-first-run", "--user-data-dir=HOME/profile", "PAGE"),
        ],
        "paper",
    ),
}


@pytest.fixture
def home(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "page.html").write_text(PAGE)
    return tmp_path


def argv_of(name: str, home: Path) -> list[str]:
    words, _ = APPLICATIONS[name]
    if not shutil.which(words[0]):
        pytest.skip(f"not installed: {words[0]}")
    page = f"file://{home}/page.html"
    return [word.replace("PAGE", page).replace("HOME", str(home)) for word in words]


async def round_trip(it: Desk, title: str) -> bool:
    """Into the application by chord, a letter more, and out by chord again."""
    await it.focus("red", "source")
    assert (await it.copy()).outcome is Outcome.COPIED
    await it.focus("blue", title)
    assert (await it.paste()).outcome is Outcome.PASTED
    await it.control(A)
    await it.control(V)
    for _ in range(len(TEXT) - 1):
        # An application inserts a paste when its data comes, so look again.
        await trio.sleep(0.1)
        await it.press(END)
        await it.press(X)
        await it.control(A)
        await it.control(C)
        await trio.sleep(0.1)
        record = await it.copy()
        if record.size > len(TEXT):
            return True
    return False


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", APPLICATIONS)
async def test_an_application_pastes_and_copies(name, home):
    title = APPLICATIONS[name][1]
    async with desk("red", "blue") as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], TEXT)
        await window(
            it,
            "blue",
            name,
            *argv_of(name, home),
            shown=title,
            HOME=str(home),
            **TOOLKITS,
        )
        with trio.fail_after(3 * DEADLINE):
            while not await round_trip(it, title):
                pass
        await it.focus("red", "source")
        assert (await it.paste()).outcome is Outcome.PASTED
        got = await pasted(it.rooms["red"])
        assert TEXT.encode() in got
        assert b"x" in got
