"""Directories that a sandbox gets, and the viewer's own settings.

A session child opens a directory and gives it to the host or serves it, checks settings
files, or writes icons into the user's menu.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.opened_folder import (
    OpenedFolder,
    folder_argument,
    folder_object,
    overlap_error,
)
from broker.core.files.planted_links import INCOMING, is_chosen_in
from broker.core.names import sandboxes_named
from broker.core.paths import Paths, find_paths
from broker.core.services import BLOCK, FOLDER
from broker.helpers.mounts.opened import open_folder, open_image
from broker.ipc.control.types.folders import FolderShareRequest
from broker.ipc.session import folder_orders as m
from broker.session.folders.folder_server import serve_folder
from broker.session.menu_icons import draw_icons, write_prompt_entry
from broker.session.order_exchange import OrderExchange, one_of
from broker.session.settings_files import settings_problems
from broker.session.transfer.service_files import written_by_services
from broker.session.warrant_check import VerifiedPermit
from broker.wire import fdpass
from broker.wire.row import serves
from policy.records.loader import load_records, search_path, with_last_good
from policy.records.model import Record, RecordSet
from policy.records.mounts.user_files import Folders
from policy.records.places import read_only, root_tree, writable


@serves(m.DRAW_ICONS)
def draw_record_icons(exchange: OrderExchange, _request: m.DrawIcons) -> None:
    """Draw the icons of sandboxes in the menu by their records.  Raises OSError."""
    write_prompt_entry()
    draw_icons(_records(find_paths()).records.values())
    exchange.answer()


@serves(m.CHECK_SETTINGS)
def check_settings(exchange: OrderExchange, _request: m.CheckSettings) -> None:
    """Answer with a file of the mistakes in settings files."""
    found = [one.first_line() for one in settings_problems(find_paths())]
    exchange.answer_file(msgspec.json.encode(found))


@serves(m.OPEN_FOLDER)
def share_named_folder(exchange: OrderExchange, order: m.OpenFolder) -> None:
    """Share the folder that the user's call names.  Raises VitrailError, OSError."""
    asked = msgspec.json.decode(exchange.user_call.parameters, type=FolderShareRequest)
    # guard: a folder is the one that the user named
    if (asked.path, bool(asked.write)) != (order.path, order.write):
        raise RefusedError("'brokerctl share' named another folder")
    _share(exchange, order, _records(find_paths()), asked.sandbox)


@serves(m.OPEN_RECORD_FOLDER)
def share_record_folder(exchange: OrderExchange, order: m.OpenRecordFolder) -> None:
    """Share a folder or disk of a record.  Raises VitrailError, OSError."""
    records = _records(find_paths())
    record = records.records.get(order.record)
    folders = Folders() if record is None else record.viewer.folders
    _require_in_record(order, folders)
    place = folders.at(Path(order.path), write=order.write)
    at = "" if order.tag or place is None else str(place)
    _share(exchange, order, records, order.record, tag=order.tag, at=at)


def _share(
    exchange: OrderExchange,
    order: m.OpenFolder,
    records: RecordSet,
    sandbox: str,
    *,
    tag: str = "",
    at: str = "",
) -> None:
    """Open a folder, await the permit to give it, give or serve it, and hold that.

    ``sandbox``: its name, or its record's.  ``at``: where the record mounts it.
    """
    with _opened(order, records, tag) as folder:
        folder.at = at or folder.at
        exchange.answer(m.FoundFolder(os.fsencode(folder.path)))
        offer = _OpenedShare(folder, sandbox, records, write=order.write)
        exchange.serve_next(one_of(offer.give))


@dataclass(frozen=True)
class _OpenedShare:
    """An opened folder, and the sandbox or record that it is for."""

    folder: OpenedFolder
    sandbox: str
    records: RecordSet
    write: bool

    @serves(m.GIVE_FOLDER)
    def give(self, exchange: OrderExchange, _request: m.GiveFolder) -> None:
        """Give the folder to the host, or serve it, while its permit is held.

        Raises VitrailError, OSError.
        """
        folder, permit = self.folder, exchange.permit
        # guard: a permit for a folder attaches no disk
        if permit.service != (needed := BLOCK if folder.tag else FOLDER):
            raise RefusedError(f"the permit is for {permit.service}, not for {needed}")
        # guard: a folder is mounted by the permit for it
        named = folder_argument(folder.name), folder_object(folder.path)
        if (permit.argument, permit.about) != named:
            raise RefusedError("the permit is for another folder")
        # guard: a folder that is permitted to read is not written to
        if self.write and not permit.write:
            raise RefusedError("the permit only allows reading")
        # guard: a folder goes to the sandbox that the user or a record names
        if not sandboxes_named(self.sandbox, [(permit.sandbox, permit.record)]):
            raise RefusedError("the permit is for another sandbox")
        if permit.record in self.records.records:
            record = self.records.records[permit.record]
            _refuse_overlap(folder.path, record, write=self.write)
        ticket = _give(exchange.host, folder, permit.sandbox, write=self.write)
        exchange.answer(m.FolderTicket(ticket))
        held = VerifiedPermit(permit)
        if ticket:
            # The host unmounts it when this process has ended.
            # guard: a folder is mounted while its permit is held
            exchange.hold(held)
        elif folder.tag:
            raise RefusedError("a sandbox of another machine cannot have a disk")
        else:
            server = _FolderServer(folder, held, write=self.write)
            while not server.served and exchange.serve_next(
                one_of(held.renew, server.serve)
            ):
                pass


