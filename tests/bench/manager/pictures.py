"""Pictures of the manager's pages: light and dark, at scale 1 and 2.

    python -m tests.bench.manager.pictures [DIRECTORY]

The pages show a real broker with a sandbox that runs, records with hostile labels, a
home with snapshots and the decisions of the log.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from broker.cli.homes.home_copies import HomeCopies
from broker.core.names import SandboxName
from broker.host.homes.store import DISK
from tests.kit.brokerctl import brokerctl, running
from tests.kit.manager import managed, person
from tests.kit.wayland.compositor import desktop, wait_window
from tests.kit.world import world

PAGES = {
    "sandboxes": (("sees", "Start web"),),
    "post": (("sees", "What it may do"),),
    "questions": (("sees", "Remembered answers"),),
    "devices": (("sees", "USB devices"),),
    "activity": (("sees", "vitrail.Display"),),
    "activity-chart": (("press", "Chart"), ("sees", "Decisions")),
    "policy": (("press", "Calls of post"), ("sees", "post → you")),
    "images": (("sees", "Updates"),),
    "backups": (("sees", "Import a backup"),),
    "setup": (("sees", "Check of this machine"),),
    "new": (("press", "New…"), ("sees", "What is it for?")),
    "post-restore": (("press", "Restore… before-upgrade of post"), ("sees", "lost")),
    "post-backup": (("press", "Back up… post"), ("sees", "Passphrase again")),
    "post-undo": (("press", "blue: colour of post"), ("sees", "colour is blue")),
    "policy-decide": (("press", "Decide"), ("sees", "The answer")),
    "policy-why": (
        ("press", "Calls of post"),
        ("press", "Why? post → a new web: vitrail.OpenURL"),
        ("sees", "would reverse it"),
    ),
}
"""The page before the name's first '-', and the steps to what is taken."""
BOX = """\
class = "disposable"
display = "allow"
[label]
name = "papers & <b>forms</b>"
colour = "orange"
[launch]
kind = "bwrap"
command = ["foot", "-T", "form", "sleep", "1000"]
[audio]
playback = "allow"
"""


async def prepare(w) -> None:
    """Make records, and a home with a snapshot."""
    for name, purpose in (("web", "browser"), ("post", "mail"), ("films", "media")):
        await brokerctl("new", name, "--for", purpose, env=w.environ)
    store = HomeCopies(w.paths.homes)
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"letters" * 300_000)
        store.publish(prepared, SandboxName("post"))
    store.snapshot(SandboxName("post"), SandboxName("before-upgrade"))


async def show(directory: Path, scheme: str, scale: int) -> None:
    """Take the pictures of one theme at one scale."""
    size = (1000 * scale, 900 * scale)
    extra = f"output * scale {scale}\ndefault_border none"
    screen = partial(desktop, size=size, config_extra=extra)
    dark = {"ADW_DEBUG_COLOR_SCHEME": f"prefer-{scheme}"}
    async with world({"papers": BOX}, image=False, extra=dark, screen=screen) as w:
        await prepare(w)
        async with running("run", "-q", "papers", env=w.environ):
            await wait_window(w.comp, title="form")
            await w.comp.command('[title="form"] move to workspace 2')
            await take(w, directory, f"{scheme}-{scale}")


async def take(w, directory: Path, name: str) -> None:
    """Take a picture of each page."""
    with TemporaryDirectory() as place:
        for page, steps in PAGES.items():
            first = page.partition("-")[0]
            words = () if first == "new" else (first,)
            async with managed(w, Path(place), *words) as env:
                await person(env, *steps)
                await trio.sleep(1)  # the last frame is drawn
                await w.comp.screenshot(directory / f"{page}-{name}.png")


async def main(directory: Path) -> None:
    """Take all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for scale in (1, 2):
            await show(directory, scheme, scale)


if __name__ == "__main__":
    out = Path(os.environ.get("VITRAIL_OUT", "out")) / "manager"
    trio.run(main, Path(sys.argv[1]) if sys.argv[1:] else out)
