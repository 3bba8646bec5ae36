"""Opening from the desktop: ``brokerctl open`` and ``brokerctl cp``.

A client of the control socket is the user, who may start any program in
any sandbox; so naming the sandbox is permission, unless a rule with the source
``@adminvm`` denies it.  Without a name the rules choose the target.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import trio

from broker.authority.permit import USER, Request
from broker.core.errors import InternalError, RefusedError
from broker.core.escape import printable
from broker.core.names import take_sandbox_name
from broker.core.services import FILE_COPY, OPEN_FILE, OPEN_URL
from broker.core.transfer.claimed_type import mime_type_of_name
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import Url, take_url
from broker.ipc.audit import schema
from broker.ipc.authority import Preview
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.session.file_orders import FoundFiles
from broker.viewer.exchange.guest_connection import Delivery, TransferCount
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.logged import FirstTransfer, begun_transfer
from broker.viewer.transfer.moving import TransferParts, new_return
from broker.viewer.transfer.own import UserFiles
from broker.viewer.transfer.targets import Wait, shown
from policy.names import ADMIN

_PERSON = ADMIN
USER_DIRECTORY = "desktop"
"""The directory below ~/Incoming where the user's files arrive."""
_LARGEST = 1 << 50
_PROGRESS_SECONDS, _COPYING = 1.0, "copy the files"
EDIT_BYTES = 1 << 30
"""The most that comes back into a file of the user's, whatever its size was."""
ALL_FILES = Quota(_LARGEST, _LARGEST, 1_000_000)


_NO_FILES = UserFiles(FoundFiles(0), b"")


@dataclass(frozen=True)
class _UserRequest:
    service: str
    files: UserFiles = _NO_FILES
    url: Url | None = None
    mime: str = ""
    edit: bool = False

    @property
    def found(self) -> FoundFiles:
        """What the files are, without the permission to use them."""
        return self.files.found

    @property
    def what(self) -> str:
        """The kind of it, for the log."""
        if self.url is not None:
            return self.url.shown
        return printable(", ".join(self.found.names), 300)


