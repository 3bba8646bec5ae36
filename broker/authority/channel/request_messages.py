"""The requests of clients, as the authority reads them.

The authority runs this, and checks each field again; of it the viewer has the table of
fields that a request may have.
"""

from __future__ import annotations

from broker.authority.permit import Request
from broker.core.errors import PeerError
from broker.core.lease import Lease
from broker.core.question import NO_PAGE_IMAGE, is_page_image
from broker.core.services import NETWORK, SCREEN_SHARE, SECURITY_KEY, SSH_AGENT
from broker.ipc import authority as m
from policy.names import ADMIN, PIN
from policy.records.device import DeviceFacts, take_interface
from policy.rules.wording import CLAIMS, is_known

REQUEST_FIELDS = frozenset(m.AskedRequest.__struct_fields__) - {"lease", "device"}
"""What a request and its message have in common."""

_USED_AGAIN = frozenset({NETWORK, SECURITY_KEY, SSH_AGENT})
"""Services whose uses have permits besides that of the connection."""


def request_of(asked: m.AskedRequest, lease: Lease) -> Request:
    """Convert a client's message to a request.  Raises PeerError."""
    titles = [title for title, _ in asked.claims]
    # guard: a client words no question
    if len(titles) > CLAIMS or not is_known(asked.service, asked.way, titles):
        raise PeerError("its request has a wording that the service does not define")
    # guard: a PIN permits no use of a security key
    if asked.way == PIN and not asked.ahead:
        raise PeerError("it requests a PIN other than before a use")
    # guard: a permit ahead of uses is for what is used again and again
    if asked.ahead and asked.service not in _USED_AGAIN:
        raise PeerError("its service has no uses that are decided one by one")
    # guard: a picture in a question has its size
    if asked.preview != NO_PAGE_IMAGE and not is_page_image(asked.preview):
        raise PeerError("its request has an invalid picture")
    # guard: what the user gives, the sandbox of the request gets
    if asked.source and (asked.source, asked.target) != (ADMIN, lease.sandbox):
        raise PeerError("its request is not from the user to its sandbox")
    fields = {name: getattr(asked, name) for name in REQUEST_FIELDS}
    # guard: the user says yes to each share of a screen, whatever its viewer says
    fields["asks"] |= asked.service == SCREEN_SHARE and asked.argument != "+own"
    device = None if asked.device is None else _device(asked.device)
    return Request(lease=lease, device=device, **fields)


def _device(asked: m.AskedDevice) -> DeviceFacts:
    """Convert a device's facts from a message.  Raises PeerError."""
    taken = (take_interface(text) for text in asked.interfaces)
    interfaces = tuple(one for one in taken if one is not None)
    if len(interfaces) < len(asked.interfaces):
        raise PeerError("a device has an invalid interface")
    return DeviceFacts(
        id=asked.id,
        serial=asked.serial,
        port=asked.port,
        hash=asked.hash,
        interfaces=interfaces,
    )
