"""Control messages: typed, bounded, and only from who may send them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
)
from broker.core.escape import fit
from broker.core.lease import Lease
from broker.core.limits import audit as audit_limits
from broker.core.limits import link as limits
from broker.core.names import LeaseId, SandboxName
from broker.net.link import messages as m
from broker.net.link.wire_types import LinkRefusedError, Role

LEASE = Lease(LeaseId("0123456789abcdef"), SandboxName("web-1"), SandboxName("web"), 3)
ID = LEASE.id

FROM_HOST = [
    m.LeaseBegun.of(1, LEASE, "cid 42"),
    m.LeaseEnded(2, ID, "it ended"),
    m.SandboxStarted(3, ID),
    m.StartProgress(4, 9, "fetching a tool"),
]
FROM_VIEWER = [
    m.StartSandbox(1, "web"),
    m.StartSandbox(4, "web", 512, 1, "none", "small"),
    m.StartSandbox(5, "web", for_sandbox=True),
    m.StopSandbox(2, ID, 5.0, "asked"),
]
FROM_BOTH = [
    m.Cut(1, "host", 7, "revoked"),
    m.LinkPing(2),
    m.StatusAsked(3),
    m.WitnessNote(3, ["vitrail.invalid/audit/00", "7", "AA==", "", "\u2014 x AA=="]),
    m.Witnessed(3, []),
    m.RequestDone(4),
    m.RequestRefused(5, "refused", "no", "do this"),
    m.StatusReply(6, "vitrail 0.1", 1, 2, 3, 4, ["audio is raw"]),
    m.Bye("stopped"),
]  # fmt: skip


def refused(body, sender=Role.HOST):
    with pytest.raises(LinkRefusedError):
        m.decode(body, sender)


def test_each_message_only_from_the_role_that_may_send_it():
    for sender, good, bad in (
        (Role.HOST, FROM_HOST + FROM_BOTH, FROM_VIEWER),
        (Role.VIEWER, FROM_VIEWER + FROM_BOTH, FROM_HOST),
    ):
        for message in good:
            assert m.decode(m.encode(message), sender) == message
        for message in bad:
            refused(m.encode(message), sender)


def test_a_note_at_its_limits_and_beyond():
    for lines, characters, good in (
        (audit_limits.LINK_NOTE_LINES, audit_limits.LINK_NOTE_CHARACTERS, True),
        (audit_limits.LINK_NOTE_LINES + 1, 1, False),
        (1, audit_limits.LINK_NOTE_CHARACTERS + 1, False),
    ):
        body = m.encode(m.WitnessNote(1, ["x" * characters] * lines))
        if good:
            assert m.decode(body, Role.HOST).request == 1
        else:
            refused(body)


def test_every_request_has_its_replies():
    def below(kind):
        # Those between host and viewer of one machine are of another module.
        return {one for one in kind.__subclasses__() if one.__module__ == m.__name__}

    assert below(m.LinkRequest) == set(m.REPLIES)
    replies = below(m.LinkReply) - {m.LinkFailure} | below(m.LinkFailure)
    assert {r for expected in m.REPLIES.values() for r in expected} == replies


def test_a_lease_survives_its_announcement():
    again = m.decode(m.encode(m.LeaseBegun.of(1, LEASE, "hybrid:/x")), Role.HOST)
    assert again.to_lease() == LEASE


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b'{"type":"ping"}',
        b'{"type":"ping","request":0}',
        b'{"type":"ping","request":-1}',
        b'{"type":"ping","request":281474976710656}',
        b'{"type":"ping","request":"1"}',
        b'{"type":"ping","request":1,"more":1}',
        b'{"type":"run","request":1}',
        b'{"type":"lease-ended","request":1,"lease":"0123456789ABCDEF","reason":""}',
        b'{"type":"lease-ended","request":1,"lease":"0123456789abcdef\\n","reason":""}',
        b'{"type":"lease-ended","request":1,"lease":"0123456789abcdef","reason":"\\u001b[2J"}',
        b'{"type":"lease-ended","request":1,"lease":"0123456789abcdef","reason":"\\u202e"}',
        b'{"type":"lease-ended","request":1,"lease":"0123456789abcdef","reason":"\\ud800"}',
        b'{"type":"cut","request":1,"opened_by":"guest","stream":1,"reason":""}',
        b'{"type":"refused","request":1,"fault":"mine","message":""}',
    ],
)  # fmt: skip
def test_refusals_from_the_host(body):
    refused(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"start","request":1,"record":"../web"}',
        b'{"type":"start","request":1,"record":"web\\n"}',
        b'{"type":"start","request":1,"record":"Web"}',
        b'{"type":"start","request":1,"record":"web","argv":["sh"]}',
        b'{"type":"stop","request":1,"lease":"0123456789abcdef","grace":-1,"reason":""}',
        b'{"type":"stop","request":1,"lease":"0123456789abcdef","grace":60.1,"reason":""}',
        b'{"type":"stop","request":1,"lease":"0123456789abcdef","grace":NaN,"reason":""}',
        b'{"type":"stop","request":1,"lease":"0123456789abcdef","grace":1e999,"reason":""}',
    ],
)  # fmt: skip
def test_refusals_from_the_viewer(body):
    refused(body, Role.VIEWER)


def test_limits_at_n_and_n_plus_1():
    n = limits.LINK_TEXT_CHARACTERS
    m.decode(m.encode(m.Bye("x" * n)), Role.HOST)
    refused(m.encode(m.Bye("x" * (n + 1))))
    status = m.StatusReply(1, "v", 0, 0, 0, 0, ["w"] * limits.LINK_WARNINGS)
    m.decode(m.encode(status), Role.HOST)
    refused(
        m.encode(
            msgspec.structs.replace(status, warnings=["w"] * (limits.LINK_WARNINGS + 1))
        )
    )
    stop = m.StopSandbox(1, ID, limits.LINK_GRACE_SECONDS, "")
    m.decode(m.encode(stop), Role.VIEWER)
    refused(m.encode(msgspec.structs.replace(stop, grace=60.01)), Role.VIEWER)


def test_the_largest_message_fits_into_a_record():
    text = "\N{GRINNING FACE}" * limits.LINK_TEXT_CHARACTERS
    status = m.StatusReply(1, "v" * 120, 0, 0, 0, 0, [text] * limits.LINK_WARNINGS)
    assert len(m.encode(status)) <= limits.LINK_RECORD_BYTES


@given(st.binary(max_size=300), st.sampled_from(Role))
def test_any_bytes_are_a_message_or_a_refusal(body, sender):
    try:
        m.decode(body, sender)
    except LinkRefusedError:
        return


@given(st.text(max_size=300), st.integers(1, 200))
def test_fit_makes_any_text_fit(text, limit):
    line = fit(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    m.decode(m.encode(m.Bye(line)), Role.HOST)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RefusedError("no\nrecord", hint="add one"), RefusedError),
        (SetupError("no image", where="/x"), SetupError),
        (UpstreamError("qemu"), UpstreamError),
        (InternalError("ours"), InternalError),
        (PeerError("theirs"), InternalError),
    ],
)
def test_an_error_keeps_its_kind_and_words_on_the_way(error, kind):
    again = m.decode(m.encode(m.RequestRefused.of(3, error)), Role.HOST).to_error()
    assert type(again) is kind
    assert again.message == error.message.replace("\n", " ")
    assert (again.hint, again.where) == (error.hint, "the other broker")


@pytest.mark.parametrize("depth", [1, 500, 10_000])
@pytest.mark.parametrize("opening", [b'{"x":', b"["])
def test_a_message_nested_deeply_is_refused_and_raises_nothing_else(opening, depth):
    refused(opening * depth)
    refused(b'{"type":"ping","request":1,"x":' + opening * depth)
    refused(b'{"type":"status","request":1,"warnings":' + opening * depth, Role.VIEWER)
