#!/usr/bin/python3
"""Files and links in a guest: ask the broker to open or copy, receive, open.

One file under several names; the first argument or the name decides:

    xdg-open, vitrail-open [--to SANDBOX] URL|FILE   ask to have it opened
    vitrail-open --edit FILE                         the same; changes come back
    vitrail-copy [--to SANDBOX | FILE… SANDBOX]      ask to have files copied
    receive TOKEN        started by the broker: fetch the files sent to this sandbox
    give TOKEN URI…      started by the broker: send files that were copied or dragged
    send FILE…           write the entries of files to standard output
    edit FILE            the same for one; replace it by what standard input has then
    store DIRECTORY      read entries from standard input and keep them there

The last three also run beside the broker, for the person's own files.  The protocol
is ``broker/ipc/transfer_guest.py`` and ``broker/transfer/entries.py``; a test
compares the tables.  Standard library only, Python 3.9.

Settings: the environment ``VITRAIL_OPEN_URL``, ``VITRAIL_OPEN_FILE`` and
``VITRAIL_COPY`` (``vsock:CID:PORT`` or ``unix:PATH``).
"""

from __future__ import annotations

import configparser
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mimetypes
import os
import secrets
import shlex
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from functools import partial
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    Iterator,
    List,
    NoReturn,
    Optional,
    Tuple,
)
from urllib.parse import unquote

HOST_CID = 2
PORTS = {"VITRAIL_OPEN_URL": 6510, "VITRAIL_OPEN_FILE": 6511, "VITRAIL_COPY": 6512}
FRAME_BYTES = 1 << 16
DEPTH = 16
# A write of more bytes becomes several packets in newer kernels, and
# vhost-device-vsock 0.3 loses all but the first.
PIECE_BYTES = 28672
COPY_BYTES = 1 << 18
KEEP_FREE_BYTES = 100 << 20
INCOMING = "Incoming"
STAGING = ".vitrail-"
LINE_SECONDS = 2.0  # between lines about progress where there is no terminal
UNNAMED = 16  # files of one transfer that are open until its end
ORIGIN_ATTRIBUTE = "user.xdg.origin.url"
SYS_OPENAT2 = 437
# guard: no link below
RESOLVE = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 0x20, 0x1000
LOCKED_FLAGS = 0x02 | 0x04 | 0x08 | 0x400 | 0x800  # nosuid nodev noexec no(dir)atime
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
# Programs that open a type, where no desktop file says: the first that is there.
VIEWERS = {
    "url": ["firefox-esr", "firefox", "chromium", "epiphany", "falkon", "netsurf-gtk3"],
    "application/pdf": ["evince", "zathura", "mupdf", "okular", "qpdfview"],
    "image/": ["imv-wayland", "imv", "eog", "gpicview", "mupdf", "feh"],
    "text/": ["mousepad", "gedit", "featherpad", "kate", "foot -e less --"],
    "video/": ["mpv", "totem"],
    "audio/": ["mpv", "totem"],
}


RUN_THINGS = frozenset(
    [
        "sh",
        "bash",
        "dash",
        "zsh",
        "fish",
        "env",
        "foot",
        "xterm",
        "weston-terminal",
        "alacritty",
        "kitty",
        "konsole",
        "gnome-terminal",
        "ptyxis",
        "xfce4-terminal",
        "sudo",
    ]
)


class TransferError(Exception):
    """The person sees this message, and the exit code is 1."""


# -- frames ---------------------------------------------------------------------------


