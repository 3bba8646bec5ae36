"""A browser with a page that sounds, and one that asks for the microphone."""

from __future__ import annotations

import shutil

import pytest

from tests.kit.compositor import until
from tests.kit.sound import SERVERS, hearing, proxy, sound_server, started

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("firefox-esr") is None, reason="not installed: firefox-esr"
    ),
]
PAGE = """<!doctype html><title>sound</title><script>
const context = new AudioContext();
const tone = context.createOscillator();
tone.frequency.value = 440;
tone.connect(context.destination);
tone.start();
</script>"""
PREFERENCES = """
user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("media.cubeb.backend", "pulse");
user_pref("media.cubeb.sandbox", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
"""


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_page_is_heard(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        profile = server.directory / "profile"
        profile.mkdir()
        (profile / "user.js").write_text(PREFERENCES)
        page = server.directory / "page.html"
        page.write_text(PAGE)
        argv = (
            "firefox-esr",
            "--headless",
            "--no-remote",
            "--profile",
            str(profile),
            page.as_uri(),
        )
        async with started(*argv, env=filtered.environment):

            async def plays():
                listed = await server.pactl("list", "sink-inputs")
                return 'vitrail.sandbox = "work"' in listed and "Corked: no" in listed

            await until(plays, deadline=90)
            async with hearing(server) as heard:

                async def loud():
                    return "[work] " in await server.pactl("list", "sink-inputs")

                await until(loud)
            assert abs(heard.hertz - 440) < 3, heard.hertz
            assert "Refused" not in filtered.log.read_text()
