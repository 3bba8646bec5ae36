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

STREAMS_PER_SECOND = 200.0
STREAMS_BURST = 256
"""How fast one sandbox's connections are looked at; beyond it they wait in the
backlog.  Each costs a decision on disk, so 10,000 at once would be work for
half a minute that others' streams had to wait behind.  A desktop session that
starts makes some tens."""

DISPLAY_HEADER_BYTES = 16
DISPLAY_HEADER_SECONDS = 5.0
"""What a waypipe server says first on each connection, and from accept until
it is there.  It is sent with connecting, so it takes milliseconds; before it no
process is started for the connection and nothing of it goes to the pump."""

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

AGENT_PING_SECONDS = 2.0
"""Between two pings to an agent, which looks for a new broker after three
times as long without one.  Not every transport tells a guest of a killed
broker: vhost-device-vsock (0.3) drops a connection with bytes under way and
says nothing (see ``session.hangup``)."""

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

AUDIT_REFUSAL_KINDS_PER_SECOND = 4
"""New kinds that get an event of their own, once AUDIT_REFUSAL_KEYS came in a
burst: a day of ever new refusals is at most 350,000 events, some 300 MB."""

AUDIT_COUNT = (1 << 53) - 1
"""Refusals counted into one event; more are not told.  Every reader of JSON and
every database holds so large a number, and a thousand of them added."""

AUDIT_WAL_BYTES = 16 << 20
"""What the write-ahead log is cut back to after a checkpoint."""

AUDIT_NOTE_BYTES = 4096
"""A signed checkpoint; ours have about 300, witnesses may add their lines."""

AUDIT_WITNESSED = 1000
"""Checkpoints kept of another broker's log, the newest and the first; 300 KiB."""

AUDIT_WITNESS_LOGS = 64
"""Logs of which checkpoints are kept: a taken-over peer could invent new ones."""

LINK_NOTE_CHARACTERS = 200
"""One line of a checkpoint: a name of 54 characters and 92 of base64, and room."""

LINK_PROOF_HASHES = 128
"""Of a consistency proof: twice the height of a tree of 2**64 events."""

LINK_NOTE_LINES = 12
"""Of a checkpoint on the link: ours have six, witnesses may add some."""

SHIP_BATCH_EVENTS = 1000
SHIP_BATCH_BYTES = 1 << 20
"""What goes to a receiver in one piece, at least one event: a round trip and a
flush for each, and what is sent again when its answer is lost."""

SHIP_BATCH_NOTES = 50
"""Checkpoints that go with a batch: there is one for each thousand events."""

SHIP_TARGETS = 16
"""Receivers of one log; each costs a task and a connection."""

SHIP_REPLY_BYTES = 65536
"""Of a receiver's answer that is read: the rest of it is not for us."""

SHIP_SECONDS = 30.0
"""For a receiver to take one batch; then it counts as dead and is asked again."""

SHIP_RETRY_SECONDS = 60.0
"""Between two attempts at a dead receiver, at most; the first comes after a
second, and each further one after twice the pause before it."""

SHIP_LOOK_SECONDS = 0.5
"""Between two looks for new events."""

SHIP_JOURNALD_PER_SECOND = 250.0
"""journald drops what one service sends beyond 10,000 messages in 30 s
(journald.conf(5), RateLimitBurst=), and tells nobody which."""

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

RELAY_ABORT_SECONDS = 5.0
"""From the order to cut a stream to its end, which takes microseconds.  A pump
that does not obey is killed: a revoked stream must not live on."""

RELAY_ANSWER_SECONDS = 2.0
"""For a pump to say what it carries; a status must not wait for one that hangs,
because it is how a person finds out."""

RELAY_PUMP_END_SECONDS = 2.0
"""A pump whose control socket is closed ends at once; later it is killed."""

# -- endpoints -----------------------------------------------------------------------

SOCKET_PATH_BYTES = 107
"""Longest path of a UNIX socket: sun_path has 108 bytes, one is the final 0."""

CONNECT_SECONDS = 10.0
"""From connect to connected, the hybrid hand-shake included."""

HYBRID_ANSWER_BYTES = 32
"""The line 'OK <number>' of a hybrid vsock; the number has at most 10 digits."""