def frame(message: Dict[str, Any]) -> bytes:
    """Return a message as bytes."""
    body = json.dumps(message, ensure_ascii=False).encode()
    if len(body) > FRAME_BYTES:
        raise TransferError("a name is too long to be sent")
    return struct.pack("<I", len(body)) + body


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Return so many bytes.  Raises TransferError when it ends before."""
    data = source.read(size)
    if len(data) != size:
        raise TransferError("the transfer was broken off")
    return data


def read_message(source: BinaryIO) -> Dict[str, Any]:
    """Return the next message."""
    (size,) = struct.unpack("<I", read_exactly(source, 4))
    if not 0 < size <= FRAME_BYTES:
        raise TransferError(f"a message of {size} bytes")
    try:
        message = json.loads(read_exactly(source, size))
    except (ValueError, RecursionError) as error:
        raise TransferError(f"not a message: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise TransferError("not a message")
    return message


class Connection:
    """A connection to the broker: messages, and raw bytes in small pieces."""

    def __init__(self, variable: str) -> None:
        address = os.environ.get(variable) or f"vsock:{HOST_CID}:{PORTS[variable]}"
        kind, _, rest = address.partition(":")
        family = socket.AF_UNIX if kind == "unix" else socket.AF_VSOCK
        target: Any = rest
        if kind != "unix":
            cid, port = rest.split(":")
            target = (int(cid), int(port))
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.connect(target)
        except OSError as error:
            raise TransferError(f"no broker at {address}: {error.strerror}") from None
        self.reader: BinaryIO = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            for start in range(0, len(data), PIECE_BYTES):
                self.socket.sendall(data[start : start + PIECE_BYTES])
        except OSError:
            # It has hung up; its message before that is the reason.
            raise TransferError(self.refusal() or "the broker broke it off") from None

    def refusal(self) -> str:
        """Return why the broker has ended it, if it says."""
        try:
            while True:
                message = read_message(self.reader)
                if message["type"] == "refused":
                    return str(message.get("reason"))
        except (TransferError, OSError):
            return ""

    def wait(self, *wanted: str) -> Dict[str, Any]:
        """Return the next message of these types; report progress meanwhile."""
        while True:
            message = read_message(self.reader)
            if message["type"] in wanted:
                return message
            if message["type"] == "refused":
                raise TransferError(str(message.get("reason")))
            if message["type"] == "wait":
                tell(str(message.get("what")))


def tell(text: str) -> None:
    """Print a line for the person; control characters do not reach the terminal."""
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in text) + "\n")


# -- sending ---------------------------------------------------------------------------


class Walk:
    """Files and directories to be sent, in order; links and devices are left out."""

    def __init__(self, paths: List[str]) -> None:
        self.found: List[Tuple[List[str], str, int]] = []
        """Path in the transfer, path here, size; size -1 for a directory."""
        self.left_out = 0
        for path in paths:
            name = os.path.basename(os.path.abspath(path))
            if not os.path.lexists(path):
                raise TransferError(f"there is no {path}")
            # A named path may be a link; an entry found below it may not.
            self._add([name], os.path.realpath(path))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(max(size, 0) for _, _, size in self.found)

    def _add(self, inside: List[str], path: str) -> None:
        try:
            facts = os.lstat(path)
        except OSError:
            self.left_out += 1
            return
        if stat.S_ISREG(facts.st_mode):
            self.found.append((inside, path, facts.st_size))
        elif stat.S_ISDIR(facts.st_mode) and len(inside) < DEPTH:
            self.found.append((inside, path, -1))
            for name in sorted(os.listdir(path)):
                self._add([*inside, name], os.path.join(path, name))
        else:
            self.left_out += 1


def entries(walk: Walk) -> Iterator[bytes]:
    """Yield the bytes of all entries.

    A file that has become shorter breaks the transfer off, as its size was announced;
    one that has grown is cut there.
    """
    for inside, path, size in walk.found:
        if size < 0:
            yield frame({"type": "dir", "path": inside})
            continue
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as source:
            yield frame({"type": "file", "path": inside, "size": size})
            left = size
            while left:
                data = source.read(min(left, COPY_BYTES))
                if not data:
                    raise TransferError(f"{path} has become shorter while it was read")
                left -= len(data)
                yield data
    yield frame({"type": "end"})


class Bar:
    """A progress bar on a terminal; elsewhere a line from time to time, or nothing."""

    def __init__(self, total: int, verb: str = "") -> None:
        self._total = total
        self._verb = verb
        self._next = 0.0 if sys.stderr.isatty() else time.monotonic() + LINE_SECONDS
        self.done = 0

    def add(self, size: int) -> None:
        """So many bytes more."""
        self.done += size
        now = time.monotonic()
        if now < self._next:
            return
        done, total = self.done >> 20, self._total >> 20
        if sys.stderr.isatty():
            self._next = now + 0.1
            part = min(self.done * 30 // max(self._total, 1), 30)
            sys.stderr.write(f"\r[{'#' * part:<30}] {done} of {total} MiB ")
        elif self._verb:
            # Of a program that the broker has started: 'brokerctl logs' shows it.
            self._next = now + LINE_SECONDS
            tell(f"{self._verb} {done} of {total} MiB")

    def end(self) -> None:
        """Go on in the next line."""
        if sys.stderr.isatty() and self._next:
            sys.stderr.write("\n")


def send_entries(connection: Connection, walk: Walk, *also: str) -> Dict[str, Any]:
    """Send all entries; returns the message at the end, ``done`` or one of these."""
    bar = Bar(walk.size)
    for data in entries(walk):
        connection.send(data)
        bar.add(len(data))
    bar.end()
    return connection.wait("done", *also)


# -- asking ----------------------------------------------------------------------------


def mime_of(path: str) -> str:
    """Return the type that a name claims, or nothing."""
    return (mimetypes.guess_type(path, strict=False)[0] or "").lower()


def ask_open(words: List[str]) -> int:
    """``vitrail-open [--edit] [--to SANDBOX] URL|FILE``."""
    edit = words[:1] == ["--edit"]
    target, rest = take_target(words[1:] if edit else words)
    if len(rest) != 1:
        raise TransferError("usage: vitrail-open [--edit] [--to SANDBOX] URL|FILE")
    # Programs hand local files to xdg-open as addresses.
    text = local_path(rest[0])
    if os.path.exists(text):
        return open_file(text, target, edit=edit)
    if edit:
        raise TransferError(f"there is no {text}")
    connection = Connection("VITRAIL_OPEN_URL")
    connection.send(frame({"type": "open-url", "url": text, "target": target}))
    connection.wait("done")
    return 0


def local_path(text: str) -> str:
    """Return the path that a ``file:`` address names; other text as it is."""
    for prefix in ("file://localhost/", "file:///"):
        if text.startswith(prefix):
            return unquote(text[len(prefix) - 1 :])
    return text


def open_file(path: str, target: str, *, edit: bool = False) -> int:
    """Have a file opened elsewhere; with ``edit`` it is replaced by what comes back."""
    walk = Walk([path])
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError(f"{path} is not a file")
    connection = Connection("VITRAIL_OPEN_FILE")
    name = walk.found[0][0][0]
    ask = {"type": "open-file", "name": name, "size": walk.size, "edit": edit}
    connection.send(frame(dict(ask, mime=mime_of(path), target=target)))
    connection.wait("go")
    if not edit:
        send_entries(connection, walk)
        return 0
    edited = Edited(walk.found[0][1])
    answer = send_entries(connection, walk, "delivery")
    if answer["type"] == "done":
        tell(f"{path} is unchanged")
        return 0
    tell(edited.replace(connection.reader, str(answer.get("source"))))
    connection.wait("done")
    return 0


def give(words: List[str]) -> int:
    """``give TOKEN URI…``: files that were copied or dragged here go where they may."""
    paths = [local_path(word) for word in words[1:] if word.startswith("file:")]
    walk = Walk(paths)
    if not walk.found:
        raise TransferError("there is nothing to copy")
    connection = Connection("VITRAIL_COPY")
    ask = {"type": "give", "token": words[0], "name": walk.found[0][0][0]}
    connection.send(frame(dict(ask, files=len(walk.found), size=walk.size)))
    connection.wait("go")
    send_entries(connection, walk)
    return 0


def ask_copy(words: List[str]) -> int:
    """``vitrail-copy FILE… SANDBOX`` or ``vitrail-copy --to SANDBOX FILE…``."""
    target, paths = take_target(words)
    if not target and len(paths) > 1:
        target = paths.pop()
    if not target or not paths:
        raise TransferError("usage: vitrail-copy FILE… SANDBOX")
    walk = Walk(paths)
    if not walk.found:
        raise TransferError("there is nothing to copy")
    if walk.left_out:
        tell(f"{walk.left_out} links, devices or too deep directories are left out")
    connection = Connection("VITRAIL_COPY")
    ask = {"type": "copy", "name": walk.found[0][0][0], "files": len(walk.found)}
    connection.send(frame(dict(ask, size=walk.size, target=target)))
    connection.wait("go")
    send_entries(connection, walk)
    return 0


def take_target(words: List[str]) -> Tuple[str, List[str]]:
    """Return the value of ``--to`` and the rest."""
    rest = list(words)
    target = ""
    if rest[:1] == ["--to"] and len(rest) > 1:
        target = rest[1]
        del rest[:2]
    if rest[:1] == ["--"]:
        del rest[0]
    return target, rest


# -- keeping ----------------------------------------------------------------------------


class Store:
    """Keeps entries in a directory: never overwrites, shows nothing unfinished.

    Single files are written without a name (O_TMPFILE) and linked at the end.
    Directories, and many files, are built in a hidden directory of ours and
    renamed out of it; what a killed process has left there is removed by the next.
    Everything is opened relative to a descriptor, never through a link.
    """

    def __init__(
        self,
        top: str,
        origin: str,
        keep_free: int = KEEP_FREE_BYTES,
        bar: Optional[Bar] = None,
    ) -> None:
        self._bar = bar
        os.makedirs(top, mode=0o700, exist_ok=True)
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._origin = origin
        self._keep_free = keep_free
        self._staging = ""
        self._lock = -1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._known: Dict[Tuple[str, ...], int] = {}
        self._unnamed: List[Tuple[int, str]] = []
        self.kept: List[str] = []
        """Names in the directory, once ``finish`` has returned."""
        self._sweep()

    def directory(self, path: List[str]) -> None:
        """Make a directory."""
        check_path(path)
        parent = self._parent(path)
        os.mkdir(path[-1], 0o700, dir_fd=parent)

    def file(self, path: List[str], size: int, source: BinaryIO) -> None:
        """Keep a file of so many bytes, which are read from ``source``."""
        check_path(path)
        self._room(size)
        fd = self._unnamed_file() if len(path) == 1 else -1
        if fd >= 0:
            self._unnamed.append((fd, path[0]))
            self._fill(fd, size, source)
            mark(fd, self._origin)
            return
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        fd = os.open(path[-1], flags, 0o600, dir_fd=self._parent(path))
        try:
            self._fill(fd, size, source)
            mark(fd, self._origin)
        finally:
            os.close(fd)

    def _unnamed_file(self) -> int:
        """Return a file without a name, or -1: there are many, or it cannot be.

        Overlay file systems before Linux 6.3 have none.
        """
        if len(self._unnamed) >= UNNAMED:
            return -1
        try:
            return os.open(
                ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._top
            )
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                return -1
            raise

    def finish(self) -> List[str]:
        """Make all of it visible; returns the names that it got."""
        for fd, name in self._unnamed:
            self.kept.append(self._unused(name, partial(self._link, fd)))
            os.close(fd)
        self._unnamed.clear()
        if self._staging:
            for name in sorted(os.listdir(self._known[()])):
                self.kept.append(self._unused(name, partial(self._rename, name)))
        self.close()
        return self.kept

    def close(self) -> None:
        """Remove unfinished files."""
        for fd, _ in self._unnamed:
            os.close(fd)
        self._unnamed.clear()
        for fd in self._known.values():
            os.close(fd)
        self._known.clear()
        if self._staging:
            self._remove(self._staging)
            self._staging = ""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def _remove(self, name: str) -> None:
        # Through the descriptor: the path may lead elsewhere by now.
        shutil.rmtree(f"/proc/self/fd/{self._top}/{name}", ignore_errors=True)

    def _parent(self, path: List[str]) -> int:
        """Return a descriptor of the directory that an entry goes to."""
        if not self._staging:
            self._begin()
        key = tuple(path[:-1])
        if key not in self._known:
            if len(self._known) > 64:
                for old in [k for k in self._known if k]:
                    os.close(self._known.pop(old))
            self._known[key] = self._beneath(self._known[()], "/".join(key))
        return self._known[key]

    def _begin(self) -> None:
        self._staging = STAGING + secrets.token_hex(8)
        os.mkdir(self._staging, 0o700, dir_fd=self._top)
        self._known[()] = self._beneath(self._top, self._staging)
        self._lock = os.dup(self._known[()])
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _beneath(self, top: int, path: str) -> int:
        """Open a directory below another one, through no link (openat2(2))."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        how = struct.pack("<QQQ", flags, 0, RESOLVE)
        fd = self._libc.syscall(SYS_OPENAT2, top, path.encode(), how, len(how))
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code != errno.ENOSYS:
            raise OSError(code, os.strerror(code), path)
        fd = os.dup(top)
        for name in path.split("/"):
            inner = os.open(name, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        return fd

    def _fill(self, fd: int, size: int, source: BinaryIO) -> None:
        left = size
        while left:
            data = source.read(min(left, COPY_BYTES))
            if not data:
                raise TransferError("the transfer was broken off")
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if self._bar is not None:
                self._bar.add(len(data))
            if left and left % (64 << 20) < COPY_BYTES:
                self._room(left)

    def _room(self, size: int) -> None:
        facts = os.fstatvfs(self._top)
        # guard: room before bytes
        if facts.f_bavail * facts.f_frsize < size + self._keep_free:
            raise TransferError(
                f"not enough room: {size} bytes, and {self._keep_free} stay free"
            )

    def _link(self, fd: int, new: str) -> None:
        os.link(f"/proc/self/fd/{fd}", new, dst_dir_fd=self._top, follow_symlinks=True)

    def _rename(self, name: str, new: str) -> None:
        # RENAME_NOREPLACE; os.rename would replace.
        stage, top = self._known[()], self._top
        # guard: nothing is replaced
        if self._libc.renameat2(stage, name.encode(), top, new.encode(), 1) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), new)

    def _unused(self, name: str, make: Callable[[str], None]) -> str:
        """Give it this name, or that with a number; never another file's."""
        stem, dot, ending = (
            name.partition(".") if not name.startswith(".") else (name, "", "")
        )
        for number in range(1000):
            new = name if not number else f"{stem} ({number}){dot}{ending}"
            try:
                make(new)
            except FileExistsError:
                continue
            return new
        raise TransferError(f"there are 1000 files named {name} already")

    def _sweep(self) -> None:
        """Remove what killed processes have left; one that runs holds its lock."""
        for name in os.listdir(self._top):
            if not name.startswith(STAGING):
                continue
            try:
                fd = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._top
                )
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # guard: left-overs of the killed
                self._remove(name)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)


