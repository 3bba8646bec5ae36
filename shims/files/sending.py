"""Files on their way out: which are sent, their bytes, a progress bar.

Programs in the sandbox send by it, and the jailed program of a session child the user's
own files; session children list by it the files that a call names, and brokerctl opens
by it those on its command line.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from shims.files.progress import Bar
from shims.files.protocol import COPY_BYTES, DEPTH, TransferError, frame, tell

if TYPE_CHECKING:
    from typing import (
        Any,
        BinaryIO,
        Callable,
        Dict,
        Iterator,
        List,
        Tuple,
        Union,
    )

    from shims.files.connection import BrokerConnection

WALK_ENTRIES = 1_000_000  # as many as a rule can permit ("transfer.files")
WALK_PATH_BYTES = 256 << 20  # of their paths, as they are kept
LEFT_NAMES, LEFT_NAME_CHARACTERS = 8, 200
NOT_COPIED = f"only files, and directories of up to {DEPTH} levels, are copied"

# guard: nothing is sent through a link
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Of a directory that may only be passed through.
# guard: the sender follows no link in a parent directory
_ABOVE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting: a pipe may have taken the file's place.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Walk:
    """Files and directories to be sent, in order; links and devices are left out.

    Each entry is reached from its directory's descriptor: another process that may
    write there, as a sandbox with a shared folder, puts a link in a directory's place.
    """

    def __init__(self, paths: List[str], *, follow: bool = True) -> None:
        """List the files of these paths."""
        self.found: List[Tuple[List[str], str, int]] = []
        """Path in the transfer, path here, size; size -1 for a directory."""
        self.left_out = 0
        self._left_names: List[str] = []
        self._entries = self._path_bytes = 0
        for path in paths:
            name = os.path.basename(os.path.abspath(path))
            if not os.path.lexists(path):
                raise TransferError(f"{path} does not exist")
            # A named path may be a link; an entry found below it may not.
            real = os.path.realpath(path) if follow else path
            parent = open_directory(os.path.dirname(real))
            try:
                self._add([name], real, parent)
            finally:
                os.close(parent)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(max(size, 0) for _, _, size in self.found)

    def _add(self, inside: List[str], path: str, parent: int) -> None:
        """List an entry with all in it; raises TransferError."""
        name = os.path.basename(path)
        # Names are sent as JSON; Python has other bytes of a name as lone surrogates.
        if _not_utf8(inside[-1]):
            shown = os.fsencode(path).decode(errors="replace")
            raise TransferError(f"the name of {shown} is not UTF-8: rename the file")
        try:
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            self._leave_out(inside)
            return
        if stat.S_ISREG(facts.st_mode):
            self.found.append((inside, path, facts.st_size))
        elif stat.S_ISDIR(facts.st_mode) and len(inside) < DEPTH:
            self.found.append((inside, path, -1))
            self._add_directory(inside, path, parent)
        else:
            self._leave_out(inside)

    def _leave_out(self, inside: List[str]) -> None:
        """Count an entry that is not sent, and keep the names of the first ones."""
        self.left_out += 1
        if len(self._left_names) < LEFT_NAMES:
            self._left_names.append("/".join(inside)[:LEFT_NAME_CHARACTERS])

    def require_files(self) -> None:
        """Raise TransferError if there is nothing to send."""
        if not self.found:
            raise TransferError(
                f"nothing to copy: {NOT_COPIED}: {self._format_names()}"
            )

    def report(self) -> None:
        """Print what is left out, if anything."""
        if self.left_out:
            tell(f"left out {self.left_out}: {NOT_COPIED}")
            tell(self._format_names())

    def _format_names(self) -> str:
        more = self.left_out - len(self._left_names)
        return ", ".join(self._left_names) + (f" and {more} more" if more else "")

    def _add_directory(self, inside: List[str], path: str, parent: int) -> None:
        """List the entries of a directory."""
        fd = _open_below(parent, path, _DIRECTORY)
        try:
            for name in sorted(self._names(fd, path)):
                self._add([*inside, name], os.path.join(path, name), fd)
        finally:
            os.close(fd)

    def _names(self, fd: int, path: str) -> Iterator[str]:
        """Yield the names in a directory.  Raises TransferError for too many.

        Another process may keep making files there, faster than they are listed.
        """
        above = sys.getsizeof(path)
        with os.scandir(fd) as listed:
            for entry in listed:
                self._entries += 1
                self._path_bytes += above + sys.getsizeof(entry.name)
                # guard: a tree that is sent has bounds
                if self._entries > WALK_ENTRIES or self._path_bytes > WALK_PATH_BYTES:
                    raise TransferError(
                        f"too many files and directories (more than {self._entries - 1} up to "
                        f"{path}): send an archive, or fewer files at a time"
                    )
                yield entry.name


def _not_utf8(name: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in name)


def open_directory(path: str) -> int:
    """Open a directory as ``open_without_links`` does."""
    return open_without_links(path, _DIRECTORY)


def open_without_links(path: str, flags: int) -> int:
    """Open an absolute path of which no component above the last may be a link.

    So the path is the path that was found, even if another process may write above
    it.  ``flags`` are for the last component.  Raises OSError.
    """
    parts = [part for part in path.split("/") if part]
    fd = os.open("/", _ABOVE if parts else flags)
    for number, part in enumerate(parts, 1):
        try:
            inner = os.open(part, flags if number == len(parts) else _ABOVE, dir_fd=fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)
        fd = inner
    return fd


def _open_below(parent: int, path: str, flags: int) -> int:
    """Open the last component of a path in its directory."""
    try:
        return os.open(os.path.basename(path), flags, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


class _Folder:
    """The directory of the files that are sent just now."""

    def __init__(self) -> None:
        self._path = ""
        self._fd = -1

    def open(self, path: str) -> int:
        """Open a file of a walk for reading.  Raises OSError, TransferError."""
        folder, _, name = path.rpartition("/")
        if self._fd < 0 or folder != self._path:
            self.close()
            self._fd = open_directory(folder)
            self._path = folder
        try:
            fd = os.open(name, _FILE, dir_fd=self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        # guard: the sender opens regular files only
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise TransferError(f"{path} is no longer a regular file")
        return fd

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd = "", -1


class Content:
    """The content of a file that follows its entry.

    ``fd`` is open until the next part is asked for.
    """

    def __init__(self, fd: int, path: str, size: int) -> None:
        self.fd = fd
        self.path = path
        self.size = size

    def take(self, step: Callable[[int, int], int]) -> Iterator[int]:
        """Pass the content on by ``step``; yield each number of bytes.

        ``step`` takes the descriptor and a maximum, and returns the number of bytes
        that it has taken, 0 at the file's end.  A file that has become shorter breaks
        the transfer off, as its size was announced; a longer one is cut there.
        """
        left = self.size
        while left:
            taken = step(self.fd, left)
            if not taken:
                raise TransferError(f"{self.path} was truncated during the transfer")
            left -= taken
            yield taken


def _parts(walk: Walk) -> Iterator[Union[bytes, Content]]:
    """Yield the frames of all entries, and their contents."""
    folder = _Folder()
    try:
        for inside, path, size in walk.found:
            if size < 0:
                yield frame({"type": "dir", "path": inside})
                continue
            fd = folder.open(path)
            try:
                yield frame({"type": "file", "path": inside, "size": size})
                yield Content(fd, path, size)
            finally:
                os.close(fd)
    finally:
        folder.close()
    yield frame({"type": "end"})


def write_entries(walk: Walk, out: BinaryIO) -> None:
    """Write all entries to a file or a pipe.  Raises OSError, TransferError."""

    def step(fd: int, most: int) -> int:
        data = os.read(fd, min(most, COPY_BYTES))
        out.write(data)
        return len(data)

    for part in _parts(walk):
        if isinstance(part, bytes):
            out.write(part)
        else:
            for _ in part.take(step):
                pass
    out.flush()


def send_entries(
    connection: BrokerConnection, walk: Walk, *also: str
) -> Dict[str, Any]:
    """Send all entries; returns the message at the end, ``done`` or an error."""
    bar = Bar(walk.size)
    for part in _parts(walk):
        if isinstance(part, bytes):
            connection.queue(part)
        else:
            for sent in part.take(connection.send_file):
                bar.add(sent)
    bar.end()
    return connection.wait("done", *also)