# -- micro VMs -------------------------------------------------------------------------

QMP_LINE_BYTES = 1 << 18
"""One line from QEMU.  What we ask for is answered in a few KiB; the whole
QMP schema, which nobody asks for, is 200 KiB."""

QMP_EVENTS = 64
"""Events that wait for their reader; a guest causes events, so more are dropped."""

QMP_GREETING_SECONDS = 10.0
"""From connecting to QEMU's greeting; it takes 0.6 s on a loaded machine."""

QMP_ANSWER_SECONDS = 10.0
"""An answer to a command; they take milliseconds, 60 ms beside a busy vCPU."""

VM_READY_SECONDS = 10.0
"""From starting a helper (vhost-device-vsock) to its socket; milliseconds."""

VM_QUIT_SECONDS = 2.0
"""What QEMU gets to end after 'quit' or SIGTERM, before SIGKILL."""

VM_DRAIN_SECONDS = 0.5
"""What a machine's monitor and console may still say after QEMU has ended."""

CONSOLE_BYTES_PER_SECOND = 1 << 18
"""A guest's console is read no faster; QEMU holds the guest back beyond it.
Booting writes 30 KiB, so only a guest that floods notices."""

FIRST_WORDS_BYTES = 1 << 16
"""What we keep of a helper's standard error: its first words say why it did
not start, and a guest may cause any number of later ones."""

VM_MEMORY_MIB = range(128, 65537)
"""A guest's memory: Debian's kernel and initramfs do not unpack in less; more
than 64 GiB on a desktop is a slip of the finger."""

VM_CPUS = range(1, 65)
"""A guest's processors."""

FRAME_BYTES = 65536 + 14
"""An Ethernet frame of a guest.  passt announces an MTU of at most 65520, and
no IPv4 packet is longer than 65535."""

FRAMES_READ_BYTES = 1 << 18
"""One read of the frame filter, and what it holds in each direction: four of
the largest frames, so that a small read never waits on a large frame twice."""

RANDOM_CID_FIRST = 1 << 16
RANDOM_CID_LAST = (1 << 31) - 1
"""CIDs we draw from: above the small numbers that other launchers count from,
below what a signed 32-bit integer holds."""

CID_DRAWS = 64
"""Draws before we say that no CID is free; the range has two thousand million."""

KVM_PROBE_SECONDS = 10.0
"""A kernel under a KVM that works prints within a second (design 7)."""

KVM_PROBE_BYTES = 1 << 16
"""Console bytes of the probe that are searched for its marker."""

COMPOSITOR_READY_SECONDS = 20.0
"""From starting an embedded compositor to its sockets; under a second, but a
loaded machine starts fonts and seats slowly."""

COMPOSITOR_TOOL_SECONDS = 20.0
"""A screenshot or a line of typing; a screenshot takes 0.1 s."""

COMPOSITOR_TREE_BYTES = 1 << 22
"""sway's tree of windows; 1 KiB for each window."""

VM_STATE_BYTES = 1 << 16
"""A machine's state file; ours are 2 KiB."""

# -- workers and their jails --------------------------------------------------------

WORKER_START_SECONDS = 10.0
"""From the order to fork until the worker says it is jailed and ready.  It
takes milliseconds; a machine under load gets a thousand times that."""

TEMPLATE_START_SECONDS = 60.0
"""From starting the template of the workers until all is imported: a second, or
twenty on a loaded machine that is emulated itself.  Longer than
WORKER_START_SECONDS, so that a worker that comes too late finds it warm at the
next attempt."""

WORKER_STOP_SECONDS = 3.0
"""From Stop, or from the death of one half, until the kernel is asked to end it."""

WORKER_MESSAGE_BYTES = 2 * AGENT_FRAME_BYTES
"""One message between supervisor and worker.  The largest holds one agent
frame; it must also fit into a SEQPACKET socket's buffer (212992 by default)."""

WORKER_QUEUE = 64
"""Decoded messages of one worker that wait for the broker; then its socket
fills, then the worker stops reading its guest."""

AGENT_MESSAGES_PER_SECOND = 200.0
AGENT_MESSAGES_BURST = 400
"""How fast a worker passes on its guest's messages; beyond it the guest waits.
200 output chunks of 16 KiB are 3 MB/s of log, more than anybody reads."""

