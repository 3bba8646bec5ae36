"""Play faults by name: ``python -m tests.kit.faults broker-recvmsg-13-ENOMEM …``."""

from __future__ import annotations

import sys

import trio

from tests.kit.faults.first_light import first_light
from tests.kit.faults.plan import Fault


async def play(names: list[str]) -> None:
    """Play each in one broker, which prints what ended and should not have."""
    async with first_light() as light:
        for name in names:
            role, call, nth, error = name.rsplit("-", 3)
            await light.problems(Fault(role, call, int(nth), error))


if __name__ == "__main__":
    trio.run(play, sys.argv[1:])
