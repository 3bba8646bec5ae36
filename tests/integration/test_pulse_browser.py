"""Browsers: a page that sounds, and one that asks for the microphone."""

from __future__ import annotations

import pytest
import trio

from tests.integration.test_pulse_microphone import audio
from tests.kit.eventually import eventually
from tests.kit.sound.browser import BROWSERS, browser, page
from tests.kit.sound.servers import (
    SERVERS,
    Heard,
    hearing,
    microphone,
    proxy,
    sound_server,
    started,
    tone,
)

LABELS = {"firefox-esr": "Vitrail microphone", "chromium": "Default"}
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


async def heard_at_440(server):
    async def plays():
        listed = await server.pactl("list", "sink-inputs")
        return 'vitrail.sandbox = "work"' in listed and "Corked: no" in listed

    await eventually(plays, deadline=120)
    async with hearing(server) as heard:

        async def named():
            return "[work] " in await server.pactl("list", "sink-inputs")

        await eventually(named, deadline=60)
        await trio.sleep(3)  # some seconds of it
    # A busy machine drops pieces, which bends the tone of the whole: one
    # half second as it should be will do.
    half = 48000 * 4 // 2
    pieces = [heard.data[at : at + half] for at in range(0, len(heard.data), half)]
    found = [Heard(piece).hertz for piece in pieces]
    assert any(abs(hertz - 440) < 3 for hertz in found), found


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("name", BROWSERS)
async def test_a_page_is_heard_and_finds_no_microphone(kind, name):
    async with sound_server(kind) as server, proxy(server) as filtered:
        await microphone(server)
        with page() as told:
            async with browser(name, filtered, told.address("play&record")):
                await heard_at_440(server)
                assert await told.hears("microphone") == "NotFoundError"
        assert "vitrail.sandbox" not in await server.pactl("list", "source-outputs")
        assert "CREATE_RECORD_STREAM" not in filtered.log.read_text()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("name", BROWSERS)
async def test_a_page_hears_silence_then_the_voice_then_silence(kind, name):
    ask = ("--microphone", "ask", "--control")
    async with sound_server(kind) as server, proxy(server, *ask) as filtered:
        await microphone(server)
        voice = tone(server.directory / "voice.wav", 600, 300)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        with page() as told:
            async with talks, browser(name, filtered, told.address("record")):
                assert await told.hears("microphone") == LABELS[name]
                await told.peaks(lambda peak: peak == 0)
                assert "vitrail.sandbox" not in await server.pactl(
                    "list", "source-outputs"
                )
                await filtered.allow_microphone()
                await told.peaks(lambda peak: peak > 0.1)
                await audio(server, "microphone", "work", "deny")
                # The page continues, and hears nothing.
                await told.peaks(lambda peak: peak == 0)
                assert "ended" not in told.said
                assert "vitrail.sandbox" not in await server.pactl(
                    "list", "source-outputs"
                )
