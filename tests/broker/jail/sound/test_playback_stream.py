"""Playback: credit, seeks, loudness, caps."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Level, SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, REQUESTS, Command, Error
from broker.jail.sound.events import Flooded, StreamBegun, StreamEnded
from broker.jail.sound.filter import PulseFilter
from broker.jail.sound.samples import format_of
from broker.jail.sound.tagstruct import Format, Spec, encode
from tests.kit.sound.talk import STEREO, Server, Talk, create_playback

C = Command
CREATE = REQUESTS[C.CREATE_PLAYBACK_STREAM]


def sent(talk: Talk, channel: int = 0) -> bytes:
    return talk.server.samples.get(channel, b"")


def created(talk: Talk):
    (said,) = talk.server.named(C.CREATE_PLAYBACK_STREAM)[-1:]
    return said.fields(CREATE.signature(talk.core.version))


def test_samples_go_on_untouched():
    talk = Talk()
    channel, _ = talk.play()
    sound = bytes(range(256)) * 16
    talk.raw(frames.samples(channel, sound))
    assert sent(talk) == sound


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(1, 97))
def test_no_more_goes_on_than_the_server_asked_for(pieces, piece):
    """Whatever is sent, in whatever pieces, when whatever is asked for."""
    talk = Talk()
    talk.server.first_request = 40
    channel, _ = talk.play()
    asked, all_of_it = 40, b"".join(pieces)
    stream = b"".join(frames.samples(channel, data) for data in pieces)
    for start in range(0, len(stream), piece):
        talk.raw(stream[start : start + piece])
        assert len(sent(talk)) <= asked
        if start % 3 == 0:
            asked += 30
            talk.server_says(C.REQUEST, encode("LL", [channel, 30]))
            assert len(sent(talk)) <= asked
    whole = min(asked, len(all_of_it)) // 4 * 4
    assert sent(talk) == all_of_it[:whole]
    assert all(len(part.data) % 4 == 0 for part in talk.server.parts)


def test_held_data_at_the_limit():
    talk = Talk()
    talk.server.first_request = 1000
    channel, _ = talk.play()
    most = 1000 + limits.PULSE_HELD_BYTES
    talk.raw(frames.samples(channel, bytes(most)))
    assert len(sent(talk)) == 1000
    assert not talk.take(C.OVERFLOW)
    talk.raw(frames.samples(channel, b"x"))
    assert talk.take(C.OVERFLOW)
    assert talk.events[-1] == Flooded(1 + channel + 1)
    talk.server_says(C.REQUEST, encode("LL", [channel, INVALID]))
    assert len(sent(talk)) == most


def test_a_flood_ends_the_connection_and_reaches_no_server():
    talk = Talk()
    channel, _ = talk.play()
    piece = frames.samples(channel, bytes(1 << 20))
    for _ in range(18):
        talk.raw(piece)
    assert isinstance(talk.core.fault, PeerError)
    assert len(sent(talk)) == talk.server.first_request


def test_a_client_that_stops_in_a_frame_holds_up_nothing():
    talk = Talk()
    channel, index = talk.play()
    talk.raw(frames.samples(channel, bytes(4096))[:1000])
    talk.sandbox.set_level(Level(volume=32768))
    talk.pump()
    assert talk.server.named(C.SET_SINK_INPUT_VOLUME)
    assert len(sent(talk)) == 980
    assert index in talk.sandbox.playbacks


def test_a_drain_waits_for_held_data():
    talk = Talk()
    talk.server.first_request = 400
    channel, _ = talk.play()
    talk.raw(frames.samples(channel, bytes(1000)))
    talk.say(C.DRAIN_PLAYBACK_STREAM, encode("L", [channel]))
    assert not talk.server.named(C.DRAIN_PLAYBACK_STREAM)
    talk.server_says(C.REQUEST, encode("LL", [channel, 600]))
    assert talk.server.named(C.DRAIN_PLAYBACK_STREAM)
    assert len(sent(talk)) == 1000


def test_flush_discards_held_data():
    talk = Talk()
    talk.server.first_request = 400
    channel, _ = talk.play()
    talk.raw(frames.samples(channel, bytes(1000)))
    talk.ask(C.FLUSH_PLAYBACK_STREAM, encode("L", [channel]))
    talk.server_says(C.REQUEST, encode("LL", [channel, 600]))
    assert len(sent(talk)) == 400


def test_seeks_are_passed_on_with_the_first_piece_only():
    talk = Talk()
    channel, _ = talk.play()
    frame = frames.samples(channel, bytes(800), 1, 4000)
    talk.raw(frame[:420])
    talk.raw(frame[420:])
    assert [(p.seek, p.offset, len(p.data)) for p in talk.server.parts] == [
        (1, 4000, 400),
        (0, 0, 400),
    ]


@pytest.mark.parametrize(
    ("seek", "offset"),
    [(0, -65536), (0, -limits.PULSE_SEEK_BYTES), (1, 0), (2, 8), (3, -8)],
)
def test_rewinding_is_no_way_around_the_credit(seek, offset):
    talk = Talk()
    channel, _ = talk.play()
    piece = frames.samples(channel, bytes(65536), seek, offset)
    for _ in range(2000):
        talk.server.samples.clear()
        talk.raw(piece)
        talk.server_says(C.REQUEST, encode("LL", [channel, 65536]))
        if talk.core.fault:
            break
    assert isinstance(talk.core.fault, PeerError)
    total = sum(len(p.data) for p in talk.server.parts)
    assert total <= limits.PULSE_REWIND_BURST + 3 * 65536


_FARTHEST, _LAST = limits.PULSE_SEEK_BYTES, limits.PULSE_PLACE_BYTES


@pytest.mark.parametrize(
    ("seek", "offset", "good"),
    [
        (0, -_FARTHEST, True),
        (0, -_FARTHEST - 4, False),
        (2, _FARTHEST, True),
        (2, _FARTHEST + 4, False),
        (3, -_FARTHEST, True),
        (3, -_FARTHEST - 4, False),
        (1, _LAST, True),
        (1, _LAST + 4, False),
        (1, 0, True),
        (1, -4, False),
        (0, -(1 << 63), False),
        (0, 1, False),
        (0, -2, False),
        (1, 3, False),
        (2, 2, False),
        (3, -1, False),
    ],
)
def test_a_seek_goes_to_a_sample_and_not_too_far(seek, offset, good):
    talk = Talk()
    channel, _ = talk.play()
    talk.raw(frames.samples(channel, bytes(400), seek, offset))
    assert isinstance(talk.core.fault, PeerError) is not good
    assert len(sent(talk)) == (400 if good else 0)


def test_seeks_of_little_count_as_much_as_the_server_has_to_mix_again():
    talk = Talk()
    channel, _ = talk.play()
    size = limits.PULSE_SMALL_BYTES
    many = limits.PULSE_REWIND_BURST // limits.PULSE_REWIND_LEAST_BYTES
    for _ in range(many + 10):
        talk.raw(frames.samples(channel, bytes(size), 0, -size))
    assert many <= len(talk.server.parts) <= many + 2


# -- frames that are all overhead --------------------------------------------------


def test_small_frames_at_the_limit():
    talk = Talk()
    channel, _ = talk.play()
    most, short = limits.PULSE_SMALL_FRAMES, limits.PULSE_SMALL_BYTES
    for _ in range(most):
        talk.raw(frames.samples(channel, bytes(4)))
    assert len(talk.server.parts) == most
    talk.raw(frames.samples(channel, bytes(4)))
    assert len(talk.server.parts) == most  # it is held
    talk.raw(frames.samples(channel, bytes(short - 8)))
    assert len(talk.server.parts) == most
    talk.raw(frames.samples(channel, bytes(4)))  # together long enough
    assert [len(part.data) for part in talk.server.parts[most:]] == [short]
    talk.raw(frames.samples(channel, bytes(short)))
    assert len(talk.server.parts) == most + 2
    assert not talk.take(C.OVERFLOW)


def test_small_frames_go_on_as_the_server_asks_for_more():
    talk = Talk()
    channel, _ = talk.play()
    for _ in range(limits.PULSE_SMALL_FRAMES + 1):
        talk.raw(frames.samples(channel, bytes(4)))
    before = len(talk.server.parts)
    talk.server_says(C.REQUEST, encode("LL", [channel, 4]))
    assert len(talk.server.parts) == before + 1
    refill = 2 * limits.PULSE_SMALL_REFILL_BYTES
    talk.server_says(C.REQUEST, encode("LL", [channel, refill]))
    for _ in range(4):
        talk.raw(frames.samples(channel, bytes(4)))
    assert len(talk.server.parts) == before + 4  # 1 and 2 more


def test_small_held_data_is_played_before_a_drain():
    talk = Talk()
    channel, _ = talk.play()
    for _ in range(limits.PULSE_SMALL_FRAMES + 3):
        talk.raw(frames.samples(channel, bytes(4)))
    assert not talk.server.named(C.DRAIN_PLAYBACK_STREAM)
    talk.say(C.DRAIN_PLAYBACK_STREAM, encode("L", [channel]))
    assert len(sent(talk)) == 4 * (limits.PULSE_SMALL_FRAMES + 3)
    assert talk.server.named(C.DRAIN_PLAYBACK_STREAM)


def test_skipping_ahead_costs_credit():
    talk = Talk()
    channel, _ = talk.play()
    talk.raw(frames.samples(channel, bytes(400), 0, 65336))
    assert len(sent(talk)) == 200


def test_late_samples_of_a_deleted_stream_are_dropped():
    talk = Talk()
    channel, index = talk.play()
    talk.ask(C.DELETE_PLAYBACK_STREAM, encode("L", [channel]))
    talk.raw(frames.samples(channel, bytes(400)))
    assert talk.core.fault is None
    assert not sent(talk)
    assert talk.events == [StreamBegun(index, "Player"), StreamEnded(index)]
    assert (
        talk.refused(C.CORK_PLAYBACK_STREAM, encode("Lb", [channel, True]))
        == Error.NOENTITY
    )


# -- what a stream may be ---------------------------------------------------------------


def test_a_new_stream_is_made_on_our_terms():
    talk = Talk()
    answer = talk.ask(
        C.CREATE_PLAYBACK_STREAM,
        create_playback(sink=0, muted=True, volume=(700000, 1)),
    )
    told = answer.fields("LLLLLLLamLtbUf")
    assert told[1] == 2
    assert told[9:11] == [0, "vitrail"]
    asked = created(talk)
    assert asked[2:5] == [INVALID, None, limits.PULSE_BUFFER_BYTES]
    assert asked.numbers(10) == (65536, 1)
    assert asked[13:17] == [False] * 4
    assert asked[18] is True


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (Spec(3, 2, limits.PULSE_RATE + 1), Error.NOTSUPPORTED),
        (Spec(3, limits.PULSE_CHANNELS + 1, 48000), Error.NOTSUPPORTED),
        (Spec(13, 2, 48000), Error.INVALID),
        (Spec(3, 2, 0), Error.INVALID),
        (Spec(3, 0, 48000), Error.INVALID),
        (Spec(3, 2, 0xFFFFFFFF), Error.INVALID),
    ],
)
def test_samples_beyond_the_limit(spec, error):
    talk = Talk()
    assert talk.refused(C.CREATE_PLAYBACK_STREAM, create_playback(spec=spec)) == error
    talk.play(spec=Spec(3, limits.PULSE_CHANNELS, limits.PULSE_RATE))


def test_formats_are_reduced_and_coded_sound_is_refused():
    talk = Talk()
    form = Format(1, format_of(STEREO).properties | {"target.object": b"x\0"})
    talk.play(formats=[Format(3, {}), form])
    assert created(talk)[0] == STEREO
    assert created(talk)[28] == []
    for coded in (
        create_playback(formats=[Format(3, {})]),
        create_playback(passthrough=True),
    ):
        assert talk.refused(C.CREATE_PLAYBACK_STREAM, coded) == Error.ACCESS


_UNSAID = Spec(255, 0, 0)
"""What libpulse says where formats are to say it."""


def _form(**words: str) -> Format:
    return Format(1, {f"format.{key}": f"{w}\0".encode() for key, w in words.items()})


@pytest.mark.parametrize(
    ("form", "asked", "spec", "positions"),
    [
        (_form(), _UNSAID, STEREO, (1, 2)),
        (Format(0), _UNSAID, STEREO, (1, 2)),
        (_form(rate="96000"), _UNSAID, Spec(3, 2, 96000), (1, 2)),
        (_form(rate="[44100, 96000]"), _UNSAID, STEREO, (1, 2)),
        (_form(rate='{"min": 1, "max": 9}'), Spec(5, 2, 44100), Spec(5, 2, 44100), (0, 1)),
        (_form(sample_format='"float32le"', channels="1"), _UNSAID, Spec(5, 1, 48000), (0,)),
        (
            _form(channels="2", channel_map='"aux3,top-rear-center"'),
            *(_UNSAID, STEREO, (15, 50)),
        ),
        (_form(channels="4"), _UNSAID, Spec(3, 4, 48000), (12, 13, 14, 15)),
    ],
)  # fmt: skip
def test_what_a_client_leaves_open_is_not_the_hardwares(form, asked, spec, positions):
    talk = Talk()
    talk.play(spec=asked, formats=[form])
    said = created(talk)
    assert said[0] == spec
    assert said.numbers(1) == positions
    assert len(said.numbers(10)) == spec.channels
    assert said[28] == []


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (_form(channels="9"), Error.NOTSUPPORTED),
        (_form(channels="33"), Error.INVALID),
        (_form(channels="-1"), Error.INVALID),
        (_form(rate="192001"), Error.NOTSUPPORTED),
        (_form(rate="true"), None),
        (_form(rate="0"), Error.INVALID),
        (_form(rate="9" * 5000), None),
        (_form(rate="[" * 100000), None),
    ],
)
def test_formats_that_say_too_much(form, error):
    talk = Talk()
    request = create_playback(spec=_UNSAID, formats=[form])
    if error is None:
        assert talk.ask(C.CREATE_PLAYBACK_STREAM, request).command is C.REPLY
        assert created(talk)[0] == STEREO
    else:
        assert talk.refused(C.CREATE_PLAYBACK_STREAM, request) == error


def test_places_of_loudspeakers_at_the_limit():
    talk = Talk()
    talk.play(positions=(0, limits.PULSE_POSITIONS - 1))
    beyond = create_playback(positions=(0, limits.PULSE_POSITIONS))
    assert talk.refused(C.CREATE_PLAYBACK_STREAM, beyond) == Error.INVALID


def test_streams_do_not_belong_together():
    talk = Talk()
    seen = set()
    for _ in range(3):
        talk.play(sync=7)
        seen.add(created(talk)[9])
    assert len(seen) == 3


def test_a_format_beyond_the_limit_is_taken_back():
    class Generous(Server):
        def create_playback_stream(self, one):
            wide = Spec(3, 32, 48000)
            attr = [0, 700, 1000, 1, 1, 1, 1, wide, tuple(range(32)), 9, "x", False, 0]
            return encode("LLLLLLLamLtbUf", [*attr, format_of(wide)])

    talk = Talk(server=Generous())
    request = create_playback(formats=[Format(1, {})])
    assert talk.refused(C.CREATE_PLAYBACK_STREAM, request) == Error.NOTSUPPORTED
    assert talk.server.named(C.DELETE_PLAYBACK_STREAM)
    assert not talk.sandbox.playbacks


def test_streams_of_a_connection_and_of_a_sandbox_at_the_limit():
    talk = Talk(SoundRules("work", streams=limits.PULSE_STREAMS_PER_CONNECTION + 2))
    for _ in range(limits.PULSE_STREAMS_PER_CONNECTION):
        talk.play()
    assert talk.refused(C.CREATE_PLAYBACK_STREAM, create_playback()) == Error.TOOLARGE
    other = Talk(sandbox=talk.sandbox)
    other.play()
    other.play()
    assert other.refused(C.CREATE_PLAYBACK_STREAM, create_playback()) == Error.TOOLARGE
    talk.ask(C.DELETE_PLAYBACK_STREAM, encode("L", [0]))
    other.play()


def test_streams_that_are_being_made_count():
    talk = Talk(SoundRules("work", streams=3))
    talk.server.deaf.add(C.CREATE_PLAYBACK_STREAM)
    for _ in range(3):
        talk.say(C.CREATE_PLAYBACK_STREAM, create_playback())
    assert talk.refused(C.CREATE_PLAYBACK_STREAM, create_playback()) == Error.TOOLARGE


def test_buffers_and_rates_stay_within_the_rules():
    talk = Talk(SoundRules("work", buffer_bytes=5000, rate=50000))
    channel, _ = talk.play()
    assert created(talk)[4] == 5000
    talk.ask(
        C.SET_PLAYBACK_STREAM_BUFFER_ATTR,
        encode("LLLLLbb", [channel, 9000, *(INVALID,) * 3, True, True]),
    )
    (said,) = talk.server.named(C.SET_PLAYBACK_STREAM_BUFFER_ATTR)
    assert said.fields("LLLLLbb")[:2] == [channel, 5000]


def test_rates_at_the_limit():
    talk = Talk(SoundRules("work", rate=50000))
    least, update = limits.PULSE_RATE_LEAST, C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE
    talk.play(spec=Spec(3, 2, least))
    for bad in (least - 1, 50001):
        slow = create_playback(spec=Spec(3, 2, bad))
        assert talk.refused(C.CREATE_PLAYBACK_STREAM, slow) == Error.NOTSUPPORTED
    channel, _ = talk.play(variable=True)
    for good in (48000, 50000, 43200):
        assert talk.ask(update, encode("LL", [channel, good])).command is C.REPLY
    for bad in (0, 43199, 50001):
        assert talk.refused(update, encode("LL", [channel, bad])) == Error.NOTSUPPORTED
    channel, _ = talk.play()  # of a fixed rate
    asked = encode("LL", [channel, 48000])
    assert talk.refused(update, asked) == Error.NOTSUPPORTED


# -- loudness ---------------------------------------------------------------------------


def last_volume(talk: Talk):
    return talk.server.named(C.SET_SINK_INPUT_VOLUME)[-1].fields("Lv").numbers(1)


def test_no_stream_is_louder_than_all_of_it():
    talk = Talk()
    _, index = talk.play()
    talk.ask(C.SET_SINK_INPUT_VOLUME, encode("Lv", [index, (655360, 32768)]))
    assert last_volume(talk) == (65536, 32768)
    assert talk.server.said[-1].fields("Lv").number(0) == talk.server.real[0]


def test_the_persons_volume_is_multiplied_and_not_shown():
    talk = Talk(level=Level(volume=32768))
    _, index = talk.play()
    assert created(talk).numbers(10) == (32768, 32768)
    assert created(talk)[21] is True
    talk.ask(C.SET_SINK_INPUT_VOLUME, encode("Lv", [index, (32768, 65536)]))
    assert last_volume(talk) == (16384, 32768)
    talk.sandbox.set_level(Level(volume=65536))
    talk.pump()
    assert last_volume(talk) == (32768, 65536)


def test_a_client_cannot_unmute_what_the_person_has_muted():
    talk = Talk(level=Level(muted=True))
    _, index = talk.play()
    assert created(talk)[18] is True
    assert created(talk)[23] is True
    talk.ask(C.SET_SINK_INPUT_MUTE, encode("Lb", [index, False]))
    assert talk.server.named(C.SET_SINK_INPUT_MUTE)[-1].fields("Lb")[1] is True
    shown = talk.ask(C.GET_SINK_INPUT_INFO, encode("L", [index])).fields(
        "LtLLLamvUUttbPbbbf"
    )
    assert shown[12] is False
    talk.sandbox.set_level(Level())
    talk.pump()
    assert talk.server.named(C.SET_SINK_INPUT_MUTE)[-1].fields("Lb")[1] is False


def test_a_sandbox_turned_down_to_nothing_sees_its_own_volume():
    talk = Talk(level=Level(volume=0))
    _, index = talk.play()
    talk.ask(C.SET_SINK_INPUT_VOLUME, encode("Lv", [index, (32768, 65536)]))
    assert last_volume(talk) == (0, 0)
    shown = talk.ask(C.GET_SINK_INPUT_INFO, encode("L", [index])).fields(
        "LtLLLamvUUttbPbbbf"
    )
    assert shown.numbers(7) == (32768, 65536)


def test_one_sandboxs_level_is_not_anothers():
    talk, other = Talk(), Talk(SoundRules("home"))
    talk.play()
    other.play()
    talk.sandbox.set_level(Level(muted=True))
    talk.pump()
    other.pump()
    assert talk.server.named(C.SET_SINK_INPUT_MUTE)
    assert not other.server.named(C.SET_SINK_INPUT_MUTE)


def test_idle_is_told_by_the_clock():
    talk = Talk(SoundRules("work", idle_seconds=5))
    channel, index = talk.play()
    stream = talk.sandbox.playbacks[index]
    assert not stream.is_idle(talk.now + 5)
    assert stream.is_idle(talk.now + 5.1)
    talk.now += 5
    talk.raw(frames.samples(channel, bytes(4)))
    assert not stream.is_idle(talk.now + 5)


# -- what most bytes are ---------------------------------------------------------


class Slow(PulseFilter):
    """A filter without the short way for plain samples and requests."""

    def passes_samples(self, untrusted_data: bytes, now: float) -> bool:
        return False

    def passes_request(self, data: bytes, now: float) -> bool:
        return False


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("samples"), st.integers(1, 60), st.integers(0, 1)),
        st.tuples(st.just("asked"), st.integers(0, 90), st.integers(0, 1)),
        st.tuples(st.just("seek"), st.integers(-40, 40), st.integers(0, 4)),
        st.tuples(st.just("bytes"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("cork"), st.just(0), st.just(0)),
        st.tuples(st.just("drain"), st.just(0), st.just(0)),
        st.tuples(st.just("delete"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


def played(steps, monkeypatch, kind, cuts):
    """All messages to both sides, and the remaining credit."""
    monkeypatch.setattr("tests.kit.sound.talk.PulseFilter", kind)
    talk = Talk()
    talk.server.first_request = 100
    channel, _ = talk.play()
    seen = bytearray()
    feed = talk.core.from_client

    def watched(data, now):
        feed(data, now)
        seen.extend(b"up:" + bytes(talk.core.up) + b"down:" + talk.core.down.data)

    talk.core.from_client = watched
    left = b""
    for number, (what, count, more) in enumerate(steps):
        match what:
            case "samples":
                left += frames.samples(channel + more * 7, bytes([number]) * count)
            case "seek":
                left += frames.samples(channel, bytes([number]) * 8, more, count)
            case "bytes":
                left += bytes([number]) * count if number > 30 else b""
            case "asked":
                talk.server_says(C.REQUEST, encode("LL", [channel + more * 7, count]))
            case _:
                command = C[f"{what.upper()}_PLAYBACK_STREAM"]
                fields = encode(
                    "Lb" if what == "cork" else "L",
                    [channel, True][: 1 + (what == "cork")],
                )
                left += frames.command(command, 500 + number, fields)
        if cuts[number % len(cuts)]:
            talk.raw(left)
            left = b""
    talk.raw(left)
    unread = [(one.command, one.tag, one.body) for one in talk.unread]
    streams = [
        (s.credit, s._excess, bytes(s._held), s.last_samples)
        for s in talk.core.playbacks.values()
    ]
    fault = str(talk.core.fault)
    return bytes(seen), sent(talk), talk.server.parts, unread, streams, fault


@given(STEPS, st.lists(st.booleans(), min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_short_way_does_what_the_long_one_does(monkeypatch, steps, cuts):
    short = played(steps, monkeypatch, PulseFilter, cuts)
    assert short == played(steps, monkeypatch, Slow, cuts)


WHOLE = frames.samples(3, b"abcd")


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (WHOLE, (3, (4,))),
        (WHOLE + frames.samples(3, b"ab"), (3, (4, 2))),
        (WHOLE + frames.samples(4, b"ab"), None),
        (WHOLE + b"x", None),
        (WHOLE[:-1], None),
        (WHOLE + WHOLE[:-1], None),
        (WHOLE + WHOLE[:20], None),
        (WHOLE[:20], None),
        (b"", None),
        (frames.samples(INVALID, b"abcd"), None),
        (WHOLE + frames.samples(INVALID, b"abcd"), None),
        (frames.samples(3, b"abcd", 1), None),
        (frames.samples(3, b"abcd", 0, 4), None),
        (frames.samples(3, b"abcd", 0, -4), None),
        (frames.HEADER.pack(4, 3, 0, 0, 0x80000000) + b"abcd", None),
        (frames.HEADER.pack(0, 3, 0, 0, 0) + b"abcd", None),
    ],
)
def test_only_whole_plain_frames_of_one_stream_go_the_short_way(data, plain):
    assert frames.plain_samples(data) == plain


def test_only_whole_requests_go_the_short_way():
    good = frames.command(C.REQUEST, INVALID, encode("LL", [3, 960]))
    two = frames.command(C.REQUEST, INVALID, encode("LL", [4, 4]))
    assert frames.plain_requests(good) == [(3, 960)]
    assert frames.plain_requests(good + two) == [(3, 960), (4, 4)]
    tagged = frames.command(C.REQUEST, 1, encode("LL", [3, 960]))
    other = frames.command(C.OVERFLOW, INVALID, encode("LL", [3, 960]))
    volume = frames.command(C.REQUEST, INVALID, encode("LV", [3, 960]))
    for bad in (good + b"x", good[:-1], tagged, other, volume):
        assert frames.plain_requests(bad) is None
        assert frames.plain_requests(good + bad) is None
    assert frames.plain_requests(b"") is None


@pytest.mark.parametrize(
    ("pieces", "goes"),
    [
        ([frames.samples(0, bytes(104))], 100),
        ([frames.samples(0, bytes(60)) * 2], 100),
        ([frames.samples(0, b"abcdef"), frames.samples(0, b"ghij")], b"abcdefgh"),
        ([frames.samples(0, b"abcdef") + frames.samples(0, b"gh")], b"abcdefgh"),
        (
            [frames.samples(0, bytes(24))[:20], frames.samples(0, b"abcd")],
            frames.samples(0, b"abcd"),
        ),
    ],
    ids=[
        *("more than was asked for", "two that are more", "behind half a sample"),
        *("half samples in one read", "inside a frame"),
    ],
)
def test_what_looks_plain_and_is_not_goes_no_short_way(pieces, goes):
    talk = Talk()
    talk.server.first_request = 100
    talk.play()
    for piece in pieces:
        talk.raw(piece)
    assert sent(talk) == (bytes(goes) if isinstance(goes, int) else goes)
