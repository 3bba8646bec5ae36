"""The open calls of one connection between two processes, both ways.  Sans-IO.

Bytes in, events out; requests in, bytes out.  The far end may have been taken over: what
an honest process never sends raises PeerError, and the connection ends.  The same rules
hold on every carrier:

* A call has a higher number than the earlier ones of its caller, and a row that this end
  serves and the far end may call; a limited number of calls is open in each direction.
* A call has one answer, of the row's type.  Items precede it if the row has them; an item
  of a paced row waits until the one before was taken.
* A message has as many descriptors as its row says.

Every process of the broker runs this, at each end of a connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    CancelMessage,
    ErrorMessage,
    ItemMessage,
    NoticeMessage,
    PingMessage,
    PongMessage,
    TakenMessage,
    WireMessage,
    decode_message,
    encode_message,
)
from broker.wire.row import AnyRow, ProcessKind, Row, fits, most_descriptors

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
MESSAGE_BYTES = 1 << 16
"""The longest message of a connection that sets no other limit."""
CALLS = 64
"""Open calls in each direction of a connection that sets no other limit."""


# -- events ----------------------------------------------------------------------------


class IncomingCall(NamedTuple):
    """The far end calls a row of this end."""

    call: int
    row: AnyRow
    request: Any
    warrant: bytes
    has_descriptors: bool
    """False: the kernel could not deliver them, and the call is to be failed."""


class IncomingNotice(NamedTuple):
    """The far end has sent a request that has no answer."""

    row: AnyRow
    request: Any


class ItemReceived(NamedTuple):
    """An item of a call from this end."""

    call: int
    item: Any


class ItemTaken(NamedTuple):
    """The far end has taken the item that this end sent for a call."""

    call: int


class AnswerReceived(NamedTuple):
    """The answer to a call from this end."""

    call: int
    answer: Any


class ErrorReceived(NamedTuple):
    """A call from this end has failed."""

    call: int
    error: VitrailError


class Cancelled(NamedTuple):
    """The far end's caller waits no more for a call that is open here."""

    call: int


class Pinged(NamedTuple):
    """The far end asks for a sign of life."""


class Ponged(NamedTuple):
    """The far end has given one."""


Event: TypeAlias = (
    IncomingCall
    | IncomingNotice
    | ItemReceived
    | ItemTaken
    | AnswerReceived
    | ErrorReceived
    | Cancelled
    | Pinged
    | Ponged
)


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def prepare_decoders(rows: Iterable[AnyRow]) -> None:
    """Make the decoders of rows, in a process whose children use one of them each."""
    for row in rows:
        kinds: tuple[type[msgspec.Struct] | None, ...] = (
            row.request,
            row.answer,
            row.item,
        )
        for kind in filter(None, kinds):
            _decoder(kind)


_encode_body = msgspec.msgpack.Encoder().encode
PING = encode_message(PingMessage())
PONG = encode_message(PongMessage())


def lost_descriptors() -> UpstreamError:
    """Return the error of a message whose descriptors the kernel did not deliver."""
    return UpstreamError(
        "the descriptor of a message was lost",
        hint="raise the limit on open files ('ulimit -n')",
    )


@dataclass
class _OpenCall:
    """A call that has no answer yet, at either end."""

    row: AnyRow
    item_allowed: bool
    """Whether the serving end may send an item now."""


