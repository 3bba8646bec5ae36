"""A purpose's record in a box: its program shows a framed window, with its defaults."""

from __future__ import annotations

import pytest

from tests.integration.test_menu import keep_picture, menu
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import needs
from tests.kit.wayland.compositor import pixels, wait_window

PROGRAMS = {
    "untrusted": "foot",
    "offline": "foot",
    "development": "foot",
    "media": "mpv",
    "browser": "firefox-esr",
    "office": "libreoffice",
    "mail": "thunderbird",
    "chat": "dino",
}
PACKAGES = {"dino": "dino-im"}


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(
            name,
            marks=[
                needs(program, PACKAGES.get(program, program)),
                *([pytest.mark.long] if program != "foot" else []),
            ],
        )
        for name, program in PROGRAMS.items()
    ],
)
async def test_a_purpose_s_program_shows_its_window_in_a_box(preset):
    async with menu() as s:
        env = s.env
        assert (await brokerctl("policy", "starter", env=env)).code == 0
        made = await brokerctl("new", "mine", "--for", preset, "--in", "box", env=env)
        assert made.code == 0, made
        async with running("run", "mine", env=env):
            (shown,) = (await wait_window(s.comp, title="[mine", deadline=120))[:1]
            assert shown["app_id"].startswith("vitrail.mine"), shown

            async def drawn() -> bool:
                """Foot's prompt is a few pixels; the empty desktop has one colour, below notifications."""
                picture = await pixels(s.comp)
                below = picture.crop((0, picture.height // 4, *picture.size)).getcolors(
                    1 << 20
                )
                return len(below) > 2

            await eventually(drawn, deadline=120)
            await keep_picture(s, f"preset-{preset}.png")
            assert (await brokerctl("stop", "mine", env=env)).code == 0
