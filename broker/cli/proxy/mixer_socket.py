"""The mixer's socket of ``brokerctl proxy pulse``: state, volume, mute, microphone.

It is a socket of the user's own, ``sound/NAME`` in the runtime directory: one JSON object
in a line asks, one answers.  A broker serves its sandboxes' sound at the control socket.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import UpstreamError, VitrailError
from broker.core.limits import sound as pulse_limits
from broker.core.paths import find_paths, require_private
from broker.ipc.control.types.sound import SoundRequest, SoundStatus
from broker.net.addresses import UnixEndpoint
from broker.net.listeners import open_listener
from broker.net.peers.control_peers import log_refusal, why_not_served
from broker.net.peers.peer_process import peer_numbers
from broker.viewer.sound.mixer import Desk, change_sound

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


class MixerReply(msgspec.Struct, frozen=True):
    """The answer."""

    status: SoundStatus | None = None
    error: str = ""
    hint: str = ""


async def serve_desk(directory: Path, name: str, mixer: Desk) -> None:
    """Serve a sandbox's mixer socket until cancelled.

    Raises SetupError where the name is served already.  Creates the directory, and the
    socket ``name`` in it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = await open_listener(UnixEndpoint(directory / name))
    slots = trio.Semaphore(pulse_limits.MIXER_CONNECTIONS)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                # guard: a mixer has a bounded number of connections
                await slots.acquire()
                try:
                    conn = await listener.accept()
                except UpstreamError:
                    slots.release()
                    await trio.sleep(0.1)  # out of descriptors: look again
                    continue
                nursery.start_soon(_serve_one, conn, mixer, slots)
    finally:
        listener.close()


async def _serve_one(conn: socket.socket, mixer: Desk, slots: trio.Semaphore) -> None:
    """Answer one client of the mixer to its end."""
    try:
        await _serve_lines(conn, mixer)
    finally:
        slots.release()


async def _serve_lines(conn: socket.socket, mixer: Desk) -> None:
    """Answer a client's lines, if it is the user's or root's."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
    uid = peer_numbers(conn)[1]
    async with stream:
        reason = why_not_served(conn.fileno())
        if reason is not None or uid not in {0, os.getuid()}:
            log_refusal("the mixer", conn, reason or f"it runs as user {uid}")
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
                    await _reply(stream, await _answer(bytes(line), mixer))


async def _reply(stream: trio.SocketStream, reply: MixerReply) -> None:
    with trio.fail_after(limits.CONTROL_REPLY_SECONDS):
        await stream.send_all(msgspec.json.encode(reply) + b"\n")


async def _answer(line: bytes, mixer: Desk) -> MixerReply:
    """Carry out one request to the mixer; return the reply."""
    try:
        request = msgspec.json.decode(line, type=SoundRequest)
        return MixerReply(status=await change_sound(mixer, request))
    except UNREADABLE as error:
        return MixerReply(error=f"invalid request: {error}")
    except VitrailError as error:
        return MixerReply(error=error.message, hint=error.hint)