WAYLAND_CONNECTS_PER_SECOND = 50.0
WAYLAND_CONNECTS_BURST = 64
"""How fast a worker takes new Wayland clients; beyond it they wait in the
backlog.  A desktop session that starts is a burst of some tens."""

WORKER_MESSAGES_PER_SECOND = 1000.0
WORKER_MESSAGES_BURST = 4000
"""What the supervisor accepts from one worker.  An honest one keeps the two
paces above (300 a second together), so one that exceeds this was taken over,
and is ended: its messages cost time that other sandboxes need."""

WAYLAND_LINGER_SECONDS = 5.0
"""After one end of a Wayland connection has closed, the other has so long."""

KEEPER_CONNECT_SECONDS = 5.0
"""For connect(2) to the compositor, which blocks while its backlog is full."""

WORKER_FDS = 2048
"""RLIMIT_NOFILE of a worker: two sockets for each client, and 28 descriptors
in flight for some tens of them at one time.  Who exceeds it loses the
connection that did (MSG_CTRUNC)."""

WORKER_ADDRESS_BYTES = 8 << 30
"""RLIMIT_AS of a worker: pools are mapped sparse, 1 GiB at most each."""

WORKER_DATA_BYTES = 512 << 20
"""RLIMIT_DATA of a worker: private memory; it holds about 20 MiB."""

WAYPIPE_START_SECONDS = 10.0
"""Until a waypipe client's socket accepts."""

WAYPIPE_PROCESSES = 2 * WAYLAND_CLIENTS_PER_SANDBOX
"""RLIMIT_NPROC of a waypipe client: one process and some threads for each
Wayland connection of the sandbox."""

WAYPIPE_FDS = 512
"""RLIMIT_NOFILE of each process of a waypipe client (one Wayland client's
pools, pipes and two sockets).  It also bounds the descriptors in flight, which
the kernel counts for the whole person: below the usual 1024, so that a hostile
client cannot keep others from passing any (unix(7), ETOOMANYREFS)."""

WAYPIPE_FILE_BYTES = 1 << 30
"""RLIMIT_FSIZE of a waypipe client: its largest memfd.  foot makes 512 MiB."""

WAYPIPE_ADDRESS_BYTES = 16 << 30
"""RLIMIT_AS of each process of a waypipe client: it maps its pools."""

WAYPIPE_DATA_BYTES = 2 << 30
"""RLIMIT_DATA of each process of a waypipe client: mirrors of its pools."""

# -- the link between host and viewer ------------------------------------------------

LINK_HANDSHAKE_SECONDS = 10.0
"""From accept to a session, and from a stream's accept to its whole preamble.
Four small messages between two machines take milliseconds; only a stall is
this slow.  Also how long an opener waits for the answer."""

LINK_UNAUTHENTICATED_PER_PEER = 16
"""Connections of one peer (a CID, a socket path) that have proved nothing yet.
Reconnecting needs one, a burst of opened streams a few; ten thousand
half-open ones cost us these descriptors and 16 buffers of 180 bytes."""

LINK_UNAUTHENTICATED = 64
"""The same over all peers together."""

LINK_PIECE_BYTES = 3584
"""Single writes of control records and agent messages, so that neither needs
``pieces`` in link.toml: vhost-device-vsock (0.3) loses packets above 3,732
bytes between sibling machines.  Both are small and few."""

LINK_RECORD_BYTES = 65536
"""Plaintext of one control record: the longest request is a few kilobytes."""

LINK_RECORD_SECONDS = 10.0
"""From a control record's first byte to its last."""

LINK_SILENCE_SECONDS = 30.0
"""Without a record for so long, an end sends a ping; without one for twice as
long it takes the other end for dead."""

LINK_REQUESTS = 64
"""Requests on control that one end has sent and has no reply to.  After a
reconnect 512 leases are announced in eight rounds of these."""

LINK_GRACE_SECONDS = 60.0
"""The longest grace that a viewer may ask for when it stops a sandbox."""

LINK_TEXT_CHARACTERS = 400
"""A reason or a hint inside a control message: what one line shows."""

LINK_PROGRESS_LINES = 64
"""Lines of progress of one start that are shown: a host that floods fills no
memory of whoever waits."""

