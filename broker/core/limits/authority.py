"""Limits of the channel between the authority and the processes that ask it."""

from __future__ import annotations

AUTHORITY_REQUEST_BYTES = 2 << 20
"""A message to the authority: an answer of the control socket, or the requests of
QUESTION_TARGETS sandboxes for one device."""

AUTHORITY_ANSWER_BYTES = 65 << 20
"""Maximum size of a message of the authority: rules that a client requested, of which
64 MiB are kept."""

AUTHORITY_WAITING_BYTES = 144 << 20
"""Messages of the authority that wait for a client: one set of rules, the records of
a thousand full files, and answers."""

AUTHORITY_PREVIEWS = 64
"""Requests whose answers a client asks for in one message, to show or to offer
something: a millisecond's work."""

AUTHORITY_REQUESTS = 16384
"""Requests of one client to the authority at one time: LIVE_PERMITS, and as many
events and changes.  Ends of leases come on top, one for each of AUTHORITY_LEASES."""

AUTHORITY_LEASES = 4096
"""Maximum number of leases that events may name: those that run, and the last that
ended."""

AUTHORITY_NOTES_BYTES = 1 << 16
"""Messages that wait for the authority, beyond which those are dropped that no task
waits for: notifications, and where the user has acted."""

AUTHORITY_BEAT_SECONDS = 5.0
"""Between two reports that a client asks the authority for, to see that it answers."""

AUTHORITY_SILENT_SECONDS = 20
"""Seconds without an answer to a ping after which the authority is ended, and the
broker with it.  It writes and reads files in threads; none of its steps is longer than
a second."""

AUTHORITY_END_SECONDS = 10.0
"""Time limit for the authority to close its log and exit; after it the authority is
killed."""

AUTHORITY_PEERS = 16
"""Other brokers whose checkpoints a client has kept, in the life of one broker."""
