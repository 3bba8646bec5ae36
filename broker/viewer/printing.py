"""``vitrail.Print``: pages of a sandbox on a printer of the user's desktop.

The sandbox draws its document, and sends the pixels of the pages.  A process of our own
makes a PDF file of them, in a jail, which lp(1) gives to CUPS.  A question shows the
first page in its own frame, before an answer nothing else does, and no program of the desktop
reads what a sandbox has written.  The rule chooses the printer, or the desktop.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Permit, Request, request_of
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.core.question import NO_PAGE_IMAGE
from broker.core.services import PRINT
from broker.core.transfer.file_names import suggested_name
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.ipc.authority import Preview
from broker.ipc.guest.file_requests import PrintPages
from broker.ipc.session.file_orders import KeptPages
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.failures import DESKTOP, ShareableError, shareable_failures
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.exchange.pipes import PipeEnd, pipe
from broker.viewer.transfer.logged import FirstTransfer, logged_transfer
from broker.viewer.transfer.meter import DayMeter, Declined
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import ToolResult
from policy.names import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

PAGES_PER_DAY = 500
"""Of one record: bytes say nothing about paper, and an empty page is 14 of them."""
DOCUMENTS = 4
"""That are received or asked about at one time."""


@dataclass(frozen=True)
class _Document:
    """Pages that were received."""

    exchange: GuestConnection
    name: str
    kept: KeptPages
    printer: str

    @property
    def words(self) -> str:
        """What the user reads."""
        pages = self.kept.pages
        return f"{pages} page{'s' * (pages != 1)} on {self.printer}"


class Printing:
    """Prints for all sandboxes of one viewer."""

    def __init__(self, parts: TransferParts) -> None:
        self._decider, self._log = parts.decider, parts.log
        self._own, self._meter = parts.own, parts.meter
        self._places = CallPlaces()
        self._declined = Declined("documents were refused")
        self._pages = DayMeter()
        self._files = itertools.count(1)
        self._numbers = itertools.count(FirstTransfer.PRINT.value)

    async def serve(self, exchange: GuestConnection, ask: PrintPages) -> None:
        """Serve one print request to its end.  Raises VitrailError."""
        request = _request(exchange.opening, ask.size)
        (answer,) = await self._decider.preview([request])
        if answer is None or answer.verdict == "deny":
            if not ask.size:
                raise RefusedError(
                    "no rule for vitrail.Print allows the sandbox to print"
                )
            async with self._decider.permit(request):
                raise ShareableError("the rules have changed")
        if not ask.size:
            return
        lease, now = exchange.guest.lease, trio.current_time()
        allowed = exchange.guest.valid_record().viewer.transfer
        # guard: a sandbox whose documents are declined has few more questions
        self._declined.require_few(lease.record)
        # guard: the record limits a document's size
        if ask.size > min(allowed.file_size, allowed.request_size):
            most = min(allowed.file_size, allowed.request_size)
            raise ShareableError(
                f"the document is larger than the {most} bytes that the sandbox's record allows"
            )
        # guard: a sandbox prints one document at a time
        with (
            self._places.one(lease.record, PRINT, 2, lease.sandbox),
            self._places.one("", PRINT, DOCUMENTS, lease.record),
        ):
            self._meter.take(lease.record, ask.size, allowed, now)
            name = lease.sandbox
            title = f"{name}: nothing was printed"
            with shareable_failures(DESKTOP, self._decider.notify, name, title):
                await self._received(exchange, ask, answer)

    async def _received(
        self, exchange: GuestConnection, ask: PrintPages, answer: Preview
    ) -> None:
        """Receive the pages, have them permitted, and print them.

        The worker sends the pages to a session child, which keeps them as a PDF file in
        the user's directory; permit and outcome are recorded in the audit log.
        """
        guest = exchange.guest
        printer = answer.printer or await self._own.usual_printer()
        file = f"{guest.lease.sandbox}-{next(self._files)}"
        with pipe() as (read, write):
            async with self._own.keeping_pages(file, read) as keeping:
                kept = await self._receive(exchange, ask.size, keeping, write)
                self._count(guest, kept.pages)
                name = suggested_name(ask.name) or "document"
                document = _Document(exchange, name, kept, printer)
                request = _request(exchange.opening, ask.size, document)
                on_ask = exchange.wait_for_user
                permitted = False
                try:
                    async with self._decider.permit(request, on_ask=on_ask) as permit:
                        permitted = True
                        await self._require_same(permit, printer)
                        await self._print(document, permit)
                except RefusedError as error:
                    raise ShareableError(error.message) from error
                finally:
                    # guard: a document whose program hangs up was refused
                    if not permitted:
                        self._declined.note(guest.lease.record)

    def _count(self, guest: Guest, pages: int) -> None:
        """Raise ShareableError for more paper than a record has in a day."""
        allowed = guest.valid_record().viewer.transfer
        most = replace(allowed, day_size=PAGES_PER_DAY)
        try:
            # guard: paper of a record
            self._pages.take(guest.lease.record, pages, most, trio.current_time())
        except RefusedError as error:
            raise ShareableError(
                f"the sandbox would print more than {PAGES_PER_DAY} pages in 24 hours, the limit"
            ) from error

    async def _receive(
        self,
        exchange: GuestConnection,
        size: int,
        keeping: AbstractAsyncContextManager[ToolResult],
        write: PipeEnd,
    ) -> KeptPages:
        """Have a session child make a document of the pages that the program sends."""
        async with keeping as result:
            quota = Quota(size, size, 1, name="pages")
            order = messages.TransferSend(exchange.stream, quota)
            if reason := await exchange.moved(order, write):
                raise ShareableError(reason)
        return result.kept

    async def _require_same(self, permit: Permit, printer: str) -> None:
        """Raise ShareableError unless the rule in force allows this printer."""
        if permit.target not in ADMIN_NAMES:
            raise ShareableError(
                f"{permit.where} sets the target {permit.target}, but documents are printed at "
                "the desktop"
            )
        (now,) = await self._decider.preview([permit.request])
        # guard: the printer is the one that the user was asked about
        if now is None or (now.printer and now.printer != printer):
            raise ShareableError("the rules have changed")

    async def _print(self, document: _Document, permit: Permit) -> None:
        """Send the document to the printer, and record it.

        Raises UpstreamError, SetupError.
        """
        sandbox, name = document.exchange.guest.lease.sandbox, document.name
        whose = (self._log, permit, next(self._numbers), document.exchange)
        size, content = permit.request.size, f"{name}: {document.words}"
        document.exchange.size, document.exchange.files = size or 0, 1
        async with logged_transfer(
            *whose, files=1, size=size, content=printable(content, 300)
        ):
            await self._own.print_document(
                document.kept.document, document.printer, name, permit.warrant
            )
            if not permit.answered:
                self._decider.notify(
                    f"{sandbox} prints {document.words}",
                    f"document, it says: {printable(name, 100)}",
                    sandbox=sandbox,
                )


def _request(opening: Opening, size: int, document: _Document | None = None) -> Request:
    """Return the permit request for printing."""
    claims: tuple[tuple[str, str], ...] = ()
    if document is not None:
        pages = str(document.kept.pages)
        # Another one each time: an answer is for this document, also of equal names.
        job = document.kept.document.rpartition("-")[2].removesuffix(".pdf")
        claims = (("document", document.name), ("pages", pages), ("job", job))
    return replace(
        request_of(opening, PRINT),
        size=size,
        about="" if document is None else document.printer,
        claims=claims,
        preview=NO_PAGE_IMAGE if document is None else document.kept.preview,
    )
