"""Headers, doors and refusals."""

from __future__ import annotations

import pytest

from broker.net.link.handshake import SIZES, HandshakeKind
from broker.net.link.link_reader import LinkReader, told_refusal
from broker.net.link.wire_types import (
    HEADER,
    VERSION,
    ConnectionKind,
    Direction,
    LinkRefusedError,
    RefusalReason,
    Role,
    refusal,
)
from broker.viewer.host_ends.host_door import take_door


def test_roles_and_directions():
    assert Role.HOST.other is Role.VIEWER
    assert Role.VIEWER.other is Role.HOST
    assert Direction.sent_by(Role.HOST) is Direction.TO_VIEWER
    assert Direction.sent_by(Role.VIEWER) is Direction.TO_HOST


def test_a_door_is_its_first_eight_bytes():
    assert {take_door(door.value) for door in ConnectionKind} == set(ConnectionKind)
    assert {len(door.value) for door in ConnectionKind} == {8}
    for wrong in (b"", b"VTRL", b"SSH-2.0-", b"VTRL-CTLx"):
        with pytest.raises(LinkRefusedError):
            take_door(wrong)


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_reason_is_told_in_words_of_ours(reason):
    error = told_refusal(
        refusal(ConnectionKind.CONTROL, HandshakeKind.REFUSED, Role.HOST, reason)
    )
    assert "without proof" in error.message
    assert error.answer == b""


def test_unknown_reason_is_told_by_its_number():
    message = (
        refusal(
            ConnectionKind.CONTROL, HandshakeKind.REFUSED, Role.HOST, RefusalReason.BUSY
        )[:-1]
        + b"\xfe"
    )
    assert "254" in told_refusal(message).message


def test_reader_refuses_at_the_first_wrong_byte():
    for n in range(8):
        reader = LinkReader(ConnectionKind.CONTROL, SIZES)
        start = ConnectionKind.CONTROL.value[:n]
        assert reader.feed(start).take() is None
        with pytest.raises(LinkRefusedError):
            reader.feed(b"\0").take()


@pytest.mark.parametrize("kind", HandshakeKind)
def test_reader_takes_exactly_the_size_of_a_kind(kind):
    head = HEADER.pack(ConnectionKind.CONTROL.value, VERSION, kind, 1)
    whole = head.ljust(SIZES[kind], b"x")
    reader = LinkReader(ConnectionKind.CONTROL, SIZES)
    assert reader.feed(whole[:-1]).take() is None
    assert reader.feed(whole[-1:] + b"more").take() == (kind, 1, whole)
    assert reader.rest() == b"more"
    assert reader.rest() == b""


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_unknown_kind_is_refused(kind):
    head = HEADER.pack(ConnectionKind.CONTROL.value, VERSION, kind, 1)
    with pytest.raises(LinkRefusedError, match="unknown kind"):
        LinkReader(ConnectionKind.CONTROL, SIZES).feed(head).take()


@pytest.mark.parametrize("version", [0, VERSION + 1, 65535])
def test_another_version_is_said_plainly_whatever_else_is_in_the_message(version):
    head = HEADER.pack(ConnectionKind.CONTROL.value, version, 200, 77)
    with pytest.raises(LinkRefusedError) as caught:
        LinkReader(ConnectionKind.CONTROL, SIZES).feed(head).take()
    assert f"version {version}" in caught.value.message
    assert f"version {VERSION}" in caught.value.message
    assert caught.value.reason is RefusalReason.VERSION
    assert "same release" in caught.value.hint
