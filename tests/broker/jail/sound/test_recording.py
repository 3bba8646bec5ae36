"""The microphone: silence at the right pace, granted, revoked, never before."""

from __future__ import annotations

import pytest

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Microphone, Revoked, SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, REQUESTS, Command, Error
from broker.jail.sound.events import (
    CommandRefused,
    MicrophoneActive,
    MicrophoneMissing,
    MicrophoneWanted,
)
from broker.jail.sound.recording import fragment_size
from broker.jail.sound.samples import frame_bytes
from broker.jail.sound.tagstruct import Spec, encode
from tests.kit.sound.talk import STEREO, Server, Talk, create_record

C = Command
ASK = SoundRules("work", microphone=Microphone.ASK)
ALLOW = SoundRules("work", microphone=Microphone.ALLOW)
END = SoundRules("work", microphone=Microphone.ASK, revoked=Revoked.END)
VOICE = b"\x11\x22\x33\x44" * 300


def speak(talk: Talk, data: bytes = VOICE, channel: int = 0) -> None:
    """The real source says something."""
    talk.core.from_server(frames.samples(channel, data), talk.now)
    talk.pump()


def of_kind(talk: Talk, kind: type) -> list:
    return [event for event in talk.events if isinstance(event, kind)]


def test_denied_is_denied_and_the_server_never_hears_of_it():
    talk = Talk()
    assert talk.refused(C.CREATE_RECORD_STREAM, create_record()) == Error.ACCESS
    assert talk.ask(C.GET_SOURCE_INFO_LIST).body == b""
    assert talk.ask(C.GET_SERVER_INFO).fields("ttttassLm")[6] == "@DEFAULT_SOURCE@"
    talk.sandbox.allow_microphone(talk.now)
    assert talk.refused(C.CREATE_RECORD_STREAM, create_record()) == Error.ACCESS
    assert not talk.server.named(C.CREATE_RECORD_STREAM)
    assert of_kind(talk, CommandRefused)


@pytest.mark.parametrize(
    ("spec", "fragsize", "fill"),
    [
        (STEREO, INVALID, 0),
        (Spec(3, 1, 44100), 1764, 0),
        (Spec(5, 2, 48000), 1920, 0),
        (Spec(0, 1, 8000), 800, 0x80),
        (Spec(1, 1, 8000), 800, 0xD5),
        (Spec(2, 1, 8000), 800, 0xFF),
    ],
)
def test_silence_comes_at_the_right_pace(spec, fragsize, fill):
    talk = Talk(ASK)
    channel = talk.record(spec=spec, fragsize=fragsize)
    talk.pass_time(10)
    data = talk.recorded(channel)
    nominal = 10 * spec.rate * frame_bytes(spec)
    assert abs(len(data) - nominal) <= fragment_size(spec, fragsize)
    assert set(data) == {fill}
    assert not talk.server.named(C.CREATE_RECORD_STREAM)
    assert of_kind(talk, MicrophoneWanted) == [MicrophoneWanted("Player")]


def test_fragments_at_the_limits():
    assert fragment_size(STEREO, INVALID) == 38400
    assert fragment_size(STEREO, 1 << 30) == limits.PULSE_FRAGMENT_BYTES
    assert fragment_size(STEREO, 1) == fragment_size(STEREO, 960) == 960
    assert fragment_size(STEREO, 964) == 964
    assert fragment_size(Spec(0, 1, 44100), 1) == 222
    assert fragment_size(Spec(9, 1, 44100), 10000) % 3 == 0


def test_a_client_that_does_not_read_makes_nothing_wait():
    talk = Talk(ASK)
    talk.record(fragsize=3840)
    for _ in range(1000):
        talk.now += 0.02
        talk.core.tick(talk.now)
    assert len(talk.core.down.data) <= limits.PULSE_QUEUE_BYTES + 3840 + 20


def test_a_clock_that_was_stopped_does_not_send_it_all_at_once():
    talk = Talk(ASK)
    channel = talk.record(fragsize=3840)
    talk.now += 3600
    talk.core.tick(talk.now)
    talk.pump()
    assert len(talk.recorded(channel)) <= 2 * 3840


