"""The preamble of a data stream, and its answer.

A stream between host and viewer begins with one message of fixed size from
the opening end, and is nothing until the receiver's answer has come back:

    preamble (80 bytes, little-endian)            answer (36 bytes)
      0  magic  VTRL-STR                            0  verdict, u8
      8  version, u16                               1  three zero bytes
     10  kind, u8, always 1                         4  HMAC-SHA256 over preamble
     11  role of the opener, u8                        and the four bytes before
     12  epoch, 16 bytes
     28  number of the stream, u64
     36  port of the service, u32
     40  lease id, 8 bytes
     48  HMAC-SHA256 over all of the above

The contract:

* A preamble is taken at most once, in the epoch of its control connection
  only, and only by the role that did not make it.  Keys differ for each epoch
  and each direction, so an old or reflected one also fails by its MAC.
* The opener sends no payload before a right answer: a process that squats on
  the port learns that a stream was wanted, for which service and lease, and
  nothing that flows in it.  The opener must not send it anyway.
* Who cannot prove itself gets no answer at all, not even a refusal; a
  refusal that comes is therefore the other broker's own.
* What a MAC cannot do: a process that stands *between* two honest ends and
  passes on preamble and answer then sees the payload, which is not
  encrypted.  The kernel guarantees that no process is there: exactly one CID,
  one socket path or one uid is accepted for the link (design 4).

Sans-IO.  Read exactly ``needed`` bytes from the socket each time, so that
payload stays in the kernel for the splice.

The host opens streams, the viewer answers.
"""

from __future__ import annotations

import enum
import struct

from broker.core.errors import InternalError, RefusedError
from broker.core.limits import link as limits
from broker.core.names import LeaseId, ServiceName
from broker.core.services import LINK_PORTS
from broker.net.link.epoch import (
    EPOCH_BYTES,
    MAC_BYTES,
    Purpose,
    Session,
    mac_holds,
    make_mac,
)
from broker.net.link.wire_types import (
    HEADER,
    VERSION,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
)

KIND = 1
BODY = struct.Struct(f"<{EPOCH_BYTES}sQI8s")
SIGNED_BYTES = HEADER.size + BODY.size
PREAMBLE_BYTES = SIGNED_BYTES + MAC_BYTES

VERDICT = struct.Struct("<B3x")
ANSWER_BYTES = VERDICT.size + MAC_BYTES


class PreambleVerdict(enum.IntEnum):
    """The receiver's authenticated answer."""

    TAKEN = 1
    DENIED = 2
    """By policy."""
    NO_LEASE = 3
    """The lease is not announced, or has ended."""
    BUSY = 4
    """A limit of the receiver is reached."""
    FAILED = 5
    """Something beside the receiver failed (compositor, worker)."""


class StreamOffer:
    """The opener's end of one stream: a preamble out, a verdict in."""

    def __init__(self, preamble: bytes, key: bytes) -> None:
        self.preamble = preamble
        self._key = key
        self._buffer = b""
        self._over = False
        self.verdict: PreambleVerdict | None = None

    @property
    def needed(self) -> int:
        """How many bytes of the answer are still to be read; then payload."""
        return 0 if self._over else ANSWER_BYTES - len(self._buffer)

    def feed(self, untrusted_data: bytes) -> PreambleVerdict | None:
        """Process at most ``needed`` bytes; return the verdict when it is complete.

        Raises LinkRefusedError when the answer is not the other broker's: no
        payload may be sent, and the connection must be closed.
        """
        at_most(untrusted_data, self.needed)
        self._buffer += untrusted_data
        if len(self._buffer) < ANSWER_BYTES:
            return None
        self._over = True
        head, mac = self._buffer[: VERDICT.size], self._buffer[VERDICT.size :]
        (untrusted_code,) = VERDICT.unpack(head)
        if not mac_holds(mac, self._key, self.preamble, head):
            raise LinkRefusedError(
                "the program that answers on the link's port is not the paired broker",
                reason=RefusalReason.PROOF,
                hint="another process may be using the port; to check, run 'brokerctl doctor'",
            )
        try:
            self.verdict = PreambleVerdict(untrusted_code)
        except ValueError as error:
            raise LinkRefusedError(
                f"unknown verdict {untrusted_code}", reason=RefusalReason.MALFORMED
            ) from error
        return self.verdict

    def eof(self) -> None:
        """Note the end of input.

        Raises LinkRefusedError unless the verdict is there.
        """
        if self.verdict is not None:
            return
        self._over = True
        raise LinkRefusedError(
            "the stream was closed without an answer",
            reason=RefusalReason.CLOSED,
            hint="the other broker did not accept this epoch or connection; for the reason, run 'brokerctl audit' there",
        )


class Opener:
    """Makes the preambles of one epoch, in the direction of this end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last = 0

    def open(self, service: ServiceName, lease: LeaseId) -> StreamOffer:
        """Number a new stream.

        Raises RefusedError when the epoch's numbers are used up.
        """
        if self._last >= limits.LINK_COUNTER:
            raise RefusedError("all stream numbers of the link are used up: reconnect")
        self._last += 1
        session = self._session
        head = HEADER.pack(ConnectionKind.STREAM.value, VERSION, KIND, session.role)
        signed = head + BODY.pack(
            session.epoch, self._last, LINK_PORTS[service], bytes.fromhex(lease)
        )
        mac = make_mac(session.key(Purpose.STREAM, session.sends), signed)
        return StreamOffer(signed + mac, session.key(Purpose.ANSWER, session.sends))

    @property
    def last(self) -> int:
        """The number of the newest stream."""
        return self._last


def at_most(untrusted_data: bytes, needed: int) -> None:
    """Raise InternalError for a read beyond the message."""
    # More would be payload taken out of the kernel, or sent before the answer.
    if len(untrusted_data) > needed:
        raise InternalError(f"read at most {needed} bytes here")
