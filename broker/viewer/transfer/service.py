"""``vitrail.OpenURL``, ``vitrail.OpenFile``, ``vitrail.FileCopy``, ``vitrail.Call``.

A program of a sandbox connects; its worker reads the request, and here it is
decided (``Permits.permit``), a target is started where it does not run, and each
worker gets one end of a pipe.  No byte of a file passes through this process, and
no path comes from a sandbox: a file is kept on the viewer by a session child, in a
directory that it names.

A call has no pipe: both workers leave the connections, and the pump gets them
(``calls.calls``).
"""

from __future__ import annotations

import itertools
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Permit, Request, request_of
from broker.core.errors import RefusedError, VitrailError, sole
from broker.core.escape import printable
from broker.core.lease import Lease, Opening
from broker.core.limits import transfer as limits
from broker.core.services import CALL, FILE_COPY, OPEN_FILE, OPEN_URL, SSH_AGENT
from broker.core.transfer.claimed_type import mime_type_of_name
from broker.core.transfer.entries import left_out_text
from broker.core.transfer.file_names import take_file_name
from broker.core.transfer.urls import DEFAULT_SCHEMES, take_url
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import (
    Ask,
    CallService,
    ChooseFiles,
    CopyFiles,
    GiveFiles,
    OfferServices,
    OpenFile,
    OpenUrl,
    PrintPages,
    ReturnFile,
    Take,
)
from broker.viewer.calls.box_calls import offer_services
from broker.viewer.calls.calls import SandboxCalls
from broker.viewer.calls.desktop_services import DesktopServices
from broker.viewer.dialogs import FileDialogs
from broker.viewer.exchange.failures import shareable_failures
from broker.viewer.exchange.guest_connection import Gift, GuestConnection
from broker.viewer.printing import Printing
from broker.viewer.sandboxes.programs import wait_unless_ended
from broker.viewer.transfer.logged import logged_transfer
from broker.viewer.transfer.moving import (
    Mover,
    PermittedTransfer,
    TransferParts,
    TransferRequest,
    refuse_return,
)
from policy.names import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest
    from policy.records.model import Transfer

_CLOSE_SECONDS = 2.0


