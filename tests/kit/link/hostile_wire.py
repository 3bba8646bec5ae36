"""An attacker on the wire between two ends of a link, as a state machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.kit.link.pair import Wire, must_not_hang


class HostileWire(RuleBasedStateMachine):
    """The wire cuts, holds, changes, drops, repeats and closes."""

    ends: ClassVar[Callable[..., tuple[Any, Any]]]
    """Returns a dialler and an acceptor: ``pair.handshakes`` or ``pair.pairings``."""

    def __init__(self):
        super().__init__()
        self.wire = None
        self.touched = False
        self.seen = [b"", b""]  # all that was ever under way towards each end

    @precondition(lambda self: self.wire is None)
    @rule(seed=st.integers(0, 50), host_dials=st.booleans())
    def begin(self, seed, host_dials):
        self.wire = Wire(*self.ends(seed, host_dials=host_dials))
        self.remember()

    def remember(self):
        for end in (0, 1):
            self.seen[end] += bytes(self.wire.held[end])

    @precondition(lambda self: self.wire)
    @rule(end=st.integers(0, 1), size=st.integers(1, 200))
    def deliver(self, end, size):
        self.wire.deliver(end, size)
        self.remember()

    @precondition(lambda self: self.wire and any(self.wire.held))
    @rule(data=st.data(), flip=st.integers(1, 255))
    def change(self, data, flip):
        end = data.draw(st.sampled_from([e for e in (0, 1) if self.wire.held[e]]))
        at = data.draw(st.integers(0, len(self.wire.held[end]) - 1))
        self.wire.held[end][at] ^= flip
        self.touched = True

    @precondition(lambda self: self.wire and any(self.wire.held))
    @rule(end=st.integers(0, 1), size=st.integers(1, 50))
    def drop(self, end, size):
        if self.wire.held[end]:
            del self.wire.held[end][:size]
            self.touched = True

    @precondition(lambda self: self.wire)
    @rule(end=st.integers(0, 1), source=st.integers(0, 1), data=st.data())
    def inject(self, end, source, data):
        """Bytes seen before, of either direction: replay and reflection."""
        if not self.seen[source]:
            return
        at = data.draw(st.integers(0, len(self.seen[source]) - 1))
        self.wire.held[end] += self.seen[source][at : at + 200]
        self.touched = True

    def teardown(self):
        if self.wire is not None:
            must_not_hang(self.wire)
