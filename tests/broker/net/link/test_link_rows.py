"""Rows of the link: bounded, and only what two machines share."""

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
from broker.ipc.host_rows import PAIR_ROWS, LeaseBegun
from broker.net.link.link_rows import (
    BYE,
    LINK_ROWS,
    STATUS,
    Bye,
    StatusReply,
    WitnessNote,
)
from broker.net.link_service import epoch
from broker.wire.call_messages import ErrorMessage
from broker.wire.calls import AnswerReceived, Calls, IncomingNotice
from broker.wire.row import Empty, ProcessKind, most_descriptors

LEASE = Lease(LeaseId("0123456789abcdef"), SandboxName("web-1"), SandboxName("web"), 3)


def ends():
    """The sans-IO ends of a link."""
    return [
        Calls(me, far, LINK_ROWS, message_bytes=limits.LINK_RECORD_BYTES)
        for me, far in (
            (ProcessKind.HOST, ProcessKind.VIEWER),
            (ProcessKind.VIEWER, ProcessKind.HOST),
        )
    ]


def test_the_link_has_the_rows_of_one_machine_but_those_with_descriptors():
    shared = set(PAIR_ROWS) & set(LINK_ROWS)
    assert {"LeaseBegun", "LeaseEnded", "Start", "Stop", "Attach"} <= shared
    for row in LINK_ROWS.values():
        assert most_descriptors(row.takes) == most_descriptors(row.gives) == 0
    absent = set(PAIR_ROWS) - shared
    assert {"OfferStream", "LendArena", "MountFolder", "Suspend"} <= absent


def test_a_lease_survives_its_announcement():
    body = msgspec.msgpack.encode(LeaseBegun.of(LEASE, "hybrid:/x"))
    assert msgspec.msgpack.decode(body, type=LeaseBegun).to_lease() == LEASE


@pytest.mark.parametrize(
    ("lines", "characters", "fits"),
    [
        (audit_limits.LINK_NOTE_LINES, audit_limits.LINK_NOTE_CHARACTERS, True),
        (audit_limits.LINK_NOTE_LINES + 1, 1, False),
        (1, audit_limits.LINK_NOTE_CHARACTERS + 1, False),
    ],
)
def test_a_note_at_its_limits_and_beyond(lines, characters, fits):
    body = msgspec.msgpack.encode(WitnessNote(["x" * characters] * lines))
    if fits:
        assert msgspec.msgpack.decode(body, type=WitnessNote)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(body, type=WitnessNote)


def test_limits_at_n_and_n_plus_1():
    host, viewer = ends()
    n = limits.LINK_TEXT_CHARACTERS
    assert viewer.receive(host.notify(BYE, Bye("x" * n)))
    with pytest.raises(InternalError, match="invalid"):
        host.notify(BYE, Bye("x" * (n + 1)))
    warnings = ("w",) * (limits.LINK_WARNINGS + 1)
    call, data = host.call(STATUS, Empty())
    viewer.receive(data)
    with pytest.raises(InternalError, match="invalid"):
        viewer.answer(call, StatusReply("v", 0, 0, 0, 0, warnings))


def test_the_largest_answer_fits_into_a_record():
    host, viewer = ends()
    text = "\N{GRINNING FACE}" * limits.LINK_TEXT_CHARACTERS
    status = StatusReply("v" * 120, 0, 0, 0, 0, (text,) * limits.LINK_WARNINGS)
    call, data = host.call(STATUS, Empty())
    viewer.receive(data)
    assert host.receive(viewer.answer(call, status)) == AnswerReceived(call, status)


@given(st.text(max_size=300), st.integers(1, 200))
def test_fit_makes_any_text_fit(text, limit):
    line = fit(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    host, viewer = ends()
    assert viewer.receive(host.notify(BYE, Bye(line))) == IncomingNotice(BYE, Bye(line))


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
def test_an_error_of_another_machine_keeps_its_kind_and_is_one_printable_line(
    error, kind
):
    """Also a message of a compromised broker that is longer than those of this one."""
    again = epoch._foreign_error(ErrorMessage.of(3, error).error())
    assert type(again) is kind
    assert again.message.isprintable()
    assert again.message.split()[0] == error.message.split()[0]
    assert again.where == "the other broker"
    long = epoch._foreign_error(ErrorMessage(3, "refused", "x" * 4000).error())
    assert len(long.message) <= limits.LINK_TEXT_CHARACTERS
