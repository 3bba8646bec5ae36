"""The bytes of one request: pipes between workers, and the way back of edited files.

Each worker gets one end of a pipe; no byte of a file passes through this process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Permit
from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.services import OPEN_FILE
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import Url
from broker.ipc import transfer as messages
from broker.ipc.audit import schema
from broker.ipc.guest.file_requests import ReturnFile
from broker.viewer.authority.interface import Permits
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import Delivery, GuestConnection
from broker.viewer.exchange.pipes import PipeEnd, pipe
from broker.viewer.exchange.returns import Return
from broker.viewer.transfer.meter import DayMeter
from broker.viewer.transfer.own import Own
from broker.viewer.transfer.targets import Receiver, Targets


@dataclass(frozen=True)
class TransferParts:
    """What all services of one viewer's files and links work with."""

    decider: Permits
    log: event_log.EventLog
    targets: Targets
    own: Own
    writable: Callable[[], Iterable[Path]]
    """Directories in which a sandbox may have made links."""
    meter: DayMeter = field(default_factory=DayMeter)


@dataclass(frozen=True)
class TransferRequest:
    """A request, in the broker's terms; sizes in bytes."""

    service: str
    what: str
    size: int
    files: int
    mime: str = ""
    url: Url | None = None
    name: str = ""
    """Of the first file."""
    edit: bool = False


@dataclass(frozen=True)
class PermittedTransfer:
    """A permitted request: its connection, the rule, its number."""

    exchange: GuestConnection
    asked: TransferRequest
    permit: Permit
    number: int


def refuse_return(permit: Permit) -> None:
    """Raise RefusedError where the rule that is in force lets nothing come back."""
    # guard: only a rule brings a file back
    if not permit.returns:
        raise ShareableError(
            f"{permit.where} does not allow the file to be returned",
            hint="add return=yes to the rule",
        )


def new_return(quota: Quota) -> Return:
    """A way back, whose token nothing else knows."""
    return Return(secrets.token_hex(16), quota)


