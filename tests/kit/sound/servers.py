"""Real sound servers without a sound card, and what can be heard of them.

``async with sound_server("pipewire")`` (or ``"pulseaudio"``) gives a server that
has a null sink called ``viewer``; ``hear`` records its monitor and
``Heard`` describes its tones.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import struct
import sys
import wave
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, Child, has_ended, spawn
from broker.ipc.control.api import SoundRequest
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import SOUND
from tests.kit.brokerctl import paths_of
from tests.kit.eventually import eventually, ready
from tests.kit.listening import takes_connections
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import short_directory

SERVERS = ("pipewire", "pulseaudio")
RATE = 48000
_START_SECONDS = 60  # four daemons that wait for each other, on a busy machine
_NEEDED = {
    "pipewire": ("pipewire", "wireplumber", "pipewire-pulse", "dbus-daemon"),
    "pulseaudio": ("pulseaudio",),
}
_TOOLS = ("pactl", "paplay", "parec", "pacat")


@dataclass
class Server:
    """A running sound server."""

    kind: str
    directory: Path
    environment: dict[str, str]
    child: Child | None = None
    """pulseaudio's process."""

    @property
    def socket(self) -> Path:
        """Its native socket."""
        return self.directory / "run/pulse/native"

    @property
    def brokerctl(self) -> dict[str, str]:
        """Further variables that brokerctl needs when run from a checkout."""
        path = os.pathsep.join(p for p in sys.path if p)
        return {"PYTHONPATH": path, "PYTHONDEVMODE": "1", "COLUMNS": "200"}

    async def run(self, *argv: str, check: bool = True, deadline: float = 30, env=None):
        """Run a program beside it; returns its exit code and output."""
        return await run(
            *argv, env=self.environment | (env or {}), check=check, deadline=deadline
        )

    async def pactl(self, *words: str) -> str:
        """A pactl command straight to it."""
        return (await self.run("pactl", *words)).out


@dataclass
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str
    data: bytes = b""


async def run(*argv: str, env, check=True, deadline=30.0) -> Done:
    """Run a program to its end."""
    child = spawn(list(argv), env=env, stdout=PIPE, stderr=PIPE)
    words: dict[str, bytes] = {}

    async def read(name: str, pipe) -> None:
        with pipe:
            words[name] = await trio.to_thread.run_sync(pipe.read)

    try:
        with trio.fail_after(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, "out", child.popen.stdout)
                nursery.start_soon(read, "err", child.popen.stderr)
                code = await child.wait()
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
    done = Done(
        code,
        words["out"].decode(errors="replace"),
        words["err"].decode(errors="replace"),
        words["out"],
    )
    if check:
        assert code == 0, (argv, done)
    return done


@asynccontextmanager
async def started(*argv: str, env, stdout=DEVNULL, stderr=DEVNULL):
    """A program that runs as long as the block does."""
    child = spawn(list(argv), env=env, stdout=stdout, stderr=stderr)
    try:
        yield child
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
        for pipe in (child.popen.stdout, child.popen.stderr):
            if pipe is not None:
                pipe.close()


def needs(kind: str) -> None:
    """Skip, with the reason, where that server is not installed."""
    missing = [p for p in (*_NEEDED[kind], *_TOOLS) if shutil.which(p) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (.ci/packages-sound)")


@asynccontextmanager
async def sound_server(kind: str, *, config: str = ""):
    """A running server with a null sink 'viewer', which is the default."""
    ordinary_user()
    needs(kind)
    async with AsyncExitStack() as stack:
        base = stack.enter_context(short_directory())
        runtime = base / "run"
        runtime.mkdir(mode=0o700)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(base),
            "XDG_RUNTIME_DIR": str(runtime),
            "LANG": "C.UTF-8",
        }
        server = Server(kind, base, environment)
        if kind == "pipewire":
            await _pipewire(stack, server)
        else:
            await _pulseaudio(stack, server)
        yield server


async def _answers(server: Server) -> None:
    async def asked() -> bool:
        done = await server.run("pactl", "info", check=False)
        return done.code == 0

    async def socket() -> bool:
        return takes_connections(server.socket)

    await eventually(socket, deadline=_START_SECONDS)
    await eventually(asked, deadline=_START_SECONDS)


