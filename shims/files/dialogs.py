"""``org.freedesktop.portal.FileChooser``: files of the user's desktop, by its dialog.

What the user chooses to open is copied to ``~/Incoming/desktop``, and the program gets
these copies.  A file that it saves is written there, too, and is sent each time that it
has been closed: so the content is never only at the desktop.  Programs that find no
rule for it use the dialogs of their own.  Source: the documentation of XDG Desktop
Portal; inotify(7).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING

from shims.files.bus_messages import MEMBER, SENDER, BusMessage
from shims.files.bus_service import (
    CallError,
    PortalPart,
    request_handle,
)
from shims.files.calling import start_thread
from shims.files.connection import BrokerConnection
from shims.files.incoming_files import EntryStore, keep
from shims.files.protocol import TransferError, check_path, frame, tell
from shims.files.receiving import INCOMING
from shims.files.sending import Walk, send_entries
from shims.files.syscalls import errno_of_call

if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Dict, List, Optional, Tuple

    from shims.files.bus_service import Respond, Values

FILE_CHOOSER = "org.freedesktop.portal.FileChooser"
CHOSEN, DISMISSED, NOT_SHOWN = 0, 1, 2
# A program may print the path and end, and another one writes.
SAVED_LINGER_SECONDS = 60.0
RETURN_PAUSE = 10.0  # the longest before it is tried once more; all are 22 s
IN_CLOSE_WRITE, IN_MOVED_TO = 0x8, 0x80
# As in the broker's messages: others are left out.
GLOB = re.compile(r"\*|(?=.{1,32}\Z)\*?[A-Za-z0-9._+-]+")
TYPE = re.compile(r"[A-Za-z0-9.+_-]{1,60}/(\*|[A-Za-z0-9.+_-]{1,60})")
FILTER_RULES = 256
# A letter of either case, as toolkits write it: "*.[pP][dD][fF]".
EITHER_CASE = re.compile(r"\[([A-Za-z])([A-Za-z])\]")
INOTIFY_EVENT = struct.Struct("iIII")


class FileDialog:
    """A dialog of one program, and then the file that it saves."""

    def __init__(self, sender: str) -> None:
        import threading

        self.sender = sender
        self.over = False
        """The program has closed the dialog, or left the bus."""
        self.wake, self._woken = os.pipe()
        self._asking: Optional[socket.socket] = None
        self._open = True
        self._lock = threading.Lock()

    def asking(self, connection: Optional[socket.socket]) -> None:
        """Set the connection that ``end`` closes; None: there is none."""
        with self._lock:
            self._asking = connection
            if self.over:
                self._break_off()

    def end(self) -> None:
        """Close the dialog; a file that is being saved is followed a little longer."""
        with self._lock:
            if self._open and not self.over:
                self.over = True
                os.write(self._woken, b"x")
                self._break_off()

    def _break_off(self) -> None:
        if self._asking is not None:
            with contextlib.suppress(OSError):
                self._asking.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close open files."""
        with self._lock:
            self._open = False
            os.close(self.wake)
            os.close(self._woken)