def test_corked_it_is_quiet_and_uncorked_it_starts_again():
    talk = Talk(ALLOW)
    channel = talk.record(corked=True)
    talk.pass_time(5)
    assert not talk.recorded(channel)
    assert not talk.server.named(C.CREATE_RECORD_STREAM)
    assert not talk.sandbox.wanted
    talk.ask(C.CORK_RECORD_STREAM, encode("Lb", [channel, False]))
    assert talk.server.named(C.CREATE_RECORD_STREAM)
    assert talk.sandbox.active
    talk.ask(C.CORK_RECORD_STREAM, encode("Lb", [channel, True]))
    assert talk.server.named(C.DELETE_RECORD_STREAM)
    assert not talk.sandbox.active
    speak(talk)
    assert not talk.recorded(channel)


def test_allowed_it_hears_the_real_source_and_no_monitor():
    talk = Talk(ALLOW)
    channel = talk.record(fragsize=1200)
    (said,) = talk.server.named(C.CREATE_RECORD_STREAM)
    asked = said.fields(REQUESTS[C.CREATE_RECORD_STREAM].signature(35))
    assert asked[2:4] == [INVALID, "mic"]
    assert asked[12] is True
    assert asked.properties(16)["vitrail.sandbox"] == b"work\0"
    speak(talk)
    assert talk.recorded(channel) == VOICE
    assert of_kind(talk, MicrophoneActive) == [
        MicrophoneActive(active=True, source="mic")
    ]
    talk.pass_time(5)
    assert not talk.recorded(channel)  # no silence beside it


def test_a_monitor_is_never_opened():
    talk = Talk(ALLOW, server=Server(monitor=True))
    channel = talk.record()
    assert not talk.server.named(C.CREATE_RECORD_STREAM)
    assert of_kind(talk, MicrophoneMissing)
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == {0}


def test_another_source_than_the_one_asked_for_is_closed_at_once():
    class Sly(Server):
        def create_record_stream(self, one):
            return super().create_record_stream(one).replace(b"tmic\0", b"tm.monitor\0")

    talk = Talk(ALLOW, server=Sly())
    channel = talk.record()
    assert talk.server.named(C.DELETE_RECORD_STREAM)
    speak(talk)
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == {0}
    assert not talk.sandbox.active


def test_granted_and_revoked_on_a_live_stream():
    talk = Talk(ASK)
    channel = talk.record(fragsize=1200)
    talk.pass_time(0.1)
    assert set(talk.recorded(channel)) == {0}
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    speak(talk)
    assert talk.recorded(channel) == VOICE
    talk.sandbox.deny_microphone(talk.now)
    talk.pump()
    assert talk.server.named(C.DELETE_RECORD_STREAM)[0].fields("L") == [0]
    assert of_kind(talk, MicrophoneActive)[-1] == MicrophoneActive(active=False)
    speak(talk)  # samples on their way
    talk.pass_time(1)
    data = talk.recorded(channel)
    assert set(data) == {0}
    assert abs(len(data) - 192000) <= 1200


def test_a_revoke_silences_unsent_data():
    talk = Talk(SoundRules("work", microphone=Microphone.ALLOW))
    channel = talk.record(fragsize=1200)
    talk.core.from_server(frames.samples(0, VOICE), talk.now)
    talk.core.down.sent(100)  # some of it has left
    talk.sandbox.deny_microphone(talk.now)
    left = bytes(talk.core.down.data)
    assert len(left) == len(VOICE) + 20 - 100
    assert set(left) == {0}
    assert channel in talk.core.recordings.by_channel


def test_what_leaves_after_a_connections_end_is_silent():
    """Its last words go out when no revoke knows of it any more."""
    talk = Talk(ALLOW)
    talk.record(fragsize=1200)
    talk.core.from_server(frames.samples(0, VOICE), talk.now)
    assert VOICE in talk.core.down.data
    talk.core.close()
    assert bytes(len(VOICE)) in talk.core.down.data
    assert not set(VOICE) & set(talk.core.down.data[20:])


def test_a_revoke_while_the_source_is_being_opened():
    talk = Talk(ASK)
    channel = talk.record()
    talk.server.deaf.add(C.CREATE_RECORD_STREAM)
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    (asked,) = talk.server.named(C.CREATE_RECORD_STREAM)
    talk.sandbox.deny_microphone(talk.now)
    talk.core.from_server(talk.server.answer(asked), talk.now)
    talk.pump()
    assert talk.server.named(C.DELETE_RECORD_STREAM)
    speak(talk)
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == {0}
    assert not talk.sandbox.active