async def _pipewire(stack: AsyncExitStack, server: Server) -> None:
    bus = server.directory / "run/bus"
    env = server.environment
    env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"
    argv = ("dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}")
    await stack.enter_async_context(started(*argv, env=env))

    async def there() -> bool:
        return takes_connections(bus)

    await eventually(there, deadline=_START_SECONDS)
    await stack.enter_async_context(started("pipewire", env=env))

    async def connectable() -> bool:
        return (await server.run("pw-cli", "info", "0", check=False)).code == 0

    # A client exits at once if no server listens on the socket.
    await eventually(connectable, deadline=_START_SECONDS)
    for program in ("wireplumber", "pipewire-pulse"):
        await stack.enter_async_context(started(program, env=env))
    await _answers(server)
    await server.pactl("load-module", "module-null-sink", "sink_name=viewer")
    await _default(server, "sink", "viewer")


async def _default(server: Server, kind: str, name: str) -> None:
    """Make it the default; wireplumber takes such wishes a moment after it is up."""

    async def done() -> bool:
        words = ("pactl", f"set-default-{kind}", name)
        return (await server.run(*words, check=False)).code == 0

    await eventually(done, deadline=_START_SECONDS)


async def _pulseaudio(stack: AsyncExitStack, server: Server) -> None:
    argv = (
        *("pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"),
        *("--disable-shm=yes", "-L", "module-native-protocol-unix"),
        *("-L", "module-null-sink sink_name=viewer rate=48000"),
        *("-L", "module-always-source", "-L", "module-stream-restore"),
    )  # fmt: skip
    started_server = started(*argv, env=server.environment)
    server.child = await stack.enter_async_context(started_server)
    await _answers(server)


async def restart_pulseaudio(stack: AsyncExitStack, server: Server) -> None:
    """End a pulseaudio, and start another one with the same socket."""
    await server.child.stop()
    await _pulseaudio(stack, server)


async def microphone(server: Server, name: str = "mic") -> None:
    """A source that is not a monitor: it gives the sound of the sink ``<name>feed``."""
    await server.pactl("load-module", "module-null-sink", f"sink_name={name}feed")
    await _default(server, "sink", "viewer")
    await server.pactl(
        *("load-module", "module-remap-source", f"master={name}feed.monitor"),
        *(f"source_name={name}", "channels=2", "rate=48000"),
    )  # fmt: skip
    await _default(server, "source", name)


# -- signals ---------------------------------------------------------------------


