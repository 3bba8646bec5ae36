"""Real clients, the filter as a process, and both real sound servers."""

from __future__ import annotations

import shutil

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.sound.servers import (
    SERVERS,
    hearing,
    proxy,
    sound_server,
    started,
    tone,
)

both = pytest.mark.parametrize(
    "kind", ["pulseaudio", pytest.param("pipewire", marks=pytest.mark.long)]
)


def in_tune(heard, hertz=1000.0, seconds=2.0, level=0.5):
    assert abs(heard.hertz - hertz) < 2, heard.hertz
    # Gaps of a busy machine make it longer.
    assert seconds - 0.4 < heard.seconds < seconds + 2, heard.seconds
    assert abs(heard.level - level) < 0.02, heard.level


RARE = {"mpv", "pacat", "sox", "aplay", "ffmpeg"}
PLAYERS = [
    ["paplay", "{wav}"],
    ["pacat", "--format=s16le", "--rate=48000", "--channels=2", "--latency-msec=20", "{raw}"],
    ["ffmpeg", "-loglevel", "error", "-i", "{wav}", "-af", "apad=pad_dur=2", "-f", "pulse", "out"],
    ["sox", "-q", "{wav}", "-t", "pulseaudio", "default"],
    ["mpv", "--no-config", "--no-video", "--really-quiet", "--ao=pulse", "{wav}"],
    ["aplay", "-q", "-D", "pulse", "{wav}"],
]  # fmt: skip


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    "player",
    [
        pytest.param(words, marks=[pytest.mark.long] if words[0] in RARE else [])
        for words in PLAYERS
    ],
    ids=lambda words: words[0],
)
async def test_a_tone_is_heard(kind, player):
    if shutil.which(player[0]) is None:
        pytest.skip(f"not installed: {player[0]}")
    async with sound_server(kind) as server, proxy(server) as filtered:
        wav = tone(server.directory / "tone.wav")
        raw = server.directory / "tone.raw"
        raw.write_bytes(wav.read_bytes()[44:])
        words = [word.format(wav=wav, raw=raw) for word in player]
        gaps = []
        for _ in range(3):
            async with hearing(server) as heard:
                await filtered.run(*words)
            in_tune(heard)
            gaps.append(heard.gaps())
            if not gaps[-1]:
                return
        # A busy machine has gaps without a filter, too: one run without will do,
        # or three with a piece or two of 5 ms.
        assert min(gaps) <= 4, gaps


