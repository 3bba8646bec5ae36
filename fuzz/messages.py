"""Fuzz target: messages of a guest's agent and of a sandbox's worker.

Invariant: whatever bytes arrive, a decoder returns a message of its types, whose
encoding decodes to the same message and is within its limit, or raises PeerError;
no other exception.  The first byte of an input picks the decoder, the rest is the message.

    python -m fuzz.messages [--seconds N] [--seed N] [CORPUS_DIR]

prints executions, how many were messages (*deep*), and branch coverage with 'coverage'.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Admission, Meter

_METER = Meter(
    __name__, "broker/ipc/agent.py", "broker/ipc/worker.py", "broker/core/framing.py"
)

with _METER.imports("broker.ipc"):
    from broker.core import framing
    from broker.ipc import agent, worker

from broker.core import limits  # noqa: E402
from broker.core.errors import PeerError  # noqa: E402


def door_agent(data: bytes) -> str:
    """Frames of a guest, in two pieces, as the worker reads them."""
    reader = framing.FrameReader(limits.AGENT_FRAME_BYTES)
    kinds = []
    half = len(data) // 2
    try:
        for piece in (data[:half], data[half:]):
            for body in reader.feed(piece):
                message = agent.decode_from_guest(body)
                assert agent.decode_from_guest(agent.encode(message)) == message
                kinds.append(type(message).__name__)
    except PeerError as error:
        return _words(error)
    return f"deep {' '.join(kinds[:3])}" if kinds else "waits"


def door_worker(data: bytes) -> str:
    """A packet of a worker that was taken over, as the broker reads it."""
    try:
        message = worker.decode_from_worker(data)
    except PeerError as error:
        return _words(error)
    assert worker.decode_from_worker(worker.encode(message)) == message
    return f"deep {type(message).__name__}"


def _words(error: PeerError) -> str:
    """An error's kind: its text without parts of the input."""
    text = str(error).split("`")[0].split("'")[0]
    return re.sub(r"\d+", "N", text)[:50]


DOORS: list[Callable[[bytes], str]] = [door_agent, door_worker]


def seeds() -> list[bytes]:
    """A message of each kind that is easily made."""
    said: list[agent.FromGuest] = [
        agent.AgentHello(4, "0.8.4", "6.1", [1, 2]),
        agent.AgentStarted(1),
        agent.AgentFailed(1, "no such file"),
        agent.Output(1, b"hello", stderr=True),
        agent.AgentExited(1, -9),
        agent.Taken(1, 20),
        agent.AgentStep("waypipe", ok=True, detail="it runs"),
    ]
    told: list[worker.FromWorker] = [
        *(worker.FromAgent(1, message) for message in said),
        worker.WindowMapped(),
        worker.UserInput(0.5),
        worker.Broken("why"),
    ]
    return [
        *(b"\0" + _framed(message) for message in said),
        *(b"\1" + worker.encode(message) for message in told),
    ]


def _framed(message: agent.FromGuest) -> bytes:
    return framing.encode_frame(agent.encode(message), limits.AGENT_FRAME_BYTES)


def mutate(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """A few small changes; the door's number is kept."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randint(1, len(out))
        choice = rng.randrange(6)
        if choice == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif choice == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            start = rng.randrange(1, len(out) + 1)
            out[at:at] = out[start : start + rng.randrange(1, 65)]
        elif choice == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            out[at:] = other[start:]
        else:
            out[at : at + 1] = bytes(
                [rng.choice((0, 1, 127, 128, 192, 222, 255, *b'019"\\,:-e'))]
            )
    if not out[0] & 1 and len(out) > 5 and rng.random() < 0.8:
        # A length that is true again, so that what follows is read.
        out[1:5] = (len(out) - 5).to_bytes(4, "little")
    return bytes(out[: 1 << 16]) or b"\0"


TARGET = Admission("messages", DOORS, seeds, mutate, 1 << 16)
run_one, fuzz = TARGET.run_one, TARGET.fuzz

if __name__ == "__main__":
    TARGET.main(__doc__, _METER)
