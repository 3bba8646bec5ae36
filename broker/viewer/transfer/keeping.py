"""Whether a target sandbox has kept the files that were sent there.

Bytes that have arrived are not kept yet: the program that the broker has started in
the target may find its disk full at the very end.  So its exit code is awaited.
The code is the only information that goes back.  The program's messages are recorded in
its log: passed on to the sender, they would carry data from the target to the
source, which the rule for the other direction does not permit.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from broker.core.errors import VitrailError
from broker.core.limits import transfer as limits
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.sandboxes.programs import LeaseProgram, wait_ended

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

NO_ROOM = 73
"""EX_CANTCREAT of sysexits(3head): ``shims/files`` ends with it for want of room."""


@asynccontextmanager
async def keeping(
    guest: Guest, program: LeaseProgram, delivery: Delivery
) -> AsyncIterator[None]:
    """Move a delivery's bytes in the block; at its end the program has kept them.

    A file that is opened counts as delivered once its bytes have arrived: its
    program runs as long as the user uses it.

    Raises RefusedError when the program fails, or does not end in time; then it is
    killed.
    """
    try:
        yield
    except (VitrailError, ExceptionGroup) as error:
        if delivery.arrived:
            raise
        # A program that ends early breaks its connection first, so the error here
        # is that of the pipe; its code is the cause.
        with trio.move_on_after(limits.TRANSFER_CODE_SECONDS):
            await wait_ended(program)
        if program.code == NO_ROOM:
            raise _refusal(guest, program) from error
        raise
    # guard: done means kept
    if not delivery.open:
        await _kept(guest, program)


async def _kept(guest: Guest, program: LeaseProgram) -> None:
    """Wait until the target's program has stored the files.  Raises ShareableError."""
    # guard: a receiver that does not end
    with trio.move_on_after(limits.TRANSFER_KEEP_SECONDS):
        await wait_ended(program)
    if not program.ended:
        # guard: a receiver that does not end is killed
        await guest.signal(program, signal.SIGKILL)
        raise ShareableError(
            f"{guest.lease.sandbox} did not store the file within "
            f"{limits.TRANSFER_KEEP_SECONDS:g} s"
        )
    if program.code:
        raise _refusal(guest, program)


def _refusal(guest: Guest, program: LeaseProgram) -> ShareableError:
    """Return the reason, in the broker's words."""
    found = "has no disk space" if program.code == NO_ROOM else "did not store the file"
    return ShareableError(
        f"{guest.lease.sandbox} {found}",
        hint=f"to see the output of its program, run 'brokerctl logs {guest.lease.sandbox}'",
    )
