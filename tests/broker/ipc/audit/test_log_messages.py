"""Messages between the authority and its clients: each is the type that was sent."""

from __future__ import annotations

import typing

import pytest

from broker.core.errors import PeerError
from broker.ipc import authority
from broker.ipc.audit import log_messages as messages
from broker.ipc.audit.log_messages import AuthorityDone, encode_from_authority

HEAD = 4
"""Bytes of a frame before its message: its length."""


def test_a_recorder_and_a_viewer_read_what_the_authority_sent():
    sent = AuthorityDone(7)
    body = encode_from_authority(sent)
    assert messages.decode_to_recorder(body) == sent
    assert authority.decode_from_authority(body) == sent


def test_a_recorder_reads_no_answer_to_permits():
    tags = {
        cls: cls.__struct_config__.tag for cls in typing.get_args(messages.ToRecorder)
    }
    assert len(set(tags.values())) == len(tags), "each has a number of its own"
    with pytest.raises(PeerError, match="cannot decode"):
        messages.decode_to_recorder(b"\x91\xcc\xff")
