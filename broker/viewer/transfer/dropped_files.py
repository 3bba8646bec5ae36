"""Files that the user drags from their own programs and drops on a sandbox's window.

The worker of that sandbox reports a key and nothing else: a session child asks the
desktop's document portal which files it stands for, a rule for ``vitrail.FileCopy`` from
``@adminvm`` decides, and the files are copied as those that ``brokerctl cp`` names.
"""

from __future__ import annotations

import itertools

import trio

from broker.authority.permit import Permit
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.names import LeaseId
from broker.core.services import FILE_COPY
from broker.core.transfer.quota import Quota
from broker.ipc.audit import schema
from broker.viewer.clipboard.exchange.reasons import BUSY
from broker.viewer.clipboard.permissions import dropped_files
from broker.viewer.exchange.guest_connection import TransferCount
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.logged import FirstTransfer, begun_transfer
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import UserFiles
from broker.viewer.transfer.person import ALL_FILES, USER_DIRECTORY

_FIND_SECONDS = 30.0
_NAMES = 8
"""Files that the question names; it counts the others."""


class DroppedFiles:
    """Copies dropped files into sandboxes."""

    def __init__(self, parts: TransferParts) -> None:
        self._parts = parts
        self._numbers = itertools.count(FirstTransfer.DROP.value)
        self._finding: set[LeaseId] = set()
        """Sandboxes about whose drop the portal is being asked."""

    async def give(self, target: Lease, untrusted_key: str) -> str:
        """Copy the files of a key to the sandbox on which the user dropped them.

        Returns what was left out, as text.  Raises VitrailError: no rule allows it, or the portal does not know the key.
        """
        files = await self._found(target, untrusted_key)
        request = dropped_files(target, question_names(files), files.found.size)
        async with self._parts.decider.permit(request) as permit:
            return await self._copy(target, files, permit)

    async def _found(self, target: Lease, untrusted_key: str) -> UserFiles:
        """Return the files of a key.  Raises VitrailError."""
        # guard: a worker that invents drops has one question to the portal at a time
        if target.id in self._finding:
            raise RefusedError(BUSY)
        self._finding.add(target.id)
        name, writable = target.sandbox, tuple(self._parts.writable())
        try:
            # guard: a portal that does not answer keeps no drop waiting
            with trio.move_on_after(_FIND_SECONDS):
                return await self._parts.own.dropped(untrusted_key, name, writable)
        finally:
            self._finding.discard(target.id)
        raise UpstreamError(
            f"the desktop's document portal did not answer within {_FIND_SECONDS:g} s",
            hint="restart it with 'systemctl --user restart xdg-document-portal', or use 'brokerctl cp'",
        )

    async def _copy(self, target: Lease, files: UserFiles, permit: Permit) -> str:
        """Have the target's agent keep the files; return what was left out.

        Raises VitrailError.
        """
        size = ALL_FILES.size if permit.max_size is None else permit.max_size
        # guard: no more is dropped than the rule allows
        quota = Quota(size, size, ALL_FILES.files)
        with (
            pipe() as (read, write),
            self._parts.targets.delivery(
                USER_DIRECTORY, read, quota, opened=False
            ) as delivery,
        ):
            delivery.size = files.found.size or 0
            moved = TransferCount(opened_in=target.sandbox)
            begin = schema.TransferBegin(
                service=FILE_COPY,
                transfer=next(self._numbers),
                target=target.sandbox,
                rule=permit.where,
                files=files.found.files,
                size=files.found.size,
                object=printable(", ".join(files.found.names), 300),
                reason="the user dropped the files on it",
            )
            async with (
                begun_transfer(self._parts.log, begin, moved),
                self._parts.targets.receiving_in(target.sandbox, delivery, _quiet),
            ):
                left_out = await self._parts.own.send(
                    files, write, delivery, delivery.done.wait, permit.warrant
                )
                moved.size = files.found.size or delivery.moved
                moved.files = files.found.files
                return left_out


def question_names(files: UserFiles) -> list[str]:
    """Return what the question says of the files: names, and how many more."""
    found = files.found
    named = [printable(name, 100) for name in found.names[:_NAMES]]
    more = found.files - len(named)
    return [*named, f"and {more} more"] if more > 0 else named


async def _quiet(_step: str) -> None:
    """The user watches no command line."""