@dataclass
class _FolderServer:
    """A given folder that is served over one connection."""

    folder: OpenedFolder
    held: VerifiedPermit
    write: bool
    served: bool = False

    @serves(m.SERVE_FOLDER)
    def serve(self, exchange: OrderExchange, _request: m.ServeFolder) -> None:
        """Serve the folder to the connection's end.  Raises VitrailError, OSError."""
        # guard: a folder is not served when its permit may have ended
        self.held.refuse_late()
        self.served = True
        serve_folder(exchange, self.folder, self.held, write=self.write)


def _records(paths: Paths) -> RecordSet:
    """Return the records, with what the authority has kept of broken ones."""
    read = load_records(search_path(paths.runtime, paths.config))
    if not read.broken:
        return read
    return with_last_good(read, load_records([paths.state / "policy" / "records"]))


@contextmanager
def _opened(
    order: m.OpenFolder, records: RecordSet, tag: str
) -> Iterator[OpenedFolder]:
    """Yield the opened directory, or the image of the disk ``tag``."""
    paths, home = find_paths(), Path.home()
    private = [paths.runtime, paths.state, paths.cache, *paths.config]
    linked = [paths.homes, *map(Path, order.linked)]
    linked += (place for one in records.records.values() for place in writable(one))
    # guard: a link of a service is not followed for a folder to share
    linked += written_by_services(paths)
    if tag:
        opened = partial(open_image, order.path, tag, write=order.write)
        folder = opened(home, private, linked)
    else:
        folder = open_folder(order.path, home, private, linked)
    try:
        if order.write:
            _refuse_programs(folder.path, records)
            _refuse_incoming(folder.path, home / INCOMING)
        yield folder
    finally:
        folder.close()


def _refuse_programs(path: Path, records: RecordSet) -> None:
    """Refuse to have a sandbox write to the programs of a box.  Raises RefusedError.

    Also if no box runs: its next start would be refused, as long as the folder is shared.
    """
    for record in records.records.values():
        tree = root_tree(record)
        # guard: no folder that a sandbox writes to has the programs of a box
        if tree is not None and is_chosen_in(tree, path):
            raise RefusedError(
                f"cannot share {printable(str(path), 200)} to write: the record '{record.name}' "
                f"has its programs (rootfs) in {printable(str(tree), 200)}",
                hint="share it without --write, or change 'rootfs' in [launch] of "
                f"{record.name}.toml",
            )


def _refuse_overlap(path: Path, record: Record, *, write: bool) -> None:
    """Refuse a folder if its sandbox could change what it may only read.

    Links in paths of the record are followed, which the loader does not do.
    Raises RefusedError.
    """
    for other in map(
        os.path.realpath, read_only(record) if write else writable(record)
    ):
        inner, outer = (Path(other), path) if write else (path, Path(other))
        # guard: a sandbox does not change by one path what it may read by another
        if inner.is_relative_to(outer):
            raise overlap_error(record.name, inner, outer)


def _refuse_incoming(path: Path, incoming: Path) -> None:
    """Refuse to have a sandbox choose where files of others arrive.  Raises RefusedError."""
    real = Path(os.path.realpath(incoming))
    # guard: no sandbox writes to the directory in which files of all sandboxes arrive
    if is_chosen_in(incoming, path) and real not in path.parents:
        raise RefusedError(
            f"cannot share {printable(str(path), 200)} to write: files of all sandboxes arrive in {printable(str(real), 200)}",
            hint="share it without --write, or share another directory",
        )


def _require_in_record(order: m.OpenRecordFolder, folders: Folders) -> None:
    """Raise RefusedError unless a record has the order's folder or disk."""
    if order.tag:
        wanted = order.tag, Path(order.path), order.write
        # guard: a record's disks are those of its file
        if wanted not in [disk[:3] for disk in folders.disks]:
            raise RefusedError(
                f"the record {order.record} has no such disk '{printable(order.tag, 40)}'"
            )
        return
    known = folders.read_write if order.write else folders.read_only
    # guard: a record's folders are those of its file
    if Path(order.path) not in known:
        key = "read_write" if order.write else "read_only"
        raise RefusedError(
            f"the record {order.record} has no {key} folder {printable(order.path, 200)}"
        )


def _give(host: int, folder: OpenedFolder, sandbox: str, *, write: bool) -> bytes:
    """Send a folder to the host; return its ticket, empty if there is no host."""
    ticket = secrets.token_bytes(m.TICKET_BYTES)
    path = os.fsencode(folder.path)
    message = m.encode_for_host(
        m.FolderForHost(ticket, sandbox, path, write, folder.at, folder.tag)
    )
    with (
        socket.socket(fileno=os.dup(host)) as sock,
        os.fdopen(os.pidfd_open(os.getpid())) as holder,
    ):
        try:
            fdpass.send(sock, message, [folder.fd, holder.fileno()])
        except BrokenPipeError:
            return b""
    return ticket
