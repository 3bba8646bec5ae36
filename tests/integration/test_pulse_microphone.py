"""A real source with a known signal, a real recorder, and the person between."""

from __future__ import annotations

import json
import os
import socket

import numpy as np
import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.sound.servers import (
    BROKERCTL,
    Heard,
    Recorder,
    Server,
    microphone,
    proxy,
    sound_server,
    started,
    tone,
)
from tests.kit.wayland.compositor import short_directory

both = pytest.mark.parametrize(
    "kind", ["pulseaudio", pytest.param("pipewire", marks=pytest.mark.long)]
)


async def audio(server, *words: str, check=True):
    """A brokerctl audio command in the person's session."""
    env = server.environment | server.brokerctl
    return await server.run(*BROKERCTL, "audio", *words, env=env, check=check)


async def outputs(server) -> str:
    return await server.pactl("list", "source-outputs")


async def listed(server):
    return json.loads((await audio(server, "list", "--json")).out)


async def test_the_mixer_reports_a_server_that_does_not_answer():
    with short_directory() as base:
        (base / "run/pulse").mkdir(parents=True, mode=0o700)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(base),
            "XDG_RUNTIME_DIR": str(base / "run"),
        }
        nobody = Server("pulseaudio", base, environment)
        absent = await audio(nobody, "list", check=False)
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(nobody.socket))
        refused = await audio(nobody, "list", check=False)
    for done, what in (
        (absent, f"no sound server has a socket at {nobody.socket}"),
        (
            refused,
            f"sound server at {nobody.socket} does not answer: Connection refused",
        ),
    ):
        assert done.code == 1
        assert what in done.err
        assert "hint: start pipewire-pulse" in done.err


@both
async def test_granted_heard_revoked_silent(kind):
    ask = ("--microphone", "ask", "--control")
    async with sound_server(kind) as server, proxy(server, *ask) as filtered:
        await microphone(server)
        voice = tone(server.directory / "voice.wav", 600, 60)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        async with talks, Recorder.at(filtered) as recorder:
            await recorder.more(96000)
            assert set(recorder.data) == {0}
            assert 'vitrail.sandbox = "work"' not in await outputs(server)
            assert (await listed(server))["sandboxes"][0]["wanted"]

            await filtered.allow_microphone()
            await recorder.until_sound()
            await recorder.more(96000)
            assert 'vitrail.sandbox = "work"' in await outputs(server)
            assert (await listed(server))["sandboxes"][0]["active"]
            start = len(recorder.data)
            await recorder.more(96000)
            assert abs(Heard(recorder.data[start:]).hertz - 600) < 3

            await audio(server, "microphone", "work", "deny")
            # The answer has come, and all before it was taken: parec
            # writes its samples to its file within the next pieces.
            await recorder.more(2 * 3840)
            start = len(recorder.data) // 4 * 4
            await recorder.more(192000)
            assert set(recorder.data[start:]) == {0}
            assert 'vitrail.sandbox = "work"' not in await outputs(server)
            assert not (await listed(server))["sandboxes"][0]["active"]


@pytest.mark.long
@both
async def test_revoked_with_an_end(kind):
    options = ("--microphone", "allow", "--revoked", "end", "--control")
    async with sound_server(kind) as server, proxy(server, *options) as filtered:
        await microphone(server)
        voice = tone(server.directory / "voice.wav", 600, 60)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        async with talks, Recorder.at(filtered) as recorder:
            await recorder.until_sound()
            assert "vitrail.mic" in (await filtered.run("pactl", "list", "sources")).out
            await audio(server, "microphone", "work", "deny")
            with trio.fail_after(60):
                assert await recorder.child.wait() != 0
            assert (
                "Source #" not in (await filtered.run("pactl", "list", "sources")).out
            )
            done = await filtered.run("parec", check=False)
            assert "Access denied" in done.err


