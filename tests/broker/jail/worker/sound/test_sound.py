"""What a worker says of its sound, whatever the sandbox does meanwhile."""

from __future__ import annotations

import trio

from broker.core.streams.sound_rules import Level, Microphone, SoundRules
from broker.ipc import worker as messages
from broker.jail.sound import events
from broker.jail.worker.sound.sound import WorkerSound


async def test_a_source_that_was_open_for_a_moment_is_told(autojump_clock):
    """Between two messages a recording can open the microphone and close it."""
    said: list[messages.FromWorker] = []

    async def say(message: messages.FromWorker) -> None:
        said.append(message)

    def states() -> list[tuple[bool, str]]:
        found = [one for one in said if isinstance(one, messages.SoundState)]
        return [(one.active, one.source) for one in found]

    sound = WorkerSound(say)
    asks = SoundRules("work", Microphone.ASK, streams=8, idle_seconds=10.0)
    rules = messages.Sound(asks, Level())
    async with trio.open_nursery() as nursery:
        sound.obey(rules, (), nursery)
        await trio.sleep(5)
        assert states() == [(False, "")]
        for turn in range(1, 4):
            sound._event(events.MicrophoneWanted("recorder"))  # told at once
            await trio.sleep(0.1)  # and the next message comes later
            for active in (True, False):
                sound._event(events.MicrophoneActive(active=active, source="mic"))
            await trio.sleep(1)
            assert states().count((True, "mic")) == turn
            assert states()[-1] == (False, "")
        nursery.cancel_scope.cancel()
