"""``vitrail.FileDialog``: a sandbox has the user choose files of the desktop.

The choice in the desktop's own dialog is the permission: what is chosen is copied into
the sandbox, or one file out of it, by the workers that move every other file.  The
sandbox learns the names of these and nothing else of the user's files.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from broker.authority.audit import event_log
from broker.authority.permit import USER, Permit, Request, request_of
from broker.core.errors import PeerError, RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease, Opening
from broker.core.limits.transfer import SAVED_AT_ONCE
from broker.core.names import LeaseId, take_sandbox_name
from broker.core.services import (
    FILE_COPY,
    FILE_DIALOG,
    OPEN_URL,
    PORTAL_CALLS,
    PORTAL_VARIABLES,
    PRINT,
    PRINTER_VARIABLE,
)
from broker.core.transfer.entries import End, FileEntry, entry_frame
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import DEFAULT_SCHEMES
from broker.ipc import transfer as messages
from broker.ipc.audit import schema
from broker.ipc.authority import Preview
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.guest.file_requests import ChooseFiles
from broker.viewer.authority.interface import Permits
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.failures import DESKTOP, ShareableError, shareable_failures
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.exchange.pipes import PipeEnd, pipe
from broker.viewer.exchange.returns import Return
from broker.viewer.transfer.logged import FirstTransfer, logged_transfer
from broker.viewer.transfer.meter import Declined
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import UserFiles
from policy.names import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

SOURCE = "desktop"
"""What a sandbox calls the user's files, as those of ``brokerctl cp``."""
DIALOGS = 4
"""On the desktop at one time."""
_LARGEST = 1 << 50
BROKEN_OFF = "the transfer was interrupted"
"""The last words of the process that keeps a file, where it got a part."""
_KINDS = ("open", "folder", "save")
_ANY_HOST = "any.invalid"
"""No rule names it."""


