"""Requests as messages between the authority and its clients, and errors."""

from __future__ import annotations

from types import MappingProxyType

from broker.authority.permit import Request
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.lease import Lease
from broker.ipc import authority as m
from broker.ipc.control.api import NotFoundError
from policy.records.device import DeviceFacts, take_interface

_KINDS = MappingProxyType(
    {
        "not found": NotFoundError,
        "refused": RefusedError,
        "upstream": UpstreamError,
        "setup": SetupError,
        "peer": PeerError,
        "internal": InternalError,
    }
)
_FIELDS = frozenset(m.AskedRequest.__struct_fields__) - {"lease", "device"}


def asked_of(request: Request) -> m.AskedRequest:
    """Return a request as a message has it."""
    device = request.device
    return m.AskedRequest(
        lease=request.lease.id,
        device=None
        if device is None
        else m.AskedDevice(
            id=device.id,
            serial=device.serial,
            port=device.port,
            hash=device.hash,
            interfaces=[str(one) for one in device.interfaces],
        ),
        **{name: getattr(request, name) for name in _FIELDS},
    )


def request_of(asked: m.AskedRequest, lease: Lease) -> Request:
    """Return the request that a message is.  Raises PeerError."""
    return Request(
        lease=lease,
        device=None if asked.device is None else _device(asked.device),
        **{name: getattr(asked, name) for name in _FIELDS},
    )


def _device(asked: m.AskedDevice) -> DeviceFacts:
    taken = (take_interface(text) for text in asked.interfaces)
    interfaces = tuple(one for one in taken if one is not None)
    if len(interfaces) < len(asked.interfaces):
        raise PeerError("a device has an interface that is not one")
    return DeviceFacts(
        id=asked.id,
        serial=asked.serial,
        port=asked.port,
        hash=asked.hash,
        interfaces=interfaces,
    )


def failed(request: int, error: VitrailError) -> m.Failed:
    """Return an error as a message."""
    kind = "internal"
    for name, made in _KINDS.items():
        if isinstance(error, made):
            kind = name
            break
    return m.Failed(request, kind, error.message, error.hint, error.where)


def error_of(message: m.Failed) -> VitrailError:
    """Return the error that a message is."""
    made = _KINDS.get(message.kind, InternalError)
    return made(message.message, hint=message.hint, where=message.where)
