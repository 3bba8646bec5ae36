"""The codec: any bytes in any pieces are messages, or one refusal."""

from __future__ import annotations

import json
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.ipc.control import varlink
from broker.ipc.control.answers import error_of
from broker.ipc.control.api import RunRequest, StopRequest
from broker.ipc.control.varlink import Call, VarlinkError, VarlinkReader, VarlinkReply
from broker.wire.faults import NotFoundError


def read_all(pieces: list[bytes], limit: int) -> tuple[list[bytes], bool]:
    """All messages up to the first refusal, and whether there was one."""
    reader = VarlinkReader(limit)
    messages: list[bytes] = []
    for piece in pieces:
        try:
            messages += reader.feed(piece)
        except PeerError:
            return messages, True
    return messages, False


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


_stream = st.lists(st.one_of(st.just(b"\0"), st.binary(max_size=9)), max_size=20).map(
    b"".join
)


@given(_stream, st.lists(st.integers(0, 7), max_size=30))
def test_pieces_never_change_the_messages(data: bytes, sizes: list[int]) -> None:
    whole, refused = read_all([data], 1000)
    assert not refused
    assert read_all(cut(data, sizes), 1000) == (whole, False)
    assert read_all([bytes([b]) for b in data], 1000) == (whole, False)
    rest = data.rpartition(b"\0")[2]
    assert b"".join(message + b"\0" for message in whole) + rest == data


@given(_stream, st.lists(st.integers(0, 7), max_size=30))
def test_a_long_message_is_refused_in_any_pieces(data: bytes, sizes: list[int]) -> None:
    parts = data.split(b"\0")
    too_long = any(len(part) > 8 for part in parts)
    assert read_all([data], 8)[1] is too_long
    messages, refused = read_all(cut(data, sizes), 8)
    assert refused is too_long
    assert messages == parts[: len(messages)]


def test_a_message_at_the_limit_and_one_byte_more() -> None:
    limit = limits.CONTROL_MESSAGE_BYTES
    assert VarlinkReader().feed(b"x" * limit + b"\0") == [b"x" * limit]
    with pytest.raises(PeerError, match="longer than"):
        VarlinkReader().feed(b"x" * (limit + 1))
    reader = VarlinkReader()
    assert reader.feed(b"x" * limit) == []
    with pytest.raises(PeerError):
        reader.feed(b"x")


def test_a_large_message_in_small_pieces_is_not_searched_again_and_again() -> None:
    reader = VarlinkReader()
    for _ in range(1 << 16):
        assert reader.feed(b"x" * 16) == []
    assert len(reader.feed(b"\0")[0]) == 1 << 20


@given(st.binary(max_size=200))
def test_any_message_is_a_call_or_a_refusal(message: bytes) -> None:
    try:
        call = varlink.decode_call(message)
    except PeerError:
        return
    assert isinstance(call.method, str)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["record", "argv", "env", "wait", "sandbox", "grace", "x"]),
        _json,
        max_size=4,
    ),
    st.sampled_from([RunRequest, StopRequest]),
)
def test_any_parameters_are_a_request_or_named_as_invalid(
    parameters: dict[str, object], kind: type[msgspec.Struct]
) -> None:
    body = json.dumps({"method": "a.b", "parameters": parameters}).encode()
    problem: VarlinkError | None = None
    request: msgspec.Struct | None = None
    try:
        call = varlink.decode_call(body)
        request = varlink.decode_parameters(call.parameters, kind)
    except PeerError:
        return
    except VarlinkError as error:
        problem = error
    if problem is None:
        assert isinstance(request, kind)
    else:
        assert problem.name == "org.varlink.service.InvalidParameter"
        assert set(problem.parameters) == {"parameter"}


def test_json_deeper_than_the_stack_is_a_refusal() -> None:
    deep = b'{"method":"a.b","parameters":' + b"[" * 500_000
    with pytest.raises(PeerError):
        varlink.decode_call(deep)
    call = Call("a.b", msgspec.Raw(b'{"record":' + b"[" * 200_000))
    with pytest.raises(VarlinkError):
        varlink.decode_parameters(call.parameters, RunRequest)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'{"grace": "soon"}', "grace"),
        (b'{"sandbox": 5}', "sandbox"),
        (b'{"colour": 1}', "colour"),
        (b"[]", "parameters"),
    ],
)
def test_the_wrong_parameter_is_named(parameters: bytes, name: str) -> None:
    with pytest.raises(VarlinkError) as caught:
        varlink.decode_parameters(msgspec.Raw(parameters), StopRequest)
    assert caught.value.parameters == {"parameter": name}


def test_an_outgoing_message_ends_with_one_nul() -> None:
    call = Call("a.B", varlink.raw({"text": "a\0b"}), more=True)
    wire = varlink.encode(call)
    assert wire.count(b"\0") == 1
    assert json.loads(wire[:-1]) == {
        "method": "a.B",
        "parameters": {"text": "a\0b"},
        "more": True,
    }
    with pytest.raises(InternalError):
        varlink.encode(VarlinkReply(varlink.raw("x" * limits.CONTROL_MESSAGE_BYTES)))


@pytest.mark.parametrize(
    "kind",
    [NotFoundError, RefusedError, SetupError, UpstreamError, PeerError, InternalError],
)
def test_an_error_arrives_as_its_own_type(kind: type[VitrailError]) -> None:
    sent = kind("what", hint="do this", where="a.toml:1:2")
    reply = varlink.decode_reply(varlink.encode(varlink.error_reply(sent))[:-1])
    got = error_of(reply)
    assert type(got) is kind
    assert got.diagnostics() == sent.diagnostics()


def test_an_error_of_the_protocol_says_that_versions_differ() -> None:
    reply = varlink.error_reply(VarlinkError("MethodNotFound", method="a.B"))
    assert reply.error == "org.varlink.service.MethodNotFound"
    problem = error_of(reply)
    assert isinstance(problem, InternalError)
    assert "the same version" in problem.hint


def test_an_error_about_a_path_that_is_no_text_can_be_told() -> None:
    """It is called in an except clause: a second exception would end the broker."""
    path = os.fsdecode(b"/home/\xff/a.toml")
    sent = RefusedError(f"the record at {path}", hint=path, where=f"{path}:1:1")
    reply = varlink.decode_reply(varlink.encode(varlink.error_reply(sent))[:-1])
    heard = error_of(reply)
    assert heard.where == "/home/\\udcff/a.toml:1:1"