LINK_WARNINGS = 16
"""Warnings in a status reply."""

LINK_COUNTER = (1 << 48) - 1
"""The last number of a record or a stream in one epoch: at a million a second
nine years.  No nonce ever repeats; beyond it the link must be made anew."""

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
"""From the first message to the last confirmation: two people, two screens."""

PAIRING_DIGITS = 6
"""Digits of the code that one broker shows and the other one is told.  A man
in the middle has one chance in a million for each run that two people start
by hand, and a wrong code ends the run (docs/link.md has the arithmetic)."""

# -- Wayland filter (broker.wayland) -------------------------------------------------

WAYLAND_OBJECTS = 16384
"""Live objects of one connection; Firefox has some 2,000.  About 400 bytes
each here and as much in the compositor."""

WAYLAND_OBJECTS_PER_SANDBOX = 65536
"""The same for all connections of a sandbox: some 30 MB at worst."""

WAYLAND_SURFACES = 1024
"""Surfaces of one sandbox; each costs the compositor a node in its scene."""

WAYLAND_WINDOWS = 128
"""Toplevels of one sandbox that exist at one time."""

WAYLAND_POPUPS = 64
"""Popups of one sandbox at one time: ten menus, deeply nested."""

WAYLAND_POPUP_DEPTH = 10
"""Popups on popups.  Menus nest five deep at most."""

WAYLAND_SUBSURFACE_DEPTH = 8
"""Subsurfaces in subsurfaces.  Toolkits use two; layout recurses this far."""

WAYLAND_SUBSURFACES = 256
"""Subsurfaces in one window: layout walks all of them at a resize."""

WAYLAND_OVERHANG = 16
"""How far, in pixels, a subsurface may reach outside its window and be cropped
also where such ones become popups: the edges and shadows of decorations."""

WAYLAND_BUFFERS = 2048
"""Live wl_buffers of one sandbox; a window uses two to four."""

WAYLAND_POOLS = 512
"""Live shared-memory pools of one sandbox: a descriptor each, here and in
the compositor."""

WAYLAND_POOL_BYTES = 1 << 30
"""One pool.  foot opens 512 MiB (sparse); wl_shm's own type ends at 2 GiB."""

WAYLAND_SHM_BYTES = 4 << 30
"""All pools of a sandbox, as declared.  Sparse files make this address space,
not memory; the memory is the sandbox's own."""

WAYLAND_BUFFER_SIDE = 16384
"""Width and height of a buffer in pixels: what pixman and GPUs can draw."""

WAYLAND_COORDINATE = 32000
"""Geometry, positions and sizes: far beyond any screen, and sums of eight of
them fit into 32 bits and into pixman's 16.16 coordinates."""

WAYLAND_SCALE = 16
"""wl_surface.set_buffer_scale."""

WAYLAND_REGION_OPS = 4096
"""add and subtract on one wl_region: pixman's cost grows with their number."""

WAYLAND_SURFACE_RECTS = 64
"""Rectangles in a surface's own region: it is kept three times and sent anew
when the crop moves.  Shaped windows have some tens."""

WAYLAND_DAMAGE = 128
"""Damage rectangles held for one commit; more become the whole surface."""

WAYLAND_CALLBACKS = 256
"""Frame callbacks and feedbacks held for one commit of a surface."""

WAYLAND_KEPT_BYTES = 32 << 20
"""What a sandbox makes us remember in regions and offered types, about 100
bytes each; thousands of menus' worth."""

WAYLAND_CHILD_OPS = 512
"""Positions and stacking orders of subsurfaces held for one commit."""

WAYLAND_SHELL_OPS = 64
"""Window-state requests (acknowledgements, size hints) held for one commit."""

WAYLAND_CURSOR_PIXELS = 64
"""Side of a cursor image in logical pixels: more would be a picture that
covers windows and borders near the pointer (border.md R6)."""

WAYLAND_DRAG_ICON_PIXELS = 128
"""Side of a drag icon, without its frame."""

WAYLAND_POPUP_SHARE = 0.9
"""Largest part of an output's width and height that a popup covers."""

WAYLAND_TITLE_CHARS = 160
"""A title, without its prefix."""

WAYLAND_APP_ID_CHARS = 100
"""An application id, without its prefix."""

