"""Limits of the PulseAudio filter."""

from __future__ import annotations

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
