"""Limits of the Wayland filter."""

from __future__ import annotations

WAYLAND_OBJECTS = 16384
"""Live objects of one connection; Firefox has some 2,000.  About 400 bytes
each here and as much in the compositor."""

WAYLAND_OBJECTS_PER_SANDBOX = 65536
"""The same for all connections of a sandbox: some 30 MB at worst."""

WAYLAND_SURFACES = 1024
"""Surfaces of one sandbox; each costs the compositor a node in its scene."""

WAYLAND_WINDOWS = 128
"""Toplevels of one sandbox that exist at one time."""

WAYLAND_EXPORTS = 256
"""Handles of a sandbox's windows for its other programs; a window has one, or one for
each dialog.  wlroots compares each new handle with all others: 60 us among 15,000."""

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

WAYLAND_GPU_PLANES = 128
"""Planes of live buffers in memory of the GPU, of one sandbox.  A compositor keeps a
descriptor for each, of 1,024 that it usually has; a window in four buffers takes four,
a film in six takes twelve."""

WAYLAND_GPU_BYTES = 4 << 30
"""All dma-bufs of a sandbox.  Unlike that of pools, their memory is there."""

WAYLAND_GPU_FIRST = 4
WAYLAND_GPU_PLANES_OF_OTHERS = 16
"""Planes of each sandbox with a GPU after the first four, fewer than theirs, so that
half of the compositor's descriptors remains for thirty of them and for the desktop's
own programs."""

WAYLAND_POOL_BYTES = 1 << 30
"""Maximum size of one pool.  foot opens 512 MiB (sparse); wl_shm's own type ends at 2
GiB."""

WAYLAND_SHM_BYTES = 32 << 30
"""All pools of a sandbox, as declared.  Sparse files make this address space,
not memory; the memory is the sandbox's own.  Each window of foot declares 512 MiB, and
twice that while it is resized: eight terminals were more than 4 GiB."""

WAYLAND_SHOWN_PIXELS = 1 << 28
"""Pixels of all buffers that a sandbox's surfaces have at one time: thirty-two
windows in 4K.  Compositors that draw with OpenGL keep a copy of each, four
bytes a pixel, of a sparse file too: a gigabyte in all."""

WAYLAND_BUFFER_SIDE = 16384
"""Width and height of a buffer in pixels: what pixman and GPUs can draw."""

WAYLAND_UNANSWERED = 64
"""Configure events of a window that its program has not acknowledged, beyond which it
asks for no more: wlroots keeps them, 87 bytes each."""

WAYLAND_COORDINATE = 32000
"""Geometry, positions and sizes: far beyond any screen, and sums of eight of
them fit into 32 bits and into pixman's 16.16 coordinates."""

WAYLAND_SCALE = 16
"""wl_surface.set_buffer_scale."""

WAYLAND_SURFACE_RECTS = 64
"""Rectangles in a region, further ones make it the one around all: a surface's is kept
three times and sent again when the crop moves.  Shaped windows have some tens."""

WAYLAND_DAMAGE = 128
"""Damage rectangles held for one commit; more become the whole surface."""

WAYLAND_CALLBACKS = 256
"""Frame callbacks and feedbacks held for one commit of a surface."""

WAYLAND_KEPT_BYTES = 32 << 20
"""Memory for a sandbox's regions and offered types, about 100 bytes each; enough
for thousands of menus."""

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
"""Maximum size of one MIME type, in bytes."""

WAYLAND_SERIALS = 512
"""The last serials delivered to a connection that it may present again.
A pointer click and its menu are tens of serials apart."""

WAYLAND_QUEUE_BYTES = 1 << 18
"""Bytes waiting for one side before the other side is read no more."""

WAYLAND_MOTION_BYTES = WAYLAND_QUEUE_BYTES // 2
"""Bytes waiting for a client beyond which motions of the pointer are not added: they alone
do not have it cut off."""

WAYLAND_STUCK_SECONDS = 30.0
"""A client that takes nothing for so long while its answers wait is cut off."""

WAYLAND_UNHEARD_BYTES = 1 << 20
"""Bytes waiting for a client after which the client is disconnected; the compositor
never waits for it.  At 1,000 pointer motions a second that is half a minute;
compositors themselves cut a client off at some 200 KiB."""

