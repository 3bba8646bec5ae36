"""The same relay inside trio's loop: the reference the pump is tested against.

Written apart from the pump's code on purpose: one conformance suite runs
against both.  It waits first and splices then, so a message costs no EAGAIN;
pipes of 256 KiB make up for trio's dearer wake-ups.  Slower than the pump and
held up by everything else the program does (docs/relay.md), so nothing but
tests uses it.

Differences: splice only, and it cannot watch for a side's disappearance
alone, so a side that closed altogether is noticed at the next write to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass, field

import trio

from broker.ipc.pump import EndReason, RelayMode, Side, StreamEnd

_PIPE_BYTES = 262144
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


@dataclass(eq=False)
class _State:
    """State that both directions and the idle watcher share."""

    scope: trio.CancelScope
    active: float
    delivered: dict[Side, int] = field(default_factory=lambda: {Side.A: 0, Side.B: 0})
    reason: EndReason = EndReason.END
    errno: int = 0
    failed: Side = Side.NONE

    def fail(self, error: OSError, side: Side) -> bool:
        """Note the first error; true when a peer's going caused it."""
        gone = error.errno in {errno.EPIPE, errno.ECONNRESET}
        if not self.errno:
            self.reason = EndReason.RESET if gone else EndReason.ERROR
            self.errno, self.failed = error.errno or errno.EIO, side
        return gone


async def relay_in_loop(
    a_fd: int, b_fd: int, *, idle_seconds: float | None = None
) -> StreamEnd:
    """Relay between two stream sockets, as ``Pump.relay`` does.

    Takes ownership of both descriptors in every outcome.
    """
    with socket.socket(fileno=a_fd) as a, socket.socket(fileno=b_fd) as b:
        a.settimeout(0)
        b.settimeout(0)
        try:
            async with trio.open_nursery() as both:
                state = _State(both.cancel_scope, trio.current_time())
                async with trio.open_nursery() as ways:
                    if idle_seconds is not None:
                        both.start_soon(_watch_idle, state, idle_seconds)
                    ways.start_soon(_one_way, state, a, b, Side.A, Side.B)
                    ways.start_soon(_one_way, state, b, a, Side.B, Side.A)
                both.cancel_scope.cancel()
        finally:
            trio.lowlevel.notify_closing(a)
            trio.lowlevel.notify_closing(b)
    return StreamEnd(
        state.delivered[Side.B],
        state.delivered[Side.A],
        state.reason,
        state.errno,
        state.failed,
        RelayMode.SPLICE,
        RelayMode.SPLICE,
    )


async def _watch_idle(state: _State, seconds: float) -> None:
    while (due := state.active + seconds) > trio.current_time():
        await trio.sleep_until(due)
    state.reason = EndReason.IDLE
    state.scope.cancel()


async def _one_way(
    state: _State,
    source: socket.socket,
    destination: socket.socket,
    source_side: Side,
    side: Side,
) -> None:
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with contextlib.suppress(PermissionError):  # beyond pipe-user-pages-soft
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        while held := await _fill(state, source, write, source_side):
            await _drain(state, destination, read, held, side)
        with contextlib.suppress(OSError):  # ENOTCONN: gone already
            destination.shutdown(socket.SHUT_WR)
    except BrokenPipeError:
        # The reader is gone: let the source stop, hear the other way.
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RD)
    finally:
        os.close(read)
        os.close(write)


async def _fill(state: _State, source: socket.socket, write: int, side: Side) -> int:
    while True:
        await trio.lowlevel.wait_readable(source)
        try:
            held = os.splice(source.fileno(), write, _PIPE_BYTES, flags=_FLAGS)
        except BlockingIOError:
            continue
        except OSError as error:
            state.fail(error, side)
            state.scope.cancel()
            raise BrokenPipeError from error
        return held


async def _drain(
    state: _State, destination: socket.socket, read: int, held: int, side: Side
) -> None:
    while held:
        try:
            moved = os.splice(read, destination.fileno(), held, flags=_FLAGS)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(destination)
            continue
        except OSError as error:
            if not state.fail(error, side):
                state.scope.cancel()
            raise BrokenPipeError from error
        held -= moved
        state.delivered[side] += moved
        state.active = trio.current_time()
