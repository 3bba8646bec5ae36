"""Limits of the pump and its copies.

The pump keeps to them, and a broker when it submits streams.
"""

from __future__ import annotations

RELAY_STREAMS = 4096
"""Streams that one pump carries: two descriptors each, four more while both
directions are blocked, so 24,576 at worst, far below the usual hard limit."""

RELAY_PIPES_POOLED = 64
"""Empty pipes kept for the next blocked direction.  All of a user's processes
share 16,384 pipe pages (pipe-user-pages-soft, pipe(7)), 1,024 pipes of 64 KiB."""

RELAY_PIPE_BYTES = 65536
"""Asked of one splice; the size of a pipe as the kernel makes it.  Larger
pipes gained nothing in the pump (measured)."""

RELAY_COPY_BYTES = 262144
"""Buffer of a direction in copy mode; held only while it is blocked."""

RELAY_COPY_BUFFERS_POOLED = 4
"""Copy buffers kept for the next blocked direction, 1 MiB in all."""

RELAY_ROUNDS = 8
"""Fills of one pipe before the next stream has its turn: 512 KiB, so that a
bulk stream delays the others by a fraction of a millisecond."""

RELAY_STREAMS_PER_ANSWER = 512
"""Streams in one packet of statistics: 32 KiB, below a socket's send buffer."""

RELAY_ABORT_SECONDS = 5.0
"""Time limit from the order to cut a stream to its end, which takes microseconds.  A
pump that does not comply is killed: a revoked stream must not live on."""

RELAY_ANSWER_SECONDS = 2.0
"""Time limit for a pump to report its streams; a status must not wait for a pump that
hangs, because the status is how a user finds out."""

RELAY_PUMP_END_SECONDS = 2.0
"""A pump whose control socket is closed ends at once; later it is killed."""
