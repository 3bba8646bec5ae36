"""A playback stream: its samples, its credit, its loudness.

The server says how many bytes it wants (``credit``).  No more than that is
passed on: what a client sends beyond waits here, up to a limit, and then is
dropped with the protocol's own "overflow".  So a sandbox can fill its own
buffer and no other.

Samples are passed on in frames of our own making, always whole and never longer than
the bytes that have arrived, so a client that stops in the middle of a frame holds up
nothing: the server's side always is at a frame's boundary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.errors import PeerError
from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import ChangeKind, Command, Facility
from broker.jail.sound.events import Flooded, StreamBegun, StreamEnded
from broker.jail.sound.samples import frame_bytes
from broker.jail.sound.tagstruct import Properties, Spec, encode

if TYPE_CHECKING:
    from broker.jail.sound.filter import PulseFilter

_FULL = limits.PULSE_VOLUME
_ABSOLUTE = 1
"""PA_SEEK_ABSOLUTE: from the stream's beginning; others are from where it is."""


class Playback:
    """One stream that plays."""

    def __init__(
        self,
        owner: PulseFilter,
        *,
        channel: int,
        real_index: int,
        spec: Spec,
        credit: int,
        maxlength: int,
        volume: tuple[int, ...] | None,
        muted: bool,
        variable: bool,
        properties: Properties,
        now: float,
    ) -> None:
        self.owner = owner
        self.channel = channel
        self.real_index = real_index
        self.index = owner.sandbox.new_index()
        self.spec = spec
        self.credit = credit
        self.maxlength = maxlength
        """The server's buffer for it, in bytes."""
        self.volume = volume
        """The volume that the client requested; None: none requested, so 100 %."""
        self.muted = muted
        self.variable = variable
        """Whether it was asked for as one whose rate may change."""
        self.properties = properties
        self.last_samples = now
        self._frame_bytes = frame_bytes(spec)
        self._held = bytearray()
        self._held_frames: list[bytes] = []
        self._seek = (0, 0)
        self._excess = 0
        self._rewound = 0.0
        self._rewound_at = now
        self._dropping = False
        self._small = limits.PULSE_SMALL_FRAMES
        """Small frames that may be passed on before the server asks for more."""

    # -- life ----------------------------------------------------------------

    def begin(self) -> None:
        """Register the stream with its sandbox; announce it to clients and viewer."""
        sandbox = self.owner.sandbox
        sandbox.playbacks[self.index] = self
        sandbox.by_real[self.real_index] = self
        self.owner.playbacks[self.channel] = self
        sandbox.announce(Facility.SINK_INPUT, ChangeKind.NEW, self.index)
        sandbox.tell(StreamBegun(self.index, self.owner.application))

    def end(self) -> None:
        """Remove the stream from the sandbox's state, once; notify subscribed clients.

        The server is not told: see ``kill``.
        """
        sandbox = self.owner.sandbox
        if sandbox.playbacks.pop(self.index, None) is None:
            return
        if sandbox.by_real.get(self.real_index) is self:
            del sandbox.by_real[self.real_index]
        self.owner.playbacks.pop(self.channel, None)
        self._held.clear()
        self._held_frames.clear()
        sandbox.announce(Facility.SINK_INPUT, ChangeKind.REMOVE, self.index)
        sandbox.tell(StreamEnded(self.index))

    def fits(self, rules: SoundRules) -> bool:
        """Return whether the stream's format and buffer are within these rules."""
        return (
            self.spec.rate <= rules.rate
            and self.spec.channels <= rules.channels
            and self.maxlength <= rules.buffer_bytes
        )

    def kill(self) -> None:
        """End the stream, here and at the server, and notify the client."""
        channel = encode("L", [self.channel])
        # guard: commands of a stream that is ended
        self.flush()
        self.end()
        self.owner.ask(Command.DELETE_PLAYBACK_STREAM, channel)
        self.owner.event(Command.PLAYBACK_STREAM_KILLED, channel)

    # -- samples -------------------------------------------------------------

    def write(self, part: frames.Samples, now: float) -> None:
        """Queue the client's samples and send what may go.

        Raises PeerError for a flood.
        """
        self.last_samples = now
        if part.first:
            if part.seek or part.offset:
                self._check_seek(part)
            self._dropping = not self._may_seek(part, now)
            if not self._dropping and (part.seek or part.offset):
                self._held.clear()  # it cannot be sent where it belongs any more
                self._seek = (part.seek, part.offset)
                if part.seek == 0:
                    self.credit -= max(0, part.offset)
        if self._dropping:
            self._drop(len(part.data))
            return
        room = max(0, self.credit) + limits.PULSE_HELD_BYTES - len(self._held)
        # guard: held samples
        kept = part.data[: max(0, room)]
        self._held += kept
        self._send()
        if len(kept) < len(part.data):
            self._drop(len(part.data) - len(kept))

    def passes(self, sizes: tuple[int, ...], now: float) -> bool:
        """Count whole frames of so many bytes, if they can be passed on as they are.

        False, and nothing is done, where ``write`` has more to think of:
        something waits, or it is more than the server asked for.
        """
        count, small = 0, self._small
        for size in sizes:
            # guard: whole sample frames
            if size % self._frame_bytes:
                return False
            if size < limits.PULSE_SMALL_BYTES:
                # guard: small frames on the short way
                if not small:
                    return False
                small -= 1
            count += size
        # guard: new samples do not overtake held ones
        # guard: credit of whole frames
        if (
            count > self.credit
            or self._held
            or self._held_frames
            or self._excess
            or self._seek != (0, 0)
        ):
            return False
        self.last_samples = now
        self._small = small
        self.credit -= count
        return True

    def _check_seek(self, part: frames.Samples) -> None:
        """Raise PeerError for a seek inside a sample, or farther than buffers reach.

        PulseAudio fails an assertion over half a sample, and with it ends the
        sound of all programs.  libpulse lets no program ask for that.
        """
        least, most = -limits.PULSE_SEEK_BYTES, limits.PULSE_SEEK_BYTES
        if part.seek == _ABSOLUTE:
            least, most = 0, limits.PULSE_PLACE_BYTES
        # guard: how far a seek goes
        # guard: whole samples to seek to
        if part.offset % self._frame_bytes or not least <= part.offset <= most:
            raise PeerError(f"invalid seek offset of samples: {part.offset}")

    # No more than was asked for, to the byte. Samples that a client sends beyond the
    # server's request wait in the filter, up to 64 KiB for each stream, instead of
    # being passed on with some slack. Real clients never send more, and a slack would
    # be a buffer in the server that a sandbox fills. Overwriting sent samples (negative
    # and absolute seeks) is counted apart, because the server's requests do not limit
    # it.
    def _may_seek(self, part: frames.Samples, now: float) -> bool:
        """Return whether the client may seek so; limits how much it rewinds."""
        if not part.seek and part.offset >= 0:
            return True
        since = max(0.0, now - self._rewound_at)
        self._rewound_at = now
        allowance = since * limits.PULSE_REWIND_BYTES_PER_SECOND
        self._rewound = max(0.0, self._rewound - allowance)
        # guard: rewinding
        if self._rewound > limits.PULSE_REWIND_BURST:
            return False
        # guard: seeks of little
        self._rewound += max(part.size, limits.PULSE_REWIND_LEAST_BYTES)
        if not part.seek:
            # The server wants less for bytes that are written a second time, and
            # libpulse counts the same way.
            self.credit += min(-part.offset, part.size)
        return True

    def requested(self, count: int) -> None:
        """Add the bytes that the server requests to the credit, and send samples."""
        self.credit += count
        if self._small < limits.PULSE_SMALL_FRAMES:
            more = 1 + count // limits.PULSE_SMALL_REFILL_BYTES
            self._small = min(self._small + more, limits.PULSE_SMALL_FRAMES)
        self._send()

    def _send(self) -> None:
        """Send the server held samples, as far as it asks for them."""
        # guard: credit
        count = min(len(self._held), max(0, self.credit))
        count -= count % self._frame_bytes
        if count and self._may_send(count):
            seek, offset = self._seek
            self._seek = (0, 0)
            data = bytes(self._held[:count])
            del self._held[:count]
            self.credit -= count
            self._excess = max(0, self._excess - count)
            self.owner.send_up(frames.samples(self.channel, data, seek, offset))
        if self._held_frames and len(self._held) < self._frame_bytes:
            for frame in self._held_frames:
                self.owner.send_up(frame)
            self._held_frames.clear()

    def _may_send(self, count: int) -> bool:
        """Return whether a frame of so many bytes may be sent.

        Small ones are limited.
        """
        if count < limits.PULSE_SMALL_BYTES and not self._held_frames:
            # guard: small frames
            if not self._small:
                return False
            self._small -= 1
        return True

    def _drop(self, count: int) -> None:
        """Count samples that overflow; tell the client, and end a flood."""
        if not self._excess:
            self.owner.sandbox.tell(Flooded(self.index))
            self.owner.event(Command.OVERFLOW, encode("L", [self.channel]))
        self._excess += count
        # guard: a flood ends
        if self._excess > limits.PULSE_EXCESS_BYTES:
            raise PeerError(
                f"the client sent {self._excess} bytes of samples more than requested"
            )

    def flush(self) -> None:
        """Discard the waiting samples; commands after them wait no longer."""
        self._held.clear()
        # guard: discarding samples releases the commands after them
        self._send()

    def after_samples(self, frame: bytes) -> None:
        """Send a command to the server after the samples that wait before it."""
        if len(self._held) >= self._frame_bytes:
            self._held_frames.append(frame)
            self._send()
        else:
            self.owner.send_up(frame)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing was played for the time that the rules name."""
        return now - self.last_samples > self.owner.sandbox.rules.idle_seconds

    # -- loudness ------------------------------------------------------------

    def real_volume(self) -> tuple[int, ...]:
        """The volume for the server: the client's times the user's."""
        asked = self.volume or (_FULL,) * self.spec.channels
        return self.owner.sandbox.loudness(asked)

    def real_mute(self) -> bool:
        """Muted by the client or by the user."""
        # guard: the user's mute overrides the program's
        return self.muted or self.owner.sandbox.level.muted

    def shown_volume(self, real: tuple[int, ...]) -> tuple[int, ...]:
        """Convert the server's volume for the client: without the user's part."""
        gain = self.owner.sandbox.level.volume
        if gain == 0:
            return self.volume or (_FULL,) * len(real)
        return tuple(min(one * _FULL // gain, _FULL) for one in real)

    def apply_level(self) -> None:
        """Send the stream's volume to the server after the user moved the slider."""
        ask = self.owner.ask
        ask(
            Command.SET_SINK_INPUT_MUTE,
            encode("Lb", [self.real_index, self.real_mute()]),
        )
        ask(
            Command.SET_SINK_INPUT_VOLUME,
            encode("Lv", [self.real_index, self.real_volume()]),
        )
