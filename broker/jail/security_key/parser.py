"""One sandbox's use of a security key: which messages pass, and about whom.

The guest sees a key that we simulate.  Its channels are ours; to the real key all of
it is one channel.  What needs the user's presence is asked about first, with
the relying party that the message names; what manages the key (PINs, resets,
credentials, fingerprints) never passes.  Sources: CTAP 2.1, 6 and 11.2; FIDO U2F
Raw Message Formats 1.2.

Sans-IO: reports and verdicts in, actions out; the time is passed in.

The process of a security key runs it, not the worker.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from broker.core.errors import PeerError
from broker.core.limits import devices as limits
from broker.ipc.security_key import ENTER_PIN, LOOK, READ, REGISTER, SIGN_IN
from broker.jail.security_key.ctap_requests import (
    OptionError,
    apdu_body,
    credentials_of,
    enters_pin,
    look_answer,
    read_request,
)
from broker.jail.security_key.ctaphid import (
    BROADCAST,
    Assembler,
    CtapHidCommand,
    CtapHidError,
    CtapHidMessage,
    reports_of,
)

_MAKE, _GET, _INFO, _PIN, _NEXT = 0x01, 0x02, 0x04, 0x06, 0x08
_INVALID_COMMAND, _DENIED, _CANCELLED, _INVALID_CBOR = 0x01, 0x27, 0x2D, 0x12
_INVALID_OPTION = 0x2C
_U2F_REGISTER, _U2F_AUTHENTICATE, _U2F_VERSION = 1, 2, 3
_U2F_WHAT = {
    (_U2F_REGISTER, 0x00): REGISTER,
    (_U2F_REGISTER, 0x03): REGISTER,
    (_U2F_AUTHENTICATE, 0x03): SIGN_IN,
    (_U2F_AUTHENTICATE, 0x07): LOOK,
}
"""By instruction and P1.  0x08 signs without a touch, 0x80 tells which key it is."""
_SW_NOT_ALLOWED, _SW_NO_SUCH, _SW_WRONG = b"\x69\x86", b"\x6d\x00", b"\x67\x00"
_SW_PARAMETERS = b"\x6a\x86"
_SW_NOT_TOUCHED = b"\x69\x85"
_CBOR, _NO_WINK, _OK = 0x04, 0xFE, b"\0"
_PRESENCE_NEEDED = b"\x02"
_KEEPALIVE_SECONDS = 0.1
_EARLY = 4
_WHOLE_SECONDS = 3.0
"""Between two reports of a message, as hardware keys have it."""
_LATE_SECONDS = 5.0
"""For the key to answer a cancelled request; it does so at once."""
_LOOK_SECONDS = 5.0
"""For the looks of one permission: nobody else uses the key meanwhile."""


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
    """The user's presence is wanted; ``SecurityKey.verdict`` answers.

    ``host`` is the relying party; empty: U2F names it by ``digest`` only.
    """

    number: int
    what: str
    """``register``, ``sign in``, ``look``, ``enter PIN`` or ``read``."""
    host: str
    digest: str


@dataclass(frozen=True)
class RequestOver:
    """The request of a question has ended; its permission is not used any more."""

    number: int
    right: bool = False
    """The key has taken the PIN."""


Action = ToGuest | ToKey | Ask | RequestOver


@dataclass(eq=False)
class _Transaction:
    """One message of the guest, from its last report to its answer."""

    message: CtapHidMessage
    deadline: float
    ask: Ask | None = None
    sent: bool = False
    next_keepalive: float = 0.0


@dataclass(frozen=True)
class _Repeated:
    """A permission that is in use between two messages.

    U2F repeats a request until the key is touched, which is one use and one question.
    So is a look at the credentials of one relying party, one after the other, and an
    assertion with those of its credentials that getNextAssertion is to tell.
    """

    ask: Ask
    until: float
    credentials: int = 0
    """Left for getNextAssertion; 0: the request itself may be repeated."""


@dataclass(frozen=True)
class _Late:
    """An outstanding reply of the key to a cancelled request."""

    command: int
    until: float


class SecurityKey:
    """The proxy of one guest's connection."""

    def __init__(self, nonce: bytes) -> None:
        """Create the state of one sandbox; ``nonce``: eight random bytes."""
        self._nonce = nonce
        self._guest, self._key = Assembler(), Assembler()
        self._whole_until = 0.0
        """When a message of which no more has come is forgotten."""
        self._channels: dict[int, None] = {}
        self._numbers = itertools.count(1)
        self._channel_numbers = itertools.count(0x56000001)
        self._real: int | None = None
        self._capabilities = _CBOR
        self._early: list[tuple[CtapHidMessage, float]] = []
        """Messages of the guest from before the real key has answered."""
        self._late: _Late | None = None
        self._now: _Transaction | None = None
        self._allowed: _Repeated | None = None

    def begin(self) -> list[Action]:
        """Open a channel at the real key; to be called first."""
        return _to_key(CtapHidMessage(BROADCAST, CtapHidCommand.INIT, self._nonce))

    # -- the guest ---------------------------------------------------------------------

    def from_guest(self, untrusted_report: bytes, now: float) -> list[Action]:
        """Handle a report of the guest; return the actions that follow.

        Raises PeerError for bytes that are not a report.
        """
        # guard: a program that ends within a message blocks no other
        if now >= self._whole_until:
            self._guest.drop()
        found = self._guest.feed(untrusted_report)
        if int.from_bytes(untrusted_report[:4], "big") == self._guest.channel:
            self._whole_until = now + _WHOLE_SECONDS
        if found is None:
            return []
        if isinstance(found, tuple):
            return _error(*found)
        return self._message(found, now)

    def _message(self, message: CtapHidMessage, now: float) -> list[Action]:
        """Handle a message of the guest: channel, request, cancel."""
        if self._real is None:
            # A program begins with INIT and waits for its answer.
            return self._wait(message, now)
        if message.command == CtapHidCommand.INIT:
            return self._init(message)
        if message.channel not in self._channels:
            return _error(message.channel, CtapHidError.INVALID_CHANNEL)
        if message.command == CtapHidCommand.CANCEL:
            return self._cancel(message.channel)
        if message.command == CtapHidCommand.PING:
            return _to_guest(message)
        if message.command not in {CtapHidCommand.CBOR, CtapHidCommand.MSG}:
            return _error(message.channel, CtapHidError.INVALID_CMD)
        if self._now is not None:
            return _error(message.channel, CtapHidError.CHANNEL_BUSY)
        # guard: an answer is for its own request
        if self._late is not None:
            return self._wait(message, now)
        if message.command == CtapHidCommand.CBOR:
            return self._ctap2(message, now)
        return self._u2f(message, now)

    def _wait(self, message: CtapHidMessage, now: float) -> list[Action]:
        """Keep a message until the key has answered."""
        if len(self._early) >= _EARLY:
            return _error(message.channel, CtapHidError.CHANNEL_BUSY)
        self._early.append((message, now))
        return []

    def _go_on(self, now: float = 0.0) -> list[Action]:
        """Handle the guest's messages that waited for the real key's first answer."""
        self._late = None
        early, self._early = self._early, []
        return [
            action
            for message, came in early
            for action in self._message(message, max(came, now))
        ]

    def _init(self, message: CtapHidMessage) -> list[Action]:
        """Give a program a channel."""
        if len(message.payload) != 8:
            return _error(message.channel, CtapHidError.INVALID_LEN)
        actions: list[Action] = []
        channel = message.channel
        if channel == BROADCAST:
            channel = next(self._channel_numbers)
            # guard: channels of a guest
            if len(self._channels) >= limits.CTAP_CHANNELS:
                self._channels.pop(next(iter(self._channels)))
            self._channels[channel] = None
        elif channel not in self._channels:
            return _error(channel, CtapHidError.INVALID_CHANNEL)
        else:
            self._early = [one for one in self._early if one[0].channel != channel]
            if self._now is not None and self._now.message.channel == channel:
                actions = self._abort()
        answer = message.payload + channel.to_bytes(4, "big")
        answer += bytes([2, 1, 0, 0, self._capabilities])
        return [
            *actions,
            *_to_guest(CtapHidMessage(message.channel, CtapHidCommand.INIT, answer)),
        ]

    def _cancel(self, channel: int) -> list[Action]:
        """Cancel what the key does for a channel, or a request that waits."""
        now = self._now
        cancelled = _to_guest(
            CtapHidMessage(channel, CtapHidCommand.CBOR, bytes([_CANCELLED]))
        )
        waiting = [one for one in self._early if one[0].channel == channel]
        if waiting:
            self._early = [one for one in self._early if one not in waiting]
            return cancelled
        if now is None or now.message.channel != channel:
            return []
        if now.sent and self._real is not None:
            return _to_key(CtapHidMessage(self._real, CtapHidCommand.CANCEL, b""))
        return [*self._abort(), *cancelled]

    def _abort(self) -> list[Action]:
        """Forget the current transaction; cancel it at the key; return the actions."""
        now, self._now = self._now, None
        if now is None:
            return []
        actions = self._end(now.ask)
        if now.sent and self._real is not None:
            self._late = _Late(now.message.command, now.deadline + _LATE_SECONDS)
            actions += _to_key(CtapHidMessage(self._real, CtapHidCommand.CANCEL, b""))
        return actions

    def _end(self, ask: Ask | None, *, right: bool = False) -> list[Action]:
        """Return the action that ends a permission, for repeated requests, too."""
        if ask is None:
            return []
        if self._allowed is not None and self._allowed.ask is ask:
            self._allowed = None
        return [RequestOver(ask.number, right=right and ask.what == ENTER_PIN)]

    # -- what passes -----------------------------------------------------------------------

    def _ctap2(self, message: CtapHidMessage, now: float) -> list[Action]:
        """Handle a CTAP2 request: answer, ask the user, or refuse."""
        if not message.payload:
            return _error(message.channel, CtapHidError.INVALID_LEN)
        command, body = message.payload[0], message.payload[1:]
        try:
            if command in {_MAKE, _GET}:
                what, party = read_request(body, register=command == _MAKE)
                return self._ask(message, what, party, "", now)
            pin = enters_pin(body) if command == _PIN else None
            # guard: tries of the PIN are counted
            if pin:
                return self._ask(message, ENTER_PIN, "", "", now)
            if command == _NEXT and not body:
                return self._next(message)
            # guard: management of the key
            reads = (command == _INFO and not body) or pin is not None
        except OptionError:
            return self._status(message, _INVALID_OPTION)
        except PeerError:
            return self._status(message, _INVALID_CBOR)
        if reads:
            return self._ask(message, READ, "", "", now)
        known = command in {_PIN, _NEXT}
        return self._status(message, _DENIED if known else _INVALID_COMMAND)

    def _next(self, message: CtapHidMessage) -> list[Action]:
        """Forward getNextAssertion as often as the key announced more assertions."""
        allowed = self._allowed
        # guard: next of an allowed assertion
        if allowed is None or not allowed.credentials:
            return self._status(message, _DENIED)
        return self._forward(_Transaction(message, allowed.until, allowed.ask))

    def _status(self, message: CtapHidMessage, code: int) -> list[Action]:
        return _to_guest(
            CtapHidMessage(message.channel, CtapHidCommand.CBOR, bytes([code]))
        )

    def _u2f(self, message: CtapHidMessage, now: float) -> list[Action]:
        """Handle a U2F request: ask the user, or refuse."""
        apdu = message.payload
        if len(apdu) < 4 or apdu[0] != 0:
            return _to_guest(
                CtapHidMessage(message.channel, CtapHidCommand.MSG, _SW_NO_SUCH)
            )
        instruction, first = apdu[1], apdu[2]
        if instruction == _U2F_VERSION:
            return self._ask(message, READ, "", "", now)
        if instruction not in {_U2F_REGISTER, _U2F_AUTHENTICATE}:
            return _to_guest(
                CtapHidMessage(message.channel, CtapHidCommand.MSG, _SW_NO_SUCH)
            )
        body = apdu_body(apdu)
        if body is None or len(body) < 64:
            return _to_guest(
                CtapHidMessage(message.channel, CtapHidCommand.MSG, _SW_WRONG)
            )
        what = _U2F_WHAT.get((instruction, first))
        # guard: U2F without a touch does not reach the key
        if what is None:
            return _to_guest(
                CtapHidMessage(message.channel, CtapHidCommand.MSG, _SW_PARAMETERS)
            )
        return self._ask(message, what, "", body[32:64].hex(), now)

    def _ask(
        self, message: CtapHidMessage, what: str, host: str, digest: str, now: float
    ) -> list[Action]:
        """Ask the user for a use of the key, unless just permitted."""
        made = self._now = _Transaction(message, now + limits.CTAP_SECONDS)
        before: list[Action] = []
        if self._allowed is not None:
            ask = self._allowed.ask
            same = (ask.what, ask.host, ask.digest) == (what, host, digest)
            same = same and not self._allowed.credentials
            if same and now < self._allowed.until:
                made.ask = ask
                return self._forward(made)
            before = self._end(ask)
        made.ask = Ask(next(self._numbers), what, host, digest)
        made.next_keepalive = now + _KEEPALIVE_SECONDS
        return [*before, made.ask]

    def verdict(self, number: int, now: float, *, allow: bool) -> list[Action]:
        """Apply the answer to an ``Ask``; a late answer changes nothing.

        A no may come after a yes: the permission was revoked.
        """
        made = self._now
        # guard: a verdict has its number
        if made is None or made.ask is None or made.ask.number != number:
            return [] if allow else self._revoked(number)
        # guard: a permission that is revoked is cancelled at the key
        if not allow:
            return self._denied(made)
        if made.sent:
            return []
        looks = made.ask.what == LOOK
        if made.ask.digest or looks:
            seconds = _LOOK_SECONDS if looks else limits.CTAP_SECONDS
            self._allowed = _Repeated(made.ask, now + seconds)
        return self._forward(made)

    def end(self) -> list[Action]:
        """The connection ends: a touch that comes now is for no request of it."""
        return [] if self._now is None else self._denied(self._now)

    def _denied(self, made: _Transaction) -> list[Action]:
        """Answer the guest that its request is denied; cancel it at the key."""
        message, answer = made.message, bytes([_DENIED])
        if message.command == CtapHidCommand.MSG:
            answer = _SW_NOT_ALLOWED
        ended = self._abort()
        return [
            *ended,
            *_to_guest(CtapHidMessage(message.channel, message.command, answer)),
        ]

    def _revoked(self, number: int) -> list[Action]:
        """Between two of the messages that a permission is for."""
        # guard: a revoked permission is not repeated
        if self._allowed is None or self._allowed.ask.number != number:
            return []
        return self._end(self._allowed.ask)

    def _forward(self, made: _Transaction) -> list[Action]:
        """Send a permitted message to the key."""
        assert self._real is not None
        self._now = made
        made.sent = True
        # guard: half an answer is not put before the next one
        self._key.drop()
        return _to_key(
            CtapHidMessage(self._real, made.message.command, made.message.payload)
        )

    # -- the key -------------------------------------------------------------------------------

    def from_key(self, report: bytes) -> list[Action]:
        """Handle a report of the real key; return the actions that follow.

        Raises PeerError for bytes that are not a report.
        """
        # guard: another program's reports are not put together
        if int.from_bytes(report[:4], "big") not in {self._real, BROADCAST}:
            return []
        replies = self._key.feed(report)
        if not isinstance(replies, CtapHidMessage):
            return []
        if replies.command == CtapHidCommand.INIT and replies.channel == BROADCAST:
            return self._opened(replies.payload)
        now = self._now
        if replies.channel != self._real:
            return []
        if now is None or not now.sent:
            late = self._late
            owed = late is not None and replies.command in {
                late.command,
                CtapHidCommand.ERROR,
            }
            return self._go_on() if owed else []
        channel = now.message.channel
        if replies.command == CtapHidCommand.KEEPALIVE:
            return _to_guest(
                CtapHidMessage(channel, CtapHidCommand.KEEPALIVE, replies.payload[:1])
            )
        if replies.command not in {now.message.command, CtapHidCommand.ERROR}:
            return []
        self._now = None
        payload = replies.payload
        looks = now.ask is not None and now.ask.what == LOOK
        ctap2 = replies.command == CtapHidCommand.CBOR
        if looks and replies.command != CtapHidCommand.ERROR:
            # guard: an answer to a look has no signature
            payload = look_answer(payload) if ctap2 else payload[-2:]
        repeated = self._repeated(now, replies)
        actions = [] if repeated else self._end(now.ask, right=payload[:1] == _OK)
        return [*actions, *_to_guest(CtapHidMessage(channel, replies.command, payload))]

    def _repeated(self, made: _Transaction, answer: CtapHidMessage) -> bool:
        """Return whether a permission also covers further requests than this one."""
        ask, allowed = made.ask, self._allowed
        if ask is None:
            return False
        if answer.command == CtapHidCommand.CBOR and ask.what == SIGN_IN:
            before = allowed.credentials if allowed else credentials_of(answer.payload)
            left = before - 1 if answer.payload[:1] == _OK else 0
            # guard: an assertion has as many credentials as the key says
            self._allowed = (
                _Repeated(ask, made.deadline, left) if left > 0 else self._allowed
            )
            return left > 0
        # guard: one use for each question
        return allowed is not None and (
            ask.what == LOOK or answer.payload == _SW_NOT_TOUCHED
        )

    def _opened(self, payload: bytes) -> list[Action]:
        """Note the channel that the key has given us."""
        if len(payload) >= 17 and payload[:8] == self._nonce and self._real is None:
            self._real = int.from_bytes(payload[8:12], "big")
            # Any sandbox could make it blink, and the user cannot see which one did.
            self._capabilities = payload[16] & _NO_WINK
            return self._go_on()
        return []

    # -- time ----------------------------------------------------------------------------------

    def next_tick(self) -> float | None:
        """Return when ``tick`` has to be called next; None if it need not be."""
        now = self._now
        times = [one.until for one in (self._late, self._allowed) if one is not None]
        if now is not None:
            times.append(now.deadline)
        if now is not None and not now.sent:
            times.append(now.next_keepalive)
        return min(times, default=None)

    def tick(self, now: float) -> list[Action]:
        """Send keepalives to a guest that waits; end what takes too long."""
        actions: list[Action] = []
        if self._late is not None and now >= self._late.until:
            actions = self._go_on(now)
        made, allowed = self._now, self._allowed
        if allowed is not None and now >= allowed.until:
            self._allowed = None
            if made is None or made.ask is not allowed.ask:
                actions += self._end(allowed.ask)
        return actions if made is None else [*actions, *self._tick(made, now)]

    def _tick(self, made: _Transaction, now: float) -> list[Action]:
        """End a late request; send a keepalive for a waiting one."""
        message = made.message
        if now >= made.deadline:
            return [*self._abort(), *_error(message.channel, CtapHidError.OTHER)]
        if made.sent or now < made.next_keepalive:
            return []
        made.next_keepalive = now + _KEEPALIVE_SECONDS
        if message.command != CtapHidCommand.CBOR:
            return []
        return _to_guest(
            CtapHidMessage(message.channel, CtapHidCommand.KEEPALIVE, _PRESENCE_NEEDED)
        )


def _to_guest(message: CtapHidMessage) -> list[Action]:
    return [ToGuest(report) for report in reports_of(message)]


def _to_key(message: CtapHidMessage) -> list[Action]:
    return [ToKey(report) for report in reports_of(message)]


def _error(channel: int, code: CtapHidError) -> list[Action]:
    return _to_guest(CtapHidMessage(channel, CtapHidCommand.ERROR, bytes([code])))