def mark(fd: int, origin: str) -> None:
    """Record on a file where it comes from, where its file system can do that."""
    try:
        os.setxattr(fd, ORIGIN_ATTRIBUTE, f"vitrail:{origin}".encode())
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC):
            raise


def hash_of(fd: int) -> bytes:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while True:
        data = os.read(fd, COPY_BYTES)
        if not data:
            return digest.digest()
        digest.update(data)


class Edited:
    """A file that is edited elsewhere.

    What comes back replaces it in one step, if its content differs; the previous
    version is kept beside it.  Where the file was changed here meanwhile, what comes
    back is kept beside it instead.
    """

    def __init__(self, path: str) -> None:
        self._folder = os.open(
            os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
        self._name = os.path.basename(path)
        self.before = self._content()
        """Its SHA-256."""

    def _content(self) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._name, flags, dir_fd=self._folder)
        try:
            return hash_of(fd)
        finally:
            os.close(fd)

    def replace(self, source: BinaryIO, origin: str) -> str:
        """Read the file that comes back; returns what became of it, for the person."""
        check_path([origin])
        new = STAGING + secrets.token_hex(8)
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600, dir_fd=self._folder)
        try:
            read_single(source, fd)
            mark(fd, origin)
            os.fsync(fd)
            return self._put(fd, new)
        except OSError as error:
            raise TransferError(f"cannot keep it: {error.strerror}") from error
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=self._folder)

    def _put(self, fd: int, new: str) -> str:
        # guard: only what has changed comes back
        if hash_of(fd) == self.before:
            return f"{self._name} is unchanged"
        try:
            now = self._content()
        except OSError:
            now = b""
        # guard: a file that was changed here meanwhile
        if now != self.before:
            kept = self._beside(new, "{} (edited)", "{} (edited {})")
            return f"{self._name} was changed here, too: the other version is {kept}"
        facts = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        os.fchmod(fd, stat.S_IMODE(facts.st_mode) & 0o666)
        kept = self._beside(self._name, "{}~", "{}.~{}~")
        os.rename(new, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
        return f"{self._name} was replaced; the previous version is {kept}"

    def _beside(self, name: str, first: str, more: str) -> str:
        """Link a file under an unused name."""
        for number in range(1, 1000):
            kept = (first if number == 1 else more).format(self._name, number)
            try:
                os.link(
                    name,
                    kept,
                    src_dir_fd=self._folder,
                    dst_dir_fd=self._folder,
                    follow_symlinks=False,
                )
            except FileExistsError:
                continue
            return kept
        raise TransferError(f"there are 1000 versions of {self._name} already")


def read_single(source: BinaryIO, fd: int) -> None:
    """Read one file's entry and the end into a file of ours."""
    entry = read_message(source)
    if entry["type"] != "file" or type(entry.get("size")) is not int:
        raise TransferError("not one file came back")
    left = entry["size"]
    while left:
        data = source.read(min(left, COPY_BYTES))
        if not data:
            raise TransferError("the transfer was broken off")
        left -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    if read_message(source)["type"] != "end":
        raise TransferError("not one file came back")


def check_path(path: object) -> None:
    """Raise TransferError unless each component is a plain name (checked before, too)."""
    names: List[Any] = path if isinstance(path, list) else []
    good = 0 < len(names) <= DEPTH
    for name in names if good else ():
        # guard: paths of the receiver
        good = good and isinstance(name, str) and name not in ("", ".", "..")
        good = (
            good and "/" not in name and "\0" not in name and len(name.encode()) <= 255
        )
    if not good:
        raise TransferError("an entry has a bad path")


def keep(source: BinaryIO, store: Store) -> List[str]:
    """Keep all entries; returns the names, or leaves nothing and raises."""
    try:
        while True:
            entry = read_message(source)
            if entry["type"] == "end":
                return store.finish()
            if entry["type"] == "dir":
                store.directory(entry.get("path", []))
            elif entry["type"] == "file" and type(entry.get("size")) is int:
                store.file(entry.get("path", []), entry["size"], source)
            else:
                raise TransferError(f"an unknown entry: {entry['type']}")
    except OSError as error:
        raise TransferError(f"cannot keep it: {error.strerror}") from error
    finally:
        store.close()


# -- receiving and opening ---------------------------------------------------------------


def receive(words: List[str]) -> int:
    """Fetch the files sent to this sandbox; open them if so requested."""
    connection = Connection("VITRAIL_COPY")
    connection.send(frame({"type": "take", "token": words[0]}))
    delivery = connection.wait("delivery")
    source = str(delivery.get("source"))
    check_path([source])
    total = delivery.get("size")
    bar = Bar(total if type(total) is int else 0, "received")
    if delivery.get("open") is not True:
        top = os.path.join(os.path.expanduser("~"), INCOMING, source)
        names = keep(connection.reader, Store(top, source, bar=bar))
        print("\n".join(os.path.join(top, name) for name in names))
        return 0
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    top = os.path.join(base, "vitrail-opened", secrets.token_hex(8))
    names = keep(connection.reader, Store(top, source, 1 << 20, bar))
    connection.socket.close()
    if len(names) != 1:
        raise TransferError("not one file to be opened")
    path = os.path.join(top, names[0])
    try:
        back = str(delivery.get("back") or "")
        if back:
            return edit_here(path, back, words[1:])
        os.chmod(path, 0o400)
        return run(opener(path, kind_of(path), words[1:]), sealed=top)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def edit_here(path: str, token: str, fallback: List[str]) -> int:
    """Run the program that edits a file; send it back if its content has changed."""
    with open(path, "rb") as file:
        before = hash_of(file.fileno())
    code = run(opener(path, kind_of(path), fallback))
    with open(path, "rb") as file:
        if hash_of(file.fileno()) == before:
            return code
    walk = Walk([path])
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError("what was edited is not a file any more")
    connection = Connection("VITRAIL_COPY")
    connection.send(frame({"type": "return", "token": token, "size": walk.size}))
    connection.wait("go")
    send_entries(connection, walk)
    return code


def open_here(words: List[str]) -> int:
    """``open-here URL [COMMAND…]``: started by the broker in the target."""
    return run(opener(words[0], "url", words[1:]))


def run(argv: List[str], sealed: str = "") -> int:
    """Run a program to its end, in whose view the directory ``sealed`` is read-only."""
    before = partial(seal, sealed) if sealed else None
    try:
        return subprocess.run(argv, check=False, preexec_fn=before).returncode
    except subprocess.SubprocessError:
        # No user namespaces here: mode 0400 has to do.
        return subprocess.run(argv, check=False).returncode


def seal(top: str) -> None:
    """In a child: make a directory read-only in a mount namespace of its own.

    Its owner could change the mode of a file that is only to be viewed; this mount
    cannot be changed from a further namespace either (mount_namespaces(7)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    place = os.fsencode(top)
    # Flags of the mount below may not be taken off, and are the same bits here.
    flags = MS_BIND | MS_REMOUNT | MS_RDONLY | os.statvfs(top).f_flag & LOCKED_FLAGS
    done = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    done = done and libc.mount(place, place, None, MS_BIND, None) == 0
    if not done or libc.mount(b"none", place, None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


def kind_of(path: str) -> str:
    """Return the type of a file by its first bytes, else by its name."""
    with open(path, "rb") as file:
        head = file.read(512)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    return mime_of(path) or (
        "text/plain" if b"\0" not in head else "application/octet-stream"
    )


def opener(what: str, kind: str, fallback: List[str]) -> List[str]:
    """Return the command that opens an address or a file in this sandbox."""
    wanted = f"x-scheme-handler/{what.partition(':')[0]}" if kind == "url" else kind
    found = desktop_command(wanted, what)
    if found:
        return found
    for prefix, programs in VIEWERS.items():
        if kind.startswith(prefix):
            for program in programs:
                argv = program.split()
                if all(shutil.which(w) for w in argv if not w.startswith("-")):
                    return [*argv, what]
    # A terminal or a shell would run the file instead of showing it.
    runs = not fallback or os.path.basename(fallback[0]) in RUN_THINGS
    if not runs and shutil.which(fallback[0]):
        return [*fallback, what]
    raise TransferError(f"no program here opens {wanted}")


def desktop_command(kind: str, what: str) -> List[str]:
    """Return the command of the desktop file that opens a type, or nothing."""
    for folder in desktop_folders():
        for name in handlers(folder, kind):
            parser = configparser.RawConfigParser(strict=False)
            try:
                parser.read(os.path.join(folder, name), encoding="utf-8")
                line = parser.get("Desktop Entry", "Exec")
                argv = [expand(word, what) for word in shlex.split(line)]
            except (configparser.Error, ValueError, OSError, UnicodeDecodeError):
                continue
            argv = [word for word in argv if word]
            # Our own handler would ask the broker again.
            if argv and "vitrail" not in argv[0] and shutil.which(argv[0]):
                return argv if what in argv else [*argv, what]
    return []


def desktop_folders() -> List[str]:
    """Where desktop files are, the user's first."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    dirs = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [os.path.join(d, "applications") for d in [home, *dirs.split(":")] if d]


def handlers(folder: str, kind: str) -> Iterator[str]:
    """Desktop files of a folder for a type: chosen ones, then registered ones."""
    for name, section in (
        ("mimeapps.list", "Default Applications"),
        ("mimeinfo.cache", "MIME Cache"),
    ):
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read(os.path.join(folder, name), encoding="utf-8")
            yield from [w for w in parser.get(section, kind).split(";") if w]
        except (configparser.Error, UnicodeDecodeError):
            continue


def expand(word: str, what: str) -> str:
    """Return a word of Exec= with its field code filled in."""
    if word in ("%u", "%U", "%f", "%F"):
        return what
    return "" if len(word) == 2 and word[0] == "%" else word


# -- the person's own files -----------------------------------------------------------------


def send(words: List[str]) -> int:
    """Write the entries of files to standard output."""
    walk = Walk(words)
    out = sys.stdout.buffer
    try:
        for data in entries(walk):
            out.write(data)
        out.flush()
    except BrokenPipeError:
        raise TransferError("the receiver broke it off") from None
    return 0


def edit(words: List[str]) -> int:
    """Write a file's entries to standard output, then replace it by what comes back.

    Nothing comes back where standard input ends at once.  ``edit FILE ORIGIN``.
    """
    path = os.path.realpath(words[0])
    edited = Edited(path)
    tell(f"sha256 {edited.before.hex()}")
    send([path])
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)  # its end is what the receiver waits for
    with os.fdopen(0, "rb") as back:
        if back.peek(1):
            tell(edited.replace(back, words[1]))
        else:
            tell(f"{os.path.basename(path)} is unchanged")
    return 0


def store(words: List[str]) -> int:
    """Keep entries from standard input; prints the names as JSON."""
    names = keep(sys.stdin.buffer, Store(words[0], words[1], int(words[2])))
    print(json.dumps(names))
    return 0


VERBS = {
    "xdg-open": ask_open,
    "vitrail-open": ask_open,
    "x-www-browser": ask_open,
    "vitrail-copy": ask_copy,
    "receive": receive,
    "give": give,
    "open-here": open_here,
    "send": send,
    "edit": edit,
    "store": store,
}


def usage() -> NoReturn:
    """Say what there is."""
    raise TransferError(f"usage: vitrail_files.py {'|'.join(VERBS)} …")


def main(argv: List[str]) -> int:
    """Do what the first word says."""
    os.umask(0o077)
    try:
        if not argv or argv[0] not in VERBS:
            usage()
        return VERBS[argv[0]](argv[1:])
    except TransferError as error:
        tell(f"vitrail: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
