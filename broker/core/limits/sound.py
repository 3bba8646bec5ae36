"""Limits of the PulseAudio filter.

The worker keeps to them; the viewer to those of the user's settings and of connections.
"""

from __future__ import annotations

PULSE_COMMAND_BYTES = 128 << 10
"""Maximum size of one command of a client.  The longest real commands create a stream
with its properties, 2 KiB."""

PULSE_ANSWER_BYTES = 256 << 10
"""Maximum size of one command of the sound server.  The longest is one stream with its
properties; lists of all clients' objects are never requested."""

PULSE_SAMPLES_BYTES = 1 << 20
"""Maximum size of one frame of samples.  libpulse sends up to 64 KiB; the protocol's
own limit is 16 MiB.  A frame is relayed in pieces, never buffered whole."""

PULSE_CHANNELS_ANY = 32
"""Channels of anything in the protocol (PA_CHANNELS_MAX)."""

PULSE_POSITIONS = 51
"""Places of a loudspeaker in the protocol (PA_CHANNEL_POSITION_MAX)."""

PULSE_PROPERTIES = 256
"""Entries of a property list; applications send some twenty."""

PULSE_PROPERTY_CHARS = 120
"""A text from a sandbox that the user may see in a mixer."""

PULSE_HANDSHAKE_SECONDS = 5.0
"""Time limit from accept until client and server have both identified themselves."""

PULSE_CONNECTIONS = 16
"""Connections of one sandbox to the sound server at one time.  Firefox has
one for each process that plays; each costs the server a client."""

PULSE_CONNECTIONS_ALL = 48
"""The same of all sandboxes together.  The server has places for 64, so those of
the user's own programs are never used up by sandboxes."""

PULSE_CONNECTIONS_KEPT = 16
PULSE_CONNECTIONS_FEW = 4
"""Part of PULSE_CONNECTIONS_ALL that is reserved for records whose sandboxes have fewer
than PULSE_CONNECTIONS_FEW: some that take all they can leave the others their sound."""

PULSE_CONNECTS_PER_SECOND = 5.0
PULSE_CONNECTS_BURST = 32
"""How fast the connections of a record's sandboxes are opened; beyond it they wait.
Each is a decision, a process that connects, and a client of the sound server, which
announces it to every mixer of the user."""

PULSE_WAITING = 32
"""Connections of one sandbox that wait for a place among those above; each has a descriptor."""

PULSE_WAIT_SECONDS = 25.0
"""How long one waits; libpulse gives up after 30."""

PULSE_ABSENT_SECONDS = 1.0
"""How long all connections fail as the last one that found no sound server."""

PULSE_STREAMS_PER_CONNECTION = 16
"""Streams of one connection, playback and recording together."""

PULSE_STREAMS_PER_SANDBOX = 32
"""Streams of one sandbox; the server itself stops at 256 for all clients."""

PULSE_OUTSTANDING = 256
"""Commands of one connection that the server has not answered."""

PULSE_COMMANDS_PER_SECOND = 1000.0
PULSE_COMMANDS_BURST = 2000
"""Commands of one connection; Firefox needs ten a second.  Beyond it the
connection is read more slowly."""

PULSE_SANDBOX_COMMANDS_PER_SECOND = 2000.0
PULSE_SANDBOX_COMMANDS_BURST = 4000
"""The same of all connections of a sandbox together."""

PULSE_BIRTHS_PER_SECOND = 10.0
PULSE_BIRTHS_BURST = 64
"""Streams that a sandbox opens, and changes of their buffers' sizes.  Each makes the
desktop's sound server and its session manager decide again where sound goes, and how
fast; PipeWire keeps 4 MiB for a stream."""

PULSE_TITLES_PER_MINUTE = 100
"""Changes of names and properties in one sandbox: each makes every mixer
of the user redraw."""

PULSE_NAMES = 64
"""Names of applications in one sandbox.  Sound servers remember a volume for
each on the user's disk; later applications have the sandbox's name alone."""

