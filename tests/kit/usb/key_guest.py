"""A guest's program, its proxy and a software token, without a process or a socket."""

from __future__ import annotations

from broker.ipc.security_key import READ
from broker.jail.security_key.ctaphid import (
    BROADCAST,
    Assembler,
    CtapHidCommand,
    CtapHidMessage,
    reports_of,
)
from broker.jail.security_key.parser import (
    Ask,
    RequestOver,
    SecurityKey,
    ToGuest,
    ToKey,
)
from tests.kit.usb.token import Token

_NONCE = b"12345678"


class Guest:
    """A guest's program, its proxy and the real key."""

    def __init__(self):
        self.now = 0.0
        self.token = Token()
        self.key = SecurityKey(_NONCE)
        self.asked, self.over, self.answers = [], [], []
        self._out = Assembler()
        self.act(self.key.begin())
        (answer,) = self.send(BROADCAST, CtapHidCommand.INIT, b"abcdefgh")
        assert answer.payload[:8] == b"abcdefgh"
        self.channel = int.from_bytes(answer.payload[8:12], "big")
        self.capabilities = answer.payload[16]

    def act(self, actions):
        for action in actions:
            match action:
                case ToKey(report):
                    for back in self.token.feed(report):
                        self.act(self.key.from_key(back))
                case ToGuest(report):
                    message = self._out.feed(report)
                    if isinstance(message, CtapHidMessage):
                        self.answers.append(message)
                case Ask(number, what) if what == READ:  # unasked
                    self.act(self.key.verdict(number, self.now, allow=True))
                case Ask():
                    self.asked.append(action)
                case RequestOver(number):
                    self.over.append(number)

    def send(self, channel, command, payload):
        self.answers.clear()
        for report in reports_of(CtapHidMessage(channel, command, payload)):
            self.act(self.key.from_guest(report, self.now))
        return list(self.answers)

    def cbor(self, payload):
        return self.send(self.channel, CtapHidCommand.CBOR, payload)

    def verdict(self, *, allow):
        self.answers.clear()
        self.act(self.key.verdict(self.asked[-1].number, self.now, allow=allow))
        return list(self.answers)


def u2f(instruction, first, app=b"a" * 32):
    body = b"c" * 32 + app + b"\x01h"
    return bytes([0, instruction, first, 0, 0]) + len(body).to_bytes(2, "big") + body
