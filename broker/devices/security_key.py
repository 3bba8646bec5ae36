"""One sandbox's use of a security key: which messages pass, and about whom.

The guest sees a key of its own.  Its channels are ours; to the real key all of
it is one channel.  What needs the person's presence is asked about first, with
the relying party that the message names; what manages the key (PINs, resets,
credentials, fingerprints) never passes.  Sources: CTAP 2.1, 6 and 11.2; FIDO U2F
Raw Message Formats 1.2.

Sans-IO: reports and verdicts in, actions out; the time is passed in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from broker.core import limits
from broker.core.errors import PeerError
from broker.devices import cbor
from broker.devices.ctaphid import (
    BROADCAST,
    Assembler,
    Command,
    Error,
    Message,
    reports_of,
)

_MAKE, _GET, _INFO, _PIN, _NEXT = 0x01, 0x02, 0x04, 0x06, 0x08
_PIN_HARMLESS = frozenset({1, 2, 5, 9})
"""getPINRetries, getKeyAgreement, getPinToken, getPinUvAuthTokenUsingPin."""
_INVALID_COMMAND, _DENIED, _CANCELLED, _INVALID_CBOR = 0x01, 0x27, 0x2D, 0x12
_U2F_REGISTER, _U2F_AUTHENTICATE, _U2F_VERSION = 1, 2, 3
_U2F_CHECK = 0x07
_SW_NOT_ALLOWED, _SW_NO_SUCH, _SW_WRONG = b"\x69\x86", b"\x6d\x00", b"\x67\x00"
_CBOR, _NO_WINK = 0x04, 0xFE
_PRESENCE_NEEDED = b"\x02"
_KEEPALIVE_SECONDS = 0.1
_EARLY = 4
_HOST_CHARACTERS = 253


@dataclass(frozen=True)
class ToGuest:
    """A report for the guest."""

    report: bytes


@dataclass(frozen=True)
class ToKey:
    """A report for the real key."""

    report: bytes


@dataclass(frozen=True)
class Ask:
    """The person's presence is wanted; ``SecurityKey.verdict`` answers.

    ``host`` is the relying party; empty: U2F names it by ``digest`` only.
    """

    number: int
    what: str
    """``register`` or ``sign in``."""
    host: str
    digest: str


@dataclass(frozen=True)
class Over:
    """The request of a question has ended; its permission is not used any more."""

    number: int


Action = ToGuest | ToKey | Ask | Over


@dataclass(eq=False)
class _Transaction:
    """One message of the guest, from its last report to its answer."""

    message: Message
    deadline: float
    ask: Ask | None = None
    sent: bool = False
    next_keepalive: float = 0.0


class SecurityKey:
    """The proxy of one guest's connection."""

    def __init__(self, nonce: bytes) -> None:
        """``nonce``: eight random bytes."""
        self._nonce = nonce
        self._guest, self._key = Assembler(), Assembler()
        self._channels: dict[int, None] = {}
        self._numbers = itertools.count(1)
        self._channel_numbers = itertools.count(0x56000001)
        self._real: int | None = None
        self._capabilities = _CBOR
        self._early: list[tuple[Message, float]] = []
        """Messages of the guest from before the real key has answered."""
        self._now: _Transaction | None = None
        self._may_go_on = False
        """Whether getNextAssertion belongs to an assertion that was allowed."""
        self._allowed: tuple[str, str, float] | None = None
        """U2F repeats a request until the key is touched: what, digest, until."""

    def begin(self) -> list[Action]:
        """Open a channel at the real key; to be called first."""
        return _to_key(Message(BROADCAST, Command.INIT, self._nonce))

    # -- the guest ---------------------------------------------------------------------

    def from_guest(self, untrusted_report: bytes, now: float) -> list[Action]:
        """Take a report of the guest.  Raises PeerError for other bytes."""
        found = self._guest.feed(untrusted_report)
        if found is None:
            return []
        if isinstance(found, tuple):
            return _error(*found)
        return self._message(found, now)

    def _message(self, message: Message, now: float) -> list[Action]:
        if self._real is None:
            # A program begins with INIT and waits for its answer.
            if len(self._early) >= _EARLY:
                return _error(message.channel, Error.CHANNEL_BUSY)
            self._early.append((message, now))
            return []
        if message.command == Command.INIT:
            return self._init(message)
        if message.channel not in self._channels:
            return _error(message.channel, Error.INVALID_CHANNEL)
        if message.command == Command.CANCEL:
            return self._cancel(message.channel)
        if message.command == Command.PING:
            return _to_guest(message)
        if self._now is not None:
            return _error(message.channel, Error.CHANNEL_BUSY)
        if message.command == Command.CBOR:
            return self._ctap2(message, now)
        if message.command == Command.MSG:
            return self._u2f(message, now)
        return _error(message.channel, Error.INVALID_CMD)

    def _init(self, message: Message) -> list[Action]:
        if len(message.payload) != 8:
            return _error(message.channel, Error.INVALID_LEN)
        actions: list[Action] = []
        channel = message.channel
        if channel == BROADCAST:
            channel = next(self._channel_numbers)
            # guard: channels of a guest
            if len(self._channels) >= limits.CTAP_CHANNELS:
                self._channels.pop(next(iter(self._channels)))
            self._channels[channel] = None
        elif channel not in self._channels:
            return _error(channel, Error.INVALID_CHANNEL)
        elif self._now is not None and self._now.message.channel == channel:
            actions = self._abort()
        answer = message.payload + channel.to_bytes(4, "big")
        answer += bytes([2, 1, 0, 0, self._capabilities])
        return [*actions, *_to_guest(Message(message.channel, Command.INIT, answer))]

    def _cancel(self, channel: int) -> list[Action]:
        now = self._now
        if now is None or now.message.channel != channel:
            return []
        if now.sent and self._real is not None:
            return _to_key(Message(self._real, Command.CANCEL, b""))
        return [
            *self._abort(),
            *_to_guest(Message(channel, Command.CBOR, bytes([_CANCELLED]))),
        ]

    def _abort(self) -> list[Action]:
        """Forget the transaction; what the key still says of it is dropped."""
        now, self._now = self._now, None
        if now is None:
            return []
        actions: list[Action] = [] if now.ask is None else [Over(now.ask.number)]
        if now.sent and self._real is not None:
            actions += _to_key(Message(self._real, Command.CANCEL, b""))
        return actions

    # -- what passes -----------------------------------------------------------------------

    def _ctap2(self, message: Message, now: float) -> list[Action]:
        if not message.payload:
            return _error(message.channel, Error.INVALID_LEN)
        command, body = message.payload[0], message.payload[1:]
        try:
            if command in {_MAKE, _GET}:
                what = "register" if command == _MAKE else "sign in"
                return self._ask(message, what, _relying_party(command, body), "", now)
            # guard: management of the key
            # guard: next of an allowed assertion
            passes = (
                (command == _INFO and not body)
                or (command == _NEXT and not body and self._may_go_on)
                or (command == _PIN and _pin_is_harmless(body))
            )
        except PeerError:
            return self._status(message, _INVALID_CBOR)
        if passes:
            return self._forward(_Transaction(message, now + limits.CTAP_SECONDS))
        known = command in {_PIN, _NEXT}
        return self._status(message, _DENIED if known else _INVALID_COMMAND)

    def _status(self, message: Message, code: int) -> list[Action]:
        return _to_guest(Message(message.channel, Command.CBOR, bytes([code])))

    def _u2f(self, message: Message, now: float) -> list[Action]:
        apdu = message.payload
        if len(apdu) < 4 or apdu[0] != 0:
            return _to_guest(Message(message.channel, Command.MSG, _SW_NO_SUCH))
        instruction, first = apdu[1], apdu[2]
        if instruction == _U2F_VERSION:
            return self._forward(_Transaction(message, now + limits.CTAP_SECONDS))
        if instruction not in {_U2F_REGISTER, _U2F_AUTHENTICATE}:
            return _to_guest(Message(message.channel, Command.MSG, _SW_NO_SUCH))
        body = _apdu_body(apdu)
        if body is None or len(body) < 64:
            return _to_guest(Message(message.channel, Command.MSG, _SW_WRONG))
        if instruction == _U2F_AUTHENTICATE and first == _U2F_CHECK:
            # Asks whether the key knows a handle: nothing is signed.
            return self._forward(_Transaction(message, now + limits.CTAP_SECONDS))
        what = "register" if instruction == _U2F_REGISTER else "sign in"
        return self._ask(message, what, "", body[32:64].hex(), now)

    def _ask(
        self, message: Message, what: str, host: str, digest: str, now: float
    ) -> list[Action]:
        self._may_go_on = False
        made = self._now = _Transaction(message, now + limits.CTAP_SECONDS)
        if digest and self._allowed is not None:
            again, other, until = self._allowed
            if (again, other) == (what, digest) and now < until:
                return self._forward(made)
        made.ask = Ask(next(self._numbers), what, host, digest)
        made.next_keepalive = now + _KEEPALIVE_SECONDS
        return [made.ask]

    def verdict(self, number: int, now: float, *, allow: bool) -> list[Action]:
        """Take the answer to an ``Ask``; one that is over changes nothing."""
        made = self._now
        # guard: a verdict has its number
        if made is None or made.ask is None or made.ask.number != number or made.sent:
            return []
        if allow:
            self._may_go_on = made.message.command == Command.CBOR
            if made.ask.digest:
                until = now + limits.CTAP_SECONDS
                self._allowed = (made.ask.what, made.ask.digest, until)
            return self._forward(made)
        self._now = None
        message, answer = made.message, bytes([_DENIED])
        if message.command == Command.MSG:
            answer = _SW_NOT_ALLOWED
        return [
            Over(number),
            *_to_guest(Message(message.channel, message.command, answer)),
        ]

    def _forward(self, made: _Transaction) -> list[Action]:
        assert self._real is not None
        self._now = made
        made.sent = True
        return _to_key(Message(self._real, made.message.command, made.message.payload))

    # -- the key -------------------------------------------------------------------------------

    def from_key(self, report: bytes) -> list[Action]:
        """Take a report of the real key.  Raises PeerError when it is none."""
        found = self._key.feed(report)
        if not isinstance(found, Message):
            return []
        if found.command == Command.INIT and found.channel == BROADCAST:
            return self._opened(found.payload)
        now = self._now
        if now is None or not now.sent or found.channel != self._real:
            return []  # of another program's channel, or of an aborted request
        channel = now.message.channel
        if found.command == Command.KEEPALIVE:
            return _to_guest(Message(channel, Command.KEEPALIVE, found.payload[:1]))
        if found.command not in {now.message.command, Command.ERROR}:
            return []
        self._now = None
        actions: list[Action] = [] if now.ask is None else [Over(now.ask.number)]
        return [*actions, *_to_guest(Message(channel, found.command, found.payload))]

    def _opened(self, payload: bytes) -> list[Action]:
        if len(payload) >= 17 and payload[:8] == self._nonce and self._real is None:
            self._real = int.from_bytes(payload[8:12], "big")
            # Any sandbox could make it blink, and the person cannot see which one did.
            self._capabilities = payload[16] & _NO_WINK
            early, self._early = self._early, []
            return [action for one in early for action in self._message(*one)]
        return []

    # -- time ----------------------------------------------------------------------------------

    def next_tick(self) -> float | None:
        """When ``tick`` has something to do."""
        now = self._now
        if now is None:
            return None
        return now.deadline if now.sent else min(now.deadline, now.next_keepalive)

    def tick(self, now: float) -> list[Action]:
        """Keep a guest waiting that is asked about, end what takes too long."""
        made = self._now
        if made is None:
            return []
        message = made.message
        if now >= made.deadline:
            return [*self._abort(), *_error(message.channel, Error.OTHER)]
        if made.sent or now < made.next_keepalive:
            return []
        made.next_keepalive = now + _KEEPALIVE_SECONDS
        if message.command != Command.CBOR:
            return []
        return _to_guest(Message(message.channel, Command.KEEPALIVE, _PRESENCE_NEEDED))