PULSE_BUFFER_BYTES = 4 << 20
"""A stream's buffer in the sound server (maxlength, the server's own limit)."""

PULSE_LATENCY_MICROSECONDS = 2500
"""The shortest piece of sound that a stream may make a device work in, so 400
times a second: four are the shortest buffer, two the shortest piece of a
recording.  PipeWire's own least is a little longer (128 of 48,000, 256 in older
versions), so before it no program gets less than without us; PulseAudio's is half
a millisecond.  Browsers and players ask for 20 ms and more, games for 10 to 50."""

PULSE_RATE = 192_000
"""Frames a second of a stream."""

PULSE_RATE_LEAST = 4000
"""The fewest of them; telephones have 8000.  Far below it PulseAudio's resampler
fails an assertion, and the sound of all programs ends with it."""

PULSE_RATE_DRIFT_PERCENT = 10
"""How far a stream's rate may be changed once it runs, which is there to follow
another clock.  From 192,000 to 4000 PulseAudio's resampler fails the same
assertion."""

PULSE_CHANNELS = 8
"""Channels of a stream."""

PULSE_VOLUME = 65536
"""100 %.  The protocol would take 65535 times that."""

PULSE_HELD_BYTES = 64 << 10
"""Bytes that a stream may send beyond the server's request; they are held
here.  Real clients send exactly the requested bytes."""

PULSE_EXCESS_BYTES = 16 << 20
"""Beyond that, the bytes dropped before the connection ends: a client that
ignores "overflow" for so long floods on purpose."""

PULSE_REWIND_BYTES_PER_SECOND = 2 << 20
PULSE_REWIND_BURST = 4 << 20
"""Samples written to where others have been already (negative or absolute
seeks), which the server's demand does not limit: ten times real time."""

PULSE_REWIND_LEAST_BYTES = 1024
"""The least that a rewind counts as: the server mixes sound again that it
has mixed already, however little is written."""

PULSE_SEEK_BYTES = 16 << 20
"""How far one seek goes from its place: four of the largest buffers."""

PULSE_PLACE_BYTES = 1 << 48
"""The last place of a stream that a seek may name; 46 years at 192 kB/s."""

PULSE_SMALL_BYTES = 256
PULSE_SMALL_FRAMES = 256
"""Frames shorter than this (1.3 ms of stereo) cost the server more than the
samples in them: 144 bytes of memory each in PulseAudio.  So many are passed on before
the server asks for more; the rest is put together into longer ones."""

PULSE_SMALL_REFILL_BYTES = 192
"""A REQUEST for so many bytes lets another small frame go: one each
millisecond of stereo at 48 kHz."""

PULSE_QUEUE_BYTES = 128 << 10
"""Bytes waiting for one side before the other side is read no more; also what
a client that does not read its recording can make wait, beyond it is dropped.
News of others' streams end a connection that leaves twice as much unread."""

PULSE_STUCK_SECONDS = 30.0
"""A side that takes nothing for so long while more waits is cut off."""

PULSE_FRAGMENT_SECONDS = 0.2
"""A recording's piece when the client does not say; pipewire-pulse has 64 KiB."""

PULSE_FRAGMENT_BYTES = 64 << 10
"""The largest piece of a recording."""

PULSE_LAG_SECONDS = 1.0
"""A recording's clock that is so late (a stopped process) restarts,
instead of sending all that was missed at once."""

PULSE_IDLE_SECONDS = 10.0
"""A stream without samples for so long counts as idle in lists and events."""

PULSE_STATES_PER_SECOND = 10.0
PULSE_STATES_BURST = 20
"""Reports of one worker about its recordings that the supervisor accepts; an honest
one sends five a second.  Each change of the microphone is an event on disk."""

PULSE_REVOKE_SECONDS = 1.0
"""Time for a client to read the samples that were sent before a revoke; the
connection of a client that does not read them is closed."""