WAYLAND_FDS_IN_FLIGHT = 256
"""Descriptors received from a client before their message.  libwayland's
output buffer (4096 bytes) holds fewer messages than that with one each."""

WAYLAND_MIMES = 128
"""Types offered by one selection or drag; browsers offer some twenty."""

WAYLAND_MIME_BYTES = 256
"""One of them."""

WAYLAND_SERIALS = 512
"""The last serials delivered to a connection that it may present again.
A pointer click and its menu are tens of serials apart."""

WAYLAND_QUEUE_BYTES = 1 << 18
"""Bytes waiting for one side before the other side is read no more."""

WAYLAND_STUCK_SECONDS = 30.0
"""A client that takes nothing for so long while more waits is cut off; the
compositor would otherwise cut us off, and say so in its log."""

WAYLAND_MESSAGES_PER_SECOND = 60_000
"""Requests of one connection, sustained.  Video with many damage rectangles
is 3,000; the core does some 500,000 a second in all."""

WAYLAND_MESSAGES_BURST = 120_000
"""Requests at once: start-up of a large application is some 20,000."""

WAYLAND_COMMIT_PIXELS_PER_SECOND = 4_000_000_000
"""Pixels of committed buffers, sustained: four 4K windows at 120 Hz."""

WAYLAND_COMMIT_PIXELS_BURST = 8_000_000_000
"""The same, at once."""

WAYLAND_ACTIVATIONS_PER_MINUTE = 20
"""Requests for attention of one sandbox that reach the compositor."""

WAYLAND_BELLS_PER_MINUTE = 60
"""Rings of the system bell."""

WAYLAND_ACTIVATION_SECONDS = 20.0
"""How long ago the input may lie that a request for attention presents."""

WAYLAND_WINDOWS_PER_MESSAGE = 32
"""Windows of a list in one message of a worker, each with up to a kilobyte of
title and application id."""

WAYLAND_LIMITED_SECONDS = 1.0
"""How often a worker tells which limits were hit, so that a flood of attempts
is one event a second."""

WAYLAND_MISTAKES_PER_SECOND = 4
"""Different mistakes of one sandbox's applications that are events by their own
words in one second; an application that makes ever new ones gets one count
for the rest, and leaves the log to others."""

WAYLAND_TRACE_LINES = 100
"""Lines of a trace in one message of a worker: 400 characters each would fit."""

WAYLAND_TRACE_WAITING = 20_000
"""Lines of a trace that wait to be told; an application's start has some
thousands.  What is more is lost, and counted."""

WAYLAND_TRACE_CHARS = 400
"""Of one line."""

WAYLAND_CONNECT_SECONDS = 10.0
"""From connecting to the compositor to knowing its globals; a millisecond."""

# -- guest images ------------------------------------------------------------------

IMAGE_PACKAGES = 500
"""Packages named for one image: mmdebstrap takes them in one argument."""

IMAGE_BUILD_SECONDS = 1800.0
"""One step of a build: half a minute is usual, a slow mirror takes longer."""

IMAGE_FREE_BYTES = 1 << 30
"""Room that a build asks for before it begins, where the image goes and where
it is made; the default image needs 450 MiB in the one, 900 MiB in the other."""

WAYLAND_UNKNOWN_SCREEN = (1920, 1080)
"""Width and height that bound popups while the compositor has told no
screen's size."""

WAYLAND_COPIED_BYTES_PER_POOL = 128 << 20
"""The same for one pool; what is older is given back.  Four 4K buffers."""

WAYLAND_COPIED_BYTES = 512 << 20
"""Memory of ours, for one sandbox, that stands in for shared memory which
cannot be sealed against shrinking.  Two 4K windows with three buffers each
are 200 MB."""

# -- waypipe's wire ------------------------------------------------------------------

WAYPIPE_HEADER_SECONDS = 10.0
"""From a display stream's beginning to waypipe's 16 bytes, which it sends at once."""

WAYPIPE_BLOCK_BYTES = 327_680
"""One block.  waypipe cuts damage into pieces of 256 KiB; the spans around
them make the longest block of an honest sender about 288 KiB."""

