"""Making an answer fit into one message of the control socket.

A host full of sandboxes with all their streams or windows open has more to report
than ``limits.CONTROL_MESSAGE_BYTES``; that must cost the quietest streams' lines, not the
answer.

The host and the viewer shorten their answers by this.
"""

from __future__ import annotations

import msgspec

from broker.core import limits
from broker.ipc.control.types.status import Status

AROUND = 1024
"""Of a message that is not the answer: the reply's own words."""


def fit_status(
    status: Status, limit: int = limits.CONTROL_MESSAGE_BYTES - AROUND
) -> Status:
    """Return the status in at most ``limit`` bytes of JSON.

    Streams that have moved least are left out and counted; if that is not
    enough, warnings and problems go, the later ones first.
    """
    encode = msgspec.json.Encoder().encode
    if len(encode(status)) <= limit:
        return status
    busiest = sorted(
        status.streams, key=lambda s: -(s.bytes_from_sandbox + s.bytes_to_sandbox)
    )
    bare = msgspec.structs.replace(
        status, streams=[], streams_omitted=len(status.streams)
    )
    while (bare.warnings or bare.policy.problems) and len(encode(bare)) > limit:
        policy = bare.policy
        problems = policy.problems[: len(policy.problems) // 2]
        bare = msgspec.structs.replace(
            bare,
            warnings=bare.warnings[: len(bare.warnings) // 2],
            policy=msgspec.structs.replace(policy, problems=problems),
        )
    room = limit - len(encode(bare))
    kept: set[int] = set()
    for stream in busiest:
        room -= len(encode(stream)) + 1
        if room < 0:
            break
        kept.add(stream.stream)
    return msgspec.structs.replace(
        bare,
        streams=[stream for stream in status.streams if stream.stream in kept],
        streams_omitted=len(status.streams) - len(kept),
    )