def _to_guest(message: Message) -> list[Action]:
    return [ToGuest(report) for report in reports_of(message)]


def _to_key(message: Message) -> list[Action]:
    return [ToKey(report) for report in reports_of(message)]


def _error(channel: int, code: Error) -> list[Action]:
    return _to_guest(Message(channel, Command.ERROR, bytes([code])))


def _relying_party(command: int, untrusted_body: bytes) -> str:
    """Return the relying party of a request.  Raises PeerError."""
    found = cbor.decode(untrusted_body)
    if not isinstance(found, dict):
        raise PeerError("a request that is not a map")
    party = found.get(1)
    if command == _MAKE:
        entity = found.get(2)
        party = entity.get("id") if isinstance(entity, dict) else None
    if not isinstance(party, str) or not 0 < len(party) <= _HOST_CHARACTERS:
        raise PeerError("a request without a relying party")
    if not party.isascii() or not party.isprintable() or " " in party:
        raise PeerError("a relying party that is not a host")
    return party


def _pin_is_harmless(untrusted_body: bytes) -> bool:
    found = cbor.decode(untrusted_body)
    sub = found.get(2) if isinstance(found, dict) else None
    # guard: harmless PIN commands
    return isinstance(sub, int) and not isinstance(sub, bool) and sub in _PIN_HARMLESS


def _apdu_body(apdu: bytes) -> bytes | None:
    """Return the data of an APDU, with short or extended length (ISO 7816-4)."""
    if len(apdu) < 5:
        return None
    if apdu[4]:
        size, at = apdu[4], 5
    elif len(apdu) >= 7:
        size, at = int.from_bytes(apdu[5:7], "big"), 7
    else:
        return None
    body = apdu[at : at + size]
    return body if len(body) == size and len(apdu) - at - size <= 3 else None
