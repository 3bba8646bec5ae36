"""``vitrail.FileDialog``: a sandbox has the user choose files of the desktop.

The choice in the desktop's own dialog is the permission: what is chosen is copied into
the sandbox, or one file out of it, by the workers that move every other file.  The
sandbox learns the names of these and nothing else of the user's files.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from broker.authority.audit import event_log
from broker.authority.permit import USER, Permit, Request
from broker.core.errors import (
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.files.planted_links import named_path
from broker.core.lease import Opening
from broker.core.limits.transfer import SAVED_AT_ONCE
from broker.core.services import FILE_COPY, FILE_DIALOG
from broker.core.transfer.entries import End, FileEntry, entry_frame
from broker.core.transfer.file_names import (
    saved_names,
    suggested_name,
    take_file_name,
)
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.ipc.audit import schema
from broker.ipc.guest.file_requests import ChooseFiles
from broker.ipc.in_thread import in_thread
from broker.viewer.calls.places import CallPlaces
from broker.viewer.opening.desktop_chooser import FileChoice, choose
from broker.viewer.opening.exchanges import OpenExchange
from broker.viewer.opening.failures import ToldError, failures_told
from broker.viewer.opening.logged import logged_transfer
from broker.viewer.opening.meter import Declined
from broker.viewer.opening.moving import TransferParts
from broker.viewer.opening.pipes import PipeEnd, pipe
from broker.viewer.opening.returns import Return
from policy.names import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

SOURCE = "desktop"
"""What a sandbox calls the user's files, as those of ``brokerctl cp``."""
DIALOGS = 4
"""On the desktop at one time."""
_FIRST_TRANSFER = 1 << 33
"""Numbers in the log, apart from those of other transfers."""
_SAME_NAMES = 100
_LARGEST = 1 << 50
BROKEN_OFF = "the transfer was interrupted"
"""The last words of the process that keeps a file, where it got a part."""
_WORDS = {
    "open": ("to have you choose files, which are copied into it", "open files"),
    "folder": ("to have you choose a folder, which is copied into it", "open a folder"),
    "save": ("to save a file where you choose", "save a file"),
}


@dataclass(frozen=True)
class _Chosen:
    """A permitted request, and what the user has chosen."""

    exchange: OpenExchange
    permit: Permit
    paths: tuple[Path, ...]
    number: int


