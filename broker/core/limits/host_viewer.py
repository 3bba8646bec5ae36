"""Limits between host and viewer: their pair of sockets, folders over streams."""

from __future__ import annotations

PAIR_REQUESTS = 16384
"""Requests between host and viewer on one machine at one time: UNDECIDED_PER_SANDBOX
streams of each of LEASES sandboxes, and as many orders."""

PAIR_MESSAGE_BYTES = 65536
"""Maximum size of one message between host and viewer; the largest is a page of
devices."""

PAIR_ROWS_BYTES = 1 << 24
"""The host's rows of the status: LEASES sandboxes with STREAMS_PER_SANDBOX streams."""

PAIR_BEAT_SECONDS = 5.0
"""How often the viewer asks the host's process for a sign of life."""

PAIR_SILENT_SECONDS = 20
"""After so long without one the viewer ends that process and itself.  No step of the host
that nothing else can interrupt is longer than a second."""

FOLDER_PLACE_SECONDS = 10.0
"""How long a guest's connection for a folder may take to name its place."""
FOLDER_SERVER_FILES = 1024
"""Open files of the process that serves a folder, its guest's among them."""
FOLDER_SERVER_BYTES = 1 << 28
"""Memory limit of a folder server, in bytes; a request is 256 KiB at most."""