class PersonOpens:
    """Serves the calls of ``brokerctl open`` and ``brokerctl cp``."""

    def __init__(self, parts: TransferParts) -> None:
        self._decider, self._log = parts.decider, parts.log
        self._targets, self._own = parts.targets, parts.own
        self._writable = parts.writable
        self._numbers = itertools.count(FirstTransfer.USER.value)

    @serves(methods.OPEN)
    async def open(
        self, exchange: Exchange[api.OpenItem], request: api.OpenRequest
    ) -> api.OpenItem:
        """Open or copy; returns the sandbox's name.

        Raises RefusedError where a rule denies it or none says where to.
        """
        emit = exchange.emit
        wanted = await self._wanted(request, exchange.warrant)
        target, where = await self._target(wanted, request.sandbox)

        async def wait(what: str) -> None:
            await emit(_begun(what))

        number = next(self._numbers)
        begin = schema.TransferBegin(
            service=wanted.service,
            transfer=number,
            target=target,
            files=wanted.found.files,
            size=wanted.found.size,
            mime=wanted.mime,
            object=wanted.what,
            reason=f"the user, by {where}",
        )
        whole = TransferCount(wanted.found.size or 0, wanted.found.files)
        async with begun_transfer(self._log, begin, whole):
            if wanted.url is not None:
                sandbox = await self._targets.open_url(
                    target, wanted.url, wait, source=None, warrant=exchange.warrant
                )
                return api.OpenItem(sandbox=sandbox)
            return await self._do(
                wanted, target, wait, emit, named=request.sandbox, number=number
            )

    async def _wanted(self, request: api.OpenRequest, warrant: bytes) -> _UserRequest:
        """Return what the user wants opened or copied.  Raises RefusedError."""
        given = [request.url, request.path, request.copy]
        if sum(one is not None for one in given) != 1:
            raise RefusedError("set one address, one path, or paths to copy")
        if request.url is not None:
            return _UserRequest(OPEN_URL, url=take_url(request.url, None))
        files = await self._own.named(warrant, tuple(self._writable()))
        if request.path is not None:
            mime, edit = mime_type_of_name(request.path), bool(request.edit)
            return _UserRequest(OPEN_FILE, files, mime=mime, edit=edit)
        return _UserRequest(FILE_COPY, files)

    async def _target(self, wanted: _UserRequest, named: str | None) -> tuple[str, str]:
        """Return the target and what chose it.  Raises RefusedError."""
        answer = await self._answer(wanted, named)
        if named:
            return take_sandbox_name(named), "name"
        return _chosen(answer), answer.where

    async def _require_return(
        self, wanted: _UserRequest, target: str, named: str | None
    ) -> None:
        """Raise RefusedError unless the file may come back from its target now."""
        answer = await self._answer(wanted, named)
        # Not the target that would be chosen now: an "ask" may offer more by now.
        offered = {answer.target} if answer.verdict == "allow" else set(answer.targets)
        # guard: a file comes back from where the rules lead
        if not named and target not in offered:
            raise RefusedError(f"{answer.where} now sets another target")

    async def _answer(self, wanted: _UserRequest, named: str | None) -> Preview:
        """Return the rules' decision about the user's request.  Raises RefusedError."""
        target = take_sandbox_name(named) if named is not None else ""
        url = wanted.url
        request = Request(
            lease=USER,
            service=wanted.service,
            target=target,
            mime=wanted.mime or None,
            scheme=url.scheme if url else None,
            host=url.host if url else None,
            size=wanted.found.size,
        )
        (answer,) = await self._decider.preview([request])
        if answer is None:
            raise InternalError("the authority sent no answer for a rule")
        if answer.verdict == "deny" and answer.rule is not None:
            raise RefusedError(f"denied: {answer.reason}", where=answer.where)
        if wanted.edit and not answer.returns:
            raise RefusedError(
                "no rule allows the file to be returned",
                hint="add a rule with the source @adminvm and return=yes",
            )
        return answer

    async def _do(
        self,
        wanted: _UserRequest,
        target: str,
        wait: Wait,
        emit: api.Emit[api.OpenItem],
        *,
        named: str | None,
        number: int,
    ) -> api.OpenItem:
        """Carry out the user's request at a target: open, copy or edit."""
        if wanted.edit:
            return await self._edit(wanted, target, wait, named=named, number=number)
        opened = wanted.service == OPEN_FILE
        with (
            pipe() as (read, write),
            self._targets.delivery(
                USER_DIRECTORY, read, ALL_FILES, opened=opened
            ) as delivery,
        ):
            delivery.size = wanted.found.size or 0
            async with self._targets.receiving_in(target, delivery, wait) as receiver:
                await emit(_begun(_COPYING))
                follow = partial(_followed, delivery, emit)
                detail = await self._own.send(wanted.files, write, delivery, follow)
                if delivery.open:
                    await shown(receiver.sandbox, receiver.program)
                return api.OpenItem(sandbox=receiver.sandbox, detail=detail)

    async def _edit(
        self,
        wanted: _UserRequest,
        target: str,
        wait: Wait,
        *,
        named: str | None,
        number: int,
    ) -> api.OpenItem:
        """Have a file edited in a sandbox; replace it when the editor has ended."""
        quota = Quota(_LARGEST, _LARGEST, 1, single=True)
        name = wanted.found.names[0]
        way = new_return(Quota(EDIT_BYTES, EDIT_BYTES, 1, True, name))  # noqa: FBT003
        with (
            pipe() as (read, write),
            pipe() as (back_read, back_write),
            self._targets.delivery(
                USER_DIRECTORY, read, quota, opened=True
            ) as delivery,
        ):
            delivery.size, delivery.back = wanted.found.size or 0, way.token
            async with self._targets.receiving_in(
                target, delivery, wait, way
            ) as receiver:
                editing = self._own.editing(
                    wanted.files.ticket, receiver.sandbox, write, back_read
                )
                async with editing as result:
                    await delivery.done.wait()
                    if delivery.reason:
                        raise RefusedError(delivery.reason)
                    await wait(f"editing in {receiver.sandbox}")
                    if await way.wait_asked(receiver.program):
                        # The editor may have run for hours.
                        # guard: a file comes back by the rules of that time
                        await self._require_return(wanted, target, named)
                        way.accept(back_write)
                        await way.wait_done()
                    back_write.close()
                if way.sha256:
                    await self._log.note(
                        schema.TransferReturned(
                            service=wanted.service,
                            transfer=number,
                            target=receiver.sandbox,
                            before=self._log.digest(result.before),
                            after=self._log.digest(way.sha256),
                            bytes=way.size,
                        )
                    )
                return api.OpenItem(sandbox=receiver.sandbox, detail=result.text)


def _begun(step: str) -> api.OpenItem:
    return api.OpenItem(progress=api.Progress(step=step, state="begun"))


async def _followed(delivery: Delivery, emit: api.Emit[api.OpenItem]) -> None:
    """Wait until all of it has arrived, and report every second how much has."""
    while True:
        with trio.move_on_after(_PROGRESS_SECONDS):
            await delivery.done.wait()
            return
        sizes = [
            delivery.moved >> 20,
            *([delivery.size >> 20] if delivery.size else []),
        ]
        detail = f"{' of '.join(map(str, sizes))} MiB"
        step = api.Progress(step=_COPYING, state="begun", detail=detail)
        await emit(api.OpenItem(progress=step))


def _chosen(answer: Preview) -> str:
    """Return the target that the rules choose.  Raises RefusedError without one."""
    found = answer.target
    if answer.verdict == "ask":
        only = answer.targets[0] if len(answer.targets) == 1 else None
        found = answer.default_target or only
    if answer.verdict not in {"allow", "ask"} or not found:
        raise RefusedError(
            "the rules choose no single sandbox that opens the file or address",
            hint="name a sandbox with --in, or set target= in a rule with the source @adminvm",
        )
    if found in {_PERSON, "dom0"}:
        raise RefusedError(
            f"no sandbox is chosen: {answer.where} sets the desktop as the target",
            hint="name a sandbox with --in, or change the target of this rule",
        )
    return found