WAYPIPE_BUFFER_BYTES = 2 * WAYPIPE_BLOCK_BYTES
"""What is read ahead of a display stream; one block always fits."""

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
"""One file, as declared.  foot's pool has 512 MiB, nearly all of it never
touched; a mapping of so much costs address space alone."""

WAYPIPE_DECLARED_BYTES = 4 << 30
"""All files of one application, as declared: address space of the worker."""

WAYPIPE_TOUCHED_BYTES = 1 << 30
"""Memory behind all files of a sandbox.  It is the viewer's memory: three
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

WAYPIPE_UNACKNOWLEDGED_BYTES = WAYPIPE_BLOCK_BYTES
"""Bytes of counted blocks that we take before we say so; waypipe 0.8 and 0.9
keep them until then.  We ourselves keep nothing of what we sent."""

WAYPIPE_PIPES = 64
"""Pipes of one application at once: pastes and drops in progress."""

WAYPIPE_PIPE_QUEUE_BYTES = 1 << 20
"""Bytes that wait for the reader of one pipe.  The stream carries everything
of an application, so it waits for one slow paste only shortly."""

WAYPIPE_PIPE_STALL_SECONDS = 1.0
"""How long a full pipe may hold up its stream before its paste is dropped: a
reader takes half a MiB in that time, or is too slow to be waited for."""

WAYPIPE_PIPE_IDLE_SECONDS = 60.0
"""A pipe that moves nothing for so long is closed on our side."""

WAYPIPE_PIPE_READ_BYTES = 16_384
"""Bytes read at once from a pipe of ours, one block for waypipe."""

WAYPIPE_SENT_FILE_BYTES = 4 << 20
"""One file towards the application: a keymap has 60 KiB."""

WAYPIPE_OUT_BYTES = 1 << 19
"""Bytes that wait for the application's waypipe before the compositor is read
no more.  A keymap goes in as a whole."""

WAYPIPE_TURN_SECONDS = 0.002
"""Work on one stream before other streams of the sandbox have their turn; one
block more may be added, 6 ms at worst (a diff of single words)."""

# -- rules in force and questions -----------------------------------------------------

RULES_SETTLE_SECONDS = 0.1
"""How long files of rules must have been left alone before they are read: an
editor that writes in place is done by then, and half a file is no policy."""

RULES_SETTLE_MOST_SECONDS = 2.0
"""Files that never come to rest are read after this all the same: a sandbox's
denial must not wait behind somebody who touches a file ten times a second."""

RULES_LOOK_SECONDS = 2.0
"""Between two looks at the files where the kernel tells nothing: symbolic
links into other directories, network file systems, directories that come."""

RULES_LOOKED_AT = 8192
"""Files and directories that one look covers; more than rules and records may be."""

RATE_SLOTS = 64
"""Into how many parts the time of a ``rate=`` is divided for counting.  Calls
are forgotten a part at a time, so at most a 64th later than they could be."""

RATE_COUNTERS = 4096
"""Counters of ``rate=``, one for each rule and sandbox: 512 leases, some
services each.  Beyond, the answer is deny until an older one has run out."""

LIVE_PERMITS = 8192
"""Permissions in use at one time, streams and everything else."""

QUESTION_SECONDS = 60.0
"""From a question to the answer, the time in the queue counted.  Nobody who
sits there needs longer, and nobody who does not should find it hours later."""

QUESTIONS_WAITING = 32
"""Questions of all sandboxes that wait at one time.  A person answers one in
five seconds, so more would be over before they are shown."""

QUESTIONS_PER_SANDBOX = 4
"""Different questions of one sandbox that wait at one time."""

QUESTION_ASKERS = 64
"""Equal requests that wait for one answer."""

QUESTIONS_PER_MINUTE = 6
QUESTIONS_BURST = 4
"""How often one sandbox may make a dialog appear; beyond it the answer is no
without one.  A person who works with it asks for less, and nagging until
somebody gives in is an attack."""

QUESTION_AGAIN_SECONDS = 10.0
"""For so long after a no by the person the same question is answered no."""

QUESTION_TARGETS = 256
"""Targets offered in one dialog: more is no choice.  Beyond it the answer is
deny, because what is not shown cannot be chosen, and leaving some out would be
a choice of ours."""

GRANTS = 1024
"""Answers that are remembered at one time."""

PROMPT_MESSAGE_BYTES = 65536
"""A message between broker and prompt agent; a question with all its targets."""

PROMPT_GUARD_SECONDS = 1.0
"""How long a dialog must have held the focus, without a break and without any
key or click, before it takes an answer."""

PROMPT_WORD_SECONDS = 0.4
"""How long the typed word must stand alone: 'allowance' is not 'allow'."""

PROMPT_START_SECONDS = 10.0
"""For a prompt agent to say that it is there."""

PROMPT_DEATHS = 3
PROMPT_DEATHS_SECONDS = 60.0
"""An agent that has died so often in so long is not started again before that
time is over; questions are then answered by 'brokerctl answer'."""

PHRASE_CHARS = (4, 80)
"""The person's secret phrase: long enough not to be guessed at first sight,
short enough for one line of the dialog."""

NOTIFICATIONS_PER_MINUTE = 12
"""Notifications on the desktop; beyond it they are counted into the next."""

# -- PulseAudio filter (broker.pulse) ------------------------------------------------

PULSE_COMMAND_BYTES = 128 << 10
"""One command of a client.  The longest of real ones create a stream with its
properties, 2 KiB."""

PULSE_ANSWER_BYTES = 4 << 20
"""One command of the sound server: its list of all streams of the person."""

PULSE_SAMPLES_BYTES = 1 << 20
"""One frame of samples.  libpulse sends up to 64 KiB; the protocol's own limit
is 16 MiB.  It is passed on as it comes, never held whole."""

PULSE_CHANNELS_ANY = 32
"""Channels of anything in the protocol (PA_CHANNELS_MAX)."""

PULSE_PROPERTIES = 256
"""Entries of a property list; applications send some twenty."""

PULSE_PROPERTY_CHARS = 120
"""A text from a sandbox that the person may see in a mixer."""

PULSE_HANDSHAKE_SECONDS = 5.0
"""From accept until client and server have both said who they are."""

PULSE_EARLY_COMMANDS = 16
"""Commands that a client may send before its AUTH is answered."""

PULSE_CONNECTIONS = 16
"""Connections of one sandbox to the sound server at one time.  Firefox has
one for each process that plays; each costs the server a client."""

PULSE_STREAMS_PER_CONNECTION = 16
"""Streams of one connection, playback and recording together."""

PULSE_STREAMS_PER_SANDBOX = 32
"""Streams of one sandbox; the server itself stops at 256 for everybody."""

PULSE_OUTSTANDING = 256
"""Commands of one connection that the server has not answered."""

PULSE_COMMANDS_PER_SECOND = 1000.0
PULSE_COMMANDS_BURST = 2000
"""Commands of one connection; Firefox needs ten a second.  Beyond it the
connection is read more slowly."""

PULSE_TITLES_PER_MINUTE = 100
"""Changes of names and properties of one connection: each makes every mixer
of the person redraw."""

PULSE_BUFFER_BYTES = 4 << 20
"""A stream's buffer in the sound server (maxlength, the server's own limit)."""

PULSE_RATE = 192_000
"""Frames a second of a stream."""

PULSE_CHANNELS = 8
"""Channels of a stream."""

PULSE_VOLUME = 65536
"""100 %.  The protocol would take 65535 times that."""

PULSE_HELD_BYTES = 64 << 10
"""What a stream may send beyond what the server has asked for; it is held
here.  Real clients send exactly what is asked for."""

PULSE_EXCESS_BYTES = 16 << 20
"""Beyond that, what is dropped before the connection ends: a client that
ignores "overflow" for so long floods on purpose."""

PULSE_REWIND_BYTES_PER_SECOND = 2 << 20
PULSE_REWIND_BURST = 4 << 20
"""Samples written to where others have been already (negative or absolute
seeks), for which the server's demand is no measure: ten times real time."""