@dataclass(frozen=True)
class _Chosen:
    """A permitted request, and what the user has chosen."""

    exchange: GuestConnection
    permit: Permit
    files: UserFiles
    number: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files, those of a dialog to save are all here."""
        return self.files.found.names


class FileDialogs:
    """Serves the requests of all sandboxes of one viewer."""

    def __init__(self, parts: TransferParts) -> None:
        self._parts = parts
        self._decider, self._log = parts.decider, parts.log
        self._places = CallPlaces()
        self._declined = Declined("dialogs were dismissed")
        self._numbers = itertools.count(FirstTransfer.DIALOG.value)

    async def serve(self, exchange: GuestConnection, ask: ChooseFiles) -> None:
        """Serve one request for a file dialog to its end.  Raises VitrailError."""
        guest, opening = exchange.guest, exchange.opening
        if ask.kind == "offered":
            await self._require_offered(opening)
            return
        # guard: dialogs that are dismissed come no more
        self._declined.require_few(guest.lease.record)
        request, on_ask = _request(opening, ask.kind), exchange.wait_for_user
        async with self._decider.permit(request, on_ask=on_ask) as permit:
            await self._require_desktop(guest, permit, save=ask.kind == "save")
            name = guest.lease.sandbox
            title = f"{name}: no file was opened or saved"
            with shareable_failures(DESKTOP, self._decider.notify, name, title):
                files = await self._choose(guest, ask, permit)
                if files.found.files:
                    # guard: rules may have changed while the user chose
                    await self._require_desktop(guest, permit, save=ask.kind == "save")
                    number = next(self._numbers)
                    await self._carry(_Chosen(exchange, permit, files, number))

    # -- whether ----------------------------------------------------------------------

    async def _require_offered(self, opening: Opening) -> None:
        """Raise RefusedError where no kind of dialog may be allowed.

        Programs ask before they show a dialog, and use their own if there is none.
        """
        requests = [_request(opening, kind) for kind in _KINDS]
        answers = await self._decider.preview(requests)
        if all(answer is None or answer.verdict == "deny" for answer in answers):
            raise RefusedError(
                "no rule for vitrail.FileDialog allows the sandbox to choose files"
            )

    async def _require_desktop(
        self, guest: Guest, permit: Permit, *, save: bool
    ) -> None:
        """Refuse targets other than the desktop, and unnecessary dialogs."""
        if permit.target not in ADMIN_NAMES:
            raise ShareableError(
                f"{permit.where} sets the target {permit.target}, but the user selects files at "
                "the desktop"
            )
        if save:
            return
        sandbox = guest.lease.sandbox
        copy = Request(lease=USER, service=FILE_COPY, target=sandbox)
        (answer,) = await self._decider.preview([copy])
        # guard: what may not be copied into a sandbox is not chosen for it
        if answer is not None and answer.verdict == "deny" and answer.rule is not None:
            raise ShareableError(
                f"cannot choose files for {sandbox}: {answer.where} denies copying files into it"
            )

    # -- the dialog ---------------------------------------------------------------------

    async def _choose(
        self, guest: Guest, ask: ChooseFiles, permit: Permit
    ) -> UserFiles:
        """Show the file dialog; return what was chosen.  Raises VitrailError."""
        sandbox, record = guest.lease.sandbox, guest.lease.record
        places, chosen = tuple(self._parts.writable()), False
        # guard: a sandbox has one dialog at a time
        with (
            self._places.one(record, FILE_DIALOG, 2, sandbox),
            self._places.one("", FILE_DIALOG, DIALOGS, record),
        ):
            try:
                files = await self._parts.own.choose(ask, permit.warrant, places)
                chosen = files.found.files > 0
            except (PeerError, RefusedError):
                chosen = True  # or nothing was shown
                raise
            finally:
                if not chosen:
                    self._declined.note(record)
        return files

    # -- the files ----------------------------------------------------------------------

    async def _carry(self, chosen: _Chosen) -> None:
        """Carry the chosen files to the program, or its files to the chosen places."""
        names = printable(", ".join(chosen.names), 300)
        whose = (self._log, chosen.permit, chosen.number, chosen.exchange)
        async with logged_transfer(
            *whose, files=chosen.files.found.files, content=names
        ):
            if chosen.permit.request.argument == "+save":
                await self._save(chosen)
            else:
                await self._copy_in(chosen)

    async def _copy_in(self, chosen: _Chosen) -> None:
        """Send the chosen files by a session child to the sandbox's worker."""
        most = chosen.permit.max_size or _LARGEST
        quota = Quota(most, most, 1_000_000)
        with pipe() as (read, write):
            sending = self._parts.own.sending(chosen.files.ticket, write)
            async with sending as result:
                await _deliver(chosen, quota, read)
                left_out = await result.left_out()
        if left_out:
            name = chosen.exchange.guest.lease.sandbox
            title = f"{name}: some of the chosen files were not copied"
            self._decider.notify(title, left_out, sandbox=name)

    async def _save(self, chosen: _Chosen) -> None:
        """Give the program empty files; store each content that it writes."""
        guest, names = chosen.exchange.guest, chosen.names
        allowed = guest.valid_record().viewer.transfer
        max_bytes = min(allowed.request_size, allowed.file_size)
        max_bytes = min(max_bytes, chosen.permit.max_size or max_bytes)
        tokens = [secrets.token_hex(16) for _ in names]
        with ExitStack() as places:
            for _ in names:
                places.enter_context(
                    self._places.one(
                        guest.lease.id, "save", 2 * SAVED_AT_ONCE, guest.lease.record
                    )
                )
            with pipe() as (read, write):
                entries = [entry_frame(FileEntry([name], 0)) for name in names]
                _write_now(write, b"".join([*entries, entry_frame(End())]))
                name = names[0] if len(names) == 1 else ""
                quota = Quota(max_bytes, max_bytes, len(names), len(names) == 1, name)
                await _deliver(chosen, quota, read, ",".join(tokens))
            async with trio.open_nursery() as nursery:
                for number, token in enumerate(tokens):
                    # It has another name there, if a file of this one was there before.
                    quota = Quota(max_bytes, max_bytes, 1, single=True)
                    way = partial(Return, token, quota)
                    nursery.start_soon(self._follow, chosen, number, way)

    async def _follow(
        self, chosen: _Chosen, number: int, new_way: Callable[[], Return]
    ) -> None:
        """Store each content that the program writes to one file."""
        before = ""
        while True:
            way = new_way()
            with chosen.exchange.guest.transfers.returns.one(way.token, way):
                before = await self._keep(chosen, number, way, before)

    async def _keep(
        self, chosen: _Chosen, number: int, way: Return, before: str
    ) -> str:
        """Store one content in the chosen file; return its SHA-256 in hex.

        ``before``: that of the content before; empty at the first time.

        Raises VitrailError if it cannot be kept: then the sandbox has it.
        """
        guest = chosen.exchange.guest
        try:
            await way.wait_announced()
        except RefusedError:
            return before  # the program that returned it is told
        allowed, now = guest.valid_record().viewer.transfer, trio.current_time()
        self._parts.meter.take(guest.lease.record, way.announced, allowed, now)
        try:
            async with _arriving(way) as read:
                ticket = chosen.files.ticket
                saving = self._parts.own.saving(ticket, number, read, before)
                async with saving as result:
                    await way.wait_done()
        except (VitrailError, ExceptionGroup) as error:
            # It was written again while it was sent, say: then it comes again.
            if _broken_off(error):
                return before
            raise
        await self._log.note(
            schema.TransferReturned(
                **event_log.of(guest.lease),
                transfer=chosen.number,
                target=chosen.permit.target,
                before=self._log.digest(bytes.fromhex(before)),
                after=self._log.digest(result.before),
                bytes=way.size,
            )
        )
        # Of what our own process has kept, whatever a worker says.
        return result.before.hex()


