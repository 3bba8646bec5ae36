"""``vitrail.Secret``: one secret of the user's Secret Service, by its name.

The desktop's Secret Service is asked by secret-tool(1) for the item whose attribute
``vitrail`` is the name.  The caller's bytes are never read: it gets the frames of a
service that has written the secret and ended (``shims/files/calling.py``).
"""

from __future__ import annotations

import socket
import struct

from broker.core.errors import RefusedError
from broker.core.limits.transfer import SECRET_BYTES, SECRET_SECONDS
from broker.ipc.session import service_orders as m
from broker.session.order_exchange import OrderExchange
from broker.session.tools import tool_output
from broker.wire.row import serves

_FRAME = struct.Struct(">BI")
_DATA, _EXIT = 0, 1


@serves(m.ASK_SECRET)
def ask_secret(exchange: OrderExchange, order: m.AskSecret) -> None:
    """Read a secret with secret-tool(1), and answer with a socket that delivers it.

    It is delivered as a service would.  Raises RefusedError, SetupError, UpstreamError.
    """
    permit = exchange.permit
    # guard: a permit for one secret reads no other one
    if not order.name or permit.argument != f"+{order.name}":
        raise RefusedError(f"the permit is for {permit.argument}, not for this secret")
    # It has no message for a secret that is not there, and code 1.
    found = tool_output(
        ["secret-tool", "lookup", "vitrail", order.name],
        deadline=SECRET_SECONDS,
        output_limit=SECRET_BYTES,
    )
    near, far = socket.socketpair()
    with near, far:
        frames = [(_DATA, found)] if found else []
        for kind, data in (*frames, (_DATA, b""), (_EXIT, b"\0")):
            far.sendall(_FRAME.pack(kind, len(data)) + data)
        exchange.answer(fds=[near.fileno(), far.fileno()])