class PortalDialogs(PortalPart):
    """The portal's dialogs; ``respond`` is called with a handle, a code and results."""

    interface = FILE_CHOOSER
    facts: ClassVar[Values] = {"version": ("u", 3)}

    def __init__(self, respond: Respond) -> None:
        super().__init__(respond, {"type": "choose", "kind": "offered"})
        self._dialogs: Dict[str, FileDialog] = {}

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``; those of which a file is being saved count, too."""
        return len(self._dialogs)

    def _begin(self, call: BusMessage) -> Tuple[Any, ...]:
        """Start a file dialog on the desktop in a thread; return its handle.

        Raises CallError.
        """
        sender, handle, options = call.text(SENDER), request_handle(call), call.body[2]
        if handle in self._dialogs:
            raise CallError("DBus.Error.LimitsExceeded", "too many dialogs are open")
        try:
            ask = request_of(call.text(MEMBER), options)
        except (TypeError, ValueError, AttributeError, KeyError):
            raise CallError(
                "DBus.Error.InvalidArgs", "an option has the wrong type"
            ) from None
        dialog = self._dialogs[handle] = FileDialog(sender)
        start_thread(lambda: self._run(handle, dialog, ask))
        return (handle,)

    def close(self, sender: str, handle: str) -> None:
        """Close a program's dialog.  Raises CallError for another program's."""
        dialog = self._dialogs.get(handle)
        # guard: a program closes its own dialogs
        if dialog is None or dialog.sender != sender:
            raise CallError("DBus.Error.UnknownObject", "the dialog does not exist")
        dialog.end()

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        for dialog in list(self._dialogs.values()):
            if dialog.sender == sender:
                dialog.end()

    def _run(self, handle: str, dialog: FileDialog, ask: Dict[str, Any]) -> None:
        """Run a dialog and respond to the program, once."""
        answered: List[int] = []

        def answer(code: int, paths: List[str]) -> None:
            if not answered:
                answered.append(code)
                uris = [address_of(path) for path in paths]
                results = {"uris": ("as", uris)}
                self._respond(dialog.sender, handle, code, results)

        try:
            run_dialog(dialog, ask, answer)
        except (TransferError, OSError, ValueError) as error:
            tell(f"vitrail: cannot show the file dialog: {error}")
        finally:
            del self._dialogs[handle]
            dialog.close()
            answer(NOT_SHOWN, [])


def run_dialog(
    dialog: FileDialog, ask: Dict[str, Any], answer: Callable[[int, List[str]], None]
) -> None:
    """Have the user choose; pass on the paths here.  Raises TransferError."""
    connection = BrokerConnection("VITRAIL_CALL")
    with connection.socket:
        dialog.asking(connection.socket)
        try:
            connection.send(frame(dict(ask, type="choose")))
            reply = connection.wait("delivery", "done")
            if reply["type"] == "done":
                answer(DISMISSED, [])
                return
            paths, token = receive_chosen(connection, reply)
        finally:
            dialog.asking(None)
        if not token:
            connection.wait("done")
            answer(CHOSEN, paths)
            return
        tokens = token.split(",")
        if len(paths) != len(tokens):
            raise TransferError("wrong number of tokens for the files")
        save(dialog, connection, dict(zip(paths, tokens)), answer)


def receive_chosen(
    connection: BrokerConnection, delivery: Dict[str, Any]
) -> Tuple[List[str], str]:
    """Keep the arriving files; returns the paths, and the token of a file to be saved."""
    source, token = str(delivery.get("source")), str(delivery.get("back") or "")
    check_path([source])
    top = os.path.join(os.path.expanduser("~"), INCOMING, source)
    names = keep(connection.reader, EntryStore(top, source))
    return [os.path.join(top, name) for name in names], token


def save(
    dialog: FileDialog,
    connection: BrokerConnection,
    tokens: Dict[str, str],
    answer: Callable[[int, List[str]], None],
) -> None:
    """Let the program write the files; send them on.  Raises TransferError.

    ``tokens`` by their paths, all of one folder.
    """
    watch = watched(os.path.dirname(next(iter(tokens))))
    try:
        answer(CHOSEN, list(tokens))
        follow(dialog, connection, watch, tokens)
    finally:
        os.close(watch)
        # A file that was never written leaves nothing.
        for path in tokens:
            with contextlib.suppress(OSError):
                if not size_at(path):
                    os.unlink(path)


def follow(
    dialog: FileDialog, connection: BrokerConnection, watch: int, tokens: Dict[str, str]
) -> None:
    """Send a file each time that a program has written it, while the broker takes it."""
    sent = dict.fromkeys(tokens, -1)
    while True:
        ends: List[Any] = [dialog.wake] if not dialog.over else []
        seconds = SAVED_LINGER_SECONDS if dialog.over else None
        ready = select.select([watch, connection.socket, *ends], [], [], seconds)[0]
        if watch in ready:
            # An editor closes the empty file before it puts another in its place.
            names = names_of(os.read(watch, 1 << 16))
            for path, token in tokens.items():
                if os.path.basename(path).encode() in names:
                    full = size_at(path) or sent[path] > 0
                    sent[path] = send_saved(path, token) if full else 0
        elif connection.socket in ready:
            connection.wait("done")  # raises with the reason
            return
        elif not ready:
            for path, token in tokens.items():
                if sent[path] == 0:
                    send_saved(path, token)
            return


def size_at(path: str) -> int:
    """Return the size of a file, 0 if there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def send_saved(path: str, token: str) -> int:
    """Send a saved file; return 1, or 0 where it has gone.  Raises TransferError."""
    pause = 0.3
    while True:
        if not os.path.lexists(path):
            return 0  # another program has moved it away
        walk = Walk([path], follow=False)
        if len(walk.found) != 1 or walk.found[0][2] < 0:
            return 0
        connection = BrokerConnection("VITRAIL_COPY")
        try:
            with connection.socket:
                ask = {"type": "return", "token": token, "size": walk.size}
                connection.send(frame(ask))
                connection.wait("go")
                send_entries(connection, walk)
                return 1
        except TransferError:
            # The one before is still being kept, or the file is being written again.
            # guard: what is saved while the desktop is busy is sent later
            if pause > RETURN_PAUSE:
                raise
            time.sleep(pause)
            pause *= 1.5