class OpeningService:
    """All requests of one viewer's sandboxes for files and links."""

    def __init__(
        self,
        parts: TransferParts,
        pump: PumpSupervisor,
        desktop: DesktopServices,
    ) -> None:
        self._decider, self._log = parts.decider, parts.log
        self._targets, self._meter = parts.targets, parts.meter
        self._events = StreamEvents(parts.log)
        self._mover = Mover(parts.targets, parts.log)
        self.calls = SandboxCalls(parts.decider, parts.targets, pump, desktop)
        self._dialogs = FileDialogs(parts)
        self._printing = Printing(parts)
        self._numbers = itertools.count(1)

    async def stream(
        self,
        guest: Guest,
        opening: Opening,
        conn: socket.socket,
        taken: Callable[[], Awaitable[None]],
    ) -> None:
        """Serve one connection of a program of the sandbox, to its end.

        ``taken`` is awaited once the worker has it.  Raises RefusedError when the
        sandbox has too many of them.
        """
        keys = opening.service == SSH_AGENT
        calls = keys or opening.service == CALL
        with guest.transfers.one(guest, opening, call=calls) as exchange:
            async with self._events.carry(opening, "worker") as outcome:
                order = messages.TransferStream(opening.stream, agent=keys)
                await guest.order(order, [conn.fileno()])
                await taken()
                try:
                    await self._serve(exchange, conn)
                finally:
                    with suppress(OSError):
                        conn.shutdown(socket.SHUT_RDWR)
                    closed = exchange.closed
                    if closed is not None:
                        outcome.reason = printable(closed.reason, 2000)
                        outcome.counts = (
                            closed.from_guest + exchange.relayed[0],
                            closed.to_guest + exchange.relayed[1],
                        )

    async def _serve(self, exchange: GuestConnection, conn: socket.socket) -> None:
        """Answer the connection's request, report a failure, and wait for its end."""
        with exchange.scope:
            reason = await self._answered(exchange, conn)
            finish = messages.TransferFinish(exchange.stream, reason)
            await exchange.guest.order(finish)
        with trio.move_on_after(_CLOSE_SECONDS):
            await exchange.wait_closed()

    async def _answered(self, exchange: GuestConnection, conn: socket.socket) -> str:
        """Serve the request; return the reason of a failure, for the program."""
        try:
            # A program that knows an ssh agent alone makes no request.
            service = exchange.opening.service
            keys = service == SSH_AGENT
            ask = CallService(SSH_AGENT) if keys else await exchange.asked()
            match ask:
                case _ if keys or service == CALL:
                    await self._called(exchange, conn, ask)
                case Take():
                    await self._mover.hand_over(exchange, ask.token)
                case GiveFiles():
                    await self._given(exchange, ask)
                case ReturnFile():
                    await self._mover.give_back(exchange, ask)
                case _:
                    await self._decided(exchange, ask)
        except (VitrailError, ExceptionGroup) as error:
            # Of a nursery around the transfer: one failure, in a wrapper.
            found = sole(error)
            if not isinstance(found, VitrailError):
                raise
            return printable(found.message, 900)
        return ""

    async def _called(
        self, exchange: GuestConnection, conn: socket.socket, ask: Ask
    ) -> None:
        """Serve a request on the port of calls.

        For ``CallService`` and ``Take`` the connection itself is passed on, to the pump,
        unless it is for ssh keys; every other request is answered through the worker.
        """
        match ask:
            case CallService():
                await self.calls.call(exchange, ask, conn)
            case Take():
                await self.calls.join(exchange, ask.token, conn)
            case OfferServices():
                await offer_services(exchange)
            case ChooseFiles():
                await self._dialogs.serve(exchange, ask)
            case PrintPages():
                await self._printing.serve(exchange, ask)
            case _:
                raise RefusedError(f"the request is not valid on the port of {CALL}")

    # -- files that were pasted or dropped ----------------------------------------------

    async def give(self, guest: Guest, target: str, files: Sequence[str]) -> str:
        """Copy files of a sandbox to where the user has pasted or dropped them.

        ``files``: their addresses there.  Returns what was left out, as text.  Raises RefusedError where no rule for
        vitrail.FileCopy allows it, or the sandbox does not send them.
        """
        token, gift = secrets.token_hex(16), Gift(target, trio.current_time())
        with guest.transfers.gifts.one(token, gift):
            words = ["vitrail-files", "give", token, *files]
            program = await guest.start_program(words, {}, display=False)
            with trio.move_on_after(limits.TRANSFER_TAKE_SECONDS):
                await wait_unless_ended(program, gift.taken)
            if not gift.taken.is_set():
                raise RefusedError("the sandbox did not send the files")
            await gift.done.wait()
        if gift.reason:
            raise RefusedError(gift.reason)
        return left_out_text(gift.left_out) if gift.left_out else ""

    async def _given(self, exchange: GuestConnection, ask: GiveFiles) -> None:
        """Decide about files that the user has pasted, and copy them."""
        gift = exchange.guest.transfers.gifts.take(ask.token)
        gift.left_out = ask.left_out
        gift.taken.set()
        reason = "it was cut"
        try:
            copy = CopyFiles(ask.name, ask.files, ask.size, gift.target)
            await self._decided(exchange, copy, since=gift.since)
            reason = ""
        except (VitrailError, ExceptionGroup) as error:
            found = sole(error)
            reason = found.message if isinstance(found, VitrailError) else reason
            raise
        finally:
            gift.end(reason)

    # -- requests ---------------------------------------------------------------------

    async def _decided(
        self, exchange: GuestConnection, ask: Ask, *, since: float | None = None
    ) -> None:
        """Decide a request and carry it out; ``since``: when the user acted for it."""
        asked = _asked(exchange.opening, ask)
        record = exchange.guest.valid_record()
        allowed = record.viewer.transfer
        self._meter.take(record.name, asked.size, allowed, trio.current_time())
        if asked.size > (most := min(allowed.request_size, _one_file(ask, allowed))):
            raise RefusedError(
                f"the request is larger than the {most} bytes that the sandbox's record allows"
            )

        request = _request(exchange.opening, ask, asked)
        if since is not None:
            # The chord or the drop is the gesture, not earlier input in its windows.
            request = replace(request, gesture=trio.current_time() - since)
        on_ask = exchange.wait_for_user
        async with self._decider.permit(request, on_ask=on_ask) as permit:
            _refuse_target(permit, exchange.guest.lease, asked)
            if asked.edit:
                refuse_return(permit)
            await self._carried(exchange, asked, permit)

    async def _carried(
        self, exchange: GuestConnection, asked: TransferRequest, permit: Permit
    ) -> None:
        """Carry out a permitted request: open the address, or move the files.

        Records the transfer.
        """
        number, lease = next(self._numbers), exchange.guest.lease
        title = f"{permit.target.removeprefix('@dispvm:')} did not open the request"
        async with logged_transfer(
            *(self._log, permit, number, exchange),
            files=asked.files,
            size=asked.size,
            mime=asked.mime,
            content=asked.what,
        ):
            notify = self._decider.notify
            with shareable_failures(permit.target, notify, lease.sandbox, title):
                if asked.url is not None:
                    exchange.opened_in = await self._targets.open_url(
                        permit.target,
                        asked.url,
                        exchange.wait,
                        autostart=permit.autostart,
                        source=lease,
                        warrant=permit.warrant,
                    )
                else:
                    await self._mover.move(
                        PermittedTransfer(exchange, asked, permit, number)
                    )
                    self._tell_arrival(lease, asked, permit)

    def _tell_arrival(
        self, source: Lease, asked: TransferRequest, permit: Permit
    ) -> None:
        """Notify the user where the files are that a sandbox has sent."""
        if asked.service == FILE_COPY and permit.target in ADMIN_NAMES:
            name = source.sandbox
            self._decider.notify(
                f"{name} sent you files", f"they are in ~/Incoming/{name}", sandbox=name
            )