def test_revoked_with_an_end_the_stream_and_the_source_go():
    talk = Talk(END)
    talk.ask(C.SUBSCRIBE, encode("L", [0x3FF]))
    channel = talk.record()
    talk.sandbox.allow_microphone(talk.now)
    talk.pump()
    talk.take(C.SUBSCRIBE_EVENT)
    talk.sandbox.deny_microphone(talk.now)
    talk.pump()
    (killed,) = talk.take(C.RECORD_STREAM_KILLED)
    assert killed.fields("L") == [channel]
    changes = [said.fields("LL").number(0) for said in talk.take(C.SUBSCRIBE_EVENT)]
    assert 0x21 in changes
    assert 0x23 in changes
    assert talk.ask(C.GET_SOURCE_INFO_LIST).body == b""
    assert talk.refused(C.CREATE_RECORD_STREAM, create_record()) == Error.ACCESS
    talk.sandbox.allow_microphone(talk.now)
    talk.record()


def test_the_question_is_asked_once_for_one_wish():
    talk = Talk(ASK)
    talk.record()
    talk.record()
    assert len(of_kind(talk, MicrophoneWanted)) == 1
    talk.sandbox.deny_microphone(talk.now)
    talk.record()
    assert len(of_kind(talk, MicrophoneWanted)) == 2


def test_the_person_ends_it_in_a_mixer_and_it_stays_silent():
    talk = Talk(ALLOW)
    channel = talk.record()
    speak(talk)
    talk.recorded(channel)
    talk.server_says(C.RECORD_STREAM_KILLED, encode("L", [0]))
    talk.pass_time(1)
    assert set(talk.recorded(channel)) == {0}
    assert len(talk.server.named(C.CREATE_RECORD_STREAM)) == 1
    assert not talk.sandbox.active


@pytest.mark.parametrize(("name", "goes_on"), [("other", True), ("a.monitor", False)])
def test_moved_to_a_monitor_it_is_closed(name, goes_on):
    talk = Talk(ALLOW)
    channel = talk.record()
    moved = encode("LLtbLLU", [0, 8, name, False, 1, 1, 1])
    talk.server_says(C.RECORD_STREAM_MOVED, moved)
    talk.recorded(channel)
    speak(talk)
    assert (talk.recorded(channel) == VOICE) == goes_on


@pytest.mark.parametrize(
    "options",
    [
        {"source": 3},
        {"name": "viewer.monitor"},
        {"name": "@DEFAULT_MONITOR@"},
        {"direct": 5},
    ],
)
def test_monitors_and_others_streams_are_never_recorded(options):
    talk = Talk(ALLOW)
    assert (
        talk.refused(C.CREATE_RECORD_STREAM, create_record(**options)) == Error.ACCESS
    )
    assert not talk.server.named(C.CREATE_RECORD_STREAM)


def test_reported_properties_of_a_recording():
    talk = Talk(ASK)
    channel = talk.record(fragsize=1200)
    listed = talk.ask(C.GET_SOURCE_OUTPUT_INFO_LIST).fields("LtLLLamUUttPbvbbbf")
    index = listed.number(0)
    one = talk.ask(C.GET_SOURCE_OUTPUT_INFO, encode("L", [index]))
    assert one.fields("LtLLLamUUttPbvbbbf") == listed
    assert listed[1:5] == ["rec", INVALID, talk.core.index, 0]
    talk.pass_time(1)
    got = len(talk.recorded(channel))
    latency = talk.ask(C.GET_RECORD_LATENCY, encode("LT", [channel, (5, 6)]))
    assert latency.fields("UUbTTrr") == [0, 0, True, (5, 6), (5, 6), got, got]
    buffer = talk.ask(
        C.SET_RECORD_STREAM_BUFFER_ATTR, encode("LLLbb", [channel, 0, 2400, True, True])
    )
    assert buffer.fields("LLU")[1] == 2400
    for command, fields in [
        (C.FLUSH_RECORD_STREAM, encode("L", [channel])),
        (C.UPDATE_RECORD_STREAM_PROPLIST, encode("LLP", [channel, 0, {}])),
        (C.SET_SOURCE_OUTPUT_MUTE, encode("Lb", [index, True])),
        (C.DELETE_RECORD_STREAM, encode("L", [channel])),
    ]:
        assert talk.ask(command, fields).command is C.REPLY
    assert not talk.sandbox.recordings
    assert (
        talk.refused(C.DELETE_RECORD_STREAM, encode("L", [channel])) == Error.NOENTITY
    )