def watched(folder: str) -> int:
    """Watch a folder for written files; return the descriptor (inotify(7))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    mask = IN_CLOSE_WRITE | IN_MOVED_TO
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
        code = errno_of_call()
        if fd >= 0:
            os.close(fd)
        raise OSError(code, os.strerror(code), folder)
    return int(fd)


def names_of(events: bytes) -> List[bytes]:
    """Parse the file names in events of inotify(7)."""
    found, at = [], 0
    while at < len(events):
        size = INOTIFY_EVENT.unpack_from(events, at)[3]
        at += INOTIFY_EVENT.size
        found.append(events[at : at + size].rstrip(b"\0"))
        at += size
    return found


def request_of(member: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the request to the broker; an option has the wrong type are left out."""
    save = member in ("SaveFile", "SaveFiles")
    folder = options.get("directory") is True or options.get("directory") == 1
    kind = "save" if save else "folder" if folder else "open"
    ask: Dict[str, Any] = {"kind": kind, "several": bool(options.get("multiple"))}
    name = options.get("current_name")
    file = options.get("current_file")
    if isinstance(file, list) and file and all(type(byte) is int for byte in file):
        name = name_of(file)
    if save and isinstance(name, str):
        ask["name"] = name[:200]
    if member == "SaveFiles":
        ask["names"] = [name_of(one) for one in options["files"]]
    rows = options.get("filters")
    if kind != "folder" and isinstance(rows, list):
        left, found = FILTER_RULES, []
        for row in rows[:16]:
            found.append(filter_of(row, min(left, 64)))
            left -= len(found[-1]["globs"]) + len(found[-1]["types"])
        ask["filters"] = found
    return ask


def name_of(path: List[int]) -> str:
    """Return the name of a file whose path is an array of bytes."""
    return os.path.basename(bytes(path).rstrip(b"\0").decode("utf-8", "replace"))


def filter_of(row: Tuple[str, List[Tuple[int, str]]], most: int) -> Dict[str, Any]:
    """Return one filter: a name, with at most so many patterns (0) and types (1)."""
    name, rules = row
    types = [text for kind, text in rules if kind == 1 and TYPE.fullmatch(text)][:most]
    globs = [one for kind, text in rules if kind == 0 for one in globs_of(text)]
    return {"name": name[:64], "globs": globs[: most - len(types)], "types": types}


def globs_of(text: str) -> List[str]:
    """Return the patterns that the broker takes for a program's pattern.

    A name's end or a whole name, in small and in capital letters where it has either;
    none for any other pattern.
    """
    if text == "*.*":
        return ["*"]

    def letter(change: Callable[[str], str], found: "re.Match[str]") -> str:
        one, other = map(change, found.groups())
        return one if one == other else found[0]

    both = [EITHER_CASE.sub(partial(letter, to), text) for to in (str.lower, str.upper)]
    return [one for one in dict.fromkeys(both) if GLOB.fullmatch(one)]


def address_of(path: str) -> str:
    """Return the address of a file."""
    from urllib.parse import quote

    return "file://" + quote(path)
