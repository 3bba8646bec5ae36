"""Sound of a real machine, through the whole chain, at the viewer's sink."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.sound.servers import (
    hearing,
    microphone,
    needs,
    sound_server,
    started,
    tone,
)
from tests.kit.world import record, world

AUDIO_TABLE = '[audio]\nplayback = "allow"\nmicrophone = "allow"\n'

pytestmark = requires("pactl")

# A guest without libpulse: the protocol from nothing.
HEAD = """
import math, os, socket, struct, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["XDG_RUNTIME_DIR"] + "/pulse/native")
def L(n): return b"L" + struct.pack(">I", n)
def prop(**p):
    out = b"P"
    for k, v in p.items():
        k, v = k.replace("_", ".").encode(), v.encode() + b"\\0"
        out += b"t" + k + b"\\0" + L(len(v)) + b"x" + struct.pack(">I", len(v)) + v
    return out + b"N"
def read(n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        assert more
        data += more
    return data
def frame():
    size, channel = struct.unpack(">II", read(20)[:8])
    return channel, read(size)
def command(number, tag, fields):
    body = L(number) + L(tag) + fields
    sock.sendall(struct.pack(">IIIII", len(body), 0xffffffff, 0, 0, 0) + body)
credit = 0
def wait(tag):
    global credit
    while True:
        _, body = frame()
        number, got = struct.unpack(">xIxI", body[:10])
        if number == 61:
            credit += struct.unpack(">xIxI", body[10:20])[1]
            if tag is None:
                return
        elif got == tag:
            assert number == 2, ("refused", body[10:])
            return body[10:]
command(8, 1, L(13) + b"x" + struct.pack(">I", 256) + bytes(256)); wait(1)
command(9, 2, prop(application_name="tone")); wait(2)
"""
TONE = (
    HEAD
    + """
fields = b"a\\3\\2" + struct.pack(">I", 48000) + b"m\\2\\1\\2" + L(0xffffffff) + b"N"
fields += L(0xffffffff) + b"0" + L(0xffffffff) * 3 + L(0) + b"v\\2" + struct.pack(">II", 65536, 65536)
fields += b"0" * 7 + b"00" + prop(media_name="a tone")
command(3, 3, fields); reply = wait(3)
credit += struct.unpack(">xI", reply[10:15])[0]
rate, seconds, hertz = 48000, float(sys.argv[2]), float(sys.argv[1])
pcm = b"".join(
    struct.pack("<hh", *(2 * (int(16000 * math.sin(2 * math.pi * hertz * i / rate)),)))
    for i in range(int(rate * seconds))
)
while pcm:
    while credit <= 0:
        wait(None)
    piece = min(credit, 3600, len(pcm))
    piece -= piece % 4
    sock.sendall(struct.pack(">IIIII", piece, 0, 0, 0, 0) + pcm[:piece])
    credit -= piece; pcm = pcm[piece:]
command(12, 4, L(0)); wait(4)
print("played")
"""
)
# Records for some seconds; prints the loudest sample of each 100 ms.
LISTEN = (
    HEAD
    + """
fields = b"a\\3\\2" + struct.pack(">I", 48000) + b"m\\2\\1\\2" + L(0xffffffff) + b"N"
fields += L(0xffffffff) + b"0" + L(19200) + b"0" * 7 + b"00" + prop(media_name="rec") + L(0xffffffff)
command(5, 3, fields); wait(3)
data, want = b"", int(float(sys.argv[1]) * 192000)
while len(data) < want:
    channel, body = frame()
    if channel != 0xffffffff:
        data += body
for at in range(0, want - 19199, 19200):
    piece = data[at:at + 19200]
    print(max(abs(x) for x in struct.unpack("<%dh" % (len(piece) // 2), piece)))
"""
)


@asynccontextmanager
async def desk(kind, *, records, image=True, program="broker.programs.local"):
    """A world whose broker plays on a separate real sound server."""
    needs(kind)
    made = world(records, start=False, image=image, program=program)
    async with sound_server(kind) as server, made as w:
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        await w.start()
        yield w, server


def in_tune(heard, hertz, seconds):
    assert abs(heard.hertz - hertz) < 2, heard.hertz
    assert abs(heard.seconds - seconds) < 0.4, heard.seconds


@pytest.mark.parametrize(
    "kind", ["pipewire", pytest.param("pulseaudio", marks=pytest.mark.long)]
)
async def test_a_tone_of_a_machine_is_heard_and_carries_its_name(kind):
    records = {"app": record("persistent", top='audio = "allow"\n')}
    async with desk(kind, records=records) as (w, server):
        async with hearing(server) as heard:
            code, said = await w.output("app", "python3", "-c", TONE, "700", "2")
            ends = [
                e["reason"] for e in w.events(service="vitrail.Audio") if "reason" in e
            ]
            assert code == 0, (said.decode(), ends)
        in_tune(heard, 700, 2)
        assert heard.gaps() <= 8
        closed = await w.wait_event("stream.closed", service="vitrail.Audio")
        assert closed["bytes_from_sandbox"] > 2 * 192000


@pytest.mark.long
async def test_without_audio_in_the_record_there_is_none():
    async with desk("pulseaudio", records={"app": record("persistent")}) as (w, _):
        code, said = await w.output("app", "python3", "-c", TONE, "700", "1")
        assert code != 0, said
        denied = w.events("decision", service="vitrail.Audio", verdict="deny")
        assert 'audio = "none"' in denied[-1]["reason"]


RULE = "vitrail.AudioInput * app @adminvm {verdict}\n"


@pytest.mark.long
async def test_a_rule_gives_the_microphone_and_takes_it_from_a_live_recording():
    records = {"app": record("persistent", top=AUDIO_TABLE)}
    needs("pulseaudio")
    made = world(records, start=False)
    async with sound_server("pulseaudio") as server, made as w:
        await microphone(server)
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        folder = w.write_rules(RULE.format(verdict="allow")).parent
        await w.start()
        voice = tone(server.directory / "voice.wav", 600, 120)
        said = []

        async def listen():
            said.append(await w.output("app", "python3", "-c", LISTEN, "12"))

        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        async with talks, trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await w.wait_event("microphone.on", deadline=90)
            await trio.sleep(3)  # it is heard for a while
            new = folder / ".new"
            new.write_text(RULE.format(verdict="deny"))
            new.rename(folder / "30-mine.policy")
            await w.wait_event("microphone.off", deadline=60)

            async def closed():
                return "vitrail.sandbox" not in await server.pactl(
                    "list", "source-outputs"
                )

            await eventually(closed)
        code, out = said[0]
        assert code == 0, out.decode()
        loud = [int(word) > 3000 for word in out.decode().split()]
        assert sum(loud) > 10
        last = len(loud) - loud[::-1].index(True)
        assert len(loud) - last > 20, "no silence after the revoke"
        on = w.events("decision", service="vitrail.AudioInput")
        assert on[0]["verdict"] == "allow"


@pytest.mark.long
async def test_libpulse_in_a_machine_finds_the_filter_by_itself():
    needs("pipewire")
    packages = (*DEFAULT_PACKAGES, "pulseaudio-utils")
    await build_image(find_paths(), ImageSpec(name="sound", packages=packages), print)
    text = record("persistent", top='audio = "allow"\n', launch='image = "sound"')
    async with desk("pipewire", records={"app": text}) as (w, server):
        make = (
            "import math,struct,sys;sys.stdout.buffer.write(b''.join(struct.pack('<hh',*(2*("
            "int(16000*math.sin(2*math.pi*700*i/48000)),))) for i in range(96000)))"
        )
        play = f'python3 -c "{make}" > /tmp/t; paplay --raw --rate=48000 --channels=2 /tmp/t; pactl info'
        async with hearing(server) as heard:
            code, said = await w.output("app", "sh", "-c", play)
        assert code == 0, said.decode()
        in_tune(heard, 700, 2)
        assert b"Default Sink: vitrail" in said
        code, said = await w.output("app", "pactl", "load-module", "module-null-sink")
        assert code != 0
        assert b"Access denied" in said


# The same, of a sandbox that tries until it may.
PATIENT = LISTEN.replace(
    "command(5, 3, fields); wait(3)",
    """
import time
tag = 3
while True:
    try:
        command(5, tag, fields); wait(tag)
        break
    except AssertionError:
        tag += 1
        time.sleep(0.1)
""",
)
MICROPHONE = '[audio]\nplayback = "allow"\nmicrophone = "{}"\n'


@pytest.mark.long
async def test_a_record_opens_and_closes_the_microphone_of_a_running_worker():
    def text(word):
        return record("persistent", top=MICROPHONE.format(word))

    needs("pulseaudio")
    made = world({"app": text("deny")}, start=False)
    async with sound_server("pulseaudio") as server, made as w:
        await microphone(server)
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        w.write_rules(RULE.format(verdict="allow"))
        await w.start()
        code, said = await w.output("app", "python3", "-c", LISTEN, "1")
        assert code != 0, said
        assert b"refused" in said
        worker = await w.pid_of("worker", "app")
        said = []

        async def listen():
            said.append(await w.output("app", "python3", "-c", PATIENT, "12"))

        voice = tone(server.directory / "voice.wav", 600, 240)
        talks = started("paplay", "-d", "micfeed", str(voice), env=server.environment)
        async with talks, trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            w.write_record("app", text("allow"))
            await w.wait_event("microphone.on", deadline=120)
            await trio.sleep(3)  # it is heard for a while
            w.write_record("app", text("deny"))
            await w.wait_event("microphone.off", deadline=60)
        code, out = said[0]
        assert code == 0, out.decode()
        loud = [int(word) > 3000 for word in out.decode().split()]
        assert sum(loud) > 10
        last = len(loud) - loud[::-1].index(True)
        assert len(loud) - last > 20, "no silence after the record has changed"
        assert await w.pid_of("worker", "app") == worker
