"""Where something is opened or kept: another sandbox, a disposable, the viewer.

A target sandbox that does not run is started by its launcher.  In it, a program of
the guest's agent opens the address, or fetches the files by a token that works once.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Permit
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.limits import transfer as limits
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.services import FILE_COPY
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import Url
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.exchange.pipes import PipeEnd
from broker.viewer.exchange.returns import Return
from broker.viewer.sandboxes.launch_steps import Step, agentless_seconds
from broker.viewer.sandboxes.programs import (
    FILES_PROGRAM,
    LeaseProgram,
    wait_unless_ended,
)
from broker.viewer.transfer.keeping import keeping
from broker.viewer.transfer.origins import Origins
from broker.viewer.transfer.own import Own
from policy.names import ADMIN_NAMES
from policy.records.model import Record, boots

if TYPE_CHECKING:
    from broker.host_and_viewer.host_folders import Host
    from broker.viewer.role import ViewerRole
    from broker.viewer.sandboxes.guest import Guest

Wait = Callable[[str], Awaitable[None]]
_DISPOSABLE = "@dispvm:"
_BEFORE = frozenset({Step.MACHINE, Step.AGENT, Step.PROGRAM})
_UNSEEN = _BEFORE | {Step.STREAM}
_SHOW_SECONDS = 30.0
"""For the first connection to the display, which an emulated machine takes long for.

A program without windows has none, and is taken to be well after that time.
"""


@dataclass(frozen=True)
class Receiver:
    """The sandbox, and the program in it that has fetched a delivery."""

    sandbox: str
    program: LeaseProgram


class Targets:
    """Finds and starts the sandboxes in which something is opened or kept."""

    def __init__(self, viewer: ViewerRole, own: Own, host: Host) -> None:
        self._viewer = viewer
        self._own = own
        self._host = host
        self._places = CallPlaces()
        self._origins = Origins(lambda: [guest.lease.id for guest in viewer.guests()])

    @contextmanager
    def delivery(
        self, source: str, pipe: PipeEnd, quota: Quota, *, opened: bool
    ) -> Iterator[Delivery]:
        """Offer the entries in a pipe to a program of the target while the block runs.

        Takes the pipe over, and closes it at the end.
        """
        sent = Delivery(source, opened, quota, pipe.detach())
        try:
            yield sent
        finally:
            # Also where the target could not be started, so that nothing fetched it.
            sent.end("the transfer was cancelled")

    async def open_url(
        self,
        target: str,
        url: Url,
        wait: Wait,
        *,
        source: Lease | None,
        warrant: bytes,
        autostart: bool = True,
    ) -> str:
        """Open an address at the target; return its name once a program has started.

        ``source``: the sandbox that asked.  None: the user, who is answered after a
        sign of it; a sandbox does not learn how another's program ended.
        ``warrant``: of the permit, or of the user's call.
        """
        if target in ADMIN_NAMES:
            await self._own.open_url(url, warrant, called=source is None)
            return target
        async with self.guest(target, wait, source, autostart=autostart) as it:
            words = [FILES_PROGRAM, "open-here", url.canonical, *_command(it)]
            program = await it.start_program(words, {}, display=True)
            self._tell_failure(it, program, source)
            await _started(it, program, source)
            if source is None:
                await shown(it.lease.sandbox, program)
            return it.lease.sandbox

    @asynccontextmanager
    async def receiving(
        self,
        permit: Permit,
        delivery: Delivery,
        wait: Wait,
        way: Return | None = None,
        *,
        source: Lease,
    ) -> AsyncIterator[Receiver | None]:
        """Have the target fetch a delivery; run the block once a process reads it.

        Yields None where that is a process of the user's.
        """
        if permit.target in ADMIN_NAMES:
            async with self._own.storing(delivery, permit.warrant):
                yield None
            return
        async with self.receiving_in(
            permit.target,
            delivery,
            wait,
            way,
            source=source,
            autostart=permit.autostart,
        ) as receiver:
            yield receiver

    @asynccontextmanager
    async def receiving_in(
        self,
        target: str,
        delivery: Delivery,
        wait: Wait,
        way: Return | None = None,
        *,
        source: Lease | None = None,
        autostart: bool = True,
    ) -> AsyncIterator[Receiver]:
        """Have a sandbox fetch a delivery, and store it where it is not opened.

        ``way``: by which its program may return the file while the block runs.
        ``source``: the sandbox that sends it; None: the user.
        """
        async with (
            self.guest(target, wait, source, autostart=autostart) as guest,
            AsyncExitStack() as stack,
        ):
            if source is not None:
                # guard: a slow sender leaves room for other senders
                place = (guest.lease.id, FILE_COPY, limits.DELIVERIES_PER_SANDBOX)
                stack.enter_context(self._places.one(*place, source.record))
            if way is not None:
                stack.enter_context(guest.transfers.returns.one(way.token, way))
            token = secrets.token_hex(16)
            with guest.transfers.deliveries.one(token, delivery):
                words = [FILES_PROGRAM, "receive", token]
                if delivery.open:
                    words += _command(guest)
                program = await guest.start_program(words, {}, display=delivery.open)
                if delivery.open:
                    self._tell_failure(guest, program, source)
                await _taken(guest, program, delivery, source)
                async with keeping(guest, program, delivery):
                    yield Receiver(guest.lease.sandbox, program)

    @asynccontextmanager
    async def guest(
        self, target: str, wait: Wait, source: Lease | None, *, autostart: bool
    ) -> AsyncIterator[Guest]:
        """Yield the target's guest, started if needed.

        Stop it again after a failure.
        """
        lease, started = await self._lease(target, wait, source, autostart=autostart)
        guest = self._viewer.guest(lease.id)
        if guest is None:
            raise UpstreamError(
                f"{lease.sandbox} ended while it was starting",
                hint="to see the reason, run 'brokerctl audit'",
            )
        # Not to a sandbox that asks: it would learn what the target lacks.
        if source is None and guest.without_agent:
            await wait(guest.without_agent)
        try:
            yield guest
        except BaseException:
            if started and not guest.programs.live() and _is_disposable(guest):
                # guard: a machine that was started for nothing counts for a minute
                self._origins.ends_unused(lease.id)
                with trio.CancelScope(shield=True):
                    await self._viewer.power_off(
                        lease.id, reason="no program used it", grace=1.0
                    )
            raise

    def _tell_failure(
        self, guest: Guest, program: LeaseProgram, source: Lease | None
    ) -> None:
        """Notify the user where the program of a sandbox's request shows nothing.

        The sandbox that asked does not learn of it: it would learn of the target.
        """
        if source is None:
            return
        name = guest.lease.sandbox

        def failed(code: int) -> None:
            self._viewer.authority.notify(
                f"{name} did not open the file or address",
                f"its program ended with code {code}; to see its output, run 'brokerctl logs "
                f"{name}', and check that the sandbox's image contains the program",
                sandbox=source.sandbox,
            )

        program.on_failure = failed

    async def _lease(
        self, target: str, wait: Wait, source: Lease | None, *, autostart: bool
    ) -> tuple[Lease, bool]:
        """Return the lease of a target, and whether it was started for this."""
        name = take_sandbox_name(target.removeprefix(_DISPOSABLE))
        if not target.startswith(_DISPOSABLE):
            for guest in self._viewer.guests():
                if guest.lease.sandbox == name:
                    return guest.lease, False
        if not autostart:
            raise ShareableError(
                f"{name} is not running, and the rule sets autostart=no"
            )
        if source is None:
            self._refuse_held(SandboxName(name))
            await wait(f"starting {name}")
            return await self._host.start(SandboxName(name), progress=_ignored), True
        with self._origins.starting(source) as started:
            await wait(f"starting {name}")
            lease = await self._host.start(
                SandboxName(name), progress=_ignored, for_sandbox=True
            )
            started(lease)
        return lease, True

    def _refuse_held(self, name: SandboxName) -> None:
        """Raise RefusedError for a box or container, which no file or address starts."""
        record = self._viewer.record(name)
        if record is not None and record.host.launch.kind.holds:
            raise RefusedError(
                f"'{name}' is a box or container, which does not start for a file or an address",
                hint=f"start its program by 'brokerctl run {name} -- PROGRAM ADDRESS'; for a file, share its directory first ('brokerctl share {name} DIRECTORY'), or write a rule whose target is a micro VM",
            )


def _ignored(detail: str) -> None:
    """Details of a start; the user sees that it is being started."""


def _is_disposable(guest: Guest) -> bool:
    return guest.lease.sandbox != guest.lease.record


def _command(guest: Guest) -> Sequence[str]:
    """The record's own program, where nothing in the guest is registered."""
    record: Record = guest.valid_record()
    launch = record.host.launch
    return list(launch.command) if boots(launch) else []


