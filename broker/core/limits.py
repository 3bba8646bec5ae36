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
