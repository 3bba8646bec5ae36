"""The handshake of a control connection: a session, or a refusal.

Four messages, each of one fixed size.  The *dialler* is the connecting end;
either role may dial.  Everything that follows a message covers all bytes of
all messages before it (the transcript):

    dialler                                   acceptor
    HELLO  key, fresh key, epoch part    →
                              ←   REPLY  key, fresh key, epoch part,
                                         signature, confirmation
    PROOF  signature, confirmation       →
                              ←   READY  confirmation

The contract:

* A session names the pinned peer that holds the other private key *now*: its
  signature covers our fresh key.  Signatures say which end made them, so none
  can be sent back or used in the other place.
* Keys come from the X25519 secret of two keys made for this handshake alone:
  a private key stolen later opens no recorded session.
* The headers carry version and role, so both are signed too.  An end that
  has a session has the same version, roles, keys and epoch as the other one.
* The dialler has a session only after the acceptor has one (READY proves
  it).  If READY is lost the acceptor alone has one, on a connection where
  nothing ever comes: it ends with the connection.
* A stranger costs one table look-up: no curve is touched before its key is
  found among the pinned ones.
* The text of a refusal is not authenticated.  A man in the middle can
  stop a handshake and lie about why; he can stop it without lying too.

Deadlines are the caller's (``limits.LINK_HANDSHAKE_SECONDS``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from broker.core.errors import InternalError
from broker.net.link.epoch import (
    EPOCH_PART_BYTES,
    LABEL,
    MAC_BYTES,
    Purpose,
    Session,
    derive,
    mac_holds,
    make_mac,
)
from broker.net.link.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    BrokerIdentity,
    Peers,
    PinnedPeer,
    sha256,
)
from broker.net.link.link_reader import LinkReader, refuse_other_than, told_refusal
from broker.net.link.wire_types import (
    HEADER,
    PAIR_HINT,
    VERSION,
    ConnectionKind,
    Direction,
    LinkRefusedError,
    RefusalReason,
    Role,
    refusal,
)

_OPENING_BYTES = HEADER.size + 2 * KEY_BYTES + EPOCH_PART_BYTES


class HandshakeKind(enum.IntEnum):
    """The messages."""

    HELLO = 1
    REPLY = 2
    PROOF = 3
    READY = 4
    REFUSED = 5


SIZES: Mapping[int, int] = {
    HandshakeKind.HELLO: _OPENING_BYTES,
    HandshakeKind.REPLY: _OPENING_BYTES + SIGNATURE_BYTES + MAC_BYTES,
    HandshakeKind.PROOF: HEADER.size + SIGNATURE_BYTES + MAC_BYTES,
    HandshakeKind.READY: HEADER.size + MAC_BYTES,
    HandshakeKind.REFUSED: HEADER.size + 1,
}


class HandshakeState(enum.Enum):
    """The state of a handshake."""

    NEW = "dialler, nothing sent"
    WAIT_HELLO = "acceptor, nothing received"
    WAIT_REPLY = "dialler, HELLO sent"
    WAIT_PROOF = "acceptor, REPLY sent"
    WAIT_READY = "dialler, PROOF sent"
    SESSION = "done"
    REFUSED = "over"


# The whole machine.  A pair that is not here is a refusal, and REFUSED and
# SESSION take nothing: nothing about the order of messages lives elsewhere.
TABLE: Mapping[tuple[HandshakeState, HandshakeKind], HandshakeState] = {
    (HandshakeState.WAIT_HELLO, HandshakeKind.HELLO): HandshakeState.WAIT_PROOF,
    (HandshakeState.WAIT_REPLY, HandshakeKind.REPLY): HandshakeState.WAIT_READY,
    (HandshakeState.WAIT_PROOF, HandshakeKind.PROOF): HandshakeState.SESSION,
    (HandshakeState.WAIT_READY, HandshakeKind.READY): HandshakeState.SESSION,
    (HandshakeState.WAIT_REPLY, HandshakeKind.REFUSED): HandshakeState.REFUSED,
    (HandshakeState.WAIT_PROOF, HandshakeKind.REFUSED): HandshakeState.REFUSED,
    (HandshakeState.WAIT_READY, HandshakeKind.REFUSED): HandshakeState.REFUSED,
}


@dataclass(frozen=True)
class Fresh:
    """Random values of one handshake; used once."""

    private: X25519PrivateKey = field(repr=False)
    epoch_part: bytes

    @classmethod
    def make(cls, random: Callable[[int], bytes]) -> Fresh:
        """Take 40 bytes from ``random`` (``secrets.token_bytes``)."""
        private = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        return cls(private, random(EPOCH_PART_BYTES))


class Handshake:
    """One end of one handshake.

    The dialler calls ``start`` and sends its result; then both feed the bytes
    that they receive and send the result of ``feed``, until ``session`` is set.
    """

    def __init__(
        self,
        *,
        role: Role,
        dials: bool,
        identity: BrokerIdentity,
        peers: Peers,
        fresh: Fresh,
    ) -> None:
        """Set up one end; ``dials``: whether this end connects and speaks first."""
        self._role = role
        self._dials = dials
        self._identity = identity
        self._peers = peers
        self._fresh = fresh
        self._reader = LinkReader(ConnectionKind.CONTROL, SIZES)
        self._transcript = b""
        self._shared = b""
        self._peer: PinnedPeer | None = None
        self._epoch = b""
        self.state = HandshakeState.NEW if dials else HandshakeState.WAIT_HELLO
        self.session: Session | None = None

    def start(self) -> bytes:
        """Return the dialler's first message; wait for the reply."""
        if self.state is not HandshakeState.NEW:
            raise InternalError(f"a handshake cannot start when it is {self.state}")
        self._transcript = self._make_opening(HandshakeKind.HELLO)
        self.state = HandshakeState.WAIT_REPLY
        return self._transcript

    def feed(self, untrusted_data: bytes) -> bytes:
        """Process received bytes; return the bytes to send.

        Raises LinkRefusedError; the handshake is over then, for good.  Bytes
        after the last message are kept for ``rest``.
        """
        if self.state is HandshakeState.NEW:
            raise InternalError("the dialler must start before it receives data")
        if self.state is HandshakeState.SESSION:
            raise InternalError("data of a session must be read by its control channel")
        if self.state is HandshakeState.REFUSED:
            raise LinkRefusedError(
                "the handshake has ended", reason=RefusalReason.MALFORMED
            )
        self._reader.feed(untrusted_data)
        out = b""
        try:
            while self.session is None:
                taken = self._reader.take()
                if taken is None:
                    break
                out += self._step(*taken)
        except LinkRefusedError as error:
            self._refuse(error)
            raise
        return out

    def eof(self) -> None:
        """Note the end of input.

        Raises LinkRefusedError unless there is a session.
        """
        if self.state is HandshakeState.SESSION:
            return
        self.state = HandshakeState.REFUSED
        raise LinkRefusedError(
            "the other broker closed the connection during the handshake",
            reason=RefusalReason.CLOSED,
        )

    def rest(self) -> bytes:
        """The bytes after the last message: the first control records."""
        if self.session is None:
            raise InternalError("only a session has data left to read")
        return self._reader.rest()

    # -- one message ----------------------------------------------------------

    def _step(self, kind_number: int, role: int, message: bytes) -> bytes:
        """Handle one message of the handshake; return the bytes to send."""
        kind = HandshakeKind(kind_number)  # the reader knows only these
        following = TABLE.get((self.state, kind))
        if following is None:
            raise LinkRefusedError(
                f"unexpected message {kind.name} in handshake state {self.state.value}",
                reason=RefusalReason.MALFORMED,
            )
        if kind is HandshakeKind.REFUSED:
            self.state = following
            raise told_refusal(message)
        refuse_other_than(self._role.other, role)
        out = _TAKERS[kind](self, message)
        self.state = following
        return out

    def _refuse(self, error: LinkRefusedError) -> None:
        """End the handshake; give the error the refusal to send, unless one was."""
        # A refusal is not answered by a refusal.
        told = self.state is HandshakeState.REFUSED or str(error).endswith("proof)")
        self.state = HandshakeState.REFUSED
        if not told:
            error.answer = refusal(
                ConnectionKind.CONTROL, HandshakeKind.REFUSED, self._role, error.reason
            )

    def _take_hello(self, message: bytes) -> bytes:
        self._meet(message)
        self._transcript = message
        opening = self._make_opening(HandshakeKind.REPLY)
        self._agree(message[-EPOCH_PART_BYTES:] + self._fresh.epoch_part, message)
        return self._prove(opening)

    def _take_reply(self, message: bytes) -> bytes:
        """Process the listener's reply: check its proof; return the dialler's proof."""
        self._meet(message[:_OPENING_BYTES])
        part = message[_OPENING_BYTES - EPOCH_PART_BYTES : _OPENING_BYTES]
        self._transcript += message[:_OPENING_BYTES]
        self._agree(self._fresh.epoch_part + part, message)
        self._check(message[_OPENING_BYTES:], by_dialler=False)
        return self._prove(self._header(HandshakeKind.PROOF))

    def _take_proof(self, message: bytes) -> bytes:
        """Check the dialler's proof and finish the handshake."""
        self._transcript += message[: HEADER.size]
        self._check(message[HEADER.size :], by_dialler=True)
        ready = self._header(HandshakeKind.READY)
        mac = make_mac(self._confirm_key(b"ready"), self._transcript, ready)
        self._finish()
        return ready + mac

    def _take_ready(self, message: bytes) -> bytes:
        head, mac = message[: HEADER.size], message[HEADER.size :]
        if not mac_holds(mac, self._confirm_key(b"ready"), self._transcript, head):
            raise _bad_proof()
        self._finish()
        return b""

    # -- pieces -----------------------------------------------------------------

    def _header(self, kind: HandshakeKind) -> bytes:
        return HEADER.pack(ConnectionKind.CONTROL.value, VERSION, kind, self._role)

    def _make_opening(self, kind: HandshakeKind) -> bytes:
        """Return the first message of one kind: key, fresh key, epoch part."""
        return (
            self._header(kind)
            + self._identity.public.raw
            + self._fresh.private.public_key().public_bytes_raw()
            + self._fresh.epoch_part
        )

    def _meet(self, opening: bytes) -> None:
        """Find the pinned peer by the key in its HELLO or REPLY, before any other work.

        Raises LinkRefusedError for an unknown key or the wrong role.
        """
        key = opening[HEADER.size : HEADER.size + KEY_BYTES]
        peer = self._peers.find(key)
        if peer is None:
            raise LinkRefusedError(
                "the other broker's key is not pinned here",
                reason=RefusalReason.UNKNOWN_KEY,
                hint=PAIR_HINT,
            )
        if peer.role is not self._role.other:
            raise LinkRefusedError(
                f"{peer.name} is pinned only as a {peer.role.name.lower()}",
                reason=RefusalReason.ROLE,
            )
        self._peer = peer

    def _agree(self, epoch: bytes, opening: bytes) -> None:
        """Compute the shared secret with the fresh key of the other end's opening."""
        start = HEADER.size + KEY_BYTES
        fresh = X25519PublicKey.from_public_bytes(opening[start : start + KEY_BYTES])
        try:
            self._shared = self._fresh.private.exchange(fresh)
        except ValueError as error:  # a point of small order: an all-zero secret
            raise _bad_proof() from error
        self._epoch = epoch

    def _prove(self, head: bytes) -> bytes:
        """Return ``head`` with our signature and confirmation.

        Adds all to the transcript.
        """
        self._transcript += head
        signature = self._identity.sign(self._signed(by_dialler=self._dials))
        self._transcript += signature
        label = b"dialler" if self._dials else b"acceptor"
        mac = make_mac(self._confirm_key(label), self._transcript)
        self._transcript += mac
        return head + signature + mac

    def _check(self, untrusted_proof: bytes, *, by_dialler: bool) -> None:
        """Check the other end's signature and confirmation.

        Raises LinkRefusedError.
        """
        if self._peer is None:
            raise InternalError("cannot check a proof without a peer")
        signature = untrusted_proof[:SIGNATURE_BYTES]
        mac = untrusted_proof[SIGNATURE_BYTES:]
        signed = self._signed(by_dialler=by_dialler)
        self._transcript += signature
        label = b"dialler" if by_dialler else b"acceptor"
        # The MAC proves the shared secret, the signature who holds it.  The MAC
        # first, because it is the cheaper one and finds damage.
        if not mac_holds(mac, self._confirm_key(label), self._transcript):
            raise _bad_proof()
        if not self._peer.key.verifies(signature, signed):
            raise _bad_proof()
        self._transcript += mac

    def _signed(self, *, by_dialler: bool) -> bytes:
        end = b"dialler" if by_dialler else b"acceptor"
        return LABEL + b"signed by the " + end + b"\0" + sha256(self._transcript)

    def _confirm_key(self, label: bytes) -> bytes:
        # Salted with the openings only: both ends have them from the first key on.
        salt = sha256(self._transcript[: 2 * _OPENING_BYTES])
        return derive(self._shared, salt, b"confirm " + label)

    def _finish(self) -> None:
        """Derive the keys, set ``self.session``, and forget the shared secret."""
        if self._peer is None:
            raise InternalError("cannot begin a session without a peer")
        salt = sha256(self._transcript)
        self.session = Session(
            self._role,
            self._peer,
            self._epoch,
            {
                (purpose, direction): derive(
                    self._shared,
                    salt,
                    purpose.value + b" " + direction.name.lower().encode(),
                )
                for purpose in Purpose
                for direction in Direction
            },
        )
        self._shared = b""


def _bad_proof() -> LinkRefusedError:
    return LinkRefusedError(
        "the other broker did not prove that it has its key",
        reason=RefusalReason.PROOF,
        hint="an attacker may be between the brokers; for the address, run 'brokerctl audit'",
    )


_TAKERS: Mapping[HandshakeKind, Callable[[Handshake, bytes], bytes]] = {
    HandshakeKind.HELLO: Handshake._take_hello,  # noqa: SLF001  the table of this class
    HandshakeKind.REPLY: Handshake._take_reply,  # noqa: SLF001
    HandshakeKind.PROOF: Handshake._take_proof,  # noqa: SLF001
    HandshakeKind.READY: Handshake._take_ready,  # noqa: SLF001
}
