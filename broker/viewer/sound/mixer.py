"""The mixer's socket of one sandbox: state, volume, mute, microphone.

The process that runs a sandbox's filter (the broker, ``brokerctl proxy pulse``)
serves this on a socket of the user's own, ``sound/NAME`` in the runtime directory:
one JSON object in a line asks, one answers.  A changed microphone is answered
when it is so, not when it is on its way.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import UpstreamError, VitrailError
from broker.core.limits import sound as pulse_limits
from broker.core.paths import find_paths, require_private
from broker.core.streams.sound_rules import Level
from broker.net.addresses import UnixEndpoint
from broker.net.listeners import open_listener
from broker.net.peers.control_peers import why_not_served
from broker.net.peers.peer_process import peer_numbers

FOLDER = "sound"


def desks_folder() -> Path:
    """Return the directory of this user's mixer sockets.

    Raises SetupError, also where others could put sockets there.
    """
    paths = find_paths()
    # guard: a mixer is looked for where the user alone puts sockets
    require_private(paths)
    return paths.runtime / FOLDER


LINE_BYTES = 4096


class SoundStatus(msgspec.Struct, frozen=True):
    """A sandbox's row in a mixer.  Its texts are escaped."""

    sandbox: str
    volume: int
    muted: bool
    streams: int
    idle: int
    """Those of them that have played nothing for a while."""
    rule: str
    """The microphone's: deny, ask or allow."""
    wanted: bool = False
    allowed: bool = False
    active: bool = False
    application: str = ""
    source: str = ""
    missing: str = ""


class MixerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question or an order; a field that is None stays as it is."""

    volume: int | None = None
    muted: bool | None = None
    microphone: bool | None = None


class MixerReply(msgspec.Struct, frozen=True):
    """The answer."""

    status: SoundStatus | None = None
    error: str = ""
    hint: str = ""


class Desk(Protocol):
    """The process that runs a sandbox's sound filter, as the mixer's socket uses it."""

    def status(self) -> SoundStatus:
        """How it is now."""
        ...

    async def set_level(self, level: Level) -> None:
        """Set the sandbox's volume, and store it."""
        ...

    async def set_microphone(self, *, allow: bool) -> None:
        """Allow or end the microphone; returns when that is done.  Raises RefusedError."""
        ...


async def serve_desk(directory: Path, name: str, desk: Desk) -> None:
    """Serve a sandbox's mixer socket until cancelled.

    Raises SetupError where the name is served already.  Creates the directory, and the
    socket ``name`` in it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = await open_listener(UnixEndpoint(directory / name))
    places = trio.Semaphore(pulse_limits.MIXER_CONNECTIONS)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                # guard: a mixer has a bounded number of connections
                await places.acquire()
                try:
                    conn = await listener.accept()
                except UpstreamError:
                    places.release()
                    await trio.sleep(0.1)  # out of descriptors: look again
                    continue
                nursery.start_soon(_serve_one, conn, desk, places)
    finally:
        listener.close()


async def _serve_one(conn: socket.socket, desk: Desk, places: trio.Semaphore) -> None:
    """Answer one client of the mixer to its end."""
    try:
        await _serve_lines(conn, desk)
    finally:
        places.release()


async def _serve_lines(conn: socket.socket, desk: Desk) -> None:
    """Answer a client's lines, if it is the user's or root's."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
    uid = peer_numbers(conn)[1]
    async with stream:
        if uid not in {0, os.getuid()} or why_not_served(conn.fileno()):
            return
        buffer = b""
        with suppress(trio.BrokenResourceError, trio.TooSlowError):
            while True:
                with trio.fail_after(limits.CONTROL_IDLE_SECONDS):
                    data = await stream.receive_some(LINE_BYTES)
                buffer += data
                if not data or len(buffer) > LINE_BYTES:
                    return
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    await _reply(stream, await _answer(bytes(line), desk))


async def _reply(stream: trio.SocketStream, reply: MixerReply) -> None:
    with trio.fail_after(limits.CONTROL_REPLY_SECONDS):
        await stream.send_all(msgspec.json.encode(reply) + b"\n")


async def _answer(line: bytes, desk: Desk) -> MixerReply:
    """Carry out one request to the mixer; return the reply."""
    try:
        ask = msgspec.json.decode(line, type=MixerRequest)
        now = desk.status()
        if ask.volume is not None or ask.muted is not None:
            volume = now.volume if ask.volume is None else ask.volume
            if not 0 <= volume <= pulse_limits.PULSE_VOLUME:
                return MixerReply(error="the volume must be between 0 and 65536")
            muted = now.muted if ask.muted is None else ask.muted
            await desk.set_level(Level(volume, muted))
        if ask.microphone is not None:
            await desk.set_microphone(allow=ask.microphone)
        return MixerReply(status=desk.status())
    except UNREADABLE as error:
        return MixerReply(error=f"invalid request: {error}")
    except VitrailError as error:
        return MixerReply(error=error.message, hint=error.hint)
    except OSError as error:
        return MixerReply(error=f"cannot store the level: {error.strerror}")
