"""The entries of a transfer as they are read; see ``core.transfer.entries``."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import InternalError, PeerError, RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.entries import Directory, End, Entry
from broker.core.transfer.file_names import take_file_name
from broker.core.transfer.quota import Quota

_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_LENGTH = struct.Struct("<I")


class EntryReader:
    """Reads entries; the yielded data may be passed on unchanged.

    ``size`` and ``files`` count the data read; ``ended`` is set by ``End``.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._buffer = bytearray()
        self._left = 0
        self._directories: set[tuple[str, ...]] = {()}
        self._paths: set[int] = set()
        self.size = 0
        self.files = 0
        self.ended = False

    def feed(self, untrusted_data: bytes) -> Iterator[Entry | bytes]:
        """Parse bytes of a transfer; yield entries, and pieces of the current file.

        Raises PeerError for data that is not an entry or not in order, RefusedError for
        a name or a size that is not accepted.
        """
        data = memoryview(untrusted_data)
        while data:
            if self._left:
                piece = bytes(data[: self._left])
                data = data[len(piece) :]
                self._left -= len(piece)
                yield piece
                continue
            # guard: bytes after the end of a transfer
            if self.ended:
                raise PeerError("received data after the end of the transfer")
            data = self._fill(data)
            entry = self._entry()
            if entry is not None:
                yield entry

    @property
    def left(self) -> int:
        """Bytes of the current file that have not been read."""
        return self._left

    def skip(self, size: int) -> None:
        """So many bytes of the current file were passed on without being read here."""
        if size > self._left:
            raise InternalError("forwarded more bytes than the file has")
        self._left -= size

    def _fill(self, data: memoryview) -> memoryview:
        """Add bytes up to the end of the current frame; return the others."""
        wanted = _LENGTH.size
        if len(self._buffer) >= _LENGTH.size:
            wanted += _LENGTH.unpack_from(self._buffer)[0]
        missing = wanted - len(self._buffer)
        self._buffer += data[:missing]
        return data[missing:]

    def _entry(self) -> Entry | None:
        """Parse the next entry; None until it is complete.  Raises PeerError."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (untrusted_length,) = _LENGTH.unpack_from(self._buffer)
        # guard: length of an entry of a transfer
        if not 0 < untrusted_length <= limits.TRANSFER_FRAME_BYTES:
            raise PeerError(f"invalid entry length: {untrusted_length} bytes")
        if len(self._buffer) < _LENGTH.size + untrusted_length:
            return None
        untrusted_body = bytes(self._buffer[_LENGTH.size :])
        self._buffer.clear()
        try:
            entry = _decoder.decode(untrusted_body)
        except UNREADABLE as error:
            raise PeerError(f"invalid entry of a transfer: {error}") from error
        self._check(entry)
        return entry

    def _check(self, entry: Entry) -> None:
        """Check an entry against the question's quota.  Raises RefusedError."""
        if isinstance(entry, End):
            self.ended = True
            return
        path = tuple(take_file_name(name.encode()) for name in entry.path)
        # guard: the entries are those of the question
        if not self.files and self._quota.name not in {"", path[0]}:
            raise RefusedError("the first file does not have the requested name")
        # guard: entries in order
        if path[:-1] not in self._directories:
            raise PeerError("an entry precedes its directory")
        self.files += 1
        # guard: number of entries
        if self.files > (1 if self._quota.single else self._quota.files):
            many = f"{self._quota.files} files and directories"
            raise RefusedError(
                f"more than {'one file' if self._quota.single else many}"
            )
        # A hash of each, not each: a name that comes twice is the sender's error,
        # and the receiver refuses to overwrite in any case.
        # guard: a name twice in a transfer
        if hash(path) in self._paths:
            raise PeerError("two entries have the same name")
        self._paths.add(hash(path))
        if isinstance(entry, Directory):
            # guard: directories to be opened
            if self._quota.single:
                raise RefusedError("only a file can be opened, not a directory")
            self._directories.add(path)
            return
        self._take_size(entry.size)

    def _take_size(self, untrusted_size: int) -> None:
        """Count a file's size.  Raises RefusedError beyond the quota."""
        # guard: size of a file
        if untrusted_size > self._quota.file_size:
            raise RefusedError(f"a file is larger than {self._quota.file_size} bytes")
        self.size += untrusted_size
        # guard: size of a transfer
        if self.size > self._quota.size:
            raise RefusedError(f"the files are larger than {self._quota.size} bytes")
        self._left = untrusted_size
