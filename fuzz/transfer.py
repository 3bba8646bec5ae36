"""Fuzz target: requests of a sandbox for files and links, and entries that it sends.

Invariant: any bytes give a value or a refusal (PeerError, RefusedError; in the
receiving program TransferError), never another exception.  How the bytes are cut
into pieces changes nothing.  What one worker passes on is accepted, unchanged, by
the next one and by the receiving program.  An accepted address is ASCII, has one
way to be written, and other parsers read the same host in it.  A receiving program
reads a little at a time, keeps plain files below its directory, and after a
failure nothing at all.

The first byte of an input picks the door, which reads the rest.

    python fuzz/transfer.py [--seconds N] [--seed N] [CORPUS_DIR]
    python fuzz/transfer.py --atheris CORPUS_DIR [libFuzzer options]

Without atheris a plain mutator works from the seeds below and prints how many
inputs got past the framing (*deep*), and branch coverage with 'coverage'.
"""

from __future__ import annotations

import io
import json
import os
import random
import stat
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Admission, Meter

_METER = Meter(__name__, "broker/core/transfer/*.py", "broker/jail/transfer/*.py", "broker/ipc/guest/file_requests.py", "shims/files/incoming_files.py")  # fmt: skip

with _METER.imports("broker.core.transfer", "broker.jail.transfer", "broker.ipc"):
    from broker.cli.transfer.check import check_line
    from broker.core.transfer.entries import Directory, FileEntry, entry_frame
    from broker.core.transfer.file_names import display_name, take_file_name
    from broker.core.transfer.quota import Quota
    from broker.core.transfer.urls import NEVER, take_url
    from broker.jail.transfer.contents import HeadCheck
    from broker.jail.transfer.entry_reader import EntryReader

from broker.core.errors import PeerError, RefusedError  # noqa: E402
from broker.core.framing import FrameReader  # noqa: E402
from broker.core.limits import clipboard as clipboard_limits  # noqa: E402
from broker.core.limits import transfer as limits  # noqa: E402
from broker.jail.worker.transfer import _checked, decode_ask  # noqa: E402
from broker.viewer.clipboard.exchange.files import URI_LIST, listed  # noqa: E402
from broker.viewer.clipboard.exchange.messages import Item  # noqa: E402
from shims.files.edited import Edited  # noqa: E402
from shims.files.incoming_files import EntryStore, keep  # noqa: E402
from shims.files.protocol import COPY_BYTES, TransferError  # noqa: E402

ROOM = 4096
"""Bytes of one input: a mutation should matter, and not fill the disk."""
_QUOTAS = (
    Quota(1 << 40, 1 << 40, 1000),
    Quota(100, 150, 5),
    Quota(100, 100, 1, single=True, name="a.txt"),
    Quota(1 << 40, 1 << 40, 1000, name="d"),
)
Outcome = tuple[list[object], str]
"""The bytes read, and why not more of them."""


def _words(error: Exception) -> str:
    """A message without what differs with each input."""
    return "".join(c for c in str(error)[:48] if c.isalpha() or c == " ")


# -- entries ---------------------------------------------------------------------------


def _read(reader: EntryReader, data: bytes, piece: int, skips: bool) -> Outcome:  # noqa: FBT001
    """Read in pieces; the content of a file is joined.

    ``skips``: content is passed by, as splice(2) does.
    """
    items: list[object] = []
    at = 0
    try:
        while at < len(data):
            if skips and reader.left:
                passed = min(reader.left, len(data) - at)
                reader.skip(passed)
                _add(items, data[at : at + passed])
                at += passed
                continue
            size = piece if not skips else 1
            for item in reader.feed(data[at : at + size]):
                _add(items, item)
            at += size
    except (PeerError, RefusedError) as error:
        return items, _words(error)
    return items, "end" if reader.ended else "more"


def _add(items: list[object], item: object) -> None:
    if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
        items[-1] += item
    else:
        items.append(item)


def _encoded(items: list[object]) -> bytes:
    return b"".join(i if isinstance(i, bytes) else entry_frame(i) for i in items)


def _must_be_a_plain_tree(items: list[object], quota: Quota) -> None:
    folders: set[tuple[str, ...]] = {()}
    known: set[tuple[str, ...]] = set()
    size = 0
    for item in items:
        if not isinstance(item, Directory | FileEntry):
            continue
        path = tuple(item.path)
        assert all(take_file_name(name.encode()) == name for name in path)
        assert path[:-1] in folders
        assert path not in known
        known.add(path)
        assert quota.name in {"", next(i for i in items if not isinstance(i, bytes)).path[0]}  # fmt: skip
        if isinstance(item, Directory):
            assert not quota.single
            folders.add(path)
        else:
            size += item.size
            assert item.size <= quota.file_size
    assert len(known) <= quota.files
    assert size <= quota.size