WAYLAND_LATE_KEY_SECONDS = 1.0
"""Time after a key press in which its chord must be received; a later chord has no
effect."""

WAYLAND_CLOCKS_APART_SECONDS = 60.0
"""Event times further apart than this from the ones before are another clock's (a
virtual keyboard's), not late."""

WAYLAND_MESSAGES_PER_SECOND = 60_000
"""Requests of one connection, sustained.  Video with many damage rectangles
is 3,000; the core does some 500,000 a second in all."""

WAYLAND_MESSAGES_BURST = 120_000
"""Requests at once: start-up of a large application is some 20,000."""

WAYLAND_MESSAGES_PER_SECOND_OF_ALL = 90_000
"""Requests of all connections of one sandbox together, sustained.  As empty
commits of framed windows, at some 1.1 us each, they are a tenth of sway's core."""

WAYLAND_MESSAGES_BURST_OF_ALL = 180_000
"""The same, at once: nine large applications that start together."""

WAYLAND_TURN_SECONDS = 0.002
"""Time slice for a client's requests; then the compositor, the broker and other clients
of the sandbox have their turn."""

WAYLAND_SHARE_SECONDS = 0.25
"""Budget that a connection saves up while others have spent the rate that all of its
sandbox share: an even part of so many seconds of that rate."""

WAYLAND_CLIENT_READ_BYTES = 1 << 14
"""Size of one read of a client's requests: at most two thousand, after which others of
its sandbox have their turn.  libwayland sends 4096 bytes at a time."""

WAYLAND_COMMIT_PIXELS_PER_SECOND = 4_000_000_000
"""Pixels of committed buffers of one sandbox, sustained: four 4K windows at
120 Hz."""

WAYLAND_COMMIT_PIXELS_BURST = 8_000_000_000
"""The same, at once."""

WAYLAND_COMMIT_PIXELS_AT_ONCE = 1 << 28
"""After so many of one read its connection waits if it must: the largest
buffer.  A read may hold two thousand commits of it."""

WAYLAND_MAPPING_PIXELS = 1 << 20
"""The cost of mapping a grown pool again: 256 descriptors are under way
before a connection waits, and a sandbox maps some 4,000 times a second.
Toolkits double a pool, some ten times in their life."""

WAYLAND_FENCE_SECONDS = 1.0
"""Time limit of a commit's wait for the GPU to draw its picture.  A picture at 10
frames a second is a tenth of it; the kernel's drivers give up on a job after two to
ten."""

WAYLAND_FROZEN_SECONDS = 0.05
"""The same for a window whose last picture was late: three pictures of a screen."""

WAYLAND_FORMAT_TABLE_BYTES = 1 << 20
"""The compositor's table of formats: 65,536 rows, as many as can be named."""

WAYLAND_SURFACE_PIXELS = 1 << 15
"""Pixels that each surface of a window with subsurfaces counts for at each commit.
sway looks at all of them again, 0.7 us each: so at most 120,000 a second, 8,000
at once.  Twenty that are committed one by one at 144 Hz are half of that."""

WAYLAND_CPU_PIXEL_WEIGHT = 10
"""Charge for a pixel that the compositor draws where it has no GPU: pixman takes
0.85 to 1.1 ns for one, so less than half a core is spent on drawing for a sandbox.
1080p at 60 pictures a second in three layers is just below the rate."""

WAYLAND_SAMPLED_WEIGHT = 6
"""Plain pixels that a pixel of a turned or scaled picture counts for without a GPU:
pixman takes four to eight times as long.  A film of 1080p at 25 pictures a second is
within the rate."""

WAYLAND_SHRUNK_PIXELS = 4
"""Pixels of a buffer for each visible pixel at which the next weight begins."""

WAYLAND_SHRUNK_WEIGHT = 10
"""The same for a picture that is far larger than it is shown: most pixels that are read
are in no cache of the processor."""

WAYLAND_LAYERS = 16
"""Surfaces of one window over one another, on average over its area.  Browsers and
toolkits have two or three; each is drawn for all that changes below and above."""

WAYLAND_LAYERED_PIXELS = 1 << 24
"""Windows whose surfaces have fewer pixels in all may have any number of layers."""

WAYLAND_PAINTED_SCREENS = 100
"""Painted pixels of a sandbox's windows, in screens: others' pictures pass through."""

