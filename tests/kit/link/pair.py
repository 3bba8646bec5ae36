"""Two ends of a link, deterministic, with everything between them in hand."""

from __future__ import annotations

import random

from broker.cli.link.pairing.protocol import Pairing
from broker.net.link.epoch import Session
from broker.net.link.handshake import Fresh, Handshake, HandshakeState
from broker.net.link.keys import BrokerIdentity, Peers, PinnedPeer
from broker.net.link.wire_types import LinkRefusedError, Role

HOST_ID = BrokerIdentity.from_seed(b"h" * 32)
VIEWER_ID = BrokerIdentity.from_seed(b"v" * 32)
MALLORY_ID = BrokerIdentity.from_seed(b"m" * 32)

KNOWN_TO_VIEWER = Peers((PinnedPeer("desk", Role.HOST, HOST_ID.public),))
KNOWN_TO_HOST = Peers((PinnedPeer("screen", Role.VIEWER, VIEWER_ID.public),))


def handshakes(
    seed: int = 0, *, host_dials: bool = True
) -> tuple[Handshake, Handshake]:
    """An honest dialler and an honest acceptor."""
    rng = random.Random(seed)
    host = Handshake(
        role=Role.HOST,
        dials=host_dials,
        identity=HOST_ID,
        peers=KNOWN_TO_HOST,
        fresh=Fresh.make(rng.randbytes),
    )
    viewer = Handshake(
        role=Role.VIEWER,
        dials=not host_dials,
        identity=VIEWER_ID,
        peers=KNOWN_TO_VIEWER,
        fresh=Fresh.make(rng.randbytes),
    )
    return (host, viewer) if host_dials else (viewer, host)


def pairings(seed: int = 0, *, host_dials: bool = True) -> tuple[Pairing, Pairing]:
    """An honest dialler and an honest acceptor that do not know each other."""
    rng = random.Random(seed)
    host = Pairing(
        role=Role.HOST, dials=host_dials, identity=HOST_ID, random=rng.randbytes
    )
    viewer = Pairing(
        role=Role.VIEWER, dials=not host_dials, identity=VIEWER_ID, random=rng.randbytes
    )
    return (host, viewer) if host_dials else (viewer, host)


def sessions(seed: int = 0, *, host_dials: bool = True) -> tuple[Session, Session]:
    """The host's and the viewer's session of one epoch."""
    dialler, acceptor = handshakes(seed, host_dials=host_dials)
    to_dialler = acceptor.feed(dialler.start())
    to_dialler = acceptor.feed(dialler.feed(to_dialler))
    assert dialler.feed(to_dialler) == b""
    assert dialler.session is not None
    assert acceptor.session is not None
    ends = (dialler.session, acceptor.session)
    return ends if host_dials else (ends[1], ends[0])


class Wire:
    """Carries bytes between two machines; a test can change, cut and hold them.

    ``refused`` keeps each end's refusal; a refusing end's answer is carried
    on and then its connection closed, as the shell does it.
    """

    def __init__(self, dialler: Handshake | Pairing, acceptor: Handshake | Pairing):
        self.ends = (dialler, acceptor)
        self.held = [bytearray(), bytearray()]  # towards dialler, acceptor
        self.closed = [False, False]  # whether the way towards it is closed
        self.refused: list[LinkRefusedError | None] = [None, None]
        self.held[1] += dialler.start()

    def over(self, end: int) -> bool:
        machine = self.ends[end]
        return isinstance(machine, Handshake) and machine.session is not None

    def call(self, end: int, action) -> None:
        try:
            self.held[1 - end] += action()
        except LinkRefusedError as error:
            self.refused[end] = error
            self.held[1 - end] += error.answer
            self.closed[1 - end] = True

    def deliver(self, end: int, size: int) -> None:
        """Give at most ``size`` of the waiting bytes to an end, or its eof."""
        machine = self.ends[end]
        if self.refused[end] is not None or self.over(end):
            self.held[end].clear()
            return
        data = bytes(self.held[end][:size])
        del self.held[end][:size]
        if data:
            self.call(end, lambda: machine.feed(data))
        elif self.closed[end]:
            self.call(end, lambda: machine.eof() or b"")

    def run(self, size: int = 10**6) -> None:
        """Deliver until nothing moves."""
        for _ in range(10_000):
            if not any(
                self.held[end] or (self.closed[end] and self._waits(end))
                for end in (0, 1)
            ):
                return
            for end in (0, 1):
                self.deliver(end, size)
        raise AssertionError("the wire never came to rest")

    def _waits(self, end: int) -> bool:
        return (
            self.refused[end] is None and not self.over(end) and not self.is_paired(end)
        )

    def is_paired(self, end: int) -> bool:
        machine = self.ends[end]
        return isinstance(machine, Pairing) and machine.peer_key is not None

    def close(self) -> None:
        """The connection is lost."""
        self.closed = [True, True]
        self.run()


def must_not_hang(wire: Wire) -> None:
    """After the connection's end every end has a session or a refusal."""
    wire.close()
    for end in (0, 1):
        done = wire.over(end) or wire.is_paired(end)
        assert done or wire.refused[end] is not None
        machine = wire.ends[end]
        if isinstance(machine, Handshake) and not done:
            assert machine.state is HandshakeState.REFUSED
