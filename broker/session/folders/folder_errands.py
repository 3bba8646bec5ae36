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
from functools import partial
from pathlib import Path

import msgspec

from broker.core.errors import PeerError, RefusedError
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
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.session.errand import Errand
from broker.session.folders.folder_server import serve_folder
from broker.session.menu_icons import draw_icons, write_prompt_entry
from broker.session.read_warrant import SECONDS
from broker.session.settings_files import settings_problems
from broker.session.transfer.service_files import written_by_services
from broker.wire import fdpass
from policy.records.loader import load_records, search_path, with_last_good
from policy.records.model import Record, RecordSet
from policy.records.mounts.user_files import Folders
from policy.records.places import read_only, root_tree, writable


def carry_out_folder(errand: Errand, order: m.FolderOrder) -> None:
    """Carry out an order about folders or settings.  Raises VitrailError, OSError."""
    match order:
        case m.OpenFolder():
            _share(errand, order)
        case m.DrawIcons():
            write_prompt_entry()
            draw_icons(_records(find_paths()).records.values())
            errand.answer()
        case m.CheckSettings():
            found = [one.first_line() for one in settings_problems(find_paths())]
            errand.answer_file(msgspec.json.encode(found))
        case _:
            raise PeerError("no folder is open")


def _share(errand: Errand, order: m.OpenFolder) -> None:
    """Open a folder, await the permit to give it, give or serve it, and hold that."""
    paths = find_paths()
    records = _records(paths)
    with _opened(errand, order, paths, records) as (folder, sandbox):
        errand.answer(os.fsencode(folder.path))
        give = errand.next()
        if give is None:
            return
        if not isinstance(give, m.GiveFolder):
            raise PeerError("the folder must be passed first")
        # guard: a permit for a folder attaches no disk
        permit = errand.permit(give.warrant, {BLOCK if folder.tag else FOLDER})
        # guard: a folder is mounted by the permit for it
        named = folder_argument(folder.name), folder_object(folder.path)
        if (permit.argument, permit.about) != named:
            raise RefusedError("the permit is for another folder")
        # guard: a folder that is permitted to read is not written to
        if order.write and not permit.write:
            raise RefusedError("the permit only allows reading")
        # guard: a folder goes to the sandbox that the user or a record names
        if not sandboxes_named(sandbox, [(permit.sandbox, permit.record)]):
            raise RefusedError("the permit is for another sandbox")
        if permit.record in records.records:
            record = records.records[permit.record]
            _refuse_overlap(folder.path, record, write=order.write)
        ticket = _give(errand.host, folder, permit.sandbox, write=order.write)
        errand.answer(ticket)
        if ticket:
            # The host unmounts it when this process has ended.
            # guard: a folder is mounted while its permit is held
            errand.hold(permit)
        elif folder.tag:
            raise RefusedError("a sandbox of another machine cannot have a disk")
        elif held := _await_connection(errand, permit):
            serve_folder(errand, folder, held, write=order.write)


def _await_connection(errand: Errand, permit: PermitWarrant) -> PermitWarrant | None:
    """Return the permit, as renewed, once there is a connection; None: there is none.

    Raises RefusedError where it has expired, PeerError for another order.
    """
    while (order := errand.next()) is not None:
        if isinstance(order, HoldPermit):
            at = errand.renewed(permit, order) - SECONDS
            permit = msgspec.structs.replace(permit, at=at)
            continue
        if not isinstance(order, m.ServeFolder):
            raise PeerError("the folder is not served yet")
        # guard: a folder is not served when its permit may have ended
        errand.refuse_late(permit.at + SECONDS)
        return permit
    return None


def _records(paths: Paths) -> RecordSet:
    """Return the records, with what the authority has kept of broken ones."""
    read = load_records(search_path(paths.runtime, paths.config))
    if not read.broken:
        return read
    return with_last_good(read, load_records([paths.state / "policy" / "records"]))


@contextmanager
def _opened(
    errand: Errand, order: m.OpenFolder, paths: Paths, records: RecordSet
) -> Iterator[tuple[OpenedFolder, str]]:
    """Yield the directory and the name of the sandbox, or record, that it is for."""
    private = [paths.runtime, paths.state, paths.cache, *paths.config]
    linked = [paths.homes, *map(Path, order.linked)]
    linked += (place for one in records.records.values() for place in writable(one))
    # guard: a link of a service is not followed for a folder to share
    linked += written_by_services(paths)
    name = _of_record(order, records) if order.record else _of_call(errand, order)
    home = Path.home()
    if order.tag:
        opened = partial(open_image, order.path, order.tag, write=order.write)
        folder = opened(home, private, linked)
    else:
        folder = open_folder(order.path, home, private, linked)
    try:
        if not order.tag:
            folder.at = _place(order, records)
        if order.write:
            _refuse_programs(folder.path, records)
            _refuse_incoming(folder.path, home / INCOMING)
        yield folder, name
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


def _of_call(errand: Errand, order: m.OpenFolder) -> str:
    """Check that the user's call names the order's folder; return its sandbox."""
    call = errand.call(order.warrant, {"FolderShare"})
    asked = msgspec.json.decode(call.parameters, type=FolderShareRequest)
    # guard: a folder is the one that the user named
    if (asked.path, bool(asked.write)) != (order.path, order.write):
        raise RefusedError("'brokerctl share' named another folder")
    return asked.sandbox


def _of_record(order: m.OpenFolder, records: RecordSet) -> str:
    """Check that a record has the order's folder; return the record's name."""
    folders = _folders(order, records)
    if order.tag:
        wanted = order.tag, Path(order.path), order.write
        # guard: a record's disks are those of its file
        if wanted not in [disk[:3] for disk in folders.disks]:
            raise RefusedError(
                f"the record {order.record} has no such disk '{printable(order.tag, 40)}'"
            )
        return order.record
    known = folders.read_write if order.write else folders.read_only
    # guard: a record's folders are those of its file
    if Path(order.path) not in known:
        key = "read_write" if order.write else "read_only"
        raise RefusedError(
            f"the record {order.record} has no {key} folder {printable(order.path, 200)}"
        )
    return order.record


def _folders(order: m.OpenFolder, records: RecordSet) -> Folders:
    """Return what the order's record has of the user's files."""
    record = records.records.get(order.record)
    return Folders() if record is None else record.viewer.folders


def _place(order: m.OpenFolder, records: RecordSet) -> str:
    """Return where the record mounts the order's directory; empty: below /folders."""
    at = _folders(order, records).at(Path(order.path), write=order.write)
    return "" if at is None else str(at)


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
