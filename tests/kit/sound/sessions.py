"""Recorded sessions of real clients with real sound servers: seeds for fuzzing.

    python -m tests.kit.sound.sessions DIRECTORY

records them again, from clients and servers that are installed here.  Samples
are cut short; commands are kept as they were.  A file is lines of hex: the
client's frames, one in a line.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import trio

from tests.kit.sound.servers import SERVERS, run, sound_server, tone

ROOT = Path(__file__).resolve().parents[2] / "corpus/pulse"
_KEPT = 64
_FRAMES = 200

CLIENTS = {
    "paplay": "paplay {wav}",
    "pacat-20ms": "pacat --latency-msec=20 --rate=48000 {wav}",
    "parec": "timeout 1 parec",
    "pactl-list": "pactl list",
    "pactl-info": "pactl info",
    "pactl-load": "pactl load-module module-null-sink",
    "pactl-volume": "pactl set-sink-volume @DEFAULT_SINK@ 50%",
    "subscribe": "timeout 1 pactl subscribe",
    "mpv": "mpv --no-config --no-video --really-quiet --ao=pulse --volume=50 {wav}",
    "ffmpeg-out": "ffmpeg -loglevel quiet -i {wav} -f pulse out",
    "ffmpeg-in": "ffmpeg -loglevel quiet -f pulse -i default -t 1 -f null -",
    "sox": "sox -q {wav} -t pulseaudio default",
    "aplay": "aplay -q -D pulse {wav}",
}


def load(path: Path) -> list[bytes]:
    """The frames of a session."""
    return [bytes.fromhex(line) for line in path.read_text().split()]


def all_sessions() -> dict[str, list[bytes]]:
    """Every recorded session by name."""
    return {path.stem: load(path) for path in sorted(ROOT.glob("*.session"))}


def split(data: bytes) -> list[bytes]:
    """Whole frames; samples are cut to a few."""
    found, pos = [], 0
    while len(data) - pos >= 20 and len(found) < _FRAMES:
        size, channel = struct.unpack_from(">II", data, pos)
        frame = data[pos : pos + 20 + size]
        if channel != 0xFFFFFFFF and size > _KEPT:
            frame = struct.pack(">I", _KEPT) + frame[4 : 20 + _KEPT]
        if len(frame) >= 20 + min(size, _KEPT):
            found.append(frame)
        pos += 20 + size
    return found


async def _record(kind: str, name: str, words: str, folder: Path) -> None:
    async with sound_server(kind) as server, trio.open_nursery() as nursery:
        wav = tone(server.directory / "tone.wav", seconds=0.5)
        said: list[bytearray] = []
        path = server.directory / "recorded.sock"
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen(8)

        async def carry(client: trio.SocketStream) -> None:
            mine = bytearray()
            said.append(mine)
            there = await trio.open_unix_socket(server.socket)
            async with client, there, trio.open_nursery() as both:

                async def up() -> None:
                    async for data in client:
                        mine.extend(data)
                        await there.send_all(data)
                    both.cancel_scope.cancel()

                both.start_soon(up)
                async for data in there:
                    await client.send_all(data)
                both.cancel_scope.cancel()

        nursery.start_soon(trio.serve_listeners, carry, [trio.SocketListener(sock)])
        env = server.environment | {"PULSE_SERVER": f"unix:{path}"}
        await run(*words.format(wav=wav).split(), env=env, check=False)
        nursery.cancel_scope.cancel()
    for number, data in enumerate(said):
        # 32 hexadecimal digits are the machine's id, which must not be published.
        clean = re.sub(rb"[0-9a-f]{32}\0", b"0" * 32 + b"\0", bytes(data))
        frames = split(clean)
        if len(frames) > 1:
            file = folder / f"{name}-{kind}-{number}.session"
            file.write_text("".join(f"{frame.hex()}\n" for frame in frames))


async def _main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in SERVERS:
        for name, words in CLIENTS.items():
            try:
                await _record(kind, name, words, folder)
            except* (OSError, trio.BrokenResourceError) as group:
                print(name, kind, group.exceptions)


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]))