def door_entries(data: bytes) -> str:
    """Entries through the sender's worker, the target's, and the program there."""
    quota, piece = _QUOTAS[data[0] & 3] if data else _QUOTAS[0], (data[1:2] or b"\0")[0]
    data = data[2:]
    reader = EntryReader(quota)
    items, why = _read(reader, data, len(data) or 1, skips=False)
    for skips in (False, True):
        again = EntryReader(quota)
        assert _read(again, data, piece + 1, skips) == (items, why)
        assert (again.size, again.files) == (reader.size, reader.files)
    _must_be_a_plain_tree(items, quota)
    if why != "end":
        return f"{'deep ' if items else ''}{why}"
    whole = _encoded(items)
    checked = _head_checked(items, quota, piece)
    if checked is None:
        return "deep refused by its content"
    assert checked == whole
    assert _read(EntryReader(quota), whole, len(whole), skips=False) == (items, why)
    kept = _kept(whole)
    assert isinstance(kept, int), kept
    return f"deep kept {min(kept, 4)}"


def _head_checked(items: list[object], quota: Quota, piece: int) -> bytes | None:
    """What goes on after the look at each file's beginning; None: refused."""
    check, out = HeadCheck(single=quota.single), b""
    try:
        for item in items:
            parts = [item]
            if isinstance(item, bytes):
                cuts = range(0, len(item), piece + 1)
                parts = [item[at : at + piece + 1] for at in cuts]
            for part in parts:
                out += b"".join(check.take(part))
    except RefusedError:
        return None
    assert not check.looking
    return out


# -- the receiving program --------------------------------------------------------------


class _Source(io.BytesIO):
    """A stream that is read a little at a time."""

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= COPY_BYTES, f"{size} bytes are read at one time"
        return super().read(size)


def _names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _kept(data: bytes) -> int | str:
    """Keep entries in a directory: how many are there, or why none is."""
    before = _names("/proc/self/fd")
    with tempfile.TemporaryDirectory(prefix="vt-fuzz-") as name:
        top = Path(name) / "work"
        try:
            names = keep(_Source(data), EntryStore(str(top), "work", 0))
        except TransferError as error:
            assert not _names(top), "something is left of a failure"
            return _words(error)
        finally:
            assert _names(name) == ["work"], "something is beside the directory"
            assert _names("/proc/self/fd") == before, "a descriptor stays open"
        assert sorted(names) == _names(top)
        for path in top.rglob("*"):
            mode = path.lstat().st_mode
            plain = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
            assert plain, oct(mode)
            assert not mode & 0o7077, oct(mode)
        return len(names)


def door_keep(data: bytes) -> str:
    """Entries from a worker that was taken over, past its checks."""
    found = _kept(data)
    return f"deep {min(found, 4)}" if isinstance(found, int) else found


def door_return(data: bytes) -> str:
    """A file that comes back, from such a worker."""
    with tempfile.TemporaryDirectory(prefix="vt-fuzz-") as name:
        mine = Path(name) / "mine.txt"
        mine.write_text("mine")
        edited = Edited(str(mine))
        try:
            said = edited.replace(_Source(data), "work")
        except TransferError as error:
            assert _names(name) == ["mine.txt"]
            assert mine.read_text() == "mine"
            return _words(error)
        finally:
            os.close(edited.folder)  # its process ends after one file
        assert said.startswith("mine.txt ")
        kept = [one for one in _names(name) if one != "mine.txt"]
        assert kept in ([], ["mine.txt~"])
        return f"deep {len(kept)}"


# -- requests ---------------------------------------------------------------------------


def door_asks(data: bytes) -> str:
    """What a program of the sandbox asks, in its frame, as the worker reads it."""
    reader = FrameReader(limits.TRANSFER_FRAME_BYTES)
    try:
        frames = reader.feed(data)
    except PeerError as error:
        return _words(error)
    kinds = []
    for frame in frames[:4]:
        try:
            ask = _checked(decode_ask(frame))
        except (PeerError, RefusedError) as error:
            kinds.append(_words(error))
            continue
        assert _checked(ask) == ask
        kinds.append(f"deep {type(ask).__name__}")
    return " ".join(sorted(set(kinds)))


# -- addresses and names ----------------------------------------------------------------


def door_url(data: bytes) -> str:
    """An address."""
    try:
        url = take_url(data.decode("utf-8", "surrogatepass"), None)
    except UnicodeDecodeError:
        return "no text"
    except RefusedError as error:
        return _words(error)
    text = url.canonical
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(' "<>\\^`{|}')
    assert len(text) <= limits.URL_CHARS
    assert url.scheme not in NEVER
    assert take_url(text, None).canonical == text
    assert url.shown.isprintable()
    other = urlsplit(text)
    assert other.scheme == url.scheme
    if url.host:
        assert other.username is None
        assert other.hostname == url.host.strip("[]")
        assert other.port == url.port
    return f"deep {url.scheme[:8]} {url.port is not None} {url.shown_host != url.host}"


