"""Commands about playback: in which order, on which connection, while things change."""

from __future__ import annotations

import pytest

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Level, SoundRules
from broker.jail.sound.commands import Command, Error
from broker.jail.sound.frames import samples
from broker.jail.sound.tagstruct import encode
from tests.kit.sound.talk import Server, Talk, create_playback

C = Command
MUTE, VOLUME = C.SET_SINK_INPUT_MUTE, C.SET_SINK_INPUT_VOLUME


def pair() -> tuple[Talk, Talk]:
    """Two connections of one sandbox."""
    owner = Talk()
    return owner, Talk(sandbox=owner.sandbox, server=Server())


@pytest.mark.parametrize(
    ("command", "letters", "value", "person", "last"),
    [
        (MUTE, "Lb", False, Level(muted=True), True),
        (VOLUME, "Lv", (65536, 65536), Level(volume=100), (100, 100)),
    ],
)
def test_commands_of_a_stream_take_one_path_from_either_side(
    command, letters, value, person, last
):
    """The server reads connections in no order: the person's would be lost."""
    owner, other = pair()
    _, index = owner.play()
    assert other.ask(command, encode(letters, [index, value])).command is C.REPLY
    assert not other.server.named(command)
    owner.sandbox.set_level(person)
    owner.pump()
    said = [one.fields(letters)[1] for one in owner.server.named(command)]
    assert said == [value, last]
    assert not other.server.named(command)


def test_orders_for_anothers_stream_wait_for_no_end():
    """Whose connection takes no more: at the limit, and below it again."""
    owner, other = pair()
    _, index = owner.play()
    owner.server.deaf.add(MUTE)
    order = encode("Lb", [index, True])
    for _ in range(limits.PULSE_OUTSTANDING):
        other.ask(MUTE, order)
        owner.pump()
    unmute = encode("Lb", [index, False])
    assert other.refused(MUTE, unmute) == Error.TOOLARGE
    assert owner.sandbox.playbacks[index].muted  # a refused command has no effect
    owner.core.from_server(owner.server.answer(owner.server.named(MUTE)[0]), owner.now)
    assert other.ask(MUTE, order).command is C.REPLY


@pytest.mark.parametrize("how", ["level", "rules"])
def test_the_person_is_heard_while_the_server_makes_a_stream(how):
    talk = Talk()
    talk.server.deaf.add(C.CREATE_PLAYBACK_STREAM)
    talk.say(C.CREATE_PLAYBACK_STREAM, create_playback())
    (asked,) = talk.server.named(C.CREATE_PLAYBACK_STREAM)
    if how == "level":
        talk.sandbox.set_level(Level(muted=True, volume=7))
    else:
        talk.sandbox.set_rules(SoundRules("work", volume=7), talk.now)
    talk.core.from_server(talk.server.answer(asked), talk.now)
    talk.pump()
    (mute,), (volume,) = talk.server.named(MUTE), talk.server.named(VOLUME)
    assert mute.fields("Lb") == [talk.server.real[0], how == "level"]
    assert volume.fields("Lv") == [talk.server.real[0], (7, 7)]


def test_a_new_stream_needs_no_orders_when_nothing_has_changed():
    talk = Talk(level=Level(volume=7))
    talk.play()
    assert not talk.server.named(MUTE)
    assert not talk.server.named(VOLUME)


@pytest.mark.parametrize("how", ["flush", "delete", "kill", "killed"])
def test_a_drain_that_waits_is_answered_when_its_samples_are_gone(how):
    """Else each would take one of the commands that may be outstanding."""
    talk = Talk()
    talk.server.first_request = 400
    channel, index = talk.play()
    fields = encode("L", [channel])
    talk.raw(samples(channel, bytes(1000)))
    tag = talk.say(C.DRAIN_PLAYBACK_STREAM, fields)
    assert not talk.server.named(C.DRAIN_PLAYBACK_STREAM)
    if how == "flush":
        talk.ask(C.FLUSH_PLAYBACK_STREAM, fields)
    elif how == "delete":
        talk.ask(C.DELETE_PLAYBACK_STREAM, fields)
    elif how == "kill":
        talk.sandbox.playbacks[index].kill()
        talk.pump()
    else:
        talk.server_says(C.PLAYBACK_STREAM_KILLED, fields)
    said = [one.command for one in talk.server.said]
    assert C.DRAIN_PLAYBACK_STREAM in said
    if how in ("delete", "kill"):
        after = said.index(C.DELETE_PLAYBACK_STREAM)
        assert said.index(C.DRAIN_PLAYBACK_STREAM) < after
    assert [one.tag for one in talk.unread if one.tag == tag] == [tag]


def test_a_drain_behind_the_end_of_its_stream_is_answered():
    talk = Talk()
    talk.server.first_request = 0
    talk.server.deaf.add(C.DELETE_PLAYBACK_STREAM)
    channel, _ = talk.play()
    fields = encode("L", [channel])
    talk.say(C.DELETE_PLAYBACK_STREAM, fields)
    talk.raw(samples(channel, bytes(1000)))
    tag = talk.say(C.DRAIN_PLAYBACK_STREAM, fields)
    (asked,) = talk.server.named(C.DELETE_PLAYBACK_STREAM)
    talk.core.from_server(talk.server.answer(asked), talk.now)
    talk.pump()
    assert talk.server.named(C.DRAIN_PLAYBACK_STREAM)
    assert [one.tag for one in talk.unread if one.tag == tag] == [tag]
