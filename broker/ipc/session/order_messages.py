"""The union of orders, the answers, and their codec.

The viewer encodes orders, the session child decodes them and encodes the answer.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.ipc.session.bus_orders import BusOrder
from broker.ipc.session.display_orders import DisplayOrder
from broker.ipc.session.file_orders import FileOrder
from broker.ipc.session.folder_orders import FolderOrder
from broker.ipc.session.media_orders import MediaOrder
from broker.ipc.session.program_orders import ProgramOrder
from broker.ipc.session.service_orders import ServiceOrder

MESSAGE_BYTES = 1 << 17
DESCRIPTORS = 8
"""Most descriptors of an order or an answer."""

SessionOrder: TypeAlias = (
    BusOrder
    | DisplayOrder
    | FileOrder
    | FolderOrder
    | MediaOrder
    | ProgramOrder
    | ServiceOrder
)


class Carried(TypedMessage, frozen=True, tag="done"):
    """It is done, or has begun; ``result`` and the descriptors are the order's own."""

    result: bytes = b""


class NotCarried(TypedMessage, frozen=True, tag="failed"):
    """It is not done; ``kind`` is the error's class."""

    kind: str
    message: str
    hint: str = ""
    where: str = ""

    def error(self) -> VitrailError:
        """Return the error to be raised."""
        kind = _ERRORS.get(self.kind, InternalError)
        return kind(self.message, hint=self.hint, where=self.where)


_ERRORS: Final[dict[str, type[VitrailError]]] = {
    kind.__name__: kind for kind in (PeerError, RefusedError, SetupError, UpstreamError)
}
SessionAnswer: TypeAlias = Carried | NotCarried

_encoder = msgspec.msgpack.Encoder()


def encode(message: SessionOrder | SessionAnswer) -> bytes:
    """Return the packet of a message.  Raises InternalError if it is too long."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES:
        raise InternalError(f"a session order is too long: {len(data)} bytes")
    return data


decode_order: Reader[SessionOrder] = reader(
    msgspec.msgpack.Decoder(SessionOrder), "invalid order of the viewer"
)
"""Return the order of a packet."""

decode_answer: Reader[SessionAnswer] = reader(
    msgspec.msgpack.Decoder(SessionAnswer), "invalid answer to an order", InternalError
)
"""Return the answer of a packet."""