def _asked(opening: Opening, ask: Ask) -> TransferRequest:
    """Validate a worker's request again, as the worker may be taken over."""
    match ask:
        case OpenUrl() if opening.service == OPEN_URL:
            url = take_url(ask.url, None)
            return TransferRequest(opening.service, url.shown, 0, 0, url=url)
        case OpenFile() if opening.service == OPEN_FILE:
            name = take_file_name(ask.name.encode())
            # The type is claimed by the name, not by the program: one claim less.
            mime = mime_type_of_name(name)
            return TransferRequest(
                opening.service, name, ask.size, 1, mime, name=name, edit=ask.edit
            )
        case CopyFiles() if opening.service == FILE_COPY:
            name = take_file_name(ask.name.encode())
            more = f" and {ask.files - 1} more" if ask.files > 1 else ""
            what = f"{name}{more}"
            return TransferRequest(
                opening.service, what, ask.size, ask.files, name=name
            )
    raise RefusedError(f"the request is not valid on the port of {opening.service}")


def _request(opening: Opening, ask: Ask, asked: TransferRequest) -> Request:
    """Return the permit request for opening or copying."""
    target = ask.target if isinstance(ask, OpenUrl | OpenFile | CopyFiles) else ""
    url = asked.url
    claims = []
    if url is None:
        claims = [("what", asked.what), ("size", f"{asked.size} bytes")]
    if asked.mime:
        claims.append(("type", asked.mime))
    return replace(
        request_of(opening),
        target=target,
        mime=asked.mime or None,
        scheme=url.scheme if url else None,
        host=url.host if url else None,
        size=None if url else asked.size,
        way="edit" if asked.edit else "",
        about=url.shown if url else "",
        claims=tuple(claims),
    )


def _refuse_target(permit: Permit, source: Lease, asked: TransferRequest) -> None:
    """Refuse targets that no rule can permit: the sandbox itself, unnamed schemes.

    Raises RefusedError.
    """
    if permit.target in {source.sandbox, ""}:
        raise RefusedError("a sandbox cannot send its own files and links to itself")
    url = asked.url
    if url is not None and not permit.schemes and url.scheme not in DEFAULT_SCHEMES:
        raise RefusedError(
            f"the scheme {url.scheme} requires a rule with scheme={url.scheme}"
        )
    if permit.target in ADMIN_NAMES and asked.service != FILE_COPY and url is None:
        raise RefusedError("the desktop does not open files of a sandbox")


def _one_file(ask: Ask, allowed: Transfer) -> int:
    return allowed.file_size if isinstance(ask, OpenFile) else allowed.request_size
