"""Limits of the channel between the authority and the processes that ask it."""

from __future__ import annotations

AUTHORITY_REQUEST_BYTES = 2 << 20
"""A message to the authority: an answer of the control socket, or the requests of
QUESTION_TARGETS sandboxes for one device."""

AUTHORITY_ANSWER_BYTES = 65 << 20
"""A message of the authority: the rules in force, of which 64 MiB are kept."""

AUTHORITY_WAITING_BYTES = 80 << 20
"""Messages of the authority that wait for a client: one set of rules and answers."""

AUTHORITY_REQUESTS = 16384
"""Requests of one client to the authority at one time: LIVE_PERMITS, and as many
events and changes."""

AUTHORITY_LEASES = 4096
"""Leases of which events may still come: those that run, and the last that ended."""

AUTHORITY_NOTES_BYTES = 1 << 16
"""Messages that wait for the authority, beyond which those are dropped that no task
waits for: notifications, and where the user has acted."""
