"""The requests of clients, as the authority reads them."""

from __future__ import annotations

from broker.authority.permit import Request
from broker.core.errors import PeerError
from broker.core.lease import Lease
from broker.ipc import authority as m
from policy.records.device import DeviceFacts, take_interface

REQUEST_FIELDS = frozenset(m.AskedRequest.__struct_fields__) - {"lease", "device"}
"""What a request and its message have in common."""


def request_of(asked: m.AskedRequest, lease: Lease) -> Request:
    """Return the request that a message describes.  Raises PeerError."""
    return Request(
        lease=lease,
        device=None if asked.device is None else _device(asked.device),
        **{name: getattr(asked, name) for name in REQUEST_FIELDS},
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
