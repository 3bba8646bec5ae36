"""A running broker while what it was started with is made again around it.

On a machine of the test's own (``changing_machine``): the kernel gives up the memory of
procfs, files of /etc are replaced, directories are swept, the compositor and the sound
server are started again.  After each, what a user does in a day works as before.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.headless_sway import open_headless_sway
from tests.e2e.test_clipboard import boxes_of
from tests.kit.brokerctl import brokerctl, running
from tests.kit.changing_machine import NEEDS, inside, own_machine, remount_proc
from tests.kit.cleaner import NEEDS_CLEANER, sweep
from tests.kit.clipboard.person import Person
from tests.kit.needs import PID_NAMESPACES
from tests.kit.sound.servers import hearing, needs, sound_server, tone
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [
    NEEDS,
    PID_NAMESPACES,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap"),
    NEEDS_CLEANER,
]

RULES = "vitrail.ClipboardPaste * work personal allow\n"
ASKS = {
    ("status",): (0, ""),
    ("status", "--json"): (0, ""),
    ("list",): (0, ""),
    ("pending",): (0, "no question is pending\n"),
    ("grants",): (0, "no grants are in force\n"),
    ("audit",): (0, ""),
    ("clipboard", "status"): (0, ""),
}
"""Verbs that change nothing, with their exit code and what they complain of."""


@pytest.mark.skipif(inside(), reason="is on a machine of its own already")
def test_a_broker_lives_on():
    """Runs the other test of this file on such a machine."""
    needs("pulseaudio")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = own_machine(*argv, seconds=280)
    print(done.stdout)
    assert done.returncode == 0
    assert "1 passed" in done.stdout


class Day:
    """A broker, its compositor and sound server, and what a user does with them."""

    def __init__(self, w, server):
        self.w = w
        self.server = server
        self.tone = tone(w.base / "tone.wav", 700, 1)
        self.rounds = 0

    async def lived(self):
        """Ask each verb, and use a box, the clipboard and sound."""
        self.rounds += 1
        for words, expected in ASKS.items():
            answer = await brokerctl(*words, env=self.w.environ)
            assert (answer.code, answer.err) == expected, (self.rounds, words, answer)
        await self.window()
        await self.paste()
        await self.sound()

    async def window(self):
        title = f"box{self.rounds}"
        words = ("run", "-q", "--bwrap", "--", "foot", "-T", title, "sleep", "1000")
        async with running(*words, env=self.w.environ):
            await wait_window(self.w.comp, title=f"] {title}")

    async def paste(self):
        secret = "secret" * self.rounds  # each of another size
        with Person(self.w) as person:
            async with boxes_of(self.w, ("work", "personal")) as box:
                await person.awake()
                await box["work"].copied(secret)
                await person.copy("work")
                await self.w.wait_event("clipboard.offered", bytes=len(secret))
                await person.paste("personal")
                await box["personal"].gets(secret)

    async def sound(self):
        async with hearing(self.server) as heard:
            answer = await brokerctl(
                *("run", "-q", "--bwrap", "--", "paplay", str(self.tone)),
                env=self.w.environ,
            )
            assert answer.code == 0, answer
        assert abs(heard.hertz - 700) < 5, heard.hertz


@asynccontextmanager
async def day():
    """A broker with sound, and rules for a paste."""
    async with sound_server("pulseaudio") as server:
        extra = {"PULSE_SERVER": f"unix:{server.socket}"}
        async with world(image=False, extra=extra, rules=RULES) as w:
            yield Day(w, server)


def replaced(path):
    """Put a copy in the place of a file, as package managers and editors do."""
    new = path.with_name(path.name + ".new")
    shutil.copyfile(path, new)
    new.rename(path)


def replace_etc():
    for name in ("resolv.conf", "passwd", "hosts", "ld.so.cache", "localtime"):
        path = Path("/etc", name)
        if path.exists():
            replaced(path)


def replace_certificates():
    certificates, old = Path("/etc/ssl/certs"), Path("/etc/ssl/old")
    if certificates.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(certificates, "/etc/ssl/new", symlinks=True)
        certificates.rename(old)
        Path("/etc/ssl/new").rename(certificates)


def rotate(log):
    """Move broker.log away, as logrotate does."""
    log.rename(log.with_suffix(".log.1"))


async def compositor_again(w):
    """End the compositor, and start one with the same socket."""
    display = w.comp.display
    await w.comp.close()
    w.comp = await open_headless_sway(display.parent)
    assert w.comp.display == display


@pytest.mark.skipif(not inside(), reason="only on a machine of its own")
async def test_a_day():
    async with day() as d:
        paths = d.w.paths
        pid = await d.w.broker_pid()
        await d.lived()
        remount_proc()
        await d.lived()
        replace_etc()
        replace_certificates()
        remount_proc()
        await d.lived()
        await sweep(d.w.base, paths.runtime.parent)
        rotate(paths.state / "broker.log")
        await d.lived()
        await compositor_again(d.w)
        await d.lived()
        assert await d.w.broker_pid() == pid
        stopped = await brokerctl("stop", "--broker", env=d.w.environ)
        assert stopped.code == 0, stopped
        await d.w.comp.close()