class FileDialogs:
    """Serves the requests of all sandboxes of one viewer."""

    def __init__(
        self,
        parts: TransferParts,
        show: Callable[[FileChoice], Awaitable[list[Path]]] = choose,
    ) -> None:
        self._parts, self._show = parts, show
        self._decider, self._log = parts.decider, parts.log
        self._places = CallPlaces()
        self._declined = Declined("dialogs were dismissed")
        self._numbers = itertools.count(_FIRST_TRANSFER)

    async def serve(self, exchange: OpenExchange, ask: ChooseFiles) -> None:
        """Serve one request to its end.  Raises VitrailError."""
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
            with failures_told("the desktop", self._decider.notify, name, title):
                paths = await self._choose(guest, ask)
                if paths:
                    # guard: rules may have changed while the user chose
                    await self._require_desktop(guest, permit, save=ask.kind == "save")
                    number = next(self._numbers)
                    await self._carry(_Chosen(exchange, permit, paths, number))

    # -- whether ----------------------------------------------------------------------

    async def _require_offered(self, opening: Opening) -> None:
        """Raise RefusedError where no kind of dialog may be allowed.

        Programs ask before they show a dialog, and use their own where there is none.
        """
        requests = [_request(opening, kind) for kind in _WORDS]
        answers = await self._decider.preview(requests)
        if all(answer is None or answer.verdict == "deny" for answer in answers):
            raise RefusedError("no rule for vitrail.FileDialog lets it")

    async def _require_desktop(
        self, guest: Guest, permit: Permit, *, save: bool
    ) -> None:
        if permit.target not in ADMIN_NAMES:
            raise ToldError(
                f"{permit.where} names {permit.target}: files are chosen at the desktop"
            )
        if save:
            return
        sandbox = guest.lease.sandbox
        copy = Request(lease=USER, service=FILE_COPY, target=sandbox)
        (answer,) = await self._decider.preview([copy])
        # guard: what may not be copied into a sandbox is not chosen for it
        if answer is not None and answer.verdict == "deny" and answer.rule is not None:
            raise ToldError(f"{answer.where} lets nothing be copied into {sandbox}")

    # -- the dialog ---------------------------------------------------------------------

    async def _choose(self, guest: Guest, ask: ChooseFiles) -> tuple[Path, ...]:
        """Show the dialog; returns what was chosen.  Raises VitrailError."""
        sandbox, record = guest.lease.sandbox, guest.lease.record
        save = ask.kind == "save"
        names, several = _names(ask), ask.several and not save
        title = f"{sandbox}: {'save files' if names else _WORDS[ask.kind][1]}"
        asked = msgspec.structs.replace(ask, name=suggested_name(ask.name))
        choice = FileChoice(title, asked)
        paths: list[Path] = []
        # guard: a sandbox has one dialog at a time
        with (
            self._places.one(record, FILE_DIALOG, 2, sandbox),
            self._places.one("", FILE_DIALOG, DIALOGS, record),
        ):
            try:
                paths = await self._show(choice)
            finally:
                if not paths:
                    self._declined.note(record)
        places = tuple(self._parts.writable())
        found = [await in_thread(_checked, p, places, save) for p in paths]
        if found and names:
            _require_folder(found, names)
            # The dialog asked about a folder, and about no file that is in it.
            found = [await in_thread(_free_place, p) for p in found]
        elif len(found) > 1 and not several:
            raise UpstreamError("more was chosen than one file")
        return tuple(found)

    # -- the files ----------------------------------------------------------------------

    async def _carry(self, chosen: _Chosen) -> None:
        names = printable(", ".join(path.name for path in chosen.paths), 300)
        whose = (self._log, chosen.permit, chosen.number, chosen.exchange)
        async with logged_transfer(*whose, files=len(chosen.paths), content=names):
            if chosen.permit.request.argument == "+save":
                await self._save(chosen)
            else:
                await self._copy_in(chosen)

    async def _copy_in(self, chosen: _Chosen) -> None:
        most = chosen.permit.max_size or _LARGEST
        quota = Quota(most, most, 1_000_000)
        with pipe() as (read, write):
            paths = [str(path) for path in chosen.paths]
            async with self._parts.own.sending(paths, write):
                await _deliver(chosen, quota, read)

    async def _save(self, chosen: _Chosen) -> None:
        """Give the program empty files; store each content that it writes."""
        guest, paths = chosen.exchange.guest, chosen.paths
        allowed = guest.valid_record().viewer.transfer
        most = min(allowed.request_size, allowed.file_size)
        most = min(most, chosen.permit.max_size or most)
        tokens = [secrets.token_hex(16) for _ in paths]
        states = [await in_thread(chosen_state, path) for path in paths]
        with ExitStack() as places:
            for _ in paths:
                places.enter_context(
                    self._places.one(
                        guest.lease.id, "save", 2 * SAVED_AT_ONCE, guest.lease.record
                    )
                )
            with pipe() as (read, write):
                entries = [entry_frame(FileEntry([path.name], 0)) for path in paths]
                os.write(write.fileno(), b"".join([*entries, entry_frame(End())]))
                write.close()
                name = paths[0].name if len(paths) == 1 else ""
                quota = Quota(most, most, len(paths), len(paths) == 1, name)
                await _deliver(chosen, quota, read, ",".join(tokens))
            async with trio.open_nursery() as nursery:
                for path, token, state in zip(paths, tokens, states, strict=True):
                    # It has another name there, if a file of this one was there before.
                    quota = Quota(most, most, 1, single=True)
                    way = partial(Return, token, quota)
                    nursery.start_soon(self._follow, chosen, path, way, state)

    async def _follow(
        self, chosen: _Chosen, path: Path, new_way: Callable[[], Return], before: str
    ) -> None:
        """Store each content that the program writes to one file."""
        while True:
            way = new_way()
            with chosen.exchange.guest.transfers.returns.one(way.token, way):
                before = await self._keep(chosen, path, way, before)

    async def _keep(self, chosen: _Chosen, path: Path, way: Return, before: str) -> str:
        """Keep one content; returns its SHA-256 in hex.

        ``before``: that of the content before, or what ``chosen_state`` returned.

        Raises VitrailError where it cannot be kept: then the sandbox has it.
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
                own, sandbox = self._parts.own, guest.lease.sandbox
                saving = own.saving(str(path), sandbox, read, before)
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
                before=self._log.digest(_digest(before)),
                after=self._log.digest(result.before),
                bytes=way.size,
            )
        )
        # Of what our own process has kept, whatever a worker says.
        return result.before.hex()


def chosen_state(path: Path) -> str:
    """Return what is at the place that the user chose, for ``save``; "-": nothing is.

    The first content that is saved replaces that and nothing else, however late it comes.
    """
    try:
        facts = path.lstat()
    except OSError:
        return "-"
    # As shims/files/edited.py has it.
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return ",".join(map(str, (*numbers, facts.st_ctime_ns)))


def _digest(before: str) -> bytes:
    """The SHA-256 of what was saved before; empty at the first time."""
    return b"" if before == "-" or "," in before else bytes.fromhex(before)


def _names(ask: ChooseFiles) -> tuple[str, ...]:
    """Return the names of several files to save.  Raises PeerError.

    A worker has checked them, which may have been taken over.
    """
    names = saved_names(ask.names, ask.kind)
    # guard: names of several files lead nowhere else
    if names != ask.names:
        raise PeerError("names that a worker does not leave as they are")
    return names


def _require_folder(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Raise UpstreamError unless these are files of such names, in one folder."""
    one = len({path.parent for path in paths}) == 1
    # guard: several files are saved in the folder that was chosen
    if not one or len(set(paths)) != len(names) or len(paths) != len(names):
        raise UpstreamError("other files were chosen than those of one folder")