PULSE_QUEUE_BYTES = 128 << 10
"""Bytes waiting for one side before the other side is read no more; also what
a client that does not read its recording can make wait, beyond it is dropped."""

PULSE_STUCK_SECONDS = 30.0
"""A side that takes nothing for so long while more waits is cut off."""

PULSE_FRAGMENT_SECONDS = 0.2
"""A recording's piece when the client does not say; pipewire-pulse has 64 KiB."""

PULSE_FRAGMENT_BYTES = 64 << 10
"""The largest piece of a recording."""

PULSE_LAG_SECONDS = 1.0
"""A recording's clock that is so far behind (a stopped process) starts anew,
instead of sending all that was missed at once."""

PULSE_IDLE_SECONDS = 10.0
"""A stream without samples for so long counts as idle in lists and events."""

PULSE_STATES_PER_SECOND = 10.0
PULSE_STATES_BURST = 20
"""What the supervisor takes of one worker's words about its recordings; an honest
one says five a second.  Each change of the microphone is an event on disk."""

PULSE_REVOKE_SECONDS = 1.0
"""What a client gets to take the samples that were sent before a revoke; the
connection of one that does not is closed."""

# -- clipboard ----------------------------------------------------------------

CLIPBOARD_KEYMAP_BYTES = 1 << 20
"""A compositor's keymap that chords are looked up in; four layouts are 80 kB."""

