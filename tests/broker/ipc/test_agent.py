"""Messages of the guest agent: typed, bounded, and the same on both sides."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import PeerError
from broker.ipc import agent
from shims.guest import protocol as guest_protocol

_FROM_GUEST = [
    agent.AgentHello(version=1, waypipe="0.8.4", kernel="6.1", programs=[1, 2]),
    agent.AgentHello(version=1, waypipe="", kernel=""),
    agent.AgentStarted(program=1),
    agent.AgentFailed(program=0xFFFFFFFF, reason="no such file"),
    agent.Output(program=1, data=b"\x00\xff\x1b[2J"),
    agent.Output(program=1, data=b"x", stderr=True),
    agent.AgentExited(program=1, code=-9),
    agent.AgentStep(name="waypipe", ok=False, detail="it ended"),
]
_TO_GUEST = [
    agent.Run(program=1, argv=["foot", "-e", "é"], env={"A": "b"}, display=False),
    agent.Run(program=2, argv=["true"]),
    agent.Run(program=2, argv=["true"], stderr=True, window=4096),
    agent.More(program=2, count=0),
    agent.Signal(program=1, number=15),
    agent.AgentPowerOff(),
]


@pytest.mark.parametrize("message", _FROM_GUEST, ids=lambda m: type(m).__name__)
def test_what_a_guest_says_comes_back(message):
    """Encoded and decoded, it is the same value."""
    assert agent.decode_from_guest(agent.encode(message)) == message


@pytest.mark.parametrize("message", _TO_GUEST, ids=lambda m: type(m).__name__)
def test_what_we_say_is_understood_by_the_shim(message):
    """The shim's own table takes it, with defaults filled in."""
    body = agent.encode(message)
    assert msgspec.json.decode(body, type=agent.ToGuest) == message
    seen = guest_protocol.decode(body)
    assert seen["type"] == msgspec.json.decode(body)["type"]
    for field in message.__struct_fields__:
        assert seen[field] == getattr(message, field)


def _tables(union):
    return {
        kind.__struct_config__.tag: set(kind.__struct_fields__)
        for kind in union.__args__
    }


def test_the_shims_tables_are_ours():
    """A shim imports none of our modules, so this holds the two together."""
    theirs = {kind: set(fields) for kind, fields in guest_protocol.FROM_GUEST.items()}
    assert theirs == _tables(agent.FromGuest)
    kinds = [*agent.ToGuest.__args__]
    ours = {kind.__struct_config__.tag: {*kind.__struct_fields__} for kind in kinds}
    assert {
        kind: set(fields) for kind, fields in guest_protocol.TO_GUEST.items()
    } == ours
    assert guest_protocol.FRAME_BYTES == limits.AGENT_FRAME_BYTES
    assert guest_protocol.OUTPUT_BYTES == limits.AGENT_OUTPUT_BYTES
    assert guest_protocol.PROGRAMS == limits.PROGRAMS_PER_SANDBOX


def _b64(size):
    return base64.b64encode(b"x" * size).decode()


