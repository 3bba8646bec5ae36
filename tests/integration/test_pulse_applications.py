"""Programs beside the plain clients: GStreamer, ALSA's recorder, a mixer, daemons.

What each does here is what the table in docs/sound.md says of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import has_ended
from tests.integration.test_pulse_clients import in_tune
from tests.kit.eventually import eventually
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
from tests.kit.wayland.compositor import desktop, wait_window

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
both = pytest.mark.parametrize("kind", SERVERS)
RECORDERS = {
    "gst-launch-1.0": (
        *("gst-launch-1.0", "-q", "pulsesrc", "num-buffers={seconds}00", "!"),
        *("audio/x-raw,format=S16LE,rate=48000,channels=2", "!"),
        *("filesink", "location={out}"),
    ),
    "arecord": (
        *("arecord", "-q", "-D", "pulse", "-f", "S16_LE", "-r", "48000", "-c", "2"),
        *("-t", "raw", "-d", "{seconds}", "{out}"),
    ),
    "ffmpeg": (
        *(
            "ffmpeg",
            "-loglevel",
            "error",
            "-f",
            "pulse",
            "-i",
            "default",
            "-t",
            "{seconds}",
        ),
        *("-f", "s16le", "-y", "{out}"),
    ),
}


def installed(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")


@both
async def test_gstreamer_plays(kind):
    installed("gst-launch-1.0")
    async with sound_server(kind) as server, proxy(server) as filtered:
        wav = tone(server.directory / "tone.wav")
        words = f"filesrc location={wav} ! wavparse ! audioconvert ! pulsesink"
        async with hearing(server) as heard:
            await filtered.run("gst-launch-1.0", "-q", *words.split(), deadline=60)
        in_tune(heard)
        assert "Refused" not in filtered.log.read_text()


@both
@pytest.mark.parametrize("program", RECORDERS)
async def test_a_recorder_is_denied_or_hears_silence_and_ends_well(kind, program):
    installed(program)
    async with sound_server(kind) as server:
        await microphone(server)
        voice = tone(server.directory / "voice.wav", 600, 120)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        out = server.directory / "out"
        words = [word.format(out=out, seconds=1) for word in RECORDERS[program]]
        async with talks:
            async with proxy(server) as filtered:
                done = await filtered.run(*words, check=False, deadline=60)
                assert done.code != 0
                assert not out.exists() or not out.stat().st_size
            async with proxy(server, "--microphone", "ask", name="asks") as filtered:
                await filtered.run(*words, deadline=60)
                assert out.stat().st_size >= 96000
                assert set(out.read_bytes()) == {0}
            async with proxy(server, "--microphone", "allow", name="may") as filtered:
                # Servers take a second or two to open a source that slept.
                words = [w.format(out=out, seconds=6) for w in RECORDERS[program]]
                await filtered.run(*words, deadline=60)
                heard = Heard(out.read_bytes())
                assert abs(heard.hertz - 600) < 3, heard.hertz


@both
async def test_a_mixer_in_the_sandbox_sees_its_own_streams_only(kind):
    installed("pavucontrol", "sway")
    async with (
        desktop() as comp,
        sound_server(kind) as server,
        proxy(server) as filtered,
    ):
        song = tone(server.directory / "song.wav", 1000, 120)
        names = ("WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")
        screen = {name: comp.environment[name] for name in names}
        env = filtered.environment | screen | {"GDK_BACKEND": "wayland"}
        async with (
            started(
                "paplay", "--client-name=secret", str(song), env=server.environment
            ),
            started("paplay", str(song), env=filtered.environment),
            started("pavucontrol", env=env) as mixer,
        ):
            await wait_window(comp, title="Volume Control", deadline=60)

            async def is_there():
                # Its first look around is over when it is among the clients.
                seen = (await filtered.run("pactl", "list", "clients")).out
                return seen if "Volume Control" in seen else ""

            seen = await eventually(is_there, deadline=60)
            assert "secret" not in seen
            own = (await filtered.run("pactl", "list", "sink-inputs")).out
            assert own.count("Sink Input #") == 1
            await trio.sleep(2)  # it measures levels for a while
            assert not has_ended(mixer.pidfd)
            outputs = await server.pactl("list", "source-outputs")
            assert "vitrail.sandbox" not in outputs


@pytest.mark.parametrize("inside", SERVERS)
@both
async def test_a_sound_daemon_in_the_sandbox_plays_through_its_tunnel(kind, inside):
    """A sandbox with a separate sound server: its sound goes to ours."""
    async with (
        sound_server(kind) as server,
        proxy(server) as filtered,
        sound_server(inside) as guest,
    ):
        await guest.pactl(
            *("load-module", "module-tunnel-sink", f"server=unix:{filtered.path}"),
            "sink_name=out",
        )
        wav = tone(guest.directory / "tone.wav", seconds=4)

        async def connected():
            return "[work] " in await server.pactl("list", "sink-inputs")

        async with hearing(server) as heard:
            play = ("paplay", "-d", "out", str(wav))
            await guest.run(*play, deadline=60)
            await eventually(connected, deadline=60)
        assert abs(heard.hertz - 1000) < 2, heard.hertz
        assert heard.seconds > 2


@both
async def test_what_speaks_pipewire_only_plays_through_the_tunnel(kind):
    installed("pw-play")
    async with (
        sound_server(kind) as server,
        proxy(server) as filtered,
        sound_server("pipewire") as guest,
    ):
        # As docs/sound.md says it.
        await guest.pactl(
            *("load-module", "module-tunnel-sink", f"server=unix:{filtered.path}"),
            "sink_name=out",
        )
        wav = tone(guest.directory / "tone.wav", seconds=4)
        async with hearing(server) as heard:
            await guest.run("pw-play", "--target=out", str(wav), deadline=60)
        assert abs(heard.hertz - 1000) < 2, heard.hertz
        assert heard.seconds > 2


ASOUNDRC = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


@both
async def test_alsas_default_can_be_the_sandboxs_sink(kind):
    installed("aplay", "arecord")
    page = (Path(__file__).parents[2] / "docs/sound.md").read_text()
    assert ASOUNDRC.strip() in page
    async with sound_server(kind) as server, proxy(server) as filtered:
        (server.directory / ".asoundrc").write_text(ASOUNDRC)
        wav = tone(server.directory / "tone.wav")
        async with hearing(server) as heard:
            await filtered.run("aplay", "-q", str(wav))
        in_tune(heard)
        done = await filtered.run("arecord", "-q", "-d", "1", "/dev/null", check=False)
        assert done.code != 0, "there is no microphone"


@both
@pytest.mark.parametrize("module", ["module-tunnel-sink", "module-native-protocol-tcp"])
async def test_no_way_out_is_opened_in_the_viewers_server(kind, module):
    async with sound_server(kind) as server, proxy(server) as filtered:
        words = ("load-module", module, "server=tcp:127.0.0.1:9")
        done = await filtered.run("pactl", *words, check=False)
        assert done.code != 0
        assert "Access denied" in done.err
        assert module not in await server.pactl("list", "short", "modules")
