"""Pairing: how two brokers learn each other's key, with a user as witness.

Nothing is known of the other end yet, so an attacker on the way could put
his own key into both directions.  But he cannot make both screens
agree.  The *dialler* is the connecting end; either role may dial.

    dialler                                 acceptor
    COMMIT   hash of (key, nonce)      →
                             ←    NONCE     key, nonce
    OPEN     key, nonce                →
           - now each end shows a code, and the user types it at the other -
    CONFIRM  signature                 ↔    CONFIRM  signature

Both codes are digits of a hash over all three messages.  The dialler's nonce
is fixed (COMMIT) before it sees the acceptor's, and hidden until after: the
last one who chooses a nonce chooses blindly.  So a man in the middle gets one
guess at each screen, 1 in 10**PAIRING_DIGITS, and a wrong guess is seen and
ends the run; a connection that ends after NONCE counts as a guess (``nonce_sent``).
Without the commitment he could try nonces until both screens agree, a million
hashes, in about a second.

Two codes, one for each direction, and typed, because a user who is asked
"are these equal?" says yes; a code that has to be typed has been read.

CONFIRM is sent when the user typed the right code here; its signature
shows that the key is really the other end's, and that it saw the same three
messages.  An end is PAIRED when its person and the other end's have both
confirmed.  If the last CONFIRM is lost, one end alone has the (right) key
pinned, no session comes about, and pairing again mends it.

Deadline: the caller's (``limits.LINK_PAIRING_SECONDS``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from broker.core.errors import InternalError
from broker.core.limits import link as limits
from broker.net.link.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    BrokerIdentity,
    PublicKey,
    sha256,
)
from broker.net.link.link_reader import LinkReader, refuse_other_than, told_refusal
from broker.net.link.wire_types import (
    HEADER,
    VERSION,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
    refusal,
)

NONCE_BYTES = 32
_HASH_BYTES = 32
_LABEL = b"vitrail pairing 1 "


class MessageKind(enum.IntEnum):
    """The messages."""

    COMMIT = 1
    NONCE = 2
    OPEN = 3
    CONFIRM = 4
    REFUSED = 5


SIZES: Mapping[int, int] = {
    MessageKind.COMMIT: HEADER.size + _HASH_BYTES,
    MessageKind.NONCE: HEADER.size + KEY_BYTES + NONCE_BYTES,
    MessageKind.OPEN: HEADER.size + KEY_BYTES + NONCE_BYTES,
    MessageKind.CONFIRM: HEADER.size + SIGNATURE_BYTES,
    MessageKind.REFUSED: HEADER.size + 1,
}


class Typed(enum.Enum):
    """Input of the user."""

    RIGHT = "typed the other screen's code"


class PairingState(enum.Enum):
    """The state of a pairing."""

    NEW = "dialler, nothing sent"
    WAIT_COMMIT = "acceptor, nothing received"
    WAIT_NONCE = "dialler, COMMIT sent"
    WAIT_OPEN = "acceptor, NONCE sent"
    COMPARE = "codes shown"
    CONFIRMED = "confirmed on this machine, not yet on the other one"
    CONFIRMED_THERE = "confirmed on the other machine, not yet on this one"
    PAIRED = "done"
    REFUSED = "over"


# The whole machine.  A pair that is not here is a refusal.
TABLE: Mapping[tuple[PairingState, MessageKind | Typed], PairingState] = {
    (PairingState.WAIT_COMMIT, MessageKind.COMMIT): PairingState.WAIT_OPEN,
    (PairingState.WAIT_NONCE, MessageKind.NONCE): PairingState.COMPARE,
    (PairingState.WAIT_OPEN, MessageKind.OPEN): PairingState.COMPARE,
    (PairingState.COMPARE, MessageKind.CONFIRM): PairingState.CONFIRMED_THERE,
    (PairingState.CONFIRMED, MessageKind.CONFIRM): PairingState.PAIRED,
    (PairingState.COMPARE, Typed.RIGHT): PairingState.CONFIRMED,
    (PairingState.CONFIRMED_THERE, Typed.RIGHT): PairingState.PAIRED,
    (PairingState.WAIT_NONCE, MessageKind.REFUSED): PairingState.REFUSED,
    (PairingState.WAIT_OPEN, MessageKind.REFUSED): PairingState.REFUSED,
    (PairingState.COMPARE, MessageKind.REFUSED): PairingState.REFUSED,
    (PairingState.CONFIRMED, MessageKind.REFUSED): PairingState.REFUSED,
    (PairingState.CONFIRMED_THERE, MessageKind.REFUSED): PairingState.REFUSED,
}

_COMPARING = {
    PairingState.COMPARE,
    PairingState.CONFIRMED,
    PairingState.CONFIRMED_THERE,
    PairingState.PAIRED,
}
_OVER = {PairingState.PAIRED, PairingState.REFUSED}


class Pairing:
    """One end of one pairing.

    The dialler calls ``start``; both feed the received bytes and send the
    result.  When ``code`` is there it is shown, and ``confirm`` is called
    with what the user typed.  When the state is PAIRED, ``peer_key`` may be
    pinned, for the role that is not ours.
    """

    def __init__(
        self,
        *,
        role: Role,
        dials: bool,
        identity: BrokerIdentity,
        random: Callable[[int], bytes],
    ) -> None:
        self._role = role
        self._dials = dials
        self._identity = identity
        self._nonce = random(NONCE_BYTES)
        self._reader = LinkReader(ConnectionKind.PAIRING, SIZES)
        self._transcript = b""
        self._commitment = b""
        self._peer_key: PublicKey | None = None
        self.state = PairingState.NEW if dials else PairingState.WAIT_COMMIT

    # -- what a user sees -----------------------------------------------------

    @property
    def code(self) -> str | None:
        """The digits to show here and type there; None before they are known."""
        return self._code(by_dialler=self._dials) if self._comparing else None

    @property
    def dials(self) -> bool:
        """Return whether this end connected."""
        return self._dials

    @property
    def nonce_sent(self) -> bool:
        """Return whether this end, which was called, has used a try."""
        return bool(self._commitment)

    @property
    def confirmed_there(self) -> bool:
        """Return whether the other end's person has confirmed: it says no more."""
        return self.state in {PairingState.CONFIRMED_THERE, PairingState.PAIRED}

    @property
    def peer_key(self) -> PublicKey | None:
        """The other end's key, only when both people have confirmed."""
        return self._peer_key if self.state is PairingState.PAIRED else None

    @property
    def peer_fingerprint(self) -> str | None:
        """The fingerprint to show beside the code; proves nothing alone."""
        if self._peer_key is None or not self._comparing:
            return None
        return self._peer_key.fingerprint

    @property
    def _comparing(self) -> bool:
        return self.state in _COMPARING

    def _code(self, *, by_dialler: bool) -> str:
        end = b"dialler" if by_dialler else b"acceptor"
        digest = sha256(_LABEL + b"code of the " + end + b"\0", self._transcript)
        # 64 bits into a million: the bias is below 10**-13.
        number = int.from_bytes(digest[:8], "big") % 10**limits.PAIRING_DIGITS
        return f"{number:0{limits.PAIRING_DIGITS}d}"

    # -- the machine --------------------------------------------------------------

    def start(self) -> bytes:
        """Return the dialler's first message, a commitment; then wait for a nonce."""
        if self.state is not PairingState.NEW:
            raise InternalError(f"a pairing cannot start when it is {self.state}")
        head = self._header(MessageKind.COMMIT)
        message = head + self._commit(head, self._opened())
        self._transcript = message
        self.state = PairingState.WAIT_NONCE
        return message

    def feed(self, untrusted_data: bytes) -> bytes:
        """Process received bytes; return bytes to send.

        Raises LinkRefusedError; the pairing is over then, for good.
        """
        if self.state is PairingState.NEW:
            raise InternalError("the dialler must start before it receives data")
        if self.state is PairingState.REFUSED:
            raise LinkRefusedError(
                "the pairing has ended", reason=RefusalReason.MALFORMED
            )
        self._reader.feed(untrusted_data)
        out = b""
        try:
            while (taken := self._reader.take()) is not None:
                out += self._step(*taken)
        except LinkRefusedError as error:
            self._refuse(error)
            raise
        return out

    def confirm(self, typed: str) -> bytes:
        """Check the code that the user typed here; return bytes to send.

        Raises LinkRefusedError for a wrong code: the pairing is over, there
        is not a second guess.  Spaces and dashes between digits do not matter.
        """
        following = TABLE.get((self.state, Typed.RIGHT))
        if following is None:
            raise InternalError(
                f"a pairing cannot be confirmed when it is {self.state}"
            )
        digits = "".join(c for c in typed if c not in " -\t\r\n")
        if digits != self._code(by_dialler=not self._dials):
            raise self.reject()
        self.state = following
        return self._header(MessageKind.CONFIRM) + self._identity.sign(
            self._signed(by_dialler=self._dials)
        )

    def reject(self) -> LinkRefusedError:
        """End the pairing because the code is wrong or the user rejected it.

        Returns the error to raise; its ``answer`` is to be sent.
        """
        error = LinkRefusedError(
            "the code does not match the code on the other screen",
            reason=RefusalReason.PERSON,
            hint="start the pairing again; if it fails again, an attacker may "
            "control the connection",
        )
        self._refuse(error)
        return error

    def eof(self) -> None:
        """Handle the end of the stream.  Raises unless the brokers are paired."""
        if self.state is PairingState.PAIRED:
            return
        self.state = PairingState.REFUSED
        raise LinkRefusedError(
            "the other end closed the connection during the pairing",
            reason=RefusalReason.CLOSED,
        )

    def _step(self, kind_number: int, role: int, message: bytes) -> bytes:
        """Handle one message by the state table; return bytes to send."""
        kind = MessageKind(kind_number)  # the reader knows only these
        following = TABLE.get((self.state, kind))
        if following is None:
            raise LinkRefusedError(
                f"unexpected {kind.name} in the state '{self.state.value}'",
                reason=RefusalReason.MALFORMED,
            )
        if kind is MessageKind.REFUSED:
            self.state = following
            raise told_refusal(message)
        refuse_other_than(self._role.other, role)
        out = _TAKERS[kind](self, message)
        self.state = following
        return out

    def _refuse(self, error: LinkRefusedError) -> None:
        """End the pairing with an error, whose answer is to be sent."""
        if self.state not in _OVER:
            error.answer = refusal(
                ConnectionKind.PAIRING, MessageKind.REFUSED, self._role, error.reason
            )
        # Bytes after the last CONFIRM are wrong, and change nothing: the key
        # was confirmed by both.
        if self.state is not PairingState.PAIRED:
            self.state = PairingState.REFUSED

    def _take_commit(self, message: bytes) -> bytes:
        self._commitment = message[HEADER.size :]
        answer = self._header(MessageKind.NONCE) + self._opened()
        self._transcript = message + answer
        return answer

    def _take_nonce(self, message: bytes) -> bytes:
        self._meet(message)
        answer = self._header(MessageKind.OPEN) + self._opened()
        self._transcript += message + answer
        return answer

    def _take_open(self, message: bytes) -> bytes:
        """Check that the opened nonce matches its commitment.

        Return the next message.
        """
        # The COMMIT's header was the same but for the kind.
        head = HEADER.pack(
            ConnectionKind.PAIRING.value, VERSION, MessageKind.COMMIT, self._role.other
        )
        if self._commit(head, message[HEADER.size :]) != self._commitment:
            raise LinkRefusedError(
                "the other end revealed a value that differs from its commitment",
                reason=RefusalReason.PROOF,
            )
        self._meet(message)
        self._transcript += message
        return b""

    def _take_confirm(self, message: bytes) -> bytes:
        """Check the other's signature over the pairing; return the next message."""
        key = self._peer_key
        signed = self._signed(by_dialler=not self._dials)
        if key is None or not key.verifies(message[HEADER.size :], signed):
            raise LinkRefusedError(
                "the other end does not have the private key for its public key",
                reason=RefusalReason.PROOF,
            )
        return b""

    # -- pieces ---------------------------------------------------------------------

    def _header(self, kind: MessageKind) -> bytes:
        return HEADER.pack(ConnectionKind.PAIRING.value, VERSION, kind, self._role)

    def _opened(self) -> bytes:
        return self._identity.public.raw + self._nonce

    def _commit(self, head: bytes, opened: bytes) -> bytes:
        return sha256(_LABEL + b"commitment\0", head, opened)

    def _meet(self, message: bytes) -> None:
        """Store the other's key and nonce, and compute the codes."""
        key = PublicKey(message[HEADER.size : HEADER.size + KEY_BYTES])
        if key == self._identity.public:
            raise LinkRefusedError(
                "the other end sent this broker's own key",
                reason=RefusalReason.PROOF,
            )
        self._peer_key = key

    def _signed(self, *, by_dialler: bool) -> bytes:
        end = b"dialler" if by_dialler else b"acceptor"
        return _LABEL + b"confirmed by the " + end + b"\0" + sha256(self._transcript)


_TAKERS: Mapping[MessageKind, Callable[[Pairing, bytes], bytes]] = {
    MessageKind.COMMIT: Pairing._take_commit,  # noqa: SLF001  the table of this class
    MessageKind.NONCE: Pairing._take_nonce,  # noqa: SLF001
    MessageKind.OPEN: Pairing._take_open,  # noqa: SLF001
    MessageKind.CONFIRM: Pairing._take_confirm,  # noqa: SLF001
}
