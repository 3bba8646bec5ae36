"""Limits of the link between host and viewer.

Both ends of the link keep to them: host and viewer, and brokerctl for a pairing.
"""

from __future__ import annotations

LINK_HANDSHAKE_SECONDS = 10.0
"""Time limit from accept to a session, and from a stream's accept to its whole
preamble; also the time limit of an opener's wait for the answer.  Four small messages
between two machines take milliseconds; only a stall is this slow."""

LINK_UNAUTHENTICATED_PER_PEER = 64
"""Maximum number of connections of one peer (a CID, a socket path) that have proved
nothing yet. Reconnecting needs one, a burst of opened streams a few; the rest is for
silent connections next to an honest one: one more connection replaces the oldest of
them.  Ten thousand half-open ones cost us these descriptors and 64 buffers of 180
bytes."""

LINK_UNAUTHENTICATED = 128
"""The same over all peers together."""

LINK_PIECE_BYTES = 3584
"""Single writes of control records and agent messages, so that neither needs
``pieces`` in link.toml: vhost-device-vsock (0.3) loses packets above 3,732
bytes between sibling machines.  Both are small and few."""

LINK_RECORD_BYTES = 65536
"""Plaintext of one control record: the longest request is a few kilobytes."""

LINK_RECORD_SECONDS = 10.0
"""Time limit from a control record's first byte to its last."""

LINK_SILENCE_SECONDS = 10.0
"""Interval without a record, in seconds, until an end sends a ping."""

LINK_SILENT_SECONDS = 5.0
"""Seconds in which a ping must be answered, otherwise the other end counts as silent: the
user who waits for a start is informed, windows are marked, and new streams are refused."""

LINK_KEPT_SECONDS = 900.0
"""Default of ``silence_limit``: seconds for which a silent end keeps the link, with all
streams.  A suspended machine comes back within minutes, or its user has gone home."""

LINK_KEPT_LEAST_SECONDS = 30.0
LINK_KEPT_MOST_SECONDS = 86400.0
"""Bounds of ``silence_limit``."""

LINK_REQUESTS = 64
"""Requests on control that one end has sent and has no reply to.  After a
reconnect 512 leases are announced in eight rounds of these."""

LINK_REQUESTS_AT_ONCE = 2048
LINK_REQUESTS_PER_SECOND = 50
"""Requests that one end takes from the other: at once after a reconnect (512
leases, twice, and the requests about them), and in the long run.  A broker that
was taken over and asks faster is read as slowly as that; so what its requests
leave in the log stays in proportion."""

LINK_EPOCHS_AT_ONCE = 64
LINK_EPOCHS_PER_SECOND = 2
"""Handshakes that a viewer turns into the current epoch.  Each ends the one before it,
with all its streams, and is two events; a host that comes and goes faster waits
in the door's room for its turn."""

LINK_STREAMS_AT_ONCE = 2048
LINK_STREAMS_PER_SECOND = 400
"""Streams of one link that a viewer decides about: at once after a reconnect
(64 sandboxes with 32 windows and players each), and in the long run, which is twice
as much as a host lets one sandbox open (STREAMS_PER_SECOND).  The leases take
turns, so a sandbox that opens as many as it can costs the others nothing."""

LINK_UNDECIDED_PER_LEASE = 64
LINK_UNDECIDED = 1024
"""Streams that wait for their turn or for the decision, of one lease and of all; more
are refused as "busy", but each lease may always have one.  An honest host has at
most UNDECIDED_PER_SANDBOX of each, and so reaches the second number with 64
sandboxes that all open as many as they can.  Each costs two descriptors."""

LINK_ANSWER_SECONDS = 60.0
"""Time limit for a viewer to answer a request of its host: the longest is the end of a
sandbox's processes, which takes seconds.  A host that waited longer could end neither
its machines nor itself, so it gives the link up.  Requests of the viewer have no such
limit: the start of a machine takes as long as it takes, and the requester may leave."""

LINK_GRACE_SECONDS = 60.0
"""The longest grace that a viewer may ask for when it stops a sandbox."""

LINK_TEXT_CHARACTERS = 400
"""A reason or a hint inside a control message: what one line shows."""

LINK_PROGRESS_LINES = 64
"""Lines of progress of one start that are shown: a host that floods does not
fill the memory of the waiting process."""

LINK_WARNINGS = 16
"""Warnings in a status reply."""

LINK_COUNTER = (1 << 48) - 1
"""The last number of a record or a stream in one epoch: at a million a second
nine years.  No nonce ever repeats; beyond it the link must be set up again."""

LINK_WINDOW = 1024
"""How many stream numbers below the highest one are still accepted once.
Streams are opened side by side and overtake each other by at most the number
that wait for admission (LINK_UNAUTHENTICATED)."""

LINK_PEERS = 64
"""Pinned peers in one file: one is usual."""

LINK_PEERS_BYTES = 32768
"""The file of pinned peers: LINK_PEERS lines and many comments."""

LINK_RETRY_FIRST_SECONDS = 0.1
LINK_RETRY_SECONDS = 5.0
"""The pause before a lost link is dialled again, and what doubling it stops at:
a restarted broker is back at once, a missing one costs nothing."""

LINK_PINNED_SECONDS = 2.0
"""How often a live link looks whether the other broker is still accepted."""

LINK_OPENING = 12
"""Streams that one host dials side by side, until each has sent its preamble:
below what the viewer lets wait (LINK_UNAUTHENTICATED_PER_PEER)."""

ACTIVATED = 8
"""Sockets that a service manager may hand over; two have a meaning."""

LINK_PAIRING_SECONDS = 300.0
"""Time limit of a pairing, from the first message to the last confirmation: two people,
two screens."""

PAIRING_DIGITS = 6
"""Digits of the code that one broker shows and that is typed at the other.  A man
in the middle has one chance in a million for each run that two people start
by hand, and a wrong code ends the run (docs/link.md has the arithmetic)."""

LINK_LEASES_PER_EPOCH = 65536
"""Maximum number of leases that end in one epoch: their ids are kept, because none is
used twice. At the pace of requests that takes half an hour of nothing else; the link is
then made again."""

LINK_DEVICES = 8
"""USB devices in one reply: with 256 interfaces each, 30 KiB."""