def _deadline(guest: Guest) -> float:
    launch = guest.valid_record().host.launch
    return float(launch.boot_deadline) if boots(launch) else 0.0


async def _started(guest: Guest, program: LeaseProgram, source: Lease | None) -> None:
    """Wait until the guest has executed the program, which ``source`` asked for."""
    deadline = _deadline(guest) + limits.TRANSFER_TAKE_SECONDS
    agentless = guest.without_agent if source is None else ""
    if agentless:
        deadline = agentless_seconds(guest.since)
    with trio.move_on_after(deadline) as patience:
        while not program.ended and program.way.next in _BEFORE:
            if program.way.failure is not None:
                raise UpstreamError(program.way.failure.reason)
            await program.changed.wait()
    if patience.cancelled_caught:
        if agentless:
            raise UpstreamError(agentless)
        raise ShareableError(f"no program started in {guest.lease.sandbox}")
    if program.ended and program.code:
        raise ShareableError(
            f"{guest.lease.sandbox} could not start its program for the request",
            hint=f"to see the output of its program, run 'brokerctl logs {guest.lease.sandbox}'",
        )


async def shown(sandbox: str, program: LeaseProgram) -> None:
    """Wait until the program shows something, or has ended well, or for some seconds.

    Raises RefusedError where it ends with an error before: nothing was opened.
    """
    with trio.move_on_after(_SHOW_SECONDS):
        while not program.ended and program.way.next in _UNSEEN:
            await program.changed.wait()
    if program.ended and program.code:
        raise RefusedError(
            f"{sandbox} did not open the file or address: its program ended with code "
            f"{program.code}",
            hint=f"to see the program's output, run 'brokerctl logs {sandbox}'; check that the sandbox's "
            "image contains the program",
        )


async def _taken(
    guest: Guest, program: LeaseProgram, delivery: Delivery, source: Lease | None
) -> None:
    """Wait until the program in the guest has asked for its files."""
    await _started(guest, program, source)
    with trio.move_on_after(limits.TRANSFER_TAKE_SECONDS):
        await wait_unless_ended(program, delivery.taken)
    if not delivery.taken.is_set():
        raise ShareableError(
            f"no program in {guest.lease.sandbox} fetched the files",
            hint=f"to see the output of its program, run 'brokerctl logs {guest.lease.sandbox}'",
        )
