"""Bug reports of sound in sandboxes and bridges, replayed: docs/reports.md."""

from __future__ import annotations

import re
import sys

import pytest

from tests.kit.needs import needs
from tests.kit.sound.servers import hearing, proxy, run, sound_server, tone

pytestmark = [
    needs("pacat", "pulseaudio-utils"),
    pytest.mark.slow,
    pytest.mark.timeout(120),
]
both = pytest.mark.parametrize(
    "kind", ["pulseaudio", pytest.param("pipewire", marks=pytest.mark.long)]
)
METRICS = re.compile(r"maxlength=(\d+), tlength=(\d+), prebuf=(\d+), minreq=(\d+)")
DRAINED = """
import ctypes, struct, math
class Spec(ctypes.Structure):
    _fields_ = [("format", ctypes.c_int), ("rate", ctypes.c_uint32), ("channels", ctypes.c_uint8)]
lib, error = ctypes.CDLL("libpulse-simple.so.0"), ctypes.c_int()
lib.pa_simple_new.restype = ctypes.c_void_p
spec = Spec(3, 48000, 2)
stream = ctypes.c_void_p(lib.pa_simple_new(
    None, b"kodi", 1, None, b"music", ctypes.byref(spec), None, None, ctypes.byref(error)))
assert stream, error
tone = b"".join(struct.pack("<hh", *[int(16000 * math.sin(n * 0.1309))] * 2) for n in range(48000))
for call, *words in (
    ("write", tone, len(tone)), ("drain",),  # the end of a film
    ("write", tone, len(tone)), ("flush",),  # a seek
    ("write", tone, len(tone)), ("drain",),
):
    assert getattr(lib, "pa_simple_" + call)(stream, *words, ctypes.byref(error)) == 0, call
print("played")
"""


@both
async def test_a_program_with_shared_memory_is_heard(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        settings = server.directory / "client.conf"
        settings.write_text("enable-shm = yes\nenable-memfd = yes\nautospawn = no\n")
        wav = tone(server.directory / "tone.wav")
        env = filtered.environment | {"PULSE_CLIENTCONFIG": str(settings)}
        async with hearing(server) as heard:
            await run("paplay", str(wav), env=env, deadline=60)
        assert abs(heard.hertz - 1000) < 2, heard.hertz
        assert "Refused" not in filtered.log.read_text()


@both
async def test_a_stream_that_was_drained_or_flushed_plays_on(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        async with hearing(server) as heard:
            words = (sys.executable, "-c", DRAINED)
            done = await run(*words, env=filtered.environment, deadline=60)
        assert done.out == "played\n"
        assert abs(heard.hertz - 1000) < 5, heard.hertz
        assert heard.seconds > 1.6, "the first second, and the one after the seek"


@both
async def test_a_program_has_the_latency_that_it_asks_for(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        raw = server.directory / "raw"
        raw.write_bytes(b"\0" * 96000)
        form = ("--format=s16le", "--rate=48000", "--channels=2")
        for asked in ("--latency-msec=20", "--latency-msec=500"):
            found = []
            for env in (server.environment, filtered.environment):
                words = ("pacat", "-v", "--raw", *form, asked, str(raw))
                done = await run(*words, env=env, deadline=60)
                found.append(METRICS.search(done.err).groups())
            assert found[0] == found[1], "maxlength, tlength, prebuf, minreq"
