"""Attack: a banner that is not on the screen, and says that it is."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.helpers.prompt.use_banner import draw_rows
from tests.attack.test_screen_share import headless

BANNER = """
import sys
from broker.helpers.prompt import screen_frame, use_banner
def fails(*_): raise MemoryError
{}
use_banner.main(*sys.argv[1:])
"""


@pytest.mark.skipif(not shutil.which("sway"), reason="sway is needed")
@pytest.mark.parametrize(
    ("change", "reply"),
    [
        ("", b"1"),
        ("screen_frame.ScreenFrame._buffer = fails", b""),
        ("screen_frame._XRGB8888 = 99", b""),  # the compositor hangs up
        ("del screen_frame._GLOBALS['zwlr_layer_shell_v1']", b"0"),
    ],
)
async def test_banner_reports_whether_it_is_drawn(change, reply):
    async with headless() as comp:
        argv = [sys.executable, "-c", BANNER.format(change), "102030:work: camera"]
        path = os.pathsep.join(path for path in ("", *sys.path))
        env = {**os.environ, **comp.environment, "PYTHONPATH": path}
        child = spawn(argv, env=env, stdout=PIPE, stderr=DEVNULL)
        with child.popen.stdout as out, trio.fail_after(30):
            try:
                read = trio.to_thread.run_sync(out.read, 1, abandon_on_cancel=True)
                assert await read == reply
                if reply != b"1":
                    await child.wait()
            finally:
                await child.stop()


def test_rows_have_colours_and_signs():
    rows = [
        ("#009e73", "work: microphone"),
        ("#e69f00", f"{'w' * 64}: " + "camera " * 8),
    ]
    image = draw_rows(rows)
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert {(0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00), (224, 27, 36)} <= colours
    assert image.height == 2 * draw_rows(rows[:1]).height
