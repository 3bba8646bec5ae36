"""The control channel of one epoch as bytes: sealed records.  Sans-IO.

A record is a frame (``core.framing``: ``u32`` length, then that many bytes)
whose body is one message (``wire.call_messages``) sealed with ChaCha20-Poly1305
(RFC 8439).  Key: the session's CONTROL key of that direction.  Nonce: four
zero bytes and the record's number, ``u64``, which is counted on both ends and
never sent; associated data: the epoch.  So a record that is changed, left
out, repeated, reordered, reflected or of another epoch does not open.

Why sealed, when stream payload is not: control is a few records a second, so
it costs nothing, and it names sandboxes to whatever carries the bytes (a
vsock device process, later a hub).  And one AEAD call with a counter is less
of our own than a MAC, a counter and a layout would be.

Any refusal is final: nothing is taken after it.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from broker.core.errors import PeerError, RefusedError
from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import link as limits
from broker.net.link.epoch import Purpose, Session
from broker.net.link.wire_types import LinkRefusedError, RefusalReason

_NONCE = struct.Struct("<4xQ")
TAG_BYTES = 16


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


class SealedRecords:
    """Both directions of a control connection after its handshake."""

    def __init__(self, session: Session) -> None:
        key = session.key
        self._out = _Sealer(key(Purpose.CONTROL, session.sends), session.epoch)
        self._in = _Sealer(key(Purpose.CONTROL, session.receives), session.epoch)
        self._frames = FrameReader(limits.LINK_RECORD_BYTES + TAG_BYTES)
        self._refused = False

    @property
    def in_record(self) -> bool:
        """Return whether a record has begun and not ended (its deadline runs)."""
        return self._frames.in_frame

    def seal(self, body: bytes) -> bytes:
        """Return the record of a message, of at most LINK_RECORD_BYTES."""
        return encode_frame(self._out.seal(body), limits.LINK_RECORD_BYTES + TAG_BYTES)

    def feed(self, untrusted_data: bytes) -> list[bytes]:
        """Return the messages of the records that received bytes complete.

        Raises LinkRefusedError.  Good records in front of a bad one in the same bytes are
        dropped with it: that they are acted on is not promised to who breaks the protocol.
        """
        if self._refused:
            raise LinkRefusedError(
                "data arrived after the control connection's end",
                reason=RefusalReason.MALFORMED,
            )
        try:
            return [self._in.unseal(r) for r in self._frames.feed(untrusted_data)]
        except LinkRefusedError:
            self._refused = True
            raise
        except (PeerError, RefusedError) as error:
            self._refused = True
            raise LinkRefusedError(
                str(error), reason=RefusalReason.MALFORMED
            ) from error
