"""One sandbox cannot do more with the sound server than play its streams.

Real servers, the filter as a separate process, and clients that send what they
like in the protocol's own bytes.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from pathlib import Path

import pytest
import trio

from broker.core.limits import sound as limits
from broker.jail.sound.commands import REFUSED as ALL_REFUSED
from tests.kit.eventually import eventually
from tests.kit.sound.hostile import (
    INVALID,
    RECORD,
    REFUSED,
    Hostile,
    properties,
    text,
    truth,
    u32,
    volume,
)
from tests.kit.sound.servers import hearing, proxy, sound_server, started, tone

both = pytest.mark.parametrize(
    "kind", ["pulseaudio", pytest.param("pipewire", marks=pytest.mark.long)]
)


def resident(pid: int) -> int:
    """Memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


def filter_pid(child) -> int:
    """The program after setpriv, which replaced itself."""
    return child.pid


def test_the_list_of_refused_commands_is_whole():
    assert set(REFUSED) == set(ALL_REFUSED)


@both
async def test_every_refused_command_is_refused_and_changes_nothing(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        before = [
            await server.pactl("list", "short", what)
            for what in ("modules", "sinks", "sources")
        ]

        def attack() -> None:
            evil = Hostile(filtered.path)
            assert evil.flags == 0  # it offered shared memory
            evil.play()
            for number, fields in REFUSED.items():
                assert evil.error(number, fields) == 1, number
            assert evil.ask(20)[0] == 2  # and it goes on
            evil.close()

        await trio.to_thread.run_sync(attack)
        after = [
            await server.pactl("list", "short", what)
            for what in ("modules", "sinks", "sources")
        ]
        assert [line.count("\n") for line in before] == [
            line.count("\n") for line in after
        ]
        assert "evil" not in after[1]

        def all_are_told() -> bool:
            return filtered.log.read_text().count("Refused: ") >= len(REFUSED)

        await eventually(all_are_told)  # the worker reports some times a second


@both
async def test_another_programs_stream_cannot_be_touched_by_any_number(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        song = tone(server.directory / "song.wav", 1000, 30)
        async with started("paplay", str(song), env=server.environment):

            async def plays():
                return "Sink Input #" in await server.pactl("list", "sink-inputs")

            await eventually(plays)

            def attack() -> None:
                evil = Hostile(filtered.path)
                for index in [*range(130), INVALID]:
                    for number, fields in [
                        (37, u32(index) + volume(0, 0)),
                        (69, u32(index) + truth(True)),
                        (29, u32(index)),
                        (31, u32(index)),
                    ]:
                        assert evil.error(number, fields) == 1
                    if index:
                        error = evil.error(21, u32(index) + text("viewer"))
                        assert error == (5 if index == INVALID else 1)
                said, listed = evil.ask(30)
                assert (said, listed) == (2, b"")
                evil.close()

            await trio.to_thread.run_sync(attack)
            listed = await server.pactl("list", "sink-inputs")
            assert "Mute: no" in listed
            assert "100%" in listed


@both
async def test_recording_every_way_gives_no_byte(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:

        def attack() -> None:
            evil = Hostile(filtered.path)
            assert evil.error(5, RECORD) == 1
            monitor = RECORD.replace(b"N", text("viewer.monitor"), 1)
            assert evil.error(5, monitor) == 1
            for index in range(70):
                assert evil.error(5, RECORD.replace(u32(INVALID), u32(index), 1)) == 1
            evil.close()

        await trio.to_thread.run_sync(attack)
        assert "Source Output" not in await server.pactl("list", "source-outputs")


BROKEN = {
    "garbage": os.urandom(4096),
    "shared memory": struct.pack(">IIqI", 16, INVALID, 0, 0x80000000) + bytes(16),
    "memfd block": struct.pack(">IIqI", 16, 0, 0, 0xC0000000) + bytes(16),
    "revoke": struct.pack(">IIqI", 0, 0, 0, 0x40000000),
    "empty command": struct.pack(">IIqI", 0, INVALID, 0, 0),
    "huge command": struct.pack(">IIqI", limits.PULSE_COMMAND_BYTES + 1, INVALID, 0, 0),
    "huge samples": struct.pack(">IIqI", limits.PULSE_SAMPLES_BYTES + 1, 0, 0, 0),
    "no tag": struct.pack(">IIqI", 5, INVALID, 0, 0) + u32(20),
    "unknown": struct.pack(">IIqI", 10, INVALID, 0, 0) + u32(105) + u32(1),
    "a server's": struct.pack(">IIqI", 20, INVALID, 0, 0) + u32(61) + u32(1) + u32(0) + u32(9),
    "trailing": struct.pack(">IIqI", 15, INVALID, 0, 0) + u32(20) + u32(1) + u32(0),
    "second hello": struct.pack(">IIqI", 12, INVALID, 0, 0) + u32(9) + u32(1) + b"PN",
    "open text": struct.pack(">IIqI", 12, INVALID, 0, 0) + u32(10) + u32(1) + b"tx",
}  # fmt: skip


@pytest.mark.parametrize("handshake", [True, False], ids=["ready", "stranger"])
async def test_malformed_bytes_end_their_own_connection_only(handshake):
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:

        def attack() -> None:
            neighbour = Hostile(filtered.path)
            neighbour.play()
            for name, data in BROKEN.items():
                evil = Hostile(filtered.path, handshake=handshake)
                evil.sock.sendall(data)
                if name == "garbage" and not handshake:
                    evil.sock.shutdown(1)
                assert evil.ended(), name
                evil.close()
                assert neighbour.ask(20)[0] == 2
            neighbour.close()

        await trio.to_thread.run_sync(attack)


@pytest.mark.long
@both
async def test_a_flood_is_stopped_and_a_neighbour_hears_no_gap(kind):
    async with sound_server(kind) as server, proxy(server) as filtered:
        song = tone(server.directory / "song.wav", 1000, 2)
        floods = 0

        def attack() -> None:
            nonlocal floods
            for _ in range(4):
                evil = Hostile(filtered.path)
                channel = evil.play()
                block = bytes(1 << 16)
                try:
                    for _ in range(1000):
                        evil.frame(channel, block)
                except (BrokenPipeError, ConnectionResetError):
                    floods += 1
                evil.close()

        async with hearing(server) as heard, trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, attack)
            await server.run("paplay", str(song))
        assert floods == 4  # each was ended long before its 64 MB
        assert abs(heard.hertz - 1000) < 2
        assert heard.gaps() <= 8
        assert (
            "more samples than the sound server requested" in filtered.log.read_text()
        )


def _stream(rate=48000, flags=b"0" * 7, corked=False) -> bytes:
    """CREATE_PLAYBACK_STREAM with a buffer of 4 MiB, mono of 32 bits."""
    spec = b"a\x05\x01" + struct.pack(">I", rate) + b"m\1\0"
    size = u32(INVALID) + truth(corked) + u32(4 << 20) + u32(0) + u32(4)
    lone = u32(0) + volume(65536) + flags + b"00"
    return spec + u32(INVALID) + text(None) + size + lone + properties(media_name="x")


def _rewind_half_a_sample(evil: Hostile, channel: int) -> None:
    for offset in range(-40001, -40100, -1):
        evil.frame(channel, bytes(400), 0, offset)


def _change_the_rate(evil: Hostile, channel: int) -> None:
    for rate in (1, 191999, 7, 4000, 192000, 1):
        evil.ask(74, u32(channel) + u32(rate))
        evil.frame(channel, bytes(4000))


_KILLERS = {
    "half a sample": ({}, _rewind_half_a_sample),
    "a rate that falls": ({"rate": 192000, "flags": b"0000001"}, _change_the_rate),
    "a rate that is fixed": ({}, _change_the_rate),
}


@both
async def test_no_client_ends_the_sound_server(kind):
    """Each of these ended PulseAudio 16.1 by an assertion, unfiltered."""
    async with sound_server(kind) as server, proxy(server) as filtered:
        before = await server.pactl("list", "short", "modules")

        def attack(options, act) -> None:
            evil = Hostile(filtered.path)
            try:
                made, body = evil.ask(3, _stream(**options))
                if made == 2:
                    (channel,) = struct.unpack(">xI", body[:5])
                    evil.frame(channel, bytes(64000))
                    evil.frame(channel, bytes(64000))
                    act(evil, channel)
                    evil.ask(20)
            except (OSError, EOFError):
                pass  # it was hung up on
            finally:
                evil.close()

        for options, act in _KILLERS.values():
            await trio.to_thread.run_sync(attack, options, act)
            assert await server.pactl("list", "short", "modules") == before


@pytest.mark.long
async def test_small_frames_do_not_fill_the_sound_server():
    """PulseAudio keeps 144 bytes for each frame, whatever is in it."""
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:
        pid = await _process_of(server)
        frame = struct.pack(">IIqI", 4, 0, 0, 0) + bytes(4)

        def attack() -> None:
            evil = [Hostile(filtered.path) for _ in range(2)]
            for one in evil:
                assert one.ask(3, _stream(corked=True))[0] == 2
                for _ in range(20):
                    one.sock.sendall(frame * 10000)
                    one.ask(20)
            grown.append(resident(pid) - before)
            for one in evil:
                one.close()

        grown: list[int] = []
        before = resident(pid)
        await trio.to_thread.run_sync(attack)
        assert grown[0] < 16 << 20  # unfiltered 56 MiB


async def _process_of(server) -> int:
    """The sound server that listens there, as the kernel says."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(server.socket))
        who = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iII", who)[0])


@pytest.mark.long
async def test_memory_stays_bounded_whatever_is_sent_and_not_read():
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:
        pid = filter_pid(filtered.child)

        def attack() -> None:
            evil = [Hostile(filtered.path) for _ in range(8)]
            for one in evil:
                one.sock.settimeout(0.5)
                try:
                    for _ in range(3000):  # a big answer each, and none is read
                        one.command(22)
                        one.command(69, u32(0) + truth(True))
                except TimeoutError:
                    pass
            for one in evil:
                one.close()

        await filtered.run("pactl", "info")
        before = resident(pid)
        await trio.to_thread.run_sync(attack)
        assert resident(pid) - before < 24 << 20
        await filtered.run("pactl", "info")


@pytest.mark.long
async def test_connections_above_the_limit_are_refused_at_once():
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:

        def attack() -> None:
            evil = [Hostile(filtered.path) for _ in range(limits.PULSE_CONNECTIONS)]
            late = Hostile(filtered.path, handshake=False)
            assert late.ended()
            late.close()
            evil.pop().close()
            for one in evil:
                assert one.ask(20)[0] == 2
                one.close()

        await trio.to_thread.run_sync(attack)


@pytest.mark.long
async def test_a_stranger_who_says_nothing_is_hung_up_on():
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:

        def attack() -> None:
            quiet = [Hostile(filtered.path, handshake=False) for _ in range(4)]
            for one in quiet:
                assert one.ended()
                one.close()

        with trio.fail_after(limits.PULSE_HANDSHAKE_SECONDS + 60):
            await trio.to_thread.run_sync(attack)


async def test_names_cannot_drive_a_terminal_or_pass_for_another_sandbox():
    async with (
        sound_server("pulseaudio") as server,
        proxy(server, name="work") as filtered,
    ):

        def attack() -> Hostile:
            evil = Hostile(filtered.path)
            evil.play()
            name = "[bank] \x1b[2J\u202egnp"
            said, _ = evil.ask(
                82, u32(0) + properties(application_name=name, target_object="x")
            )
            assert said == 2
            return evil

        evil = await trio.to_thread.run_sync(attack)
        listed = await server.pactl("list", "clients")
        assert '"[work] [bank] _[2J_gnp"' in listed
        assert "target.object" not in listed
        evil.close()


@pytest.mark.long
async def test_random_frames_of_a_ready_client():
    rng = random.Random(7)
    async with sound_server("pulseaudio") as server, proxy(server) as filtered:

        def attack() -> None:
            for _ in range(150):
                evil = Hostile(filtered.path)
                try:
                    for _ in range(20):
                        body = (
                            u32(rng.randrange(110))
                            + u32(1)
                            + rng.randbytes(rng.randrange(60))
                        )
                        evil.frame(rng.choice([INVALID, INVALID, 0, 3]), body)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                evil.close()

        await trio.to_thread.run_sync(attack)
        await filtered.run("pactl", "info")