def _free_place(path: Path) -> Path:
    """Return a place in a folder where nothing is yet.  Raises RefusedError.

    It stays free, or what is saved there later is refused; see ``chosen_state``.
    """
    tried = path
    for number in range(2, _SAME_NAMES + 2):
        # guard: several files replace none of the folder
        if not os.path.lexists(tried):
            return tried
        tried = path.with_stem(f"{path.stem} ({number})")
    raise RefusedError(f"{_SAME_NAMES} files of the name {printable(path.name, 100)}")


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


def _request(opening: Opening, kind: str) -> Request:
    return Request(
        lease=opening.lease,
        service=FILE_DIALOG,
        argument=f"+{kind}",
        stream=opening.stream,
        peer=opening.peer,
        words=_WORDS[kind][0],
        tells=True,
    )


def _checked(path: Path, writable: Iterable[Path], save: bool) -> Path:  # noqa: FBT001
    """Return a chosen path without links.  Raises RefusedError."""
    if not save:
        # guard: a chosen file is not a sandbox's link to another one
        return named_path(path, writable)
    take_file_name(os.fsencode(path.name))
    found = named_path(path.parent, writable) / path.name
    # What a shell, a desktop or a program of the user's reads at its start is there.
    # guard: a sandbox saves nothing hidden
    if any(part.startswith(".") for part in found.parts):
        raise RefusedError(
            f"{printable(str(found), 200)} is hidden, or in a hidden folder: "
            "a sandbox does not save there"
        )
    return found
