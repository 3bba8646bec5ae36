"""Every limit of the brokers: name, unit, reason.  Tested at N and N + 1.

A limit that only one protocol knows stands here too, so that one page tells
what a hostile sandbox can make us hold.
"""

from __future__ import annotations

# -- streams -----------------------------------------------------------------

STREAMS_PER_SANDBOX = 256
"""Open streams of one sandbox.  A desktop session has tens of Wayland
clients; each costs two descriptors here and one process in the waypipe client."""

UNDECIDED_PER_SANDBOX = 16
"""Accepted connections of one sandbox that no decision has been made for.
More wait in the kernel's backlog, which slows only that sandbox."""

BACKLOG = 64
"""listen(2) backlog of a service socket: what waits beyond the above."""

ADMIT_SECONDS = 10.0
"""From accept to decision.  Nothing of ours takes longer than milliseconds;
a slower answer means a stuck viewer, and the stream is refused."""

REFUSALS_LOGGED_PER_SECOND = 1
"""Equal refusals of one peer beyond this are counted into one event."""

# -- the agent's protocol ------------------------------------------------------

AGENT_FRAME_BYTES = 65536
"""One message.  argv and environment of a program fit; a log chunk is 16 KiB."""

AGENT_FIRST_FRAME_SECONDS = 10.0
"""A guest that connects says hello at once; silence ends the connection."""

AGENT_FRAME_SECONDS = 10.0
"""From a frame's first byte to its last: a peer that sends one byte a minute
holds a buffer for no longer than this."""

AGENT_OUTPUT_BYTES = 16384
"""Application output in one message."""

PROGRAMS_PER_SANDBOX = 64
"""Programs that one sandbox runs for us at one time."""

ARGV_BYTES = 32768
"""All arguments of a program together, half a frame."""

# -- logs ------------------------------------------------------------------------

LOG_BYTES = 1 << 20
"""A sandbox's console or application log before it is rotated once; so a
sandbox can fill two of these and no disk."""

# -- leases ------------------------------------------------------------------------

CID_QUARANTINE_SECONDS = 60.0
"""A CID whose lease ended is not accepted again for so long (design 1)."""

LEASES = 512
"""Live leases of a broker: far above what a desktop runs."""

# -- Wayland pass-through ----------------------------------------------------------

WAYLAND_FDS_PER_READ = 28
"""libwayland sends at most 28 descriptors in one sendmsg (MAX_FDS_OUT)."""

WAYLAND_READ_BYTES = 65536
"""One read; also the most that waits in one direction of one connection."""

WAYLAND_CLIENTS_PER_SANDBOX = 128
"""Connections to the compositor held by one sandbox."""

# -- control -------------------------------------------------------------------------

CONTROL_MESSAGE_BYTES = 1 << 20
"""A varlink message to or from brokerctl."""

CONTROL_CLIENTS = 64
"""Open control connections; each is a person's command."""

CONTROL_REPLY_SECONDS = 10.0
"""For a control client to take one reply: one that does not read ends, and
holds up nobody but itself."""

CONTROL_IDLE_SECONDS = 300.0
"""From one complete call to the next on a connection with none running.  Idle
and half-sent connections must not use up CONTROL_CLIENTS."""

CONTROL_PIPELINED = 8
"""Calls that a control client may have sent before the first is answered."""

# -- audit -----------------------------------------------------------------------------

AUDIT_EVENT_BYTES = 65536
"""One event as JSON.  The longest real ones (a refused policy with its problems)
have a few KiB."""

AUDIT_WAITING = 1024
"""Events that wait for the disk at one time; more callers wait before they
queue, so a stuck disk costs at most 64 MiB."""

AUDIT_BATCH = 512
"""Events in one transaction: more would make the first wait for the last."""

AUDIT_REFUSAL_KEYS = 1024
"""Different refusals counted at one time; beyond, all others of a kind share
one count, so that a peer that varies its requests fills no memory."""

AUDIT_WAL_BYTES = 16 << 20
"""What the write-ahead log is cut back to after a checkpoint."""

# -- relay ---------------------------------------------------------------------------

RELAY_STREAMS = 4096
"""Streams that one pump carries: two descriptors each, four more while both
directions are blocked, so 24,576 at worst, far below the usual hard limit."""

RELAY_PIPES_POOLED = 64
"""Empty pipes kept for the next blocked direction.  All of a user's processes
share 16,384 pipe pages (pipe-user-pages-soft, pipe(7)), 1,024 pipes of 64 KiB."""

RELAY_PIPE_BYTES = 65536
"""Asked of one splice; the size of a pipe as the kernel makes it.  Larger
pipes gained nothing in the pump (docs/relay.md)."""

RELAY_COPY_BYTES = 262144
"""Buffer of a direction in copy mode; held only while it is blocked."""

RELAY_COPY_BUFFERS_POOLED = 4
"""Copy buffers kept for the next blocked direction, 1 MiB in all."""

RELAY_ROUNDS = 8
"""Fills of one pipe before the next stream has its turn: 512 KiB, so that a
bulk stream delays the others by a fraction of a millisecond."""

RELAY_STREAMS_PER_ANSWER = 512
"""Streams in one packet of statistics: 32 KiB, below a socket's send buffer."""

RELAY_PUMP_END_SECONDS = 2.0
"""A pump whose control socket is closed ends at once; later it is killed."""

# -- endpoints -----------------------------------------------------------------------

SOCKET_PATH_BYTES = 107
"""Longest path of a UNIX socket: sun_path has 108 bytes, one is the final 0."""

CONNECT_SECONDS = 10.0
"""From connect to connected, the hybrid hand-shake included."""

HYBRID_ANSWER_BYTES = 32
"""The line 'OK <number>' of a hybrid vsock; the number has at most 10 digits."""