def _broken_off(error: Exception) -> bool:
    """Return whether nothing was stored because of the sandbox alone."""
    errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    return all(
        _broken_off(one)
        if isinstance(one, ExceptionGroup)
        else isinstance(one, RefusedError)
        or (isinstance(one, UpstreamError) and one.message == BROKEN_OFF)
        for one in errors
    )


@asynccontextmanager
async def _arriving(way: Return) -> AsyncIterator[PipeEnd]:
    with pipe() as (read, write):
        way.accept(write)
        yield read


def _write_now(write: PipeEnd, data: bytes) -> None:
    """Write a message to a pipe without a reader, and close it.  Raises UpstreamError.

    A pipe of a user beyond pipe-user-pages-soft (pipe(7)) has 8 KiB.
    """
    # guard: a pipe without room for names holds nobody up
    os.set_blocking(write.fileno(), False)
    if os.write(write.fileno(), data) < len(data):
        raise UpstreamError("your pipes have no room for so many names: see pipe(7)")
    write.close()


async def _deliver(
    chosen: _Chosen, quota: Quota, read: PipeEnd, token: str = ""
) -> None:
    """Have the sandbox's worker copy the content of a pipe to its program."""
    order = messages.TransferDeliver(
        stream=chosen.exchange.stream,
        source=SOURCE,
        open=False,
        quota=quota,
        back=token,
    )
    if reason := await chosen.exchange.moved(order, read):
        raise RefusedError(reason)


class PortalControl:
    """For brokerctl, which starts programs of boxes and containers with variables."""

    def __init__(self, decider: Permits) -> None:
        self._decider = decider

    @serves(methods.PORTAL_USE)
    async def portal_use(
        self, exchange: Exchange[api.PortalUseAnswer], request: api.PortalUseRequest
    ) -> api.PortalUseAnswer:
        """Answer about a record, no sandbox of which need run.  Raises RefusedError."""
        del exchange
        name = take_sandbox_name(request.record)
        lease = Lease(LeaseId(""), name, name, 0)  # a preview goes by the names
        return await portal_use(self._decider, lease)


async def portal_use(decider: Permits, lease: Lease) -> api.PortalUseAnswer:
    """Return whether rules may allow each call of programs that use the portal.

    And whether they may allow the sandbox to print, and which addresses to open elsewhere.
    """
    asked = [
        Request(lease=lease, service=service, argument=argument)
        for service, argument in PORTAL_CALLS
    ]
    rules = await decider.rules_about(OPEN_URL, lease.sandbox)
    rule_schemes = {scheme for rule in rules for scheme in rule.scheme}
    links = [
        Request(lease=lease, service=OPEN_URL, target="", scheme=scheme, host=_ANY_HOST)
        for scheme in sorted(DEFAULT_SCHEMES | rule_schemes)
    ]
    requests = [*asked, *links]
    answers = await decider.preview(requests)
    possible = [
        r for r, a in zip(requests, answers, strict=True) if _may_be_allowed(r, a)
    ]
    return api.PortalUseAnswer(
        uses=all(request in possible for request in asked),
        prints=any(request.service == PRINT for request in possible),
        schemes=[r.scheme for r in links if r in possible and r.scheme],
    )


def _may_be_allowed(request: Request, answer: Preview | None) -> bool:
    """Return whether a request may be allowed; of an unusual scheme, by its name."""
    if answer is None or answer.verdict == "deny":
        return False
    schemes = () if answer.rule is None else answer.rule.scheme
    return request.scheme in {None, *DEFAULT_SCHEMES, *schemes}


async def desktop_variables(
    decider: Permits, lease: Lease, *, display: bool
) -> dict[str, str]:
    """Return the variables of a machine's program; ``display``: if it has windows."""
    use = await portal_use(decider, lease)
    printer = {PRINTER_VARIABLE: "1"} if use.prints else {}
    return {**printer, **(PORTAL_VARIABLES if display and use.uses else {})}


def _request(opening: Opening, kind: str) -> Request:
    """Return the permit request for a file dialog."""
    return replace(request_of(opening, FILE_DIALOG), argument=f"+{kind}")