@pytest.mark.parametrize(
    ("fits", "beyond"),
    [
        pytest.param(
            {"type": "hello", "version": 1, "waypipe": "x" * 120, "kernel": ""},
            {"type": "hello", "version": 1, "waypipe": "x" * 121, "kernel": ""},
            id="short text",
        ),
        pytest.param(
            {"type": "hello", "version": 1000, "waypipe": "", "kernel": ""},
            {"type": "hello", "version": 1001, "waypipe": "", "kernel": ""},
            id="version",
        ),
        pytest.param(
            {"type": "hello", "version": 1, "waypipe": "", "kernel": "",
             "programs": [1] * limits.PROGRAMS_PER_SANDBOX},
            {"type": "hello", "version": 1, "waypipe": "", "kernel": "",
             "programs": [1] * (limits.PROGRAMS_PER_SANDBOX + 1)},
            id="programs",
        ),
        pytest.param(
            {"type": "failed", "program": 1, "reason": "x" * 1000},
            {"type": "failed", "program": 1, "reason": "x" * 1001},
            id="reason",
        ),
        pytest.param(
            {"type": "output", "program": 1, "data": _b64(limits.AGENT_OUTPUT_BYTES)},
            {"type": "output", "program": 1, "data": _b64(limits.AGENT_OUTPUT_BYTES + 1)},
            id="output",
        ),
        pytest.param(
            {"type": "started", "program": 1}, {"type": "started", "program": 0}, id="first id"
        ),
        pytest.param(
            {"type": "started", "program": 0xFFFFFFFF},
            {"type": "started", "program": 0x100000000},
            id="last id",
        ),
        pytest.param(
            {"type": "exited", "program": 1, "code": 255},
            {"type": "exited", "program": 1, "code": 256},
            id="exit code",
        ),
        pytest.param(
            {"type": "exited", "program": 1, "code": -64},
            {"type": "exited", "program": 1, "code": -65},
            id="signal",
        ),
    ],
)  # fmt: skip
def test_at_each_limit_and_beyond(fits, beyond):
    """N is a message, N + 1 is the peer's error."""
    agent.decode_from_guest(json.dumps(fits).encode())
    with pytest.raises(PeerError, match="the guest agent sent an invalid message"):
        agent.decode_from_guest(json.dumps(beyond).encode())


def test_the_longest_output_fits_into_a_frame():
    """Base64 and JSON included."""
    data = b"\xff" * limits.AGENT_OUTPUT_BYTES
    body = agent.encode(agent.Output(program=0xFFFFFFFF, data=data))
    assert len(body) <= limits.AGENT_FRAME_BYTES


@pytest.mark.parametrize(
    "untrusted",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"{}", id="no type"),
        pytest.param(b'{"type":"run","program":1,"argv":["sh"]}', id="our own message"),
        pytest.param(b'{"type":"Hello"}', id="unknown type"),
        pytest.param(b'{"type":7}', id="type is a number"),
        pytest.param(b'{"type":"started"}', id="field missing"),
        pytest.param(b'{"type":"started","program":1,"x":2}', id="field too many"),
        pytest.param(b'{"type":"started","program":"1"}', id="text for a number"),
        pytest.param(b'{"type":"started","program":1.5}', id="fraction"),
        pytest.param(b'{"type":"started","program":true}', id="true for a number"),
        pytest.param(b'{"type":"started","program":1}x', id="bytes behind"),
        pytest.param(b'{"type":"output","program":1,"data":"?"}', id="no base64"),
        pytest.param(b'{"type":"failed","program":1,"reason":"\xff"}', id="no UTF-8"),
        pytest.param(
            b'{"type":"failed","program":1,"reason":"\\ud800"}', id="surrogate"
        ),
        pytest.param(b'{"type":"hop","name":"x","ok":1}', id="number for true"),
        pytest.param(b"[" * limits.AGENT_FRAME_BYTES, id="deep"),
        pytest.param(b'{"type":"started","x":' + b"[" * 60000, id="deep inside"),
        pytest.param(b'{"x":' * 10000, id="deep tables"),
    ],
)
def test_malformed_messages(untrusted):
    """Always the peer's error, whatever the parser thinks of it."""
    with pytest.raises(PeerError):
        agent.decode_from_guest(untrusted)


@given(st.binary(max_size=200))
@example(b'{"type":"started","program":1e2}')
def test_any_bytes_are_a_message_or_a_peers_error(untrusted):
    """Nothing else is raised."""
    try:
        message = agent.decode_from_guest(untrusted)
    except PeerError:
        return
    assert isinstance(message, agent.FromGuest)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda v: st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "program", "data", "code", "reason", "programs"]), v, max_size=4
        ),
        max_leaves=8,
    ),
    st.sampled_from([*guest_protocol.FROM_GUEST, "x"]),
)  # fmt: skip
def test_any_json_is_a_message_or_a_peers_error(value, kind):
    """Right names with wrong values in them."""
    if isinstance(value, dict):
        value["type"] = kind
    try:
        message = agent.decode_from_guest(json.dumps(value).encode())
    except PeerError:
        return
    assert isinstance(message, agent.FromGuest)
