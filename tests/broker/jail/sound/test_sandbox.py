"""Rules that change while a sandbox plays and records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Microphone, Revoked, SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, Command, Error
from broker.jail.sound.tagstruct import Spec, encode
from tests.kit.sound.talk import STEREO, Talk, create_record

C = Command
RULES = SoundRules("work", microphone=Microphone.ASK)
VOICE = b"\x11\x22\x33\x44" * 300


def change(talk: Talk, **values) -> None:
    talk.sandbox.set_rules(replace(talk.sandbox.rules, **values), talk.now)
    talk.pump()


def killed(talk: Talk, command: Command = C.PLAYBACK_STREAM_KILLED) -> list[int]:
    return [said.fields("L").number(0) for said in talk.take(command)]


def source(talk: Talk) -> str:
    return talk.ask(C.GET_SERVER_INFO).fields("ttttassLm").text(6)


def test_a_microphone_that_is_opened_to_rules_is_there_at_once():
    talk = Talk()
    talk.ask(C.SUBSCRIBE, encode("L", [0x2FF]))
    assert talk.refused(C.CREATE_RECORD_STREAM, create_record()) == Error.ACCESS
    change(talk, microphone=Microphone.ASK)
    assert source(talk) == "vitrail.mic"
    assert len(talk.take(C.SUBSCRIBE_EVENT)) == 2  # the source, the default
    channel = talk.record(fragsize=1200)
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == {0}
    assert not talk.sandbox.allowed
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    assert talk.sandbox.active


@pytest.mark.parametrize("revoked", Revoked)
def test_a_microphone_that_is_closed_is_closed_for_what_records(revoked):
    talk = Talk(replace(RULES, revoked=revoked))
    channel = talk.record(fragsize=1200)
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    talk.core.from_server(frames.samples(0, VOICE), talk.now)
    # It has not left us when the record changes.
    assert VOICE in talk.core.down.data
    change(talk, microphone=Microphone.DENY)
    assert not talk.sandbox.active
    assert talk.server.named(C.DELETE_RECORD_STREAM)
    assert set(talk.recorded(channel)) == {0}
    assert killed(talk, C.RECORD_STREAM_KILLED) == (
        [channel] if revoked is Revoked.END else []
    )
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == (set() if revoked is Revoked.END else {0})
    assert source(talk) == "@DEFAULT_SOURCE@"
    assert talk.refused(C.CREATE_RECORD_STREAM, create_record()) == Error.ACCESS
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    assert not talk.sandbox.active


@pytest.mark.parametrize(
    ("fits", "ends"),
    [
        ({"rate": 48000}, {"rate": 47999}),
        ({"channels": 2}, {"channels": 1}),
        ({"buffer_bytes": limits.PULSE_BUFFER_BYTES}, {"buffer_bytes": 4096}),
        ({"streams": 1}, {"streams": 0}),
    ],
)
def test_what_plays_beyond_a_new_bound_is_ended_at_both_sides(fits, ends):
    talk = Talk(RULES)
    channel, _ = talk.play()
    change(talk, **fits)
    assert killed(talk) == []
    change(talk, **ends)
    assert killed(talk) == [channel]
    (said,) = talk.server.named(C.DELETE_PLAYBACK_STREAM)
    assert said.fields("L").number(0) == channel
    assert not talk.core.playbacks
    # Both sides may say more of it before they have heard.
    talk.server_says(C.REQUEST, encode("LL", [channel, 960]))
    talk.raw(frames.samples(channel, bytes(960)))
    assert talk.core.fault is None
    assert not talk.take(C.REQUEST)
    assert channel not in talk.server.samples


def test_a_buffer_that_became_smaller_fits():
    talk = Talk(RULES)
    talk.play()
    values = [0, 8192, INVALID, INVALID, INVALID, False, False]
    talk.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, encode("LLLLLbb", values))
    change(talk, buffer_bytes=8192)
    assert killed(talk) == []
    change(talk, buffer_bytes=8191)
    assert killed(talk) == [0]


@pytest.mark.parametrize(
    ("fits", "ends"),
    [({"rate": 48000}, {"rate": 47999}), ({"channels": 2}, {"channels": 1})],
)
def test_what_records_beyond_a_new_bound_is_ended(fits, ends):
    talk = Talk(RULES)
    channel = talk.record()
    change(talk, **fits)
    assert killed(talk, C.RECORD_STREAM_KILLED) == []
    change(talk, **ends)
    assert killed(talk, C.RECORD_STREAM_KILLED) == [channel]


def test_of_too_many_streams_the_newest_are_ended():
    talk = Talk(RULES)
    first, _ = talk.play()
    record = talk.record(spec=Spec(3, 1, 8000))
    last, _ = talk.play()
    change(talk, streams=2)
    assert killed(talk) == [last]
    change(talk, streams=1)
    assert killed(talk, C.RECORD_STREAM_KILLED) == [record]
    assert list(talk.core.playbacks) == [first]


def test_the_loudest_that_it_may_be_holds_for_what_plays():
    talk = Talk(RULES)
    talk.play()
    change(talk, volume=limits.PULSE_VOLUME // 4)
    said = talk.server.named(C.SET_SINK_INPUT_VOLUME)[-1]
    assert said.fields("Lv").numbers(1) == (16384, 16384)
    before = len(talk.server.said)
    change(talk, idle_seconds=3.0)
    assert len(talk.server.said) == before


def test_the_same_rules_change_nothing():
    talk = Talk(RULES)
    talk.play()
    talk.record()
    talk.ask(C.SUBSCRIBE, encode("L", [0x2FF]))
    before = len(talk.server.said)
    change(talk)
    assert (len(talk.server.said), talk.unread) == (before, [])
    assert STEREO.rate <= talk.sandbox.rules.rate
