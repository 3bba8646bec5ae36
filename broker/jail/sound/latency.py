"""The least latency: how short a stream's buffers and pieces may be.

A stream's latency is also how often the sound server wakes up for it, and a
device goes by the shortest of all streams that it plays.  PulseAudio accepts half
a millisecond from any client, and asks itself for it where ``minreq`` is half
of ``tlength`` or more: for a device it then tries ``tlength`` less twice
``minreq`` (half of that with ``adjust_latency``, and ``minreq`` alone with
``early_requests``); for a recording it is half of ``fragsize``.  So sizes are held
where each of them is long enough; the client learns from the server's answer what
it has got, as always.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.limits import sound as limits
from broker.jail.sound.commands import INVALID
from broker.jail.sound.samples import frame_bytes
from broker.jail.sound.tagstruct import Spec

_PIECES = 4
"""Least pieces in the least buffer: two to be written (``minreq`` is at most so
long), two for the device."""
_FRAGMENT_PIECES = 2
_DEFAULT_SECONDS = 2
"""``tlength`` of a client that leaves it open, in both servers."""


@dataclass(frozen=True)
class Sizes:
    """``maxlength``, ``tlength`` and ``minreq`` in bytes; INVALID leaves one open."""

    buffer: int
    target: int
    request: int


# A sound card has two and a half milliseconds. A client says how long its buffers are,
# and a sound card works as often as the shortest stream on it needs. A stream that
# asked for buffers of one sample made PulseAudio wake up 5100 times a second and ask it
# for more 1100 times; sixteen of them took a quarter of a core. With the floor it is
# 1100 wakes and 230 questions for one, and a tenth of a core for sixteen.
#
# Why this number: it is a little below PipeWire's own least (128 of 48,000; 256 in the
# version of Debian 12), so before pipewire-pulse sizes stay as they are (one of the
# programs tried got 22 ms of buffer where it has 27 without the filter), and PulseAudio
# becomes as strict as its successor. `paplay --latency-msec=10` is granted the same
# values to the byte as without the filter, `parec --latency-msec=5` gets its 5 ms; a
# client that asks for less has 10 ms, and on a busy machine fewer gaps than without. 5
# ms was rejected: emulators and games that ask for 10 ms in all would wait twice as
# long, and it saves 0.7 % of a core. So was rate limiting these requests: the delayed
# requests are the ones that keep a stream from running dry.
#
# PulseAudio also takes "as fast as can be" from a client whose pieces are half of its
# buffer or more. Many do not intend this: they write two pieces in turns. So their
# buffer becomes longer by 5 ms; with smaller pieces, a client that only writes whole
# ones would be left with one.
def least_bytes(spec: Spec) -> int:
    """The shortest piece of such samples for a device, in whole ones."""
    samples = -(-spec.rate * limits.PULSE_LATENCY_MICROSECONDS // 10**6)
    return samples * frame_bytes(spec)


def least_fragment(spec: Spec) -> int:
    """The shortest piece of a recording."""
    return _FRAGMENT_PIECES * least_bytes(spec)


def bounded_sizes(spec: Spec, asked: Sizes, most: int, *, early: bool) -> Sizes:
    """Return the buffer sizes to request: of the least latency at least.

    ``most`` bytes at most, unless the least possible buffer is larger.
    ``early`` says that the client wants early requests.
    """
    least = least_bytes(spec)
    # guard: the least buffer
    # guard: largest buffer
    buffer = max(min(asked.buffer, most), _PIECES * least)
    is_open = asked.target == INVALID
    target = _DEFAULT_SECONDS * spec.rate * frame_bytes(spec)
    if not is_open:
        # guard: the least target
        target = max(asked.target, _PIECES * least)
    target = min(target, buffer)
    request = asked.request
    if request != INVALID:  # else the server takes a quarter, 20 ms at most
        # guard: the least request
        request = max(request, least)
        times, device = (1, 0) if early else (2, 2 * least)
        # guard: a device between two requests
        if times * request + device > target:
            # A longer buffer rather than smaller requests: a client that only
            # writes the size that it named would be left with one piece in the buffer.
            is_open = False
            target = min(times * request + device, buffer)
            request = min(request, (target - device) // times)
    return Sizes(buffer, INVALID if is_open else target, request)
