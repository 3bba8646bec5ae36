"""The page about a QEMU command of one's own: its script, as it is printed."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from broker.core.paths import find_paths
from broker.helpers.process.spawn import STDOUT, spawn
from tests.kit.brokerctl import brokerctl
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import the_image, world

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/launchers/qemu.md"


_BROKERCTL = "from broker.cli.app import main; raise SystemExit(main())"


def script():
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 5
    return "set -eu\n" + "".join(blocks)


@pytest.mark.slow
async def test_the_page_s_script_shows_a_framed_window():
    await the_image()
    async with world(image=False) as w:
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
        with (w.base / "said").open("wb") as said:
            child = spawn(
                ["bash", "-c", script()], env=env, stdout=said.fileno(), stderr=STDOUT
            )
        try:
            code = await child.wait()
            assert code == 0, (w.base / "said").read_text()
            (window,) = await wait_window(w.comp, title="[mine]")
            assert window["pid"] == await w.pid_of("keeper", "mine")
            listed = await brokerctl("lease", "list", env=w.environ)
            assert "mine" in listed.out
            assert (await brokerctl("stop", "mine", env=w.environ)).code == 0
        finally:
            for pid in w.processes():
                with suppress(OSError):  # it has just ended
                    if Path(f"/proc/{pid}/comm").read_text()[:4] in {"qemu", "vhos"}:
                        os.kill(pid, signal.SIGKILL)