WAYLAND_POOL_MESSAGES = 8
"""Messages charged for a pool in addition to its message (mmap and munmap): 34 to 43 us
in all."""

WAYLAND_POPUP_MESSAGES = 100
"""Messages charged for a menu in addition to its own: 235 to 530 us in all."""

WAYLAND_WINDOWS_A_MESSAGE = 40
"""Number of windows of a sandbox for which a commit of one costs as much as one more
message."""

WAYLAND_ACTIVATIONS_PER_MINUTE = 20
"""Requests for attention of one sandbox that reach the compositor."""

WAYLAND_TOKEN_SECONDS = 60.0
"""After so long an activation token opens nothing: a program that it was given to has
started by then, also in a machine."""

WAYLAND_TITLES_PER_MINUTE = 600
"""Changes of titles, and of application ids, of one sandbox that the compositor
receives at once.  sway redraws for a title, some 0.2 ms: a flood of them stopped the
whole desktop.  Compositors pass both on to taskbars, whose queues are short."""

WAYLAND_FIFO_WAITS = 2
"""Pictures of a window that wait at the compositor for the ones before them: the frame is
so many refreshes late at most."""

WAYLAND_ICON_SIDE = 256
"""Side in pixels of a picture that an application gives for its window's icon."""

WAYLAND_ICONS_PER_MINUTE = 60
"""Icons of one sandbox that are drawn: 5 ms of its worker each, and a taskbar's work.
Programs set one for each window; a few show in it how much mail is unread."""

WAYLAND_BELLS_PER_MINUTE = 60
"""Rings of the system bell."""

WAYLAND_PRESS_SECONDS = 5.0
"""How long ago a press may lie that a window menu is asked for with."""

WAYLAND_MAPPINGS_PER_MINUTE = 24
"""Windows of one sandbox that open without input in it; more would be a game for
the focus: each may receive a key that was typed for another window.  A browser that
restores a session has some twenty."""

WAYLAND_MAPPING_INPUT_SECONDS = 3.0
"""A window that comes so soon after input is the answer to that."""

WAYLAND_CHOSEN_SECONDS = 5.0
"""A window that came by itself and has had the keyboard for so long, on end, is the
user's choice.  Longer than the time above, or the wait would be an excuse itself."""

WAYLAND_LISTENERS = 80
"""Objects of one connection that hear input (pointers, keyboards, touch, gestures,
text input, data devices) or are a screen's: the compositor sends each of them every
event."""

WAYLAND_LISTENERS_PER_SANDBOX = 1024
"""The same for all connections of a sandbox; Firefox has some 20.  wlroots looks at all
objects of a screen for each surface that comes: 323 us among 42,000."""

WAYLAND_ACTIVATION_SECONDS = 20.0
"""How long ago the input may lie that a request for attention presents."""

WAYLAND_WINDOWS_PER_MESSAGE = 32
"""Windows of a list in one message of a worker, each with up to a kilobyte of
title and application id."""

WAYLAND_LIMITED_SECONDS = 1.0
"""How often a worker reports which limits were hit, so that a flood of attempts
is one event a second."""

WAYLAND_MISTAKES_PER_SECOND = 4
"""Different mistakes of one sandbox's applications that are events by their
words in one second; an application that makes ever new ones gets one count
for the rest, and leaves the log to others."""

WAYLAND_TRACE_LINES = 100
"""Lines of a trace in one message of a worker: 400 characters each would fit."""

WAYLAND_TRACE_WAITING = 20_000
"""Lines of a trace that wait to be sent; an application's start has some
thousands.  Further lines are lost, and counted."""

WAYLAND_TRACE_CHARS = 400
"""Characters of one line of the trace."""

WAYLAND_RESTLESS_SECONDS = 0.25
"""Seconds in which a compositor may still draw a window that it is about to hide: sway 1.7
waits 200 ms for all windows to acknowledge a change."""
WAYLAND_SHOWN_SECONDS = 2.0
"""Seconds that a menu waits for its window to be drawn before it is dismissed."""
WAYLAND_LATE_SECONDS = 0.1
"""After which a window that has not answered a smaller size is cropped to it:
sway waits 200 ms for it, and then cuts off the excess."""

WAYLAND_CONNECT_SECONDS = 10.0
"""Time limit from connecting to the compositor to knowing its globals; a
millisecond."""
