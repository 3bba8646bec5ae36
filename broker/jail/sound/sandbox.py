"""The shared state of all connections of a sandbox: numbers, level, microphone.

Indexes are ours, counted from 1 for each sandbox: the server's would reveal how
much others play.  They continue counting, so that a late command never meets a
newer stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Level, Microphone, Revoked, SoundRules
from broker.core.token_bucket import TokenBucket
from broker.jail.sound.commands import ChangeKind, Facility
from broker.jail.sound.events import (
    MicrophoneActive,
    MicrophoneUnwanted,
    MicrophoneWanted,
    SoundEvent,
)
from broker.jail.sound.properties import Labels

if TYPE_CHECKING:
    from broker.jail.sound.filter import PulseFilter
    from broker.jail.sound.playback_stream import Playback
    from broker.jail.sound.recording import Recording


class SoundSandbox:
    """One sandbox's sound, over all of its connections.

    ``tell`` gets every event, in the step that caused it and before the bytes
    that follow from it leave.
    """

    def __init__(
        self,
        rules: SoundRules,
        tell: Callable[[SoundEvent], None],
        level: Level | None = None,
    ) -> None:
        self.rules = rules
        self.tell = tell
        self.labels = Labels(rules.name, rules.icon)
        self.level = level or Level()
        each_minute = limits.PULSE_TITLES_PER_MINUTE
        self.titles = TokenBucket(each_minute / 60, each_minute)
        self.pace = TokenBucket(
            limits.PULSE_SANDBOX_COMMANDS_PER_SECOND,
            limits.PULSE_SANDBOX_COMMANDS_BURST,
        )
        self.births = TokenBucket(
            limits.PULSE_BIRTHS_PER_SECOND, limits.PULSE_BIRTHS_BURST
        )
        self.connections = 0
        """Filters that exist, those in the handshake included."""
        self.members: dict[int, PulseFilter] = {}
        self.playbacks: dict[int, Playback] = {}
        self.by_real: dict[int, Playback] = {}
        self.recordings: dict[int, Recording] = {}
        self.refused: Counter[str] = Counter()
        self.allowed = rules.microphone is Microphone.ALLOW
        """Whether recordings hear the real source now."""
        self.hidden = rules.microphone is Microphone.DENY
        """Whether there is no source to be seen."""
        self._asked = False
        self._wanted = False
        self._active = 0
        self._last_index = 0

    # -- numbers -------------------------------------------------------------

    def new_index(self) -> int:
        """A number that this sandbox has not seen yet."""
        self._last_index += 1
        return self._last_index

    def has_room(self) -> bool:
        """Return whether the sandbox may have another stream."""
        coming = sum(member.creating for member in self.members.values())
        there = len(self.playbacks) + len(self.recordings)
        # guard: streams on their way
        return there + coming < self.rules.streams

    def idle(self, now: float) -> int:
        """How many streams have played nothing for a while."""
        return sum(stream.is_idle(now) for stream in self.playbacks.values())

    def announce(self, facility: Facility, change: ChangeKind, index: int) -> None:
        """Notify every connection that has subscribed to such changes."""
        for member in self.members.values():
            member.notify(facility, change, index)

    # -- rules that change ---------------------------------------------------

    def set_rules(self, rules: SoundRules, now: float) -> None:
        """Apply other rules of the same sandbox from here on, to running streams too.

        A stream that the rules would not let begin is ended; its client is notified.
        """
        old, self.rules = self.rules, rules
        denied = rules.microphone is Microphone.DENY
        if denied != (old.microphone is Microphone.DENY):
            if denied:
                self.deny_microphone(now)
            self._show(hidden=denied)
        for stream in [s for s in self.playbacks.values() if not s.fits(rules)]:
            stream.kill()
        for recording in [r for r in self.recordings.values() if not r.fits(rules)]:
            recording.kill()
        # Indexes are counted: the newest are ended first.
        for index in sorted({**self.playbacks, **self.recordings})[rules.streams :]:
            (self.playbacks.get(index) or self.recordings[index]).kill()
        if rules.volume != old.volume:
            for stream in list(self.playbacks.values()):
                stream.apply_level()

    # -- the user's mixer --------------------------------------------------

    def loudness(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """A client's volumes for the server: times the user's."""
        most, gain = self.rules.volume, self.level.volume
        # guard: at most 100 %
        return tuple(min(one, most) * gain // limits.PULSE_VOLUME for one in asked)

    @property
    def is_turned_down(self) -> bool:
        """Return whether streams must be given a volume even if they ask for none."""
        return min(self.rules.volume, self.level.volume) < limits.PULSE_VOLUME

    def set_level(self, level: Level) -> None:
        """Set the volume and mute of all streams, present and future."""
        if level == self.level:
            return
        self.level = level
        for stream in list(self.playbacks.values()):
            stream.apply_level()

    # -- the microphone ------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Return whether something records (and is not paused)."""
        return any(r.wanted for r in self.recordings.values())

    @property
    def active(self) -> bool:
        """Return whether the real source is open for this sandbox."""
        return self._active > 0

    def microphone_wanted(self, application: str) -> None:
        """A recording begins: it may hear, or the user has to be asked."""
        self._wanted = True
        if not self.allowed and not self._asked:
            self._asked = True
            self.tell(MicrophoneWanted(application))

    def look_if_wanted(self) -> None:
        """A recording has paused or ended: perhaps it was the last one."""
        if self._wanted and not self.wanted:
            self._wanted = False
            self.tell(MicrophoneUnwanted())

    def allow_microphone(self, now: float) -> None:
        """Allow the microphone: all recordings that run get the real source."""
        if self.rules.microphone is Microphone.DENY:
            return  # a rule that denies is not overridden by an answer
        self.allowed, self._asked = True, False
        self._show(hidden=False)
        for recording in list(self.recordings.values()):
            recording.listen(now)

    def deny_microphone(self, now: float) -> None:
        """Take the microphone away at once, from all recordings.

        Samples that have not left us yet are silenced, too.

        Its samples that have not left us yet are silenced, too.
        """
        self.allowed, self._asked = False, False
        if self.rules.revoked is Revoked.END:
            self._show(hidden=True)
        for recording in list(self.recordings.values()):
            if self.rules.revoked is Revoked.END:
                recording.kill()
            else:
                # guard: a revoke closes
                recording.deafen(now)
        for member in self.members.values():
            member.down.silence()

    def rest_microphone(self, now: float) -> None:
        """End the permission of the microphone, as no recording is active any more.

        A stream that has begun meanwhile continues in silence.
        """
        self.allowed = False
        self._asked = self.wanted
        for recording in list(self.recordings.values()):
            recording.deafen(now)
        for member in self.members.values():
            member.down.silence()

    def _show(self, *, hidden: bool) -> None:
        """Show or hide the virtual source, and announce the change."""
        if self.hidden == hidden:
            return
        self.hidden = hidden
        change = ChangeKind.REMOVE if hidden else ChangeKind.NEW
        self.announce(Facility.SOURCE, change, 0)
        self.announce(Facility.SERVER, ChangeKind.CHANGE, 0)

    def source_opened(self, name: str) -> None:
        """A recording has asked the server for the real source."""
        self._active += 1
        if self._active == 1:
            self.tell(MicrophoneActive(active=True, source=name))

    def source_closed(self) -> None:
        """A recording has closed the real source."""
        self._active -= 1
        if self._active == 0:
            self.tell(MicrophoneActive(active=False))
