"""A guest's side of a folder's connection: a few requests of SFTP, as a program sends them.

draft-ietf-secsh-filexfer-02.
"""

from __future__ import annotations

import struct

INIT, OPEN, CLOSE, READ, WRITE, SETSTAT = 1, 3, 4, 5, 6, 9
OPENDIR, READDIR, REMOVE, MKDIR, SYMLINK = 11, 12, 13, 14, 20
STATUS, HANDLE, DATA, NAME = 101, 102, 103, 104
OK, EOF, NO_SUCH_FILE, DENIED, FAILURE = range(5)
FOR_READING, FOR_WRITING, CREATE = 1, 2, 8
_MODE = 4


def text(value: str | bytes) -> bytes:
    """Return a string as the protocol has it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def attributes(mode: int | None = None) -> bytes:
    """Return attributes: the mode, or none."""
    return struct.pack(">I", 0) if mode is None else struct.pack(">II", _MODE, mode)


class Sftp:
    """A connection to a server; ``stream`` is trio's."""

    def __init__(self, stream):
        self._stream = stream
        self._last = 0
        self._held = b""

    async def begin(self):
        """Shake hands."""
        await self._put(struct.pack(">BI", INIT, 3))
        assert (await self._take())[0] == 2

    async def _put(self, body):
        await self._stream.send_all(struct.pack(">I", len(body)) + body)

    async def _exactly(self, size):
        while len(self._held) < size:
            data = await self._stream.receive_some(65536)
            if not data:
                raise EOFError
            self._held += data
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    async def _take(self):
        (size,) = struct.unpack(">I", await self._exactly(4))
        return await self._exactly(size)

    async def ask(self, kind, rest):
        """Send a request; return the reply's kind and its fields after the number."""
        self._last += 1
        await self._put(struct.pack(">BI", kind, self._last) + rest)
        reply = await self._take()
        assert struct.unpack(">I", reply[1:5])[0] == self._last
        return reply[0], reply[5:]

    async def code(self, kind, rest):
        """Send a request; return the code of its status."""
        found, fields = await self.ask(kind, rest)
        assert found == STATUS, found
        return struct.unpack(">I", fields[:4])[0]

    async def open(self, path, flags=FOR_READING, mode=None):
        """Return a handle, or the code of a failure."""
        rest = text(path) + struct.pack(">I", flags) + attributes(mode)
        kind, fields = await self.ask(OPEN, rest)
        return fields[4:] if kind == HANDLE else struct.unpack(">I", fields[:4])[0]

    async def read(self, path):
        """Return the start of a file, or the code of a failure."""
        handle = await self.open(path)
        if isinstance(handle, int):
            return handle
        kind, fields = await self.ask(READ, text(handle) + struct.pack(">QI", 0, 32768))
        assert await self.code(CLOSE, text(handle)) == OK
        return fields[4:] if kind == DATA else struct.unpack(">I", fields[:4])[0]

    async def names(self, path):
        """Return the entries of a directory, or the code of a failure."""
        kind, fields = await self.ask(OPENDIR, text(path))
        if kind != HANDLE:
            return struct.unpack(">I", fields[:4])[0]
        handle, found = fields, set()
        while True:
            kind, fields = await self.ask(READDIR, handle)
            if kind != NAME:
                return found - {".", ".."}
            count, fields = struct.unpack(">I", fields[:4])[0], fields[4:]
            for _ in range(count):
                name, fields = _string(fields)
                _, fields = _string(fields)
                found.add(name.decode())
                fields = _after_attributes(fields)


def _string(fields):
    (size,) = struct.unpack(">I", fields[:4])
    return fields[4 : 4 + size], fields[4 + size :]


def _after_attributes(fields):
    (flags,) = struct.unpack(">I", fields[:4])
    size = 4 + 8 * bool(flags & 1) + 8 * bool(flags & 2)
    return fields[size + 4 * bool(flags & _MODE) + 8 * bool(flags & 8) :]
