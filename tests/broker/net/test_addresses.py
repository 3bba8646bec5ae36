"""Endpoints as a person writes them: every form, and the reason for each refusal."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.services import CID_ANY
from broker.net.addresses import (
    HybridEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    new_socket,
    parse_connect,
    parse_listen,
)

LONGEST = "/" + "p" * (limits.SOCKET_PATH_BYTES - 1)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/a b", UnixEndpoint(Path("/run/a b"))),
        ("unix:a:b", UnixEndpoint(Path("a:b"))),
        (f"unix:{LONGEST}", UnixEndpoint(Path(LONGEST))),
        ("vsock:3:1024", VsockEndpoint(3, 1024)),
        ("vsock:4294967294:0", VsockEndpoint(4294967294, 0)),
        ("hybrid:/run/vm:6500", HybridEndpoint(Path("/run/vm"), 6500)),
        ("hybrid:/run/v:m:1", HybridEndpoint(Path("/run/v:m"), 1)),
    ],
)
def test_an_endpoint_is_parsed_and_printed_as_it_is_written(text, endpoint):
    assert parse_connect(text) == parse_listen(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["vsock:6500", "vsock:any:6500", "vsock::6500"])
def test_any_machine_can_be_listened_for_and_not_connected_to(text):
    assert parse_listen(text) == VsockEndpoint(CID_ANY, 6500)
    assert str(parse_listen(text)) == "vsock:any:6500"
    with pytest.raises(SetupError, match="does not name a machine"):
        parse_connect(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not an endpoint"),
        ("tcp:127.0.0.1:80", "is not an endpoint"),
        ("/run/socket", "is not an endpoint"),
        ("unix:", "does not contain a path"),
        ("unix:a\0b", "does not contain a path"),
        (f"unix:{LONGEST}p", "too long for a UNIX socket"),
        ("vsock:", "is not a port"),
        ("vsock:3:", "is not a port"),
        ("vsock:3:-1", "is not a port"),
        ("vsock:3:0x10", "is not a port"),
        ("vsock:3:4294967295", "is not a port"),
        ("vsock:3:٣", "is not a port"),
        ("vsock:4294967295:1", "is not a CID"),
        ("vsock:host:1", "is not a CID"),
        ("hybrid:/run/vm", "does not contain a path"),
        ("hybrid:/run/vm:", "is not a port"),
        (f"hybrid:{LONGEST}:1", "too long for a UNIX socket"),
    ],
)
def test_another_text_is_refused_with_its_reason(text, reason):
    with pytest.raises(SetupError, match=reason) as caught:
        parse_listen(text)
    assert caught.value.hint


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_refused(text):
    try:
        endpoint = parse_listen(text)
    except SetupError:
        return
    assert parse_listen(str(endpoint)) == endpoint


def test_a_guests_connections_arrive_beside_the_vmms_socket():
    assert HybridEndpoint(Path("/run/vm"), 6500).listening_path == Path("/run/vm_6500")


def test_a_new_socket_does_not_block():
    endpoint = UnixEndpoint(Path("/run/x"))
    with new_socket(socket.AF_UNIX, endpoint) as sock:
        assert sock.gettimeout() == 0


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (errno.EAFNOSUPPORT, SetupError, "this kernel has no vsock"),
        (errno.EMFILE, UpstreamError, "cannot create a socket"),
    ],
)
def test_a_socket_that_cannot_be_made_names_its_endpoint(
    monkeypatch, number, error, reason
):
    def fail(*_):
        raise OSError(number, "failed")

    monkeypatch.setattr(socket, "socket", fail)
    with pytest.raises(error, match=f"vsock:3:1: {reason}"):
        new_socket(socket.AF_VSOCK, VsockEndpoint(3, 1))