def door_name(data: bytes) -> str:
    """The name of a file."""
    shown = display_name(data)
    assert shown.isprintable()
    assert "/" not in shown
    try:
        name = take_file_name(data)
    except RefusedError as error:
        return _words(error)
    assert name.encode() == data
    assert shown == name
    assert name.isprintable()
    assert not set(name) & set("/\\\0")
    assert not name.startswith(("-", "..", " "))
    assert len(data) <= limits.FILE_NAME_BYTES
    return f"deep {name.isascii()} {name.startswith('.')}"


def door_check(data: bytes) -> str:
    """A line of ``open --check --batch``."""
    answer = check_line(data)
    assert json.loads(json.dumps(answer)) == answer
    if not answer["ok"]:
        return "".join(c for c in answer["reason"][:48] if c.isalpha() or c == " ")
    kind = json.loads(data)["kind"]
    again = check_line(json.dumps({"kind": kind, "text": answer["canonical"]}).encode())
    assert again["canonical"] == answer["canonical"]
    return f"deep {kind}"


def door_list(data: bytes) -> str:
    """A list of files that were copied or dragged."""
    found = listed([Item(URI_LIST, data)])
    assert len(found) <= clipboard_limits.CLIPBOARD_FILES
    for one in found:
        assert one.startswith("file:///")
        assert one.isascii()
        assert one.isprintable()
        assert len(one) <= clipboard_limits.CLIPBOARD_FILE_CHARS
    return f"{'deep ' if found else ''}{min(len(found), 8)}"


DOORS: list[Callable[[bytes], str]] = [
    door_entries,
    door_keep,
    door_return,
    door_asks,
    door_url,
    door_name,
    door_check,
    door_list,
]


# -- inputs -----------------------------------------------------------------------------


def _frame(message: object) -> bytes:
    body = json.dumps(message, ensure_ascii=False).encode()
    return struct.pack("<I", len(body)) + body


def _tree() -> bytes:
    return b"".join(
        [
            _frame({"type": "dir", "path": ["d"]}),
            _frame({"type": "file", "path": ["d", "notes.txt"], "size": 5}),
            b"notes",
            _frame({"type": "dir", "path": ["d", "größe"]}),
            _frame({"type": "file", "path": ["d", "größe", "x.pdf"], "size": 600}),
            b"%PDF-" + bytes(595),
            _frame({"type": "file", "path": ["empty"], "size": 0}),
            _frame({"type": "end"}),
        ]
    )


def _single(size: int = 5) -> bytes:
    head = {"type": "file", "path": ["a.txt"], "size": size}
    return _frame(head) + b"notes" + _frame({"type": "end"})


_ASKS = [
    {"type": "open-url", "url": "https://a.example/b?c#d", "target": "@dispvm:web"},
    {"type": "open-file", "name": "a.pdf", "size": 3, "mime": "application/pdf"},
    {"type": "copy", "name": "d", "files": 3, "size": 3, "target": "work"},
    {"type": "take", "token": "0" * 32},
    {"type": "return", "token": "f" * 32, "size": 7},
    {"type": "give", "token": "a" * 32, "name": "d", "files": 1, "size": 7},
    {"type": "print", "name": "-o\nb", "size": 7},
    {"type": "choose", "kind": "save", "name": ".a\nb", "filters": [{"name": "x"}]},
]
_URLS = [
    "https://Example.org:8443/a/../b?c=%41#d",
    "http://xn--bcher-kva.example/",
    "https://bücher.example/ä",
    "http://192.0.2.1/",
    "https://[2001:db8::1]:444/x",
    "mailto:a.b@example.org,c@example.org?subject=x&body=a%0D%0Ab",
    "tel:+441234",
]
_NAMES = ["report.pdf", "größe 1.txt", ".profile", "отчёт.odt", "a" * 255]
_LINES = [
    {"kind": "url", "text": "https://example.org/"},
    {"kind": "name", "bytes_hex": "612e706466"},
]
_LIST = b"# a comment\r\nfile:///home/user/a%20b\r\nhttps://a.b/\r\nfile:///c\r\n"


def seeds() -> list[bytes]:
    """At least one input that goes all the way through each door."""
    return [
        *(bytes([0, q, 3]) + _tree() for q in (0, 1, 3)),
        bytes([0, 2, 1]) + _single(),
        b"\x01" + _tree(),
        b"\x01" + _single(-1),
        b"\x02" + _single(),
        *(b"\x03" + _frame(ask) for ask in _ASKS),
        *(b"\x04" + url.encode() for url in _URLS),
        *(b"\x05" + name.encode() for name in _NAMES),
        *(b"\x06" + json.dumps(line).encode() for line in _LINES),
        b"\x07" + _LIST,
    ]


