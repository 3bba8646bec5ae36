"""Messages survive encoding, and malformed ones are refused."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import InternalError
from broker.core.limits import relay as relay_limits
from broker.helpers.pump.channel_messages import decode_to_pump, encode_from_pump
from broker.ipc import pump as contract
from broker.ipc.pump import (
    MESSAGE_BYTES,
    Abort,
    EndReason,
    Live,
    PumpReady,
    PumpRequest,
    RelayMode,
    Side,
    StreamDone,
    StreamEnd,
    StreamStatistics,
    Submit,
    decode_from_pump,
    encode_to_pump,
)

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
modes = st.sampled_from(RelayMode)
milliseconds = st.integers(0, 10**12).map(lambda number: number / 1000)
ends = st.builds(
    StreamEnd,
    u64,
    u64,
    st.sampled_from(EndReason),
    st.integers(0, 65535),
    st.sampled_from(Side),
    modes,
    modes,
)
streams = st.builds(
    StreamStatistics, u64, u64, u64, u32, u32, st.just(0.0), st.just(0.0), modes, modes
)


@given(
    st.one_of(
        st.builds(Submit, u64, modes, modes, u64, u32, u64),
        st.builds(Abort, u64),
        st.builds(PumpRequest, u64),
    )
)
def test_what_the_broker_says(message):
    assert decode_to_pump(encode_to_pump(message)) == message


@given(
    st.one_of(
        st.builds(PumpReady, u32, st.booleans()),
        st.builds(StreamDone, u64, ends),
        st.builds(Live, u64, st.booleans(), st.lists(streams, max_size=5).map(tuple)),
    )
)
def test_what_the_pump_says(message):
    assert decode_from_pump(encode_from_pump(message)) == message


@given(milliseconds, milliseconds)
def test_times_are_whole_milliseconds(age, idle):
    stream = StreamStatistics(
        1, 0, 0, 0, 0, age, idle, RelayMode.SPLICE, RelayMode.COPY
    )
    (back,) = decode_from_pump(encode_from_pump(Live(1, True, (stream,)))).streams
    assert back.age == pytest.approx(age, abs=0.0011)
    assert back.idle == pytest.approx(idle, abs=0.0011)


def test_a_full_answer_is_the_longest_message():
    stream = StreamStatistics(1, 0, 0, 0, 0, 0, 0, RelayMode.SPLICE, RelayMode.COPY)
    full = Live(1, True, (stream,) * relay_limits.RELAY_STREAMS_PER_ANSWER)
    assert len(encode_from_pump(full)) == MESSAGE_BYTES
    for message in (Submit(1), Abort(1), PumpRequest(1)):
        assert len(encode_to_pump(message)) <= MESSAGE_BYTES


@given(st.binary(max_size=80))
def test_noise_is_an_internal_error_or_a_message(packet):
    for decode in (decode_to_pump, decode_from_pump):
        try:
            decode(packet)
        except InternalError:
            continue


@pytest.mark.parametrize("size", [-1, 1])
def test_a_message_of_another_length_is_refused(size):
    for packet in (encode_to_pump(Submit(1)), encode_to_pump(Abort(1))):
        with pytest.raises(InternalError):
            decode_to_pump(packet + b"\0" if size > 0 else packet[:-1])
    stream = StreamStatistics(1, 0, 0, 0, 0, 0, 0, RelayMode.SPLICE, RelayMode.COPY)
    for message in (
        PumpReady(1, True),
        StreamDone(1, StreamEnd(0, 0, EndReason.END)),
        Live(1, True, (stream,)),
    ):
        packet = encode_from_pump(message)
        with pytest.raises(InternalError):
            decode_from_pump(packet + b"\0" if size > 0 else packet[:-1])


def test_numbers_on_the_wire_are_not_reordered():
    """Broker and pump run the same code, but a running pump outlives an edit."""
    assert contract.MODES == (RelayMode.AUTO, RelayMode.SPLICE, RelayMode.COPY)
    assert contract._SIDES == (Side.NONE, Side.A, Side.B)


def test_an_end_reads_as_a_sentence():
    assert StreamEnd(1, 2, EndReason.END).describe() == "end"
    end = StreamEnd(1, 2, EndReason.RESET, errno.EPIPE, Side.B)
    assert end.describe() == "reset of side b (Broken pipe)"
    assert (
        StreamEnd(0, 0, EndReason.ERROR, errno.EMFILE).describe()
        == "error (Too many open files)"
    )
