"""Rows of the frames on a machine's port, see ``port_mux``.

Keys are the types' names in ``_portmux.c``.
"""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_GUEST = "the port's process of the guest, which the guest's root can be"
_HOST = "the program at the port's other end"
_BOTH = "both ends"
_NUMBER = "a look into a table of 300 streams"

POLICIES: Mapping[str, ChannelPolicy] = {
    "HELLO": no_descriptors(
        _BOTH,
        "first, once; the host's before the guest's",
        "a comparison with the nonce",
        "Nothing: it says that a copy's other end is there.",
    ),
    "OPEN": no_descriptors(
        _GUEST,
        "for a stream that is not open",
        "a connect(2) to this sandbox's socket of that port, again every 20 ms for 5 s "
        "while its backlog is full",
        "A connection to the broker, as by vsock.",
    ),
    "ACCEPT": no_descriptors(
        _HOST,
        "once, for a stream whose connection was made",
        _NUMBER,
        "The guest learns that the broker listens at that port.",
    ),
    "DATA": no_descriptors(
        _BOTH,
        "within the stream's window, before SHUTDOWN and CLOSE",
        "at most 256 KiB of each stream and direction are held, 1 MiB of 16 that were "
        "read as fast as they came, 87 MiB in all",
        "Bytes of the stream.",
    ),
    "SHUTDOWN": no_descriptors(
        _BOTH, "once in a stream, before CLOSE", _NUMBER, "Ends its half of the stream."
    ),
    "CREDIT": no_descriptors(
        _BOTH,
        "for bytes of the stream that were taken, and once for 768 KiB more",
        "a number; the window never becomes more than 1 MiB",
        "Says how much more of the stream may come.",
    ),
    "CLOSE": no_descriptors(
        _BOTH,
        "once in a stream, its last frame",
        "the broker's connection is kept for what it has not read yet, for 10 s at most",
        "Ends the stream.",
    ),
}
