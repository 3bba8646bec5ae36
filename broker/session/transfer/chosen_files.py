"""Files that the user has named in a call or chosen in a dialog, and their tickets.

A session child signs the tickets with the starter's key, and checks them later.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec

from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.files.planted_links import named_path
from broker.core.paths import find_paths
from broker.core.transfer.file_names import (
    saved_names,
    suggested_name,
    take_file_name,
)
from broker.helpers.process.memory_file import memory_file
from broker.ipc.control.types.opening import OpenRequest
from broker.ipc.guest.file_requests import ChooseFiles
from broker.ipc.session import file_orders as m
from broker.ipc.session.warrant import sign
from broker.session import dialogs as chooser
from broker.session.order_exchange import OrderExchange
from broker.session.read_warrant import TICKET_SECONDS, FileTicket, read_ticket
from broker.wire.row import serves
from policy.records.places import writable
from shims.files.protocol import TransferError
from shims.files.sending import Walk

_TITLES = {"open": "open files", "folder": "open a folder", "save": "save a file"}
_SAME_NAMES = 100
_SHOWN = 100
"""Names of files that the viewer gets."""


def ticket(
    exchange: OrderExchange,
    untrusted_ticket: bytes,
    verb: Literal["send", "edit", "save", "drop"],
) -> FileTicket:
    """Verify the ticket of an order.  Raises RefusedError."""
    found = read_ticket(exchange.check.key, untrusted_ticket)
    # guard: files are those that the user has named or chosen
    if found is None:
        raise RefusedError("the user has neither named nor chosen these files")
    # guard: files are used as the user has named or chosen them
    if found.verb != verb:
        raise RefusedError(f"the user chose the files to {found.verb}, not to {verb}")
    # What is saved replaces what was saved before, see ``EditFile.before``.
    if verb != "save":
        exchange.check.use(untrusted_ticket, found.at + TICKET_SECONDS)
    return found


def answer_found(
    exchange: OrderExchange, found: FileTicket, size: int | None = None
) -> None:
    """Answer with the names of found files, and a signed ticket for them."""
    most = len(found.paths) if found.verb == "save" else _SHOWN
    names = [path.rpartition(b"/")[2] for path in found.paths[:most]]
    shown = tuple(name.decode(errors="replace") for name in names)
    told = m.FoundFiles(len(found.paths), shown, size)
    with ExitStack() as stack:
        passed = memory_file(stack, sign(exchange.check.key, found))
        exchange.answer(told, [passed])


def writable_places(more: Iterable[bytes]) -> list[Path]:
    """Return directories in which a sandbox may have made links.

    The viewer can only add to those of records and services: more links are refused.
    """
    # Two of the orders need it, and it takes longer than all other imports.
    from broker.session.transfer.service_files import written_by_services
    from policy.records.loader import load_records, search_path

    paths = find_paths()
    records = load_records(search_path(paths.runtime, paths.config)).records.values()
    # guard: a link of a service is not followed for a file to open
    served = written_by_services(paths)
    return [
        paths.homes,
        *(place for record in records for place in writable(record)),
        *served,
        *(Path(os.fsdecode(place)) for place in more),
    ]


# -- by a call -------------------------------------------------------------------------


@serves(m.FIND_NAMED_FILES)
def find_named(exchange: OrderExchange, order: m.FindNamedFiles) -> None:
    """Find the files that the user's call names; answer with a ticket for them."""
    request = msgspec.json.decode(exchange.user_call.parameters, type=OpenRequest)
    writable, size = writable_places(order.writable), None
    if request.path is not None:
        paths = [named_file(request.path, writable)]
        size = _size_of(paths[0])
    else:
        given = request.copy or ()
        if not given or not all(Path(path).is_absolute() for path in given):
            raise RefusedError("the paths to copy are not absolute")
        paths = [named_file(path, writable) for path in given]
    _require_sendable(paths)
    edit = request.edit and request.path is not None
    verb: Literal["send", "edit"] = "edit" if edit else "send"
    # Of a file to edit: it is replaced once.
    states = (chosen_state(Path(paths[0])),) if edit else ()
    found = FileTicket(
        time.monotonic(), verb, tuple(map(os.fsencode, paths)), states=states
    )
    answer_found(exchange, found, size)


def _require_sendable(paths: list[str]) -> None:
    """Refuse files that no sandbox would get, before one is started for them.

    Raises RefusedError.
    """
    try:
        walk = Walk(paths, follow=False)
        walk.require_files()
    except TransferError as error:
        raise RefusedError(printable(str(error), 900)) from None
    except OSError as error:
        raise _unusable(str(error.filename), error) from None
    for inside, path, _ in walk.found:
        try:
            # guard: a name that no sandbox takes starts none
            take_file_name(os.fsencode(inside[-1]))
        except RefusedError as error:
            raise RefusedError(
                f"cannot copy {printable(path, 200)}: {error.message}",
                hint="rename it, or copy the other files",
            ) from None


def named_file(path: str, writable: Iterable[Path]) -> str:
    """Return a named path without links.  Raises RefusedError."""
    if not Path(path).is_absolute():
        raise RefusedError(f"{printable(path, 200)} is not an absolute path")
    # guard: a sandbox does not choose a file for the user to send
    named = str(named_path(Path(path), writable))
    _require_readable(named)
    return named


