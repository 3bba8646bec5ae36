"""The page about a QEMU command of one's own: its script, as it is printed."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.core.paths import find_paths
from broker.helpers.process.spawn import STDOUT, spawn, wait_ended
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import the_image, world

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/launchers/qemu.md"
GREEN, ORANGE = (0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00)

_BROKERCTL = "from broker.cli.app import main; raise SystemExit(main())"


_SECOND = "## What the record promises, in one line"


def script(part, count):
    text = PAGE.read_text().split(_SECOND)[part]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == count
    return "set -eu\n" + "".join(blocks)


@asynccontextmanager
async def scripted(w):
    """Yield a function that runs a script as the user of a world."""
    tools = w.base / "bin"
    tools.mkdir()
    (tools / "brokerctl").write_text(f"#!{sys.executable}\n{_BROKERCTL}")
    (tools / "brokerctl").chmod(0o755)
    home = w.base / "home"
    (home / ".cache").mkdir(parents=True)
    (home / ".cache/vitrail").symlink_to(find_paths().cache)
    # The world's settings are elsewhere than in a new home.
    (home / ".config").mkdir()
    (home / ".config/vitrail").symlink_to(w.paths.config[0])
    (w.paths.config[0] / "sandboxes.d").mkdir(parents=True, exist_ok=True)
    tool_path = f"{tools}:{find_paths().tools}:{os.environ['PATH']}"
    env = {
        **w.environ, "HOME": str(home), "PATH": tool_path, "ACCEL": "tcg",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    async def run(text):
        with (w.base / "said").open("wb") as said:
            child = spawn(
                ["bash", "-c", text], env=env, stdout=said.fileno(), stderr=STDOUT
            )
        code = await child.wait()
        console = home / "fox.console"
        more = console.read_text(errors="replace") if console.exists() else ""
        assert code == 0, (w.base / "said").read_text() + more

    try:
        yield run
    finally:
        for pid in machines(w):
            with suppress(OSError):  # it has just ended
                os.kill(pid, signal.SIGKILL)


def machines(w):
    found = []
    for pid in w.processes():
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text()[:4] in {"qemu", "vhos"}:
                found.append(pid)
    return found


async def ended(w):
    """Wait for QEMU's end and that of what served it."""
    for pid in machines(w):
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            await wait_ended(pidfd)
            os.close(pidfd)


@pytest.mark.slow
async def test_the_page_s_script_shows_a_framed_window():
    await the_image()
    async with world(image=False) as w, scripted(w) as run:
        await run(script(0, 5))
        (window,) = await wait_window(w.comp, title="[mine]")
        assert window["pid"] == await w.pid_of("keeper", "mine")
        await wait_frames(w.comp, {window["name"]: {GREEN}})
        listed = await brokerctl("lease", "list", env=w.environ)
        assert "mine" in listed.out
        assert (await brokerctl("stop", "mine", env=w.environ)).code == 0


MICROVM = {
    "-M q35": "-M microvm,acpi=on,pic=off,rtc=on",
    "virtio-blk-pci": "virtio-blk-device",
    "$(brokerctl machine arguments fox)": "$(brokerctl machine arguments fox --bus device)",
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MICROVM], ids=["q35", "microvm"])
async def test_a_script_with_our_arguments_keeps_its_home(changes):
    """A framed window, a file in the home, the machine's end, and the file again."""
    await the_image()
    text = script(1, 2)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    async with world(image=False) as w, scripted(w) as run:
        await run(text)
        (window,) = await wait_window(w.comp, title="[fox]")
        assert window["pid"] == await w.pid_of("keeper", "fox")
        await wait_frames(w.comp, {window["name"]: {ORANGE}})
        (w.base / "home/papers/one").write_text("from the host")
        shown = ["exec", "fox", "--", "cat", "/folders/papers/one"]
        assert "from the host" in (await brokerctl(*shown, env=w.environ)).out
        changed = ["exec", "fox", "--", "touch", "/folders/papers/two"]
        assert "Read-only" in (await brokerctl(*changed, env=w.environ)).err
        again = await brokerctl("machine", "arguments", "fox", env=w.environ)
        assert again.code == 1
        assert again.out == "--vitrail-has-failed\n"
        assert "in use" in again.err
        kept = ["sh", "-c", "echo kept > ~/note && sync"]
        assert (await brokerctl("exec", "fox", "--", *kept, env=w.environ)).code == 0
        off = ["exec", "fox", "--", "python3", "-c", "print('alive')"]
        assert "alive" in (await brokerctl(*off, env=w.environ)).out
        # All names first: what serves QEMU ends with it.
        names = {p: Path(f"/proc/{p}/comm").read_text() for p in machines(w)}
        for pid, name in names.items():
            if name.startswith("qemu"):
                os.kill(pid, signal.SIGTERM)
        await ended(w)

        async def released():
            return "fox" not in (await brokerctl("lease", "list", env=w.environ)).out

        await eventually(released)
        (start,) = re.findall(r"^sh ~/fox.sh .*\Z", text, re.DOTALL | re.MULTILINE)
        await run(start)
        await wait_window(w.comp, title="[fox]")
        found = await brokerctl(
            "exec", "fox", "--", "sh", "-c", "cat ~/note", env=w.environ
        )
        assert "kept" in found.out
