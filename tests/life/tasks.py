"""What a user does in a day: one row of ``TASKS`` for each, which also looks at its effect."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.e2e.test_clipboard import boxes_of
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import NeverError, eventually
from tests.kit.far_network import LEADS_TO
from tests.kit.sound.servers import hearing
from tests.kit.wayland.compositor import wait_window, windows
from tests.life.life import BOOT_SECONDS, CONTAINER, FETCH, MACHINE, OPENS, Life

ASKS = {
    ("status",): "",
    ("status", "--json"): "",
    ("list",): "",
    ("pending",): "no question is pending\n",
    ("grants",): "no grants are in force\n",
    ("audit",): "",
    ("audit", "connections"): "",
    ("windows",): "",
    ("clipboard", "status"): "",
}
"""Verbs that change nothing, with what they write to standard error."""


@dataclass(frozen=True)
class Task:
    """Something that a user does; raises AssertionError where it does not work."""

    name: str
    does: Callable[[Life], Awaitable[None]]


async def asks(life):
    for words, complaint in ASKS.items():
        answer = await brokerctl(*words, env=life.w.environ)
        assert (answer.code, answer.err) == (0, complaint), (words, answer)


async def a_window(life):
    title = life.new("window")
    async with shown(life, title, "--bwrap"):
        pass
    await no_window(life, title)


@asynccontextmanager
async def shown(life, title, sandbox):
    """Run a program whose window has this title; yields brokerctl once it is there."""
    words = ("run", "-q", sandbox, "--", "foot", "-T", title, "sleep", "1000")
    async with running(*words, env=life.w.environ) as child:
        await wait_window(life.w.comp, title=f"] {title}", of=child)
        yield child


async def no_window(life, title):
    async def gone():
        found = windows(await life.w.comp.tree())
        return not any(title in (one.get("name") or "") for one in found)

    await eventually(gone)


async def a_disposable(life):
    said = life.new("said")
    answer = await life.ctl("run", "-q", "notes", "--", "echo", said)
    assert answer.out == f"{said}\n", answer


async def an_interrupted_run(life):
    title = life.new("interrupted")
    async with shown(life, title, "notes") as child:
        os.kill(child.pid, signal.SIGINT)
        with trio.fail_after(60):
            assert await child.wait() == 130
    await no_window(life, title)


async def a_stop(life):
    title = life.new("stopped")
    async with shown(life, title, "chat") as child:
        await life.ctl("stop", "chat")
        with trio.fail_after(60):
            await child.wait()
    await no_window(life, title)


async def a_shell(life):
    said = life.new("shell")
    with tempfile.TemporaryFile() as script:
        script.write(f"echo {said}; exit 7\n".encode())
        script.seek(0)
        words = ("shell", "-q", "far")
        answer = await brokerctl(*words, env=life.w.environ, stdin=script.fileno())
    assert (answer.code, answer.out) == (7, f"{said}\n"), answer


async def an_address(life):
    url = f"https://{life.new('site')}.example.org/"
    opened = life.far.folder / "opened"
    opened.unlink(missing_ok=True)
    await life.ctl("open", "-q", "--in", "far", url)
    await eventually(lambda: opened.exists() and opened.read_text() == f"{url}\n")


async def copies(life):
    text = life.new("copied")
    file = life.w.base / f"{text}.txt"
    file.write_text(text)
    await life.ctl("cp", "-q", str(file), "far:")
    there = life.far.home / "Incoming/desktop" / file.name
    assert there.read_text() == text
    file.unlink()
    await life.ctl("cp", "-q", f"far:{there}", str(life.w.base))
    assert file.read_text() == text
    file.unlink()
    there.unlink()


async def a_paste(life):
    secret = life.new("secret")
    secret += "x" * life.number  # each of another size, by which its event is known
    async with boxes_of(life.w, ("work", "personal")) as box:
        await life.person.awake()
        await box["work"].copied(secret)
        await life.person.copy("work")
        await life.w.wait_event("clipboard.offered", bytes=len(secret))
        await life.person.paste("personal")
        await box["personal"].gets(secret)


async def a_tone(life):
    async with hearing(life.sound) as heard:
        await life.ctl("run", "-q", "--bwrap", "--", "paplay", str(life.tone))
    assert abs(heard.hertz - 700) < 5, heard.hertz


async def a_notification(life):
    title = life.new("news")
    words = ("run", "-q", "chat", "--", "notify-send", "--wait", title, "text")
    async with running(*words, env=life.w.environ) as child:
        shown = await life.screen.one_with(title)
        assert shown[1].startswith("chat"), shown
        answer = await life.ctl("notifications", "chat")
        assert title in answer.out, answer
        await life.screen.dismiss(shown)
        with trio.fail_after(60):
            assert await child.wait() == 0


async def an_edit(life):
    """A rule that denies, and its removal: both have an effect at once."""
    words = ("open", "-q", "--in", "far", "https://other.example.org/")
    for rules, code in ((f"{OPENS}deny\n", 1), ("", 0)):
        life.editor(rules)
        await life.ctl("policy", "edit", "20-edited.policy", "--yes")

        async def decided(code=code):
            answer = await brokerctl(*words, env=life.w.environ)
            return answer.code == code

        await eventually(decided)


async def a_setting(life):
    colour = ("blue", "orange")[life.number % 2]
    life.new("colour")
    await life.ctl("set", "chat", "colour", colour, "--yes")
    answer = await life.ctl("get", "chat")
    assert colour in answer.out, answer


async def a_site(life):
    """From a new box, and from one that was started long before."""
    program = f"{FETCH}\nimport sys; print(fetched(sys.argv[1]))"
    words = ("run", "-q", "site", "--", "/usr/bin/python3", "-c", program)
    answer = await life.ctl(*words, new_host(life))
    assert answer.out.strip() == LEADS_TO[life.name_server], answer
    said = ""

    async def reached():
        nonlocal said
        said = await life.old_box.fetched(new_host(life))
        return said == LEADS_TO[life.name_server]

    try:
        await eventually(reached, deadline=60)
    except NeverError:
        raise AssertionError((life.net, life.name_server, said)) from None


def new_host(life):
    return f"{life.new('host')}.good.test"


async def a_container(life):
    if life.has_container:
        said = life.new("container")
        answer = await life.ctl("run", "-q", CONTAINER, "--", "/usr/bin/echo", said)
        assert answer.out == f"{said}\n", answer


async def a_machine(life):
    if life.has_machine:
        text = life.new("machine")
        words = ("run", "-q", MACHINE, "--", "echo", text)
        answer = await life.ctl(*words, deadline=BOOT_SECONDS)  # emulated
        assert answer.out == f"{text}\n", answer


async def the_checks(life):
    await life.ctl("policy", "check")
    await life.ctl("audit", "verify")


TASKS = (
    Task("verbs that ask", asks),
    Task("a window of a box", a_window),
    Task("a disposable's output", a_disposable),
    Task("a run, interrupted", an_interrupted_run),
    Task("a stop", a_stop),
    Task("a shell", a_shell),
    Task("an address opened", an_address),
    Task("a file copied there and back", copies),
    Task("a paste", a_paste),
    Task("a tone", a_tone),
    Task("a site, from a new box and an old one", a_site),
    Task("a container's output", a_container),
    Task("a machine's output", a_machine),
    Task("a notification", a_notification),
    Task("a rule edited", an_edit),
    Task("a setting changed", a_setting),
    Task("policy and log checked", the_checks),
)