class _OpenCalls(dict[int, _OpenCall]):
    """The calls of one direction, by number."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._counts: Counter[str] = Counter()
        """Calls of each row with a limit of its own; "": of all others."""

    def is_full(self, row: AnyRow) -> bool:
        """Return whether one more call of the row is too many."""
        key, limit = (row.name, row.at_once) if row.at_once else ("", self._limit)
        return self._counts[key] >= limit

    def open(self, number: int, row: AnyRow) -> None:
        """Enter a call."""
        self[number] = _OpenCall(row, row.item is not None)
        self._counts[row.name if row.at_once else ""] += 1

    def close(self, number: int) -> None:
        """Remove a call; nothing happens for an unknown one."""
        ended_call = self.pop(number, None)
        if ended_call is not None:
            self._counts[ended_call.row.name if ended_call.row.at_once else ""] -= 1


class Calls:
    """The calls of one end and of its far end."""

    def __init__(
        self,
        me: ProcessKind,
        far: ProcessKind,
        rows: Mapping[str, AnyRow],
        *,
        most_calls: int = CALLS,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        """Set up a connection without calls; ``rows``: of both directions."""
        self.me = me
        self.far = far
        # guard: a process serves its own rows, to those who may call them
        self.served = {
            row.name: row for row in rows.values() if me in row.of and far in row.by
        }
        self._callable = {
            row.name for row in rows.values() if far in row.of and me in row.by
        }
        self._message_bytes = message_bytes
        self._outgoing = _OpenCalls(most_calls)
        self._incoming = _OpenCalls(most_calls)
        self._last_sent = 0
        self._last_received = 0
        callable_rows = [rows[name] for name in self._callable]
        self.most_descriptors = max(
            *(most_descriptors(row.takes) for row in self.served.values()),
            *(most_descriptors(row.gives) for row in callable_rows),
            *(0, 0),
        )
        """The most descriptors of one message that the far end may send."""

    # -- calling -----------------------------------------------------------------------

    def call(
        self, row: Row[_Q, _A], request: _Q, descriptors: int = 0, warrant: bytes = b""
    ) -> tuple[int, bytes]:
        """Begin a call; return its number and the bytes to send.

        Raises RefusedError when too many calls are open, InternalError for a row or
        request that the far end would not accept.
        """
        self._check_callable(row, descriptors)
        if row.answer is None:
            raise InternalError(f"{row.name} is a notice and has no answer")
        if self._outgoing.is_full(row):
            raise RefusedError(
                f"too many calls are waiting for the {self.far}",
                hint="wait for their answers; to see problems of the broker, run 'brokerctl status'",
            )
        number = self._last_sent + 1
        body = self._body(request, row.request)
        data = self._encode(CallMessage(number, row.name, body, warrant))
        self._last_sent = number
        self._outgoing.open(number, row)
        return number, data

    def notify(self, row: Row[_Q, _A], request: _Q, descriptors: int = 0) -> bytes:
        """Return the bytes of a notice.  Raises InternalError as ``call``."""
        self._check_callable(row, descriptors)
        if row.answer is not None:
            raise InternalError(f"{row.name} has an answer and is no notice")
        return self._encode(NoticeMessage(row.name, self._body(request, row.request)))

    def unsend(self, call: int) -> None:
        """Forget a call whose bytes were not sent."""
        self._outgoing.close(call)

    def take_item(self, call: int) -> bytes:
        """Return the bytes that ask for the next item of a paced row."""
        self._outgoing[call].item_allowed = True
        return self._encode(TakenMessage(call))

    def cancel(self, call: int) -> bytes:
        """Return the bytes that give a call up; its answer is still to come."""
        return self._encode(CancelMessage(call))

    def _check_callable(self, row: AnyRow, descriptors: int) -> None:
        if row.name not in self._callable:
            raise InternalError(f"the {self.me} may not call {row.name} here")
        if not fits(descriptors, row.takes):
            raise InternalError(f"{row.name} does not take {descriptors} descriptors")

    # -- serving -----------------------------------------------------------------------

    def row_of(self, call: int) -> AnyRow:
        """Return the row of an open call of the far end."""
        return self._incoming[call].row

    def item(self, call: int, item: msgspec.Struct) -> bytes:
        """Return the bytes of an item.  Raises InternalError if none may be sent now."""
        incoming = self._incoming[call]
        if incoming.row.item is None or not incoming.item_allowed:
            raise InternalError(f"{incoming.row.name} may not send an item now")
        data = self._encode(ItemMessage(call, self._body(item, incoming.row.item)))
        incoming.item_allowed = not incoming.row.paced
        return data

    def answer(self, call: int, answer: msgspec.Struct, descriptors: int = 0) -> bytes:
        """End a call; return the bytes of its answer.

        Raises InternalError for an answer that the caller would not accept; then the
        call is still open.
        """
        row = self._incoming[call].row
        if row.answer is None or not fits(descriptors, row.gives):
            raise InternalError(f"{row.name} does not give {descriptors} descriptors")
        data = self._encode(AnswerMessage(call, self._body(answer, row.answer)))
        self._incoming.close(call)
        return data

    def reopen(self, call: int, row: AnyRow) -> None:
        """Note that the answer of a call was not sent: another one is to come."""
        self._incoming.open(call, row)

    def fail(self, call: int, error: VitrailError) -> bytes:
        """End a call; return the bytes of its error, also if its answer was not sent."""
        self._incoming.close(call)
        return self._encode(ErrorMessage.of(call, error))

    # -- bytes -------------------------------------------------------------------------

    def _body(self, value: msgspec.Struct, kind: type[msgspec.Struct]) -> msgspec.Raw:
        """Encode a request, item or answer, after checking it as the far end will."""
        try:
            body = _encode_body(value)
            _decoder(kind).decode(body)
        except (*UNREADABLE, TypeError, ValueError, VitrailError) as error:
            raise InternalError(
                f"a {type(value).__name__} of the {self.me} is invalid: {error}"
            ) from error
        return msgspec.Raw(body)

    def _encode(self, message: WireMessage) -> bytes:
        data = encode_message(message)
        if len(data) > self._message_bytes:
            raise InternalError(
                f"a message to the {self.far} is too long: {len(data)} bytes "
                f"({self._message_bytes} allowed)"
            )
        return data

    # -- receiving ---------------------------------------------------------------------

    def receive(
        self, untrusted_data: bytes, descriptors: int = 0, *, is_lost: bool = False
    ) -> Event:
        """Return what a message of the far end means.

        ``is_lost``: the kernel could not deliver its descriptors.  Raises PeerError for a
        message that an honest process does not send.
        """
        message = decode_message(untrusted_data)
        match message:
            case CallMessage():
                return self._receive_call(message, descriptors, is_lost=is_lost)
            case NoticeMessage():
                return self._receive_notice(message, descriptors, is_lost=is_lost)
            case AnswerMessage():
                return self._receive_answer(message, descriptors, is_lost=is_lost)
            case _:
                # guard: descriptors come with requests and answers alone
                if descriptors or is_lost:
                    raise PeerError(
                        f"the {self.far} sent a descriptor with a message that has none"
                    )
                return self._receive_other(message)

    def _receive_other(
        self,
        message: ItemMessage
        | TakenMessage
        | ErrorMessage
        | CancelMessage
        | PingMessage
        | PongMessage,
    ) -> Event:
        """Return the event of a message that has no descriptors."""
        match message:
            case ItemMessage(call, body):
                return self._receive_item(call, body)
            case ErrorMessage(call):
                self._close_outgoing(call)
                return ErrorReceived(call, message.error())
            case TakenMessage(call):
                return self._receive_taken(call)
            case CancelMessage(call):
                # guard: a call is given up after it was made
                if call > self._last_received:
                    raise PeerError(
                        f"the {self.far} cancels a call that it has not made"
                    )
                incoming = self._incoming.get(call)
                # guard: a call that is to be finished is not given up
                if incoming is not None and not incoming.row.droppable:
                    raise PeerError(
                        f"the {self.far} cancels {incoming.row.name}, which is finished"
                    )
                return Cancelled(call)
            case PingMessage():
                return Pinged()
            case PongMessage():
                return Ponged()

    def _receive_notice(
        self, notice: NoticeMessage, descriptors: int, *, is_lost: bool
    ) -> IncomingNotice:
        row = self._served_row(notice.row, is_notice=True)
        self._check_descriptors(row, descriptors, row.takes, is_lost=is_lost)
        # guard: a notice without its descriptors is not handled
        if is_lost:
            raise PeerError(str(lost_descriptors()))
        return IncomingNotice(row, self._decode(row.request, notice.body, row))

    def _receive_call(
        self, message: CallMessage, descriptors: int, *, is_lost: bool
    ) -> IncomingCall:
        row = self._served_row(message.row, is_notice=False)
        # guard: each call has a new number
        if message.call <= self._last_received:
            raise PeerError(
                f"the {self.far} sent call {message.call} after call {self._last_received}"
            )
        # guard: calls of the far end are bounded
        if self._incoming.is_full(row):
            raise PeerError(
                f"the {self.far} makes too many calls of {row.name} at one time"
            )
        self._check_descriptors(row, descriptors, row.takes, is_lost=is_lost)
        request = self._decode(row.request, message.body, row)
        self._last_received = message.call
        self._incoming.open(message.call, row)
        return IncomingCall(message.call, row, request, message.warrant, not is_lost)

    def _receive_answer(
        self, done: AnswerMessage, descriptors: int, *, is_lost: bool
    ) -> AnswerReceived | ErrorReceived:
        row = self._outgoing_row(done.call)
        self._check_descriptors(row, descriptors, row.gives, is_lost=is_lost)
        assert row.answer is not None
        answer = self._decode(row.answer, done.body, row)
        self._close_outgoing(done.call)
        if is_lost:
            return ErrorReceived(done.call, lost_descriptors())
        return AnswerReceived(done.call, answer)

    def _receive_item(self, call: int, body: msgspec.Raw) -> ItemReceived:
        row = self._outgoing_row(call)
        # guard: items of a call come as they are taken
        if row.item is None or not self._outgoing[call].item_allowed:
            raise PeerError(f"the {self.far} sent an item that was not requested")
        item = self._decode(row.item, body, row)
        self._outgoing[call].item_allowed = not row.paced
        return ItemReceived(call, item)

    def _receive_taken(self, call: int) -> ItemTaken:
        incoming = self._incoming.get(call)
        if incoming is not None:
            # guard: an item is taken after it was sent
            if incoming.item_allowed or not incoming.row.paced:
                raise PeerError(f"the {self.far} takes an item that was not sent")
            incoming.item_allowed = True
        elif call > self._last_received:
            raise PeerError(
                f"the {self.far} takes an item of a call that it has not made"
            )
        return ItemTaken(call)

    def _served_row(self, untrusted_name: str, *, is_notice: bool) -> AnyRow:
        row = self.served.get(untrusted_name)
        # guard: a process is called by rows that it serves to this caller
        if row is None or (row.answer is None) != is_notice:
            raise PeerError(
                f"the {self.far} may not call {untrusted_name!a} of the {self.me}"
            )
        return row

    def _outgoing_row(self, call: int) -> AnyRow:
        """Return the row of an open call from this end.  Raises PeerError without one."""
        outgoing = self._outgoing.get(call)
        # guard: a call has one answer, and an answer a call
        if outgoing is None:
            raise PeerError(f"the {self.far} answered a call that is not open: {call}")
        return outgoing.row

    def _close_outgoing(self, call: int) -> None:
        self._outgoing_row(call)
        self._outgoing.close(call)

    def _check_descriptors(
        self, row: AnyRow, descriptors: int, allowed: int | range, *, is_lost: bool
    ) -> None:
        are_right = fits(descriptors, allowed)
        if is_lost:
            are_right = most_descriptors(allowed) > 0
        # guard: a message has the descriptors of its row
        if not are_right:
            raise PeerError(
                f"the {self.far} sent {descriptors} descriptors with {row.name}"
            )

    def _decode(
        self, kind: type[msgspec.Struct], body: msgspec.Raw, row: AnyRow
    ) -> msgspec.Struct:
        try:
            value: msgspec.Struct = _decoder(kind).decode(body)
        except (*UNREADABLE, VitrailError) as error:
            raise PeerError(
                f"the {self.far} sent an invalid {kind.__name__} with {row.name}: {error}"
            ) from error
        return value