def tone(path: Path, hertz: float = 1000.0, seconds: float = 2.0, level=0.5) -> Path:
    """A sine in a WAV file, stereo, 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        at = np.arange(int(RATE * seconds)) / RATE
        one = (np.sin(2 * math.pi * hertz * at) * level * 32767).astype("<i2")
        file.writeframes(np.repeat(one, 2).tobytes())
    return path


@dataclass
class Heard:
    """A recording: 48 kHz, stereo, 16 bits."""

    data: bytes

    @property
    def samples(self) -> np.ndarray:
        """The left channel, -1 to 1."""
        whole = len(self.data) - len(self.data) % 4
        both = np.frombuffer(self.data[:whole], dtype="<i2")
        return both[::2].astype(float) / 32768

    def sounding(self, floor: float = 0.01) -> np.ndarray:
        """The part from the first to the last sound."""
        loud = np.nonzero(np.abs(self.samples) > floor)[0]
        return self.samples[loud[0] : loud[-1] + 1] if len(loud) else self.samples[:0]

    @property
    def seconds(self) -> float:
        """How long it sounded."""
        return len(self.sounding()) / RATE

    @property
    def hertz(self) -> float:
        """The loudest frequency, to a fraction of the resolution."""
        part = self.sounding()
        if len(part) < RATE // 10:
            return 0.0
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        spectrum[:20] = 0
        peak = int(spectrum.argmax())
        if not 0 < peak < len(spectrum) - 1:
            return 0.0
        a, b, c = np.log(spectrum[peak - 1 : peak + 2] + 1e-12)
        return (peak + 0.5 * (a - c) / (a - 2 * b + c)) * RATE / len(part)

    @property
    def level(self) -> float:
        """The amplitude of a sine as loud as this (median of 20 ms pieces)."""
        part = self.sounding()
        size = RATE // 50
        pieces = part[: len(part) // size * size].reshape(-1, size)
        if not len(pieces):
            return 0.0
        return float(np.median(np.sqrt((pieces**2).mean(axis=1))) * math.sqrt(2))

    def gaps(self, floor: float = 0.01) -> int:
        """Silent pieces of 5 ms within the sounding part."""
        part = self.sounding(floor)
        size = RATE // 200
        pieces = part[: len(part) // size * size].reshape(-1, size)
        return int((np.abs(pieces).max(axis=1) < floor).sum()) if len(pieces) else 0


@asynccontextmanager
async def hearing(server: Server, device: str = "viewer.monitor"):
    """Records while the block runs; ``Heard`` is filled at its end."""
    heard = Heard(b"")
    path = server.directory / f"heard-{os.urandom(4).hex()}"
    argv = (
        *("parec", "-d", device, "--format=s16le", "--rate=48000", "--channels=2"),
        *("--latency-msec=20", "--raw"),
    )  # fmt: skip
    with path.open("wb") as file:
        async with started(
            *argv, env=server.environment, stdout=file.fileno()
        ) as child:
            await ready(child, lambda: path.stat().st_size > 0)
            yield heard
            size = path.stat().st_size

            async def more() -> bool:
                # The last samples arrive with a short delay.
                return path.stat().st_size > size + RATE * 4 // 2

            await eventually(more)
    heard.data = path.read_bytes()


# -- the filter ------------------------------------------------------------------

BROKERCTL = (sys.executable, "-m", "broker.cli.app")


@asynccontextmanager
async def proxy(server: Server, *options: str, name: str = "work"):
    """A filter in front of it (``filter_process``): an environment for its clients."""
    path = server.directory / f"filtered-{os.urandom(4).hex()}"
    log = server.directory / f"{path.name}.log"
    env = server.environment | server.brokerctl
    argv = (
        *(sys.executable, "-m", "tests.kit.sound.filter_process", "--sandbox", name),
        *("--listen", str(path), "--server", str(server.socket), *options),
    )  # fmt: skip
    with log.open("wb") as file:
        async with started(
            *argv, env=env, stdout=DEVNULL, stderr=file.fileno()
        ) as child:
            await ready(child, lambda: takes_connections(path), output=log)
            home = server.directory / f"guest-{path.name}"
            home.mkdir()
            made = Filtered(server, name, path, log, child, {
                "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
                "XDG_RUNTIME_DIR": str(home), "PULSE_SERVER": f"unix:{path}",
            })  # fmt: skip
            yield made
            assert made.ended or not has_ended(child.pidfd), log.read_text()
    text = log.read_text()
    assert "Traceback" not in text, text


@dataclass
class Filtered:
    """A running filter and what its clients need to know."""

    server: Server
    name: str
    path: Path
    log: Path
    child: Child
    environment: dict[str, str]
    ended: bool = False

    async def end(self) -> None:
        """End the filter as a person would."""
        self.ended = True
        self.child.kill(signal.SIGTERM)
        await self.child.wait()

    async def allow_microphone(self) -> None:
        """Allow the microphone, as a rule would; the filter was started with --control."""
        async with open_client(paths_of(self.server.environment).control) as client:
            await client.call(SOUND, SoundRequest(sandbox=self.name, microphone=True))

    async def run(self, *argv: str, check: bool = True, deadline: float = 30, env=None):
        """Run a client through the filter."""
        return await run(
            *argv, env=self.environment | (env or {}), check=check, deadline=deadline
        )


class Recorder:
    """parec through a filter, and its output so far."""

    def __init__(self, child: Child, path: Path) -> None:
        self.child = child
        self._path = path

    @classmethod
    @asynccontextmanager
    async def at(cls, filtered: Filtered):
        """A recorder that runs while the block does."""
        path = filtered.server.directory / f"recorded-{os.urandom(4).hex()}"
        argv = ("parec", "--format=s16le", "--rate=48000", "--channels=2")
        env = filtered.environment
        with path.open("wb") as file:
            small = "--latency-msec=20"
            async with started(*argv, small, env=env, stdout=file.fileno()) as child:
                yield cls(child, path)

    @property
    def data(self) -> bytes:
        """All that was recorded."""
        return self._path.read_bytes()

    async def more(self, count: int) -> None:
        """Wait until so many bytes more have come."""
        size = self._path.stat().st_size + count

        async def come() -> bool:
            return self._path.stat().st_size >= size

        await eventually(come)

    async def until_sound(self) -> None:
        """Wait until the recorded sound is not silence."""

        async def loud() -> bool:
            return np.abs(Heard(self.data[-19200:]).samples).max(initial=0) > 0.1

        await eventually(loud)


def frame(channel: int, payload: bytes, flags: int = 0, offset: int = 0) -> bytes:
    """A frame, by the book and not by the code under test."""
    return struct.pack(">IIQI", len(payload), channel, offset, flags) + payload