@both
async def test_what_pactl_sees_and_may_do(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        info = (await filtered.run("pactl", "info")).out
        assert "Default Sink: vitrail" in info
        assert "User Name: user" in info
        listed = (await filtered.run("pactl", "list")).out
        assert listed.count("Sink #") == 1
        assert "Source #" not in listed
        assert "Module #" not in listed
        assert listed.count("Client #") == 1
        assert "viewer\n" not in listed.replace("Vitrail viewer", "")
        for words in [
            ["load-module", "module-null-sink"],
            ["unload-module", "1"],
            ["set-default-sink", "viewer"],
            ["set-sink-volume", "vitrail", "10%"],
            ["set-sink-mute", "vitrail", "1"],
            ["suspend-sink", "vitrail", "1"],
            ["move-sink-input", "1", "vitrail"],
            ["set-card-profile", "0", "off"],
            ["play-sample", "x"],
            ["remove-sample", "x"],
            ["exit"],
        ]:
            done = await filtered.run("pactl", *words, check=False)
            assert done.code != 0, words
            assert "Access denied" in done.err or "No such entity" in done.err, (
                words,
                done,
            )
        assert "viewer" in await server.pactl("get-default-sink")


@both
async def test_a_stream_carries_its_label_and_others_are_not_seen(kind):
    async with sound_server(kind) as server, proxy(server, name="mail") as filtered:
        wav = tone(server.directory / "tone.wav", seconds=20)
        own = started(
            "paplay",
            "--property=target.object=evil",
            str(wav),
            env=filtered.environment,
        )
        other = started(
            "paplay", "--client-name=secret-call", str(wav), env=server.environment
        )
        async with own, other:

            async def both_play():
                real = await server.pactl("list", "sink-inputs")
                return real if real.count("Sink Input #") == 2 else ""

            real = await eventually(both_play)
            assert 'application.name = "[mail] paplay"' in real
            assert 'vitrail.sandbox = "mail"' in real
            assert "evil" not in real
            seen = (await filtered.run("pactl", "list", "sink-inputs")).out
            assert seen.count("Sink Input #") == 1
            assert "paplay" in seen
            assert "secret-call" not in seen
            clients = (await filtered.run("pactl", "list", "clients")).out
            assert clients.count("Client #") == 2
            assert "secret-call" not in clients
            number = seen.partition("Sink Input #")[2].split()[0]
            await filtered.run("pactl", "set-sink-input-volume", number, "300%")
            real = await server.pactl("list", "sink-inputs")
            assert "300%" not in real
            muted = await filtered.run("pactl", "set-sink-input-mute", number, "1")
            assert muted.code == 0, muted

            async def is_muted():
                return "Mute: yes" in await server.pactl("list", "sink-inputs")

            # The server answers before its sink's thread has the value.
            await eventually(is_muted)


@pytest.mark.long
@both
async def test_subscribe_tells_of_own_streams_only(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        wav = tone(server.directory / "tone.wav", seconds=0.3)
        log = server.directory / "subscribed"
        with log.open("wb") as file:
            watch = started(
                "pactl", "subscribe", env=filtered.environment, stdout=file.fileno()
            )
            async with watch:

                async def sees_a_stream():
                    await filtered.run("paplay", str(wav))
                    return "'remove' on sink-input" in log.read_text()

                await eventually(sees_a_stream)
                before = log.read_text().count("'new' on sink-input")
                await server.run("paplay", "--client-name=secret", str(wav))
                await filtered.run("paplay", str(wav))

                async def sees_another():
                    return log.read_text().count("'new' on sink-input") > before

                await eventually(sees_another)
        text = log.read_text()
        assert text.count("'new' on sink-input") == before + 1
        assert {line.split()[3] for line in text.splitlines() if line} <= {
            "sink-input",
            "client",
        }


@both
@pytest.mark.parametrize(
    "words",
    [
        ["parec"],
        ["parec", "-d", "viewer.monitor"],
        ["parec", "-d", "@DEFAULT_MONITOR@"],
    ],
    ids=["default", "monitor", "default-monitor"],
)
async def test_recording_is_denied_by_default(kind, words):
    async with sound_server(kind) as server, proxy(server) as filtered:
        done = await filtered.run(*words, check=False)
        assert done.code != 0
        assert "Access denied" in done.err
        assert done.data == b""
        assert "Source Output" not in await server.pactl("list", "source-outputs")


@both
async def test_silence_instead_of_a_microphone_comes_at_the_right_pace(kind):
    ask = ("--microphone", "ask")
    async with sound_server(kind) as server, proxy(server, *ask) as filtered:
        path = server.directory / "recorded"
        with path.open("wb") as file:
            argv = (
                "parec",
                "--format=s16le",
                "--rate=48000",
                "--channels=2",
                "--latency-msec=20",
            )
            async with started(*argv, env=filtered.environment, stdout=file.fileno()):

                async def some():
                    return path.stat().st_size

                await eventually(some)
                size, since = path.stat().st_size, trio.current_time()

                async def a_second():
                    return path.stat().st_size >= size + 192000

                await eventually(a_second)
                bytes_now, seconds = path.stat().st_size, trio.current_time() - since
                assert "Source Output" not in await server.pactl(
                    "list", "source-outputs"
                )
        data = path.read_bytes()
        assert set(data) == {0}
        # By what has come, not by when this test looked: it may look late.
        pace = (bytes_now - size) / seconds / 192000
        assert 0.5 < pace < 1.25, pace


@pytest.mark.long
async def test_the_end_of_the_server_ends_its_clients_and_not_the_filter():
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:
        wav = tone(server.directory / "tone.wav", seconds=20)
        async with started("paplay", str(wav), env=filtered.environment) as player:

            async def plays():
                return "Sink Input" in await server.pactl("list", "sink-inputs")

            await eventually(plays)
            await server.pactl("exit")
            with trio.fail_after(60):
                assert await player.wait() != 0
        done = await filtered.run("pactl", "info", check=False)
        assert done.code != 0
        # The server takes its socket with it.
        gone = f"no sound server has a socket at {server.socket}"
        assert gone in filtered.log.read_text()


async def test_a_crowd_that_comes_at_once_is_let_in():
    """PulseAudio's queue of callers holds five; more have to wait, not fail."""
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:
        done = []

        async def one() -> None:
            done.append(await filtered.run("pactl", "info", check=False, deadline=60))

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(15):
                    nursery.start_soon(one)
        assert {one.code for one in done} == {0}, filtered.log.read_text()
