"""The name server of a guest: which names it may ask for, and where they lead.

Sans-IO.  Its resolver is this machine's name server.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket
from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.flowguard.dns_streams import DnsStreams
from broker.host.network.flowguard.flows import Destination
from broker.host.network.flowguard.public_resolvers import CANARY
from broker.host.network.flowguard.rates import took
from broker.host.network.frameguard.packets import (
    TCP,
    UDP,
    Packet,
    datagram_back,
    refusal,
)
from policy.destinations import LOOKUP, destination_of

_DNS = 53
_NUMBER_BYTES = 2
_Ask = Callable[[str, str, int | None, float], Destination | None]


class _Asker(NamedTuple):
    """Where an answer goes, and whether by TCP."""

    answer: Callable[[bytes], None]
    by_stream: bool

    def most(self, question: dns.DnsQuestion) -> int:
        """Return how many bytes an answer may have."""
        if self.by_stream:
            return limits.STREAM_ANSWER_BYTES
        return min(question.room or dns.PLAIN_BYTES, limits.ANSWER_BYTES)


@dataclass(eq=False)
class _Waiting:
    """A question that a resolver was asked."""

    question: dns.DnsQuestion
    asker: _Asker
    until: float
    plain: bool = False
    """Whether it was asked without EDNS, too."""
    by_stream: bool = False
    """Whether it was asked by TCP, too."""

    def query(self, number: int) -> bytes:
        return dns.query(number, self.question, plain=self.plain)


class GuestNames:
    """The names of one guest, and the addresses that belong to them."""

    def __init__(
        self,
        to_guest: Callable[[bytes], None],
        ask: _Ask,
        may_ask: Callable[[], bool],
        has_room: Callable[[float], bool],
        *,
        has_ipv6: bool,
        servers: int,
    ) -> None:
        """Set up the name server.

        ``ask`` asks for a name, ``may_ask``: is it answered; ``has_room``: whether a
        record's rate allows for an answer.
        """
        self._to_guest = to_guest
        self._ask = ask
        self._may_ask = may_ask
        self._has_room = has_room
        self._has_ipv6 = has_ipv6
        self.to_resolver: list[bytes] = []
        self.to_streams: list[bytes] = []
        """Questions by TCP."""
        self._servers = servers
        self.server = 0
        """Which of this machine's name servers is asked, from 0."""
        self._heard = self._left = 0.0
        """When one answered, and when one was left for the next."""
        self._bindings: OrderedDict[bytes, dict[str, float]] = OrderedDict()
        self._questions: OrderedDict[int, _Waiting] = OrderedDict()
        self._streams = DnsStreams(to_guest, self._take_by_stream)
        self._pace = TokenBucket(limits.LOOKUPS_PER_SECOND, limits.LOOKUPS_BURST)

    def tick(self, now: float) -> None:
        """Retry unanswered questions at the next name server; called once a second."""
        self._streams.tick(now)
        # guard: a question without an answer has an end
        for number in [n for n, one in self._questions.items() if now >= one.until]:
            self._give_up(number)
        begun = [one.until - limits.LOOKUP_SECONDS for one in self._questions.values()]
        if self._servers > 1 and any(
            self._heard <= asked
            and max(asked, self._left) + limits.NAME_SERVER_SECONDS <= now
            for asked in begun
        ):
            self.server = (self.server + 1) % self._servers
            self._left = now
            self.to_resolver += [
                one.query(number) for number, one in self._questions.items()
            ]

    def ask_others(self, servers: int) -> None:
        """Ask other name servers from now on, also what waits for an answer."""
        self._servers, self.server = servers, 0
        self.to_resolver += [
            one.query(number) for number, one in self._questions.items()
        ]

    def limit(self, lookups: int) -> None:
        """Set how many questions a second may come."""
        rate = min(lookups, limits.LOOKUPS_PER_SECOND)
        burst = limits.LOOKUPS_BURST // limits.LOOKUPS_PER_SECOND
        self._pace = TokenBucket(rate, rate * burst)

    def take(self, packet: Packet, now: float) -> None:
        """Handle a packet that the guest sent to its name server; others are refused."""
        if packet.protocol not in {UDP, TCP} or packet.target != _DNS:
            self._to_guest(refusal(packet))
        elif packet.protocol == TCP:
            self._streams.take(packet, now)
        else:
            asker = _Asker(partial(self._send, packet), by_stream=False)
            self._take_question(packet.data, asker, now)

    def _send(self, packet: Packet, data: bytes) -> None:
        self._to_guest(datagram_back(packet, data))

    def _take_by_stream(
        self, untrusted_data: bytes, answer: Callable[[bytes], None], now: float
    ) -> None:
        asker = _Asker(answer, by_stream=True)
        self._take_question(untrusted_data, asker, now)

    def _take_question(self, untrusted_data: bytes, asker: _Asker, now: float) -> None:
        """Read a question of the guest's, and look its name up if it is permitted."""
        # guard: questions for names are short
        if len(untrusted_data) > limits.QUESTION_BYTES:
            return
        try:
            question = dns.read_question(untrusted_data)
        except dns.DnsError:
            error = dns.error_reply(untrusted_data)
            # guard: answers by an error have a pace
            if error and self._has_room(now) and took(self._pace, now):
                asker.answer(error)
            return
        # guard: answers to questions do not exceed the record's rate
        if not self._has_room(now):
            return  # as a lost datagram: the guest asks again
        host = destination_of(question.name)
        known = question.kind in {dns.A, dns.AAAA} | dns.PASSED
        # guard: questions have a pace
        slow = not took(self._pace, now)
        if host == CANARY and not slow:
            self._reply(asker, question, dns.NXDOMAIN)
            return
        if question.code and not slow:
            self._reply(asker, question, question.code)
        elif host is None or slow or not self._may_ask():
            self._reply(asker, question, dns.REFUSED)
        else:
            self._look_up(asker, question, host, now, known=known)

    def _look_up(
        self,
        asker: _Asker,
        question: dns.DnsQuestion,
        host: str,
        now: float,
        *,
        known: bool,
    ) -> None:
        """Ask for a verdict about a name.

        Pass the question to a resolver, or refuse it.
        """
        place = self._ask(host, LOOKUP, None, now)
        if place is not None and place.allowed is None:
            place.wait(
                limits.QUESTION_BYTES,
                lambda then: self._look_up(asker, question, host, then, known=known),
            )
        # guard: a name that no rule allows is refused
        elif place is None or not place.allowed:
            self._reply(asker, question, dns.REFUSED)
        elif not known or (question.kind == dns.AAAA and not self._has_ipv6):
            self._reply(asker, question, dns.NOERROR)
        else:
            while len(self._questions) >= limits.QUESTIONS:
                self._give_up(next(iter(self._questions)))
            number = secrets.randbelow(1 << 16)
            # guard: a question that waits is not forgotten for another one
            while number in self._questions:
                number = secrets.randbelow(1 << 16)
            waiting = _Waiting(question, asker, now + limits.LOOKUP_SECONDS)
            self._questions[number] = waiting
            self.to_resolver.append(waiting.query(number))

    def _give_up(self, number: int) -> None:
        waiting = self._questions.pop(number)
        self._reply(waiting.asker, waiting.question, dns.SERVFAIL)

    def answered(
        self, untrusted_answer: bytes, now: float, *, by_stream: bool = False
    ) -> None:
        """Handle a message of the upstream resolver: check it and answer the guest.

        ``by_stream``: it came by TCP; a message of its number alone does not count.
        """
        number = int.from_bytes(untrusted_answer[:_NUMBER_BYTES])
        waiting = self._questions.get(number)
        if waiting is None:
            return
        question, asker = waiting.question, waiting.asker
        if by_stream and len(untrusted_answer) == _NUMBER_BYTES:
            self._give_up(number)
            return
        try:
            answer = dns.read_answer(untrusted_answer, question)
        except dns.DnsError:
            return  # the true answer may follow
        self._heard = now
        if answer.refuses_edns and not waiting.plain:
            waiting.plain = True
            self.to_resolver.append(waiting.query(number))
            return
        by_udp_to_guest = question.kind in dns.PASSED and not asker.by_stream
        if answer.cut and not by_stream and not by_udp_to_guest:
            # guard: a question is asked once by TCP
            if not waiting.by_stream:
                waiting.by_stream = True
                self.to_streams.append(waiting.query(number))
            return
        del self._questions[number]
        if answer.cut and by_udp_to_guest:
            asker.answer(dns.cut(question))
        elif question.kind in dns.PASSED or not answer.addresses.found:
            asker.answer(dns.passed(question, answer, asker.most(question)))
        else:
            least, most = limits.BINDING_SECONDS
            kept = min(max(answer.addresses.ttl, least), most)
            for address in answer.addresses.found:
                self.bind(address, question.name, now + kept)
            self._reply(asker, question, answer.code, answer.addresses)

    def bind(self, address: bytes, name: str, until: float) -> None:
        """Record that a name leads to an address, until a time; bounded."""
        names = self._bindings.setdefault(address, {})
        self._bindings.move_to_end(address)
        names.pop(name, None)
        names[name] = until
        # guard: bindings are bounded
        while len(names) > limits.NAMES_PER_ADDRESS:
            del names[next(iter(names))]
        while len(self._bindings) > limits.BINDINGS:
            self._bindings.popitem(last=False)

    def leading_to(self, address: bytes, now: float) -> tuple[str, ...]:
        """Return the names that lead to an address, the newest first."""
        known = self._bindings.get(address, {})
        # guard: an address is a name's for its time to live
        return tuple(n for n, until in reversed(known.items()) if now <= until)

    def _reply(
        self,
        asker: _Asker,
        question: dns.DnsQuestion,
        code: int,
        found: dns.NameAddresses | None = None,
    ) -> None:
        """Send the guest an answer."""
        asker.answer(dns.reply(question, code, found, most=asker.most(question)))
