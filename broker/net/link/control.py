"""The control channel of one epoch: sealed records, typed requests.

A record is a frame (``core.framing``: ``u32`` length, then that many bytes)
whose body is one message (``link.messages``) sealed with ChaCha20-Poly1305
(RFC 8439).  Key: the session's CONTROL key of that direction.  Nonce: four
zero bytes and the record's number, ``u64``, which is counted on both ends and
never sent; associated data: the epoch.  So a record that is changed, left
out, repeated, reordered, reflected or of another epoch does not open.

Why sealed, when stream payload is not: control is a few records a second, so
it costs nothing, and it names sandboxes to whatever carries the bytes (a
vsock device process, later a hub).  And one AEAD call with a counter is less
of our own than a MAC, a counter and a layout would be.

The contract:

* A message is taken only from the role that may send it; requests, replies and leases
  have the rules of ``open_requests``, at most LINK_REQUESTS in each direction.  A lease
  that the viewer refused stays in the book, without streams, until the host withdraws it.
* Any refusal is final: the channel takes and gives nothing after it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from broker.core.errors import InternalError, PeerError, RefusedError
from broker.core.escape import fit
from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import link as limits
from broker.net.link.epoch import Purpose, Session
from broker.net.link.lease_book import LeaseBook
from broker.net.link.messages import (
    Bye,
    LinkReply,
    LinkRequest,
    Message,
    decode,
    encode,
    replies_to,
)
from broker.net.link.open_requests import OpenRequests
from broker.net.link.wire_types import LinkRefusedError, RefusalReason

_NONCE = struct.Struct("<4xQ")
TAG_BYTES = 16
_R = TypeVar("_R", bound=LinkRequest)


class _Sealer:
    """One direction's key and its count of records."""

    def __init__(self, key: bytes, epoch: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._epoch = epoch
        self._number = 0

    def _nonce(self) -> bytes:
        if self._number >= limits.LINK_COUNTER:
            raise RefusedError("all record numbers of the link are used up: reconnect")
        self._number += 1
        return _NONCE.pack(self._number)

    def seal(self, body: bytes) -> bytes:
        return self._aead.encrypt(self._nonce(), body, self._epoch)

    def unseal(self, untrusted_record: bytes) -> bytes:
        """Verify and decrypt a record.  Raises LinkRefusedError."""
        try:
            return self._aead.decrypt(self._nonce(), untrusted_record, self._epoch)
        except InvalidTag as error:
            raise LinkRefusedError(
                "the next control record is invalid (changed, replayed, reordered or reflected)",
                reason=RefusalReason.PROOF,
            ) from error


class ControlChannel:
    """One end of a control connection after its handshake."""

    def __init__(self, session: Session) -> None:
        """Set up the channel of a session whose handshake is done."""
        key = session.key
        self._role = session.role
        self._out = _Sealer(key(Purpose.CONTROL, session.sends), session.epoch)
        self._in = _Sealer(key(Purpose.CONTROL, session.receives), session.epoch)
        self._frames = FrameReader(limits.LINK_RECORD_BYTES + TAG_BYTES)
        self._requests = OpenRequests(limits.LINK_REQUESTS, replies_to, LeaseBook())
        self.open = True
        self._left = False  # we sent Bye
        self.may_leave = False
        """A message was refused: the channel is closed, and ``bye`` may say why."""

    @property
    def in_record(self) -> bool:
        """Return whether a record has begun and not ended (its deadline runs)."""
        return self._frames.in_frame

    @property
    def asked(self) -> int:
        """The number of our requests without a reply; the far end accepts LINK_REQUESTS."""
        return len(self._requests.asked)

    @property
    def leases(self) -> LeaseBook:
        """The leases that the host has announced in this epoch."""
        return self._requests.leases

    # -- out --------------------------------------------------------------------

    def ask(self, make: Callable[[int], _R]) -> tuple[_R, bytes]:
        """Make a request with the next number; return it and what to send.

        Raises RefusedError when LINK_REQUESTS are open, InternalError when
        this role may not send it, or it contradicts earlier messages.
        """
        self._must_be_open()
        message, body = self._requests.ask(make, self._check_own)
        return message, self._record(body)

    def reply(self, message: LinkReply) -> bytes:
        """Answer a request of the far end's; return the bytes to send.

        Raises InternalError for a reply that does not belong to one.
        """
        self._must_be_open()
        body = self._check_own(message)
        self._requests.reply(message)
        return self._record(body)

    def bye(self, reason: str) -> bytes:
        """Close the channel, and return its last record, which has the reason.

        Also once after a refused message: the other end learns why, such as that it is
        of another release.
        """
        if not self.may_leave:
            self._must_be_open()
        self.may_leave = False
        record = self._record(
            self._check_own(Bye(fit(reason, limits.LINK_TEXT_CHARACTERS)))
        )
        self.open = False
        self._left = True
        return record

    def _must_be_open(self) -> None:
        if not self.open:
            raise RefusedError("the link's control connection has ended")

    def _check_own(self, message: Message) -> bytes:
        """Encode a message of ours.

        Raises InternalError for a message that the far end refuses.
        """
        body = encode(message)
        try:
            decode(body, self._role)  # our messages must pass their checks
        except LinkRefusedError as error:
            raise InternalError(
                f"a message of this process is invalid: {error}"
            ) from error
        return body

    def _record(self, body: bytes) -> bytes:
        sealed = self._out.seal(body)
        return encode_frame(sealed, limits.LINK_RECORD_BYTES + TAG_BYTES)

    # -- in -----------------------------------------------------------------------

    def feed(self, untrusted_data: bytes) -> list[tuple[Message, LinkRequest | None]]:
        """Decode received bytes to messages, each reply with its request.

        Raises LinkRefusedError; the channel is over then.  Good messages in
        front of the bad one in the same bytes are dropped with it: that they
        are acted on is not promised to who breaks the protocol.  After our
        own Bye bytes are dropped unread: they have crossed with it.
        """
        if self._left:
            return []
        if not self.open:
            raise LinkRefusedError(
                "data arrived after the control connection's end",
                reason=RefusalReason.MALFORMED,
            )
        try:
            return [self._take(r) for r in self._frames.feed(untrusted_data)]
        except LinkRefusedError:
            self.open = False
            self.may_leave = True
            raise
        except (PeerError, RefusedError) as error:
            self.open = False
            self.may_leave = True
            raise LinkRefusedError(
                str(error), reason=RefusalReason.MALFORMED
            ) from error

    def eof(self) -> None:
        """Note the end of input.

        Raises LinkRefusedError when no Bye was received: the link is lost.
        """
        if not self.open:
            return
        self.open = False
        raise LinkRefusedError(
            "the control connection ended without Bye", reason=RefusalReason.CLOSED
        )

    def _take(self, untrusted_record: bytes) -> tuple[Message, LinkRequest | None]:
        """Decrypt one record and check its message.

        Return it, a reply with its request.
        """
        if not self.open:
            raise LinkRefusedError(
                "a record follows Bye", reason=RefusalReason.MALFORMED
            )
        message = decode(self._in.unseal(untrusted_record), self._role.other)
        if isinstance(message, LinkRequest):
            self._requests.take_request(message)
            return message, None
        if isinstance(message, LinkReply):
            return message, self._requests.take_reply(message)
        self.open = False  # Bye
        return message, None