_WORDS = [
    *(b"..", b"/", b"\\", b"\0", b"-", b"@", b"%00", b"%2e%2e", b"%", b":", b"[::1]"),
    *(b"javascript:", b"file:///", b"xn--", b"0x7f.1", b"\\ud800", b"\xe2\x80\xae"),
    *(b'"path": []', b'"size": -1', b'"size": 1e9', b"\xef\xbc\x8f", b"\xff", b"\r\n"),
    *(b"\xe2\x84\xaa", b"\xd0\xb0", b"\xcc\x81", b'"type": "end"', b"con", b"[" * 99),
]


def mutate(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """A few small changes; the door's number is kept, and mostly the framing."""
    out = bytearray(data)
    if data[0] < 4 and rng.randrange(4):
        skip = 3 if not data[0] else 1
        out[skip:] = _in_frames(rng, bytes(data[skip:]))
        if skip == 3 and len(out) > 2 and not rng.randrange(4):
            out[rng.randrange(1, 3)] = rng.randrange(256)
        return bytes(out[:ROOM])
    if data[0] == DOORS.index(door_check) and rng.randrange(2):
        return bytes([data[0]]) + _other_value(rng, data[1:])
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        _change(rng, out, corpus)
    return bytes(out[:ROOM]) or b"\0"


def _change(rng: random.Random, out: bytearray, corpus: list[bytes]) -> None:
    at = rng.randint(min(1, len(out)), len(out))
    choice = rng.randrange(6)
    if choice == 0 and 0 < at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    elif choice == 1:
        out[at:at] = rng.choice(_WORDS)
    elif choice == 2:
        del out[at : at + rng.randrange(1, 9)]
    elif choice == 3:
        start = rng.randrange(1, len(out) + 1)
        out[at:at] = out[start : start + rng.randrange(1, 65)]
    elif choice == 4:
        other = rng.choice(corpus)
        start = rng.randrange(len(other) + 1)
        out[at:] = other[start:]
    else:
        out[at:at] = rng.randbytes(rng.randrange(1, 5))


def _in_frames(rng: random.Random, data: bytes) -> bytes:
    """Change messages and what follows them; the lengths stay true."""
    parts = _parts(data) or _parts(_tree())
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(parts))
        body, content = parts[at]
        choice = rng.randrange(6)
        if choice == 0:
            parts.insert(rng.randrange(len(parts) + 1), parts[at])
        elif choice == 1 and len(parts) > 1:
            del parts[at]
        elif choice == 2:
            parts[at] = body, content[: rng.randrange(len(content) + 1)]
        elif choice == 3:
            parts[at] = body, rng.choice((b"MZ", b"#!/bin/sh", b"%PDF-")) + content
        else:
            parts[at] = _other_value(rng, body), content
    return b"".join(struct.pack("<I", len(b)) + b + c for b, c in parts)


def _parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Messages, each with the bytes of the file that it announces."""
    parts = []
    while len(data) > 4:
        (size,) = struct.unpack_from("<I", data)
        body, data = data[4 : 4 + size], data[4 + size :]
        try:
            message = json.loads(body)
            left = message["size"] if message["type"] == "file" else 0
            parts.append((body, data[: max(left, 0)]))
            data = data[max(left, 0) :]
        except (ValueError, TypeError, KeyError, RecursionError):
            parts.append((body, b""))
    return parts


def _other_value(rng: random.Random, body: bytes) -> bytes:
    """Change one value of a message, or its text."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(message, dict) or not message:
        return body  # what an earlier mutation made of it
    key = rng.choice(sorted(message))
    if key == "size":
        message[key] = rng.choice((-1, 0, 1, 4, 5, 6, 99, 600, 1 << 40, 1 << 63, "5"))
    elif key == "path":
        names = ["d", "größe", "a.txt", "x.png", "..", "", "a/b", "\ud800", "n" * 300]
        message[key] = rng.choices(names, k=rng.choice((0, 1, 1, 2, 2, 3, 17)))
    elif isinstance(message[key], str):
        at = rng.randrange(len(message[key]) + 1)
        word = rng.choice(_WORDS).decode("utf-8", "replace")
        message[key] = message[key][:at] + word + message[key][at + len(word) :]
    else:
        message[key] = rng.choice((None, 0, 1, -1, [], "x", True))
    return json.dumps(message).encode()


TARGET = Admission("transfer", DOORS, seeds, mutate, ROOM)
run_one, fuzz = TARGET.run_one, TARGET.fuzz

if __name__ == "__main__":
    TARGET.main(__doc__, _METER)
