"""Attack: calls with another's token, and for names that are not services of a sandbox."""

from __future__ import annotations

import json
import re

import pytest

from broker.core.errors import PeerError, RefusedError
from broker.core.lease import Lease, Opening
from broker.core.services import CALL
from broker.ipc.guest.file_requests import CallService, GuestCall, decode_ask
from broker.viewer.calls.calls import call_request
from broker.viewer.exchange.guest_connection import GuestConnections, Meeting
from shims.files.calling import call_service
from shims.files.protocol import TransferError

TOKEN = "a" * 32
WORK = Opening(Lease("l1", "work", "work", 1), CALL, 1, "vsock:3")


def test_a_call_is_joined_once_and_by_its_target_only():
    target, other = GuestConnections().calls, GuestConnections().calls
    meeting = Meeting(GuestCall("work", "echo", ""))
    with target.one(TOKEN, meeting):
        for token, calls in ((TOKEN, other), ("b" * 32, target)):
            with pytest.raises(RefusedError):
                calls.take(token)
        assert target.take(TOKEN) is meeting
        with pytest.raises(RefusedError):
            target.take(TOKEN)
    assert meeting.over.is_set()


@pytest.mark.parametrize("name", ["vitrail.FileCopy", "VITRAIL.Agent", "vitrail.x"])
def test_a_reserved_name_is_not_called(name):
    with pytest.raises(RefusedError):
        call_request(WORK, CallService(name))


@pytest.mark.parametrize(
    ("service", "argument"),
    [
        ("../echo", ""),
        ("a/b", ""),
        ("-rf", ""),
        (".hidden", ""),
        ("echo\n", ""),
        ("\u0435cho", ""),
        ("e" * 65, ""),
        ("", ""),
        ("echo", "-rf"),
        ("echo", "a b"),
        ("echo", "$(id)"),
        ("echo", "x" * 65),
        ("echo", "x\n"),
    ],
)
def test_names_with_separators_options_and_look_alikes_are_refused(service, argument):
    ask = {"type": "call", "service": service, "argument": argument}
    with pytest.raises(PeerError):
        decode_ask(json.dumps(ask).encode())
    # The program in the sandbox says which of them, without a regular expression.
    reason = (
        "invalid name"
        if argument == ""
        else f"invalid argument of a service '{argument}"
    )
    with pytest.raises(TransferError, match=re.escape(reason)):
        call_service("", service, argument)


def test_a_name_with_a_dot_is_decided_as_in_qubes():
    dotted = call_request(WORK, CallService("test.Gpg", "key"))
    assert (dotted.service, dotted.argument) == ("test.Gpg", "+key")
    plain = call_request(WORK, CallService("echo", "key"))
    assert (plain.service, plain.argument) == ("vitrail.Call", "+echo+key")
