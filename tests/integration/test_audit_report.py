"""The report as a real browser shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from broker.helpers.process.spawn import run_tool
from tests.kit.audit.shipping import filled
from tests.kit.brokerctl import brokerctl, home, paths_of


def _colours(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    counted = picture.convert("RGB").getcolors(1 << 24)
    assert counted is not None
    return {colour: number for number, colour in counted}


async def test_firefox_shows_the_timeline(tmp_path: Path) -> None:
    if shutil.which("firefox-esr") is None:
        pytest.skip("no browser: apt-get install firefox-esr")
    with home() as env:
        await filled(paths_of(env).state, 600)
        report = tmp_path / "report.html"
        made = await brokerctl("audit", "report", "--to", str(report), env=env)
        assert made.code == 0, made.err
        (tmp_path / "profile").mkdir()
        await run_tool(
            [
                *("firefox-esr", "--headless", "--no-remote"),
                *("--profile", tmp_path / "profile", "--window-size=1200,1400"),
                *("--screenshot", tmp_path / "shot.png", f"file://{report}"),
            ],
            env=env,
            deadline=120,
        )
    with Image.open(tmp_path / "shot.png") as picture:
        seen = _colours(picture)
        assert picture.width == 1200
    # Bars of events and of denials, and the rectangle of leases below them.
    assert seen.get((0x3B, 0x6F, 0xB6), 0) > 1000
    assert seen.get((0xC6, 0x2F, 0x2F), 0) > 200
    # A page with text on it, not one colour.
    assert len(seen) > 50
