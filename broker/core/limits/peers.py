"""Limits of streams, agents, logs, leases and endpoints: what any peer can ask for."""

from __future__ import annotations

# -- streams -----------------------------------------------------------------------

STREAMS_PER_SANDBOX = 256
"""Open streams of one sandbox.  A desktop session has tens of Wayland
clients; each costs two descriptors here."""

UNDECIDED_PER_SANDBOX = 16
"""Accepted connections of one sandbox that no decision has been made for.
More wait in the kernel's backlog, which slows only that sandbox."""

BACKLOG = 64
"""listen(2) backlog of a service socket: what waits beyond the above."""

ADMIT_SECONDS = 10.0
"""Time limit from accept to decision.  Each step takes milliseconds; a slower answer
means that the viewer hangs, and the stream is refused."""

STREAMS_PER_SECOND = 200.0
STREAMS_BURST = 256
"""How fast one sandbox's connections are looked at; beyond it they wait in the
backlog.  Each costs a decision on disk, so 10,000 at once would be work for
half a minute that others' streams had to wait for.  A desktop session that
starts makes some tens."""

DISPLAY_HEADER_BYTES = 16
DISPLAY_HEADER_SECONDS = 5.0
"""The header of a waypipe server on each connection, and the time from accept until
it is there.  It is sent on connecting, so it takes milliseconds; before it no
process is started for the connection and nothing of it goes to the pump."""

LAUNCH_PROOF_SECONDS = 5.0
"""Time limit from accept to the proof that a guest belongs to the launch of its lease:
two messages of some bytes, which its agent sends at once."""

VSOCK_BACKLOG = 4096
"""listen(2) backlog of an AF_VSOCK port, which all machines share: the kernel
resets connections beyond it, regardless of which machine filled it.  As much as
net.core.somaxconn allows by default; it is emptied at once (VSOCK_BATCH)."""

VSOCK_BATCH = 256
"""Connections taken from the shared backlog before anything else runs."""

VSOCK_RETRY_SECONDS = 5.0
"""Between two attempts to listen on ports that another program has taken."""

REFUSALS_LOGGED_PER_SECOND = 1
"""Equal refusals of one peer beyond this are counted into one event."""

# -- the agent's protocol ----------------------------------------------------------

AGENT_FRAME_BYTES = 65536
"""Maximum size of one message.  argv and environment of a program fit; a log chunk is
16 KiB."""

AGENT_FIRST_FRAME_SECONDS = 10.0
"""A guest that connects says hello at once; silence ends the connection."""

AGENT_FRAME_SECONDS = 10.0
"""Time limit from a frame's first byte to its last: a peer that sends one byte a minute
holds a buffer for no longer than this."""

AGENT_OUTPUT_BYTES = 16384
"""Application output in one message."""

AGENT_OUTPUT_WINDOW = 131072
"""Output of a program that the client of its run has not taken yet: the guest holds
the rest back, so that a program waits for a slow reader as it does at a pipe."""

AGENT_OUTPUT_OVERHEAD = 256
"""Bytes charged for a message of output in addition to its data, so that the window
also limits the number of messages."""

AGENT_INPUT_BYTES = 8192
"""Standard input of a program in one message."""

AGENT_INPUT_WINDOW = 32768
"""Input that a program has not taken yet: the guest keeps it for a program that
does not read, so it is bounded, and the broker keeps the rest back."""

AGENT_PING_SECONDS = 2.0
"""Between two pings to an agent, which looks for a new broker after three
times as long without one.  Not every transport notifies a guest of a killed
broker: vhost-device-vsock (0.3) drops a connection with bytes under way and
says nothing (see ``services.hangup``)."""

PROGRAMS_PER_SANDBOX = 64
"""Programs that one sandbox runs for us at one time."""

ARGV_BYTES = 32768
"""All arguments of a program together, half a frame."""

# -- logs --------------------------------------------------------------------------

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
"""Size of one read; also the maximum that waits in one direction of one connection."""

WAYLAND_CLIENTS_PER_SANDBOX = 128
"""Connections to the compositor held by one sandbox."""

COMPOSITOR_FIRST_CLIENTS = 4
COMPOSITOR_LEFT_FOR_FIRST = 1 / 8
COMPOSITOR_LEFT_FOR_MORE = 1 / 4
"""Sandboxes leave this share of the compositor's descriptors to others: it is the
desktop's own programs' below an eighth; up to a quarter a sandbox has its first
connections only."""

ACCEPTOR_START_SECONDS = 30.0
"""The process that forks acceptors has to be started for the first one, on a machine
that may be busy; it is killed and started again after this time."""

ACCEPTOR_END_SECONDS = 2.0
"""Time limit for the end of a sandbox's killed acceptor.  It ends at once, unless the
kernel waits for a file system of the sandbox; the lease ends without it then."""

# -- endpoints ---------------------------------------------------------------------

SOCKET_PATH_BYTES = 107
"""Longest path of a UNIX socket: sun_path has 108 bytes, one is the final 0."""

CONNECT_SECONDS = 10.0
"""Time limit of a connection attempt, with the handshake of hybrid vsock."""

HYBRID_ANSWER_BYTES = 32
"""The line 'OK <number>' of a hybrid vsock; the number has at most 10 digits."""
