"""Limits of the audit log, of who receives it and of who witnesses it.

The authority, host and viewer record by these, the shipper, a fleet's service and
brokerctl read by them.
"""

from __future__ import annotations

AUDIT_EVENT_BYTES = 65536
"""Maximum size of one event as JSON.  The longest real events (a refused policy with
its problems) have a few KiB."""

AUDIT_WAITING = 1024
"""Events that wait for the disk at one time; more callers wait before they
queue, so a stuck disk costs at most 64 MiB."""

AUDIT_BATCH = 512
"""Events in one transaction: more would make the first wait for the last."""

AUDIT_REFUSAL_KEYS_PER_SANDBOX = 16
"""Different refusals of one sandbox counted at one time; beyond, all its others
of a kind share one count, in its name.  A peer that is not a sandbox (without a lease,
or at the other end of the link) has such a budget for each kind, too."""

AUDIT_REFUSAL_KINDS_PER_MINUTE = 6
"""New kinds of one sandbox that get a separate event, once
AUDIT_REFUSAL_KEYS_PER_SANDBOX came in a burst.  With the counts of those that go
on, a sandbox's refusals are at most some 30,000 events a day, 30 MB."""

AUDIT_REFUSAL_OWNERS = 1024
"""Sandboxes and peers whose refusals are counted apart at one time: twice as many
as there may be leases.  Beyond, further ones are one count without a name."""

AUDIT_REFUSAL_STRANGERS_PER_SECOND = 4
"""New peers that are not a sandbox and get events with their name, once
AUDIT_REFUSAL_OWNERS came in a burst: their names cost nothing to make up, so a day
of ever new ones is at most 350,000 events, some 300 MB."""

AUDIT_SHARE_BYTES = 16 << 20
AUDIT_SHARE_PER_SECOND = 2048
"""Bytes of the log that one sandbox may fill: at once, and per second.  A stream
takes 4 KiB, so 4,000 streams in a burst and then one in two seconds; a record
that does nothing else needs six days for a log of 1 GiB."""

AUDIT_SHARES_BYTES = 128 << 20
AUDIT_SHARES_PER_SECOND = 16384
"""The same for all sandboxes together."""

AUDIT_SHARE_FLOOR_BYTES = 1 << 20
"""Bytes that each sandbox may fill whatever the others have filled: 250 streams."""

AUDIT_COUNT = (1 << 53) - 1
"""Refusals counted into one event; more are not reported.  Every reader of JSON and
every database holds so large a number, and a thousand of them added."""

AUDIT_WAL_BYTES = 16 << 20
"""Size to which the write-ahead log is truncated after a checkpoint."""

AUDIT_NOTE_BYTES = 4096
"""Maximum size of a signed checkpoint, in bytes; Vitrail's checkpoints have about 300,
witnesses may add lines."""

AUDIT_WITNESSED = 1000
"""Checkpoints kept of another broker's log, the newest and the first; 300 KiB."""

AUDIT_WITNESS_LOGS = 8
"""Maximum number of logs of one peer whose checkpoints are kept: a compromised peer
could begin new ones without end."""

AUDIT_WITNESS_KEYS = 16
"""Certificates of keys that come with one checkpoint; each costs us a signature's
check, 0.15 ms.  Also how many of the newest keys a checkpoint may be signed by."""

LINK_NOTE_CHARACTERS = 200
"""Maximum length of one line of a checkpoint: a name of 54 characters, 92 of base64,
and room."""

LINK_PROOF_HASHES = 128
"""Hashes of a consistency proof: twice the height of a tree of 2**64 events."""

LINK_NOTE_LINES = 12
"""Maximum number of lines of a checkpoint on the link: Vitrail's have six, witnesses
may add some."""

SHIP_BATCH_EVENTS = 1000
SHIP_BATCH_BYTES = 1 << 20
"""Maximum size of one batch to a receiver, at least one event.  A batch costs a round
trip and a flush, and is sent again if its answer is lost."""

SHIP_BATCH_NOTES = 50
"""Checkpoints that go with a batch: there is one for each thousand events."""

SHIP_TARGETS = 16
"""Receivers of one log; each costs a task and a connection."""

SHIP_REPLY_BYTES = 65536
"""Bytes of a receiver's reply that are read; the rest is ignored."""

SHIP_SECONDS = 30.0
"""Time limit for a receiver to accept one batch; after it the receiver counts as dead
and is tried again."""

SHIP_STEP_SECONDS = 120.0
"""Time limit for the whole batch, whatever the receiver sends meanwhile: SHIP_SECONDS
is for one message, and a receiver that always sends another one would never count as
dead."""

SHIP_RETRY_SECONDS = 600.0
"""Between two attempts at a dead receiver, at most; the first comes within a second,
each further one within twice the pause before it, at a time drawn by lot."""

SHIP_LOOK_SECONDS = 0.5
"""Between two looks for new events."""

SHIP_JOURNALD_PER_SECOND = 250.0
"""journald drops what one service sends beyond 10,000 messages in 30 s
(journald.conf(5), RateLimitBurst=), and does not report which."""