def _require_readable(path: str) -> None:
    """Raise RefusedError for a file or directory that the user may not read.

    Before a sandbox is started for it; what is in a directory is seen while it is sent.
    """
    try:
        is_dir = stat.S_ISDIR(Path(path).stat().st_mode)
    except OSError as error:
        raise _unusable(path, error) from None
    if not os.access(path, os.R_OK | (os.X_OK if is_dir else 0)):
        raise _unusable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _size_of(path: str) -> int:
    """Return the size of the user's file.  Raises RefusedError if there is none."""
    try:
        facts = Path(path).stat()
    except OSError as error:
        raise _unusable(path, error) from None
    if not stat.S_ISREG(facts.st_mode):
        raise RefusedError(
            f"{printable(path, 200)} is not a file",
            hint="directories are copied by 'brokerctl cp', and packed files opened as one",
        )
    return facts.st_size


def _unusable(path: str, error: OSError) -> RefusedError:
    """Return the error of a named file that is not there, or not for the user."""
    return RefusedError(
        f"cannot read {printable(path, 200)}: {error.strerror}",
        hint="check that the path exists and who may read it",
    )


# -- by a dialog -----------------------------------------------------------------------


@serves(m.CHOOSE_ON_DESKTOP)
def choose_files(exchange: OrderExchange, order: m.ChooseOnDesktop) -> None:
    """Have the user choose files in a dialog that names the sandbox.

    Answer with a ticket.
    """
    permit, ask = exchange.permit, order.ask
    # guard: a permit to save chooses no file to read
    if permit.argument != f"+{ask.kind}":
        raise RefusedError(f"the permit is for {permit.argument}, not for +{ask.kind}")
    names = checked_names(ask)
    # Late: no other session child has the table of sentences.
    from broker.core.language.notices import in_users_language

    title = f"{permit.sandbox}: {'save files' if names else _TITLES[ask.kind]}"
    asked = msgspec.structs.replace(ask, name=suggested_name(ask.name))
    button = in_users_language("Save" if ask.kind == "save" else "Copy")
    choice = chooser.FileChoice(in_users_language(title), asked, button)
    paths = chooser.choose(choice)
    if not paths:
        exchange.answer(m.FoundFiles(0))
        return
    save, writable = ask.kind == "save", writable_places(order.writable)
    found = [checked(path, writable, save=save) for path in paths]
    if names:
        require_folder(found, names)
        # The dialog asked about a folder, and about no file that is in it.
        found = [free_place(path) for path in found]
    elif len(found) > 1 and (save or not ask.several):
        raise UpstreamError("more than one file was chosen")
    encoded = tuple(map(os.fsencode, found))
    states = tuple(map(chosen_state, found)) if save else ()
    verb: Literal["save", "send"] = "save" if save else "send"
    now = time.monotonic()
    answer_found(exchange, FileTicket(now, verb, encoded, permit.sandbox, states))


def chosen_state(path: Path) -> str:
    """Return the identity and times of a chosen file as text; "-" without one.

    The first content that is saved replaces that and nothing else, however late it comes.
    """
    try:
        facts = path.lstat()
    except OSError:
        return "-"
    # As shims/files/edited.py has it.
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return ",".join(map(str, (*numbers, facts.st_ctime_ns)))


def checked_names(ask: ChooseFiles) -> tuple[str, ...]:
    """Return the names of several files to save.  Raises PeerError.

    A worker has checked them, which may have been taken over.
    """
    names = saved_names(ask.names, ask.kind)
    # guard: names of several files lead nowhere else
    if names != ask.names:
        raise PeerError("the worker has not checked the names of files")
    return names


def require_folder(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Raise UpstreamError unless these are files of such names, in one folder."""
    one = len({path.parent for path in paths}) == 1
    # guard: several files are saved in the folder that was chosen
    if not one or len(set(paths)) != len(names) or len(paths) != len(names):
        raise UpstreamError("the chosen files are not in one folder")


def free_place(path: Path) -> Path:
    """Return a place in a folder where nothing is yet.  Raises RefusedError.

    It stays free, or what is saved there later is refused; see ``chosen_state``.
    """
    tried = path
    for number in range(2, _SAME_NAMES + 2):
        # guard: several files replace none of the folder
        if not os.path.lexists(tried):
            return tried
        tried = path.with_stem(f"{path.stem} ({number})")
    raise RefusedError(
        f"cannot save {printable(path.name, 100)}: the folder has {_SAME_NAMES} files with this name and a number",
        hint="rename some of these files, or choose another folder",
    )


def checked(path: Path, writable: Iterable[Path], *, save: bool) -> Path:
    """Resolve links in a chosen path and check it.  Raises RefusedError."""
    if not save:
        # guard: a chosen file is not a sandbox's link to another one
        return named_path(path, writable)
    take_file_name(os.fsencode(path.name))
    found = named_path(path.parent, writable) / path.name
    # Shells, desktops and the user's programs read such files when they start.
    # guard: a sandbox saves nothing hidden
    if any(part.startswith(".") for part in found.parts):
        raise RefusedError(
            f"{printable(str(found), 200)} is hidden, or in a hidden folder: sandboxes cannot save there"
        )
    folder = found.parent
    # The jail of the process that keeps files has that folder, which is not the root.
    if folder == Path("/") or not os.access(folder, os.W_OK | os.X_OK):
        raise RefusedError(
            f"you cannot save in the folder {printable(str(folder), 200)}",
            hint="choose another folder, such as your Downloads",
        )
    return found
