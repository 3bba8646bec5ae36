"""What the frame filters and a decision cost, as a table and as JSON.

``python -m tests.bench.network.filter``: frames of 1,500 bytes through the filter of
``network = "user"`` and the flow filter of ``network = "rules"``, interleaved, each way,
a small frame there and another one back through the process of each, between socket
pairs, and a decision of the engine by 1,000 rules with names.  The median of the
repetitions.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time

from broker.core.streams import network_flows as m
from broker.host.network.flowguard.flow_filter import FlowFilter
from broker.host.network.flowguard.rules import FlowGuard
from broker.host.network.frameguard.ethernet_frames import FrameFilter
from broker.host.network.frameguard.frameguard import Addresses
from broker.host.network.frameguard.veth import LENGTH, PacketGuard
from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from tests.broker.host.network.test_flow_filter import (
    ACK,
    GUEST,
    RESOLVER,
    back,
    tcp,
)

_FRAMES, _REPETITIONS, _NAMES, _TRIPS = 20_000, 7, 1000, 2000
_DATA = bytes(1446)


def _user(frame: bytes) -> float:
    one = FrameFilter()
    began = time.perf_counter()
    for _ in range(_FRAMES):
        one.may_pass(frame)
    return (time.perf_counter() - began) / _FRAMES


def _rules(frame: bytes, *, inward: bool) -> float:
    user = FrameFilter()
    one = FlowFilter(GUEST, RESOLVER, lambda f: not user.may_pass(f))
    one.outward(tcp(), 1.0)
    one.decided(m.FlowAnswer(1, allowed=True), 1.0)
    take = one.inward if inward else one.outward
    queue = one.to_guest if inward else one.to_passt
    began = time.perf_counter()
    for _ in range(_FRAMES):
        take(frame, 1.0)
        queue.clear()
    return (time.perf_counter() - began) / _FRAMES


def _trip(*, decided: bool) -> float:
    """Return the seconds of a round trip; the process ends with the box's end."""
    frames, stream = socket.SOCK_SEQPACKET, socket.SOCK_STREAM
    kinds = (frames, stream, stream, socket.SOCK_DGRAM, frames, frames)
    pairs = [socket.socketpair(type=kind) for kind in kinds]
    packets, passt, viewer, names, streams, servers = (pair[0] for pair in pairs)
    box, far, asked, _, _, _ = ends = [pair[1] for pair in pairs]
    child = os.fork()
    if not child:
        for end in ends:
            end.close()
        if decided:
            more = {"viewer": viewer, "resolvers": [names]}
            more |= {"streams": streams, "servers": servers}
            guard: PacketGuard = FlowGuard(packets, passt, Addresses(), **more)
        else:
            guard = PacketGuard(packets, passt, Addresses())
        guard.run()
        os._exit(0)
    for pair in pairs:
        pair[0].close()
    if decided:
        box.send(tcp())
        asked.recv(1000)
        asked.send(m.encode(m.FlowAnswer(1, allowed=True)))
        far.recv(1000)
    out, come = tcp(ACK, b"x", 1001, 1), back(ACK, b"x")
    come = LENGTH.pack(len(come)) + come
    took = []
    for _ in range(_TRIPS):
        began = time.perf_counter()
        box.send(out)
        far.recv(1000)
        far.send(come)
        box.recv(1000)
        took.append(time.perf_counter() - began)
    for end in ends:
        end.close()
    os.waitpid(child, 0)
    return statistics.median(took)


def _decision() -> float:
    text = "".join(
        f"vitrail.Network +h{n}.example.org work @net allow port=443\n"
        for n in range(_NAMES)
    )
    engine = Engine(rules_of_map({"a.policy": text}))
    world = World({"dom0": Domain("dom0"), "work": Domain("work")})
    call = PolicyCall("vitrail.Network", "+h999.example.org", "work", "@net")
    call = call._replace(protocol="tcp", port=443)
    assert engine.answer(call, world).verdict == "allow"
    began = time.perf_counter()
    for _ in range(_NAMES):
        engine.answer(call, world)
    return (time.perf_counter() - began) / _NAMES


def main() -> None:
    """Print the figures, in microseconds."""
    data, answer = tcp(ACK, _DATA, 1001, 1), back(ACK, _DATA)
    found: dict[str, list[float]] = {}
    for _ in range(_REPETITIONS):
        for name, took in (
            ("user, a frame out", _user(data)),
            ("rules, a frame out", _rules(data, inward=False)),
            ("rules, a frame in", _rules(answer, inward=True)),
            ("user, a round trip", _trip(decided=False)),
            ("rules, a round trip", _trip(decided=True)),
            (f"a decision by {_NAMES} rules", _decision()),
        ):
            found.setdefault(name, []).append(took * 1e6)
    for name, values in found.items():
        print(f"{name:28} {statistics.median(values):8.2f} us")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