@both
async def test_denied_means_not_a_byte(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        await microphone(server)
        voice = tone(server.directory / "voice.wav", 600, 60)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        async with talks:
            for words in (["parec"], ["parec", "-d", "mic"], ["parec", "-d", "0"]):
                done = await filtered.run(*words, check=False)
                assert (done.code, done.data) == (1, b"")


@pytest.mark.long
async def test_a_desktop_without_a_microphone_gives_no_monitor():
    async with sound_server("pulseaudio") as server:
        allow = ("--microphone", "allow", "--control")
        async with proxy(server, *allow) as filtered, Recorder.at(filtered) as recorder:
            song = tone(server.directory / "song.wav", 600, 60)
            async with started("paplay", str(song), env=server.environment):
                await recorder.more(192000)
                assert set(recorder.data) == {0}
                assert "monitor" in (await listed(server))["sandboxes"][0]["missing"]


# -- the mixer -------------------------------------------------------------------------


@pytest.mark.long
@both
async def test_volume_and_mute_hold_live_and_over_a_reconnect(kind):
    async with (
        sound_server(kind) as server,
        proxy(server, "--control") as filtered,
    ):
        song = tone(server.directory / "song.wav", 1000, 60)

        async def loudness():
            found = [
                s for s in (await listed(server))["streams"] if s["sandbox"] == "work"
            ]
            return [(round(s["volume"], -2), s["muted"]) for s in found]

        async def sounds(*wanted):
            async def look():
                return await loudness() == list(wanted)

            await eventually(look)

        async with started("paplay", str(song), env=filtered.environment):
            await sounds((65500, False))
            await audio(server, "volume", "work", "50")
            await sounds((32800, False))
            await audio(server, "mute", "work")
            await sounds((32800, True))
            seen = (await filtered.run("pactl", "list", "sink-inputs")).out
            assert "Mute: no" in seen
            assert "100%" in seen
            number = seen.partition("Sink Input #")[2].split()[0]
            await filtered.run("pactl", "set-sink-input-mute", number, "0")
            await sounds((32800, True))
        async with started("paplay", str(song), env=filtered.environment):
            await sounds((32800, True))
            await audio(server, "unmute", "work")
            await sounds((32800, False))
            # The filter ends; the settings are kept for the next one.
        await filtered.end()
        async with proxy(server, "--control") as again:
            player = started("paplay", str(song), env=again.environment)
            async with player:
                await sounds((32800, False))


@pytest.mark.long
async def test_a_stream_that_plays_nothing_counts_as_idle():
    async with (
        sound_server("pulseaudio") as server,
        proxy(server, "--idle", "1", "--control") as filtered,
    ):
        # It opens a stream and waits for samples that never come.
        argv = ("sh", "-c", "sleep 60 | pacat --rate=48000")
        async with started(*argv, env=filtered.environment):

            async def idle():
                found = (await listed(server))["sandboxes"]
                return found and (found[0]["streams"], found[0]["idle"]) == (1, 1)

            await eventually(idle)
            assert "(1 idle)" in (await audio(server, "list")).out


@pytest.mark.long
async def test_a_muted_stream_is_not_heard():
    from tests.kit.sound.servers import hearing

    async with (
        sound_server("pulseaudio") as server,
        proxy(server, "--control") as filtered,
    ):
        song = tone(server.directory / "song.wav", 1000, 1)
        await audio(server, "mute", "work")
        async with hearing(server) as heard:
            await filtered.run("paplay", str(song))
        assert np.abs(heard.samples).max() == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["volume", "work", "101"],
        ["microphone", "work", "maybe"],
        ["volume", "Wo!", "5"],
    ],
)
async def test_a_mistyped_command_is_an_error(words):
    async with sound_server("pulseaudio") as server:
        done = await audio(server, *words, check=False)
        assert done.code in {1, 2}
        assert done.err


async def test_the_three_states_are_seen_while_they_change():
    """'audio list --watch' shows wanted, allowed and active, as they come and go."""
    async with sound_server("pulseaudio") as server:
        await microphone(server)
        log = server.directory / "watched"

        def states() -> list[tuple[bool, bool, bool]]:
            found: list[tuple[bool, bool, bool]] = []
            whole = log.read_text().rpartition("\n")[0]
            for line in whole.splitlines():
                for one in json.loads(line)["sandboxes"]:
                    state = (one["wanted"], one["allowed"], one["active"])
                    if not found or found[-1] != state:
                        found.append(state)
            return found

        async def seen(*state: bool) -> None:
            async def look() -> bool:
                return states()[-1:] == [state]

            await eventually(look, deadline=60)

        env = server.environment | server.brokerctl
        argv = (*BROKERCTL, "audio", "list", "--json", "--watch")
        async with proxy(server, "--microphone", "ask", "--control") as filtered:
            with log.open("wb") as file:
                watch = started(*argv, env=env, stdout=file.fileno())
                async with watch:
                    await seen(False, False, False)
                    async with Recorder.at(filtered) as recorder:
                        await recorder.more(3840)
                        await seen(True, False, False)
                        await filtered.allow_microphone()
                        await seen(True, True, True)
                        await audio(server, "microphone", "work", "deny")
                        await seen(True, False, False)
                    await seen(False, False, False)
