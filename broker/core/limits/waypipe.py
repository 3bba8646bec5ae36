"""Limits of our end of waypipe's wire."""

from __future__ import annotations

WAYPIPE_HEADER_SECONDS = 10.0
"""Time limit from a display stream's beginning to waypipe's 16 bytes, which it sends at
once."""

WAYPIPE_BLOCK_BYTES = 327_680
"""Maximum size of one block.  waypipe cuts damage into pieces of 256 KiB; the spans
around them make the longest block of an honest sender about 288 KiB."""

WAYPIPE_BUFFER_BYTES = 2 * WAYPIPE_BLOCK_BYTES
"""Read-ahead of a display stream; one block always fits."""

WAYPIPE_MESSAGES_BYTES = 65_536
"""Wayland messages in one block; waypipe reads 16 KiB at a time."""

WAYPIPE_PIPE_BLOCK_BYTES = 65_536
"""Bytes of a pipe in one block; waypipe sends 32 KiB at most."""

WAYPIPE_FDS_PER_BLOCK = 256
"""Ids before one block of messages; a message has one descriptor, rarely two."""

WAYPIPE_ID_WINDOW = 1024
"""How far a new id may be ahead of the lowest unused one: waypipe opens the
files of a batch newest first."""

WAYPIPE_FILES = 512
"""Files of one application that are open at once; each is a pool."""

WAYPIPE_POOL_BYTES = 1 << 30
"""Maximum declared size of one file.  foot's pool has 512 MiB, nearly all of it never
touched; a mapping of so much costs address space alone."""

WAYPIPE_DECLARED_BYTES = 4 << 30
"""All files of one application, as declared: address space of the worker."""

WAYPIPE_TOUCHED_BYTES = 1 << 30
"""Memory of all files of a sandbox.  It is the viewer's memory: three
buffers of a 3840x2160 window are 100 MB."""

WAYPIPE_SPANS_PER_CHECK = 4096
"""Spans of a diff between two looks at the memory that it takes: each may
touch a page, so 16 MiB at most are taken unseen."""

WAYPIPE_SPANS_PER_SECOND = 2_000_000
"""Spans of one application's diffs a second; beyond them it waits.  A window
of 1280x800 in which one word in 32 changes at every frame sends 1.9 million,
a video 80,000.  Each costs 0.07 to 0.2 us, so this is two fifths of a core at
the very most."""

WAYPIPE_SPANS_BURST = 1_000_000
"""Spans saved up: the same comb over a 3840x2160 window has 260,000 a frame."""

WAYPIPE_ARENA_FILL_BYTES = 1 << 20
"""Bytes that one block copies out of an arena, so that streams take turns: 0.2 ms, and
1 ms in WAYPIPE_ARENA_ROWS rows; 6 ms where each of these takes two pages for the first
time."""

WAYPIPE_ARENA_ROWS = 1024
"""Rows with gaps between them that one block copies, by one system call (IOV_MAX).  Each
may touch two pages, so 8 MiB at most are taken before they are counted."""

WAYPIPE_ARENA_SPAN_BYTES = 1024
"""Copied bytes that are paced as one span: both take 0.2 us.  A block of 28 bytes has a
MiB copied, so it is not its sender whom a flood of them keeps busy.  3840x2160 at 60
frames a second, wholly new each time, is 1.9 million of these."""

WAYPIPE_UNACKNOWLEDGED_BYTES = 1 << 20
"""Bytes of counted blocks that we take before we say so; waypipe 0.8 and 0.9
keep them until then, in the sandbox.  A video sends 50 times as much in a
second, and each acknowledgement wakes both sides.  We ourselves keep nothing
of what we sent."""

WAYPIPE_PIPES = 64
"""Pipes of one application at once: pastes and drops in progress."""

WAYPIPE_PIPE_QUEUE_BYTES = 1 << 20
"""Bytes that wait for the reader of one pipe.  The stream carries everything
of an application, so it waits for one slow paste only shortly."""

WAYPIPE_PIPE_PIECE_BYTES = 64
"""Bytes counted for each piece in addition to its data: the object and its slot in the
queue."""

WAYPIPE_PIPE_STALL_SECONDS = 1.0
"""How long a full pipe may hold up its stream before its paste is dropped: a
reader takes half a MiB in that time, or is too slow to be waited for."""

WAYPIPE_PIPE_IDLE_SECONDS = 60.0
"""A pipe that moves nothing for so long is closed on our side."""

WAYPIPE_PIPE_READ_BYTES = 16_384
"""Bytes read at once from our pipe, one block for waypipe."""

WAYPIPE_SENT_FILE_BYTES = 4 << 20
"""Maximum size of one file to the application: a keymap has 60 KiB."""

WAYPIPE_OUT_BYTES = 1 << 19
"""Bytes waiting for the application's waypipe at which the compositor is no longer
read.  A keymap is queued as a whole."""

WAYPIPE_TURN_SECONDS = 0.002
"""Work on one stream before other streams of the sandbox have their turn; one
block more may be added, 6 ms at worst (a diff of single words)."""
