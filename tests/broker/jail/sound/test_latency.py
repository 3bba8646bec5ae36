"""The least latency: what servers make of the sizes that are passed to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import SoundRules
from broker.jail.sound.commands import INVALID, REQUESTS, Command
from broker.jail.sound.latency import Sizes, bounded_sizes, least_bytes
from broker.jail.sound.samples import frame_bytes
from broker.jail.sound.tagstruct import Spec, encode
from tests.kit.sound.talk import STEREO, Talk, create_playback

C = Command
LEAST = 480  # 2.5 ms of 48 kHz stereo, 16 bits
MOST = limits.PULSE_BUFFER_BYTES

specs = st.builds(
    Spec,
    st.integers(0, 12),
    st.integers(1, 32),
    st.integers(limits.PULSE_RATE_LEAST, 384_000),
)
sizes = st.one_of(st.just(INVALID), st.integers(0, 40_000), st.integers(0, INVALID))
modes = st.sampled_from(["plain", "adjusted", "early"])


def device_bytes(mode: str, spec: Spec, held: Sizes) -> int:
    """What PulseAudio then tries for a device (``fix_playback_buffer_attr``)."""
    one = frame_bytes(spec)
    target = held.target
    if target == INVALID:
        target = 2 * spec.rate * one
    target = min(target, held.buffer)
    request = held.request
    if request == INVALID:
        quarter = target // 4
        request = min(spec.rate * one // 50, quarter - quarter % one)
    if mode == "early":
        return request
    left = max(0, target - 2 * request)
    return left // 2 if mode == "adjusted" else left


@given(specs, sizes, sizes, sizes, st.integers(4096, MOST), modes)
def test_no_size_makes_a_device_faster_than_the_floor(
    spec, maxlength, target, request, most, mode
):
    asked = Sizes(maxlength, target, request)
    held = bounded_sizes(spec, asked, most, early=mode == "early")
    assert device_bytes(mode, spec, held) >= least_bytes(spec)
    assert held.request >= least_bytes(spec)
    assert least_bytes(spec) * 4 <= held.buffer <= max(most, least_bytes(spec) * 4)
    assert bounded_sizes(spec, held, most, early=mode == "early") == held
    # A stream with room for two pieces is never left with less.
    if held.request < request != INVALID:
        assert held.target == held.buffer


@given(specs, st.integers(0, INVALID))
def test_an_unset_latency_stays_unset(spec, maxlength):
    held = bounded_sizes(spec, Sizes(maxlength, INVALID, INVALID), MOST, early=False)
    assert (held.target, held.request) == (INVALID, INVALID)


@pytest.mark.parametrize(
    ("early", "target", "minreq"),
    [
        (False, 4 * LEAST, LEAST),  # the shortest of all
        (False, 4 * LEAST, INVALID),  # pacat --latency-msec=10
        (False, 48000, 12000),  # a browser's 250 ms and its quarter
        (False, 9600, 4320),  # a device may have 2.5 ms of these 50
        (True, 8 * LEAST, 4 * LEAST),  # two periods of ALSA's plug-in
        (True, LEAST * 4, LEAST * 4),
    ],
)
def test_a_long_latency_is_not_changed(early, target, minreq):
    asked = Sizes(65536, target, minreq)
    assert bounded_sizes(STEREO, asked, MOST, early=early) == asked


@pytest.mark.parametrize(
    ("early", "asked", "held"),
    [
        (False, (4, 4, 4), (4 * LEAST, 4 * LEAST, LEAST)),
        (False, (0, 0, 0), (4 * LEAST, 4 * LEAST, LEAST)),
        (False, (65536, 4 * LEAST - 1, LEAST - 1), (65536, 4 * LEAST, LEAST)),
        (False, (65536, 2 * LEAST, INVALID), (65536, 4 * LEAST, INVALID)),
        # Half of it or more is what PulseAudio takes for "as fast as can be".
        (False, (65536, 9600, 4800), (65536, 9600 + 2 * LEAST, 4800)),
        (False, (65536, 9600, 4320 + 4), (65536, 9600 + 8, 4320 + 4)),
        (False, (9600, 9600, 4800), (9600, 9600, 4800 - LEAST)),
        (False, (65536, INVALID, INVALID - 1), (65536, 65536, 32768 - LEAST)),
        (False, (65536, INVALID, 32768 - LEAST), (65536, INVALID, 32768 - LEAST)),
        (True, (65536, 9600, 9601), (65536, 9601, 9601)),
        (True, (9600, 9600, 9601), (9600, 9600, 9600)),
        (True, (65536, 9600, 1), (65536, 9600, LEAST)),
        (False, (INVALID, INVALID - 1, INVALID), (MOST, MOST, INVALID)),
    ],
)
def test_sizes_at_the_limits(early, asked, held):
    assert bounded_sizes(STEREO, Sizes(*asked), MOST, early=early) == Sizes(*held)


def test_the_least_buffer_is_allowed_whatever_the_rules_say():
    wide = Spec(5, 8, 192_000)
    held = bounded_sizes(wide, Sizes(INVALID, 1, 1), 4096, early=False)
    assert held == Sizes(4 * 15360, 4 * 15360, 15360)


@pytest.mark.parametrize("early", [False, True])
def test_a_stream_is_asked_for_with_sizes_of_the_floor(early):
    talk = Talk()
    fields = create_playback(maxlength=4, tlength=4, minreq=4, early=early)
    talk.ask(C.CREATE_PLAYBACK_STREAM, fields)
    (said,) = talk.server.named(C.CREATE_PLAYBACK_STREAM)
    asked = said.fields(REQUESTS[C.CREATE_PLAYBACK_STREAM].signature(35))
    assert [asked[at] for at in (4, 6, 8)] == [4 * LEAST, 4 * LEAST, LEAST]


@pytest.mark.parametrize(("version", "flags"), [(13, "b"), (35, "bb")])
def test_a_stream_that_runs_gets_no_shorter(version, flags):
    talk = Talk(version=version)
    channel, index = talk.play()
    values = [channel, 4, 4, 0, 4, *[True] * len(flags)]
    talk.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, encode("LLLLL" + flags, values))
    (said,) = talk.server.named(C.SET_PLAYBACK_STREAM_BUFFER_ATTR)
    assert said.fields("LLLLL" + flags)[1:5] == [4 * LEAST, 4 * LEAST, 0, LEAST]
    assert talk.sandbox.playbacks[index].maxlength == 4 * LEAST


def test_sizes_are_changed_no_faster_than_streams_are_opened():
    talk = Talk()
    channel, _ = talk.play()
    fields = encode("LLLLLbb", [channel, 4, 4, 0, 4, True, False])
    for _ in range(limits.PULSE_BIRTHS_BURST - 1):
        talk.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, fields)
    assert not talk.core.stalled
    talk.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, fields)
    assert talk.core.stalled
    talk.pass_time(1 / limits.PULSE_BIRTHS_PER_SECOND + 0.01)
    assert not talk.core.stalled


def test_a_stream_above_the_largest_buffer_stays_when_rules_change():
    """The floor is longer than the rules' buffer at such a rate."""
    rules = SoundRules("work", buffer_bytes=4096)
    talk = Talk(rules)
    wide = Spec(5, 8, 192_000)
    channel, index = talk.play(spec=wide, positions=tuple(range(8)))
    values = [channel, 4, 4, 0, 4, True, False]
    talk.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, encode("LLLLLbb", values))
    talk.sandbox.set_rules(rules, 0.0)
    assert index in talk.sandbox.playbacks