class Mover:
    """Moves files from one sandbox to another, or to the user."""

    def __init__(self, targets: Targets, log: event_log.EventLog) -> None:
        self._targets = targets
        self._log = log

    async def move(self, transfer: PermittedTransfer) -> None:
        """Carry a request's files from the sandbox's worker to the target, and back.

        Raises RefusedError where they are broken off.
        """
        asked, quota = transfer.asked, _quota(transfer)
        # An edited file may grow, as far as any file may be sent.
        way = new_return(_most(transfer)) if asked.edit else None
        source, wait = transfer.exchange.guest.lease, transfer.exchange.wait
        sending = self._targets.delivery
        with (
            pipe() as (read, write),
            sending(source.sandbox, read, quota, opened=quota.single) as sent,
        ):
            sent.size = asked.size
            sent.back = way.token if way is not None else ""
            receiving = self._targets.receiving(
                transfer.permit, sent, wait, way, source=source
            )
            async with receiving as receiver:
                transfer.exchange.opened_in = (
                    receiver.sandbox if receiver is not None else transfer.permit.target
                )
                await self._send(transfer, quota, write, sent)
                if way is not None and receiver is not None:
                    await wait(f"{receiver.sandbox} edits it")
                    await self._come_back(transfer, way, receiver)

    async def _send(
        self,
        transfer: PermittedTransfer,
        quota: Quota,
        write: PipeEnd,
        delivery: Delivery,
    ) -> None:
        """Have the source's worker send the entries; wait until the target has them.

        Raises ShareableError, RefusedError.
        """
        order = messages.TransferSend(transfer.exchange.stream, quota)
        if reason := await transfer.exchange.moved(order, write):
            raise ShareableError(reason)  # of its worker
        # All of it has left the sender; what a pipe holds is read in far less time.
        # guard: a process that keeps files and does not end
        with trio.move_on_after(limits.TRANSFER_KEEP_SECONDS):
            await delivery.done.wait()
        if not delivery.done.is_set():
            raise ShareableError(
                f"the target did not store the file within {limits.TRANSFER_KEEP_SECONDS:g} s"
            )
        if delivery.reason:
            raise RefusedError(delivery.reason)

    async def _come_back(
        self, transfer: PermittedTransfer, way: Return, receiver: Receiver
    ) -> None:
        """Wait for the end of the editor; give the program the edited file, if any.

        Both workers move it by the viewer's orders; the return is recorded in the audit
        log.
        """
        before = transfer.exchange.sha256
        if not await way.wait_asked(receiver.program):
            return
        refuse_return(transfer.permit)  # the rules may have changed since
        transfer.exchange.pass_again()
        with pipe() as (read, write):
            way.accept(write)
            order = messages.TransferDeliver(
                stream=transfer.exchange.stream,
                source=receiver.sandbox,
                open=False,
                quota=replace(way.quota, files=1),
            )
            reason = await transfer.exchange.moved(order, read)
            await way.wait_done()
            if reason:
                raise ShareableError(reason)
        await self._log.note(
            schema.TransferReturned(
                **event_log.of(transfer.exchange.guest.lease),
                transfer=transfer.number,
                target=receiver.sandbox,
                before=self._log.digest(before),
                after=self._log.digest(way.sha256),
                bytes=way.size,
            )
        )

    async def hand_over(self, exchange: GuestConnection, untrusted_token: str) -> None:
        """Have the target's worker hand the files to the program started for them."""
        delivery = exchange.guest.transfers.deliveries.take(untrusted_token)
        delivery.taken.set()
        exchange.delivery = delivery
        reason = "the receiver cancelled the transfer"
        try:
            order = messages.TransferDeliver(
                stream=exchange.stream,
                source=delivery.source,
                open=delivery.open,
                quota=delivery.quota,
                announced=delivery.size,
                back=delivery.back,
            )
            await exchange.guest.order(order, [delivery.pipe])
            delivery.close_pipe()
            # The sender's worker may keep its end of the pipe, and go on.
            # guard: a delivery ends at its target with its permission
            with delivery.moving:
                reason = await exchange.passed()
        finally:
            delivery.end(reason)
        if delivery.moving.cancelled_caught:
            raise ShareableError(delivery.reason)

    async def give_back(self, exchange: GuestConnection, ask: ReturnFile) -> None:
        """Take an edited file from the target, for the sandbox or user that sent it."""
        way = exchange.guest.transfers.returns.take(ask.token)
        reason = "the editing sandbox cancelled the transfer"
        try:
            end = await way.wait_open(ask.size)
            # guard: no more comes back than was announced
            most = min(way.quota.file_size, ask.size)
            quota = Quota(most, most, 1, single=True, name=way.quota.name)
            order = messages.TransferSend(exchange.stream, quota)
            reason = await exchange.moved(order, end)
            way.sha256, way.size = exchange.sha256, exchange.size
        finally:
            way.end(reason)


def _quota(transfer: PermittedTransfer) -> Quota:
    """Return what may pass: no more than was asked about, and under its name.

    A user and a rule see the name, type and size of the request; entries that
    differ from it would be decided about without having been seen.
    """
    most, asked = _most(transfer), transfer.asked
    # guard: no more than was asked about
    size = min(most.size, asked.size)
    files = min(most.files, asked.files)
    return Quota(min(most.file_size, size), size, files, most.single, asked.name)


def _most(transfer: PermittedTransfer) -> Quota:
    """Return the largest transfer that the record and the rule allow."""
    allowed = transfer.exchange.guest.valid_record().viewer.transfer
    size = min(allowed.request_size, transfer.permit.max_size or allowed.request_size)
    single, name = transfer.asked.service == OPEN_FILE, transfer.asked.name
    most = min(allowed.file_size, size)
    return Quota(most, size, allowed.request_files, single, name)