CLIPBOARD_KEYMAPS = 8
"""Keymaps kept as read, in one process: those of some keyboards and of an input
method.  One is some 100 kB."""

CLIPBOARD_KEY_EVENTS = 64
"""The last key events whose verdict is remembered, as each comes once for every
wl_keyboard of a connection, at once."""

CLIPBOARD_LAYOUTS = 4
"""Layouts of one keymap whose chords are kept ready; XKB has no more."""

CLIPBOARD_BYTES = 64_000
"""What crosses between two sandboxes at once where no rule says otherwise, as
Qubes has it; more is refused whole."""

CLIPBOARD_BYTES_MOST = 64 << 20
"""The most that a rule can allow (``policy.limits.CLIPBOARD_BYTES``): a large
picture.  It is held in memory, at most twice and once for each target."""

CLIPBOARD_READ_BYTES = 1 << 20
"""Content is read and written so much at a time, and others get their turn."""

CLIPBOARD_SERVES = 16
"""Reads of one sandbox's pasted content at one time; toolkits ask for each type
once, some for all at once."""

CLIPBOARD_SERVE_SECONDS = 30.0
"""Without a byte taken by whoever asked for pasted content; then it is closed."""

CLIPBOARD_EXPORT_SECONDS = 5.0
"""From setting the person's selection to the compositor's echo of it."""

CLIPBOARD_DEATH_SECONDS = 0.025
"""After the end of a source's data: so long its death may come late.  A source
that died in the middle looks complete, as the kernel closes all it had."""

CLIPBOARD_EVENTS = 64
"""Focus, chords and ends that wait to be told to the broker."""

CLIPBOARD_KINDS = 4
"""Types read of one selection: text, a picture, and what a rule adds."""

CLIPBOARD_SECONDS = 300.0
"""How long what was copied may be pasted, and what was pasted may be taken."""

CLIPBOARD_SECONDS_MOST = 86_400.0
"""The longest that a rule can allow (``policy.limits.CLIPBOARD_SECONDS``)."""

CLIPBOARD_COPY_SECONDS = 10.0
"""From the copy chord to the last byte.  Toolkits need milliseconds; a source
that stalls holds a pipe and memory of ours for no longer."""

CLIPBOARD_DECIDE_SECONDS = 90.0
"""From the paste chord to policy's answer; longer than a question to the person
may wait (QUESTION_SECONDS), so that its answer still counts."""

CLIPBOARD_MARKS = 64
"""Exports to the person's own selection whose origin is remembered: those that
a history of it may still hold.  One is a hundred bytes."""

CLIPBOARD_CHORDS = 20
CLIPBOARD_CHORDS_SECONDS = 10.0
"""Chords of one sandbox that are followed within that time.  A person presses
two in a second at most; a worker that was taken over would fill log and screen."""

CLIPBOARD_ORDERS = 64
"""Orders that wait for one worker, and events that wait for the clipboard.  A
copy and a paste of all types are ten each."""

CLIPBOARD_PIXEL_BYTES = 34_000_000
"""Of a picture that is written anew, unpacked: a 4K screen with transparency.
The slowest filter takes ten seconds for it, as long as there is."""

CLIPBOARD_PICTURE_SIDE = 32_768
"""Pixels of a picture's width and of its height; toolkits have the same bounds."""
