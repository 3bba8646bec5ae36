"""Contents that change, and file systems without sendfile(2), while files are sent."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import pytest

from shims.files import connection as module
from shims.files.connection import Connection
from shims.files.protocol import TransferError
from shims.files.sending import Walk, send_entries, write_entries

SIZE = 3 << 20


@pytest.fixture(name="sent")
def _sent(tmp_path, monkeypatch):
    """Send a file to a broker that takes everything; returns what it has read."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "door"))
    listener.listen()
    monkeypatch.setenv("VITRAIL_COPY", f"unix:{tmp_path / 'door'}")
    heard = bytearray()

    def take(whole):
        conn = listener.accept()[0]
        with conn:
            while len(heard) < whole and (data := conn.recv(1 << 16)):
                heard.extend(data)
            body = b'{"type":"done"}'
            # The sender of a file that shrank has hung up.
            with contextlib.suppress(BrokenPipeError):
                conn.sendall(len(body).to_bytes(4, "little") + body)

    def send(walk, whole):
        taker = threading.Thread(target=take, args=(whole,))
        taker.start()
        made = Connection("VITRAIL_COPY")
        try:
            send_entries(made, walk)
        finally:
            made.reader.close()
            made.socket.close()
            taker.join()
        return bytes(heard)

    yield send
    listener.close()


@pytest.fixture(name="source")
def _source(tmp_path):
    path = tmp_path / "film"
    path.write_bytes(os.urandom(SIZE))
    return path


def expected(walk, tmp_path):
    with open(tmp_path / "expected", "wb") as out:
        write_entries(walk, out)
    return (tmp_path / "expected").read_bytes()


def test_a_file_arrives_whole(sent, source, tmp_path):
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    assert sent(walk, len(whole)) == whole


def test_a_file_system_without_sendfile_is_read(sent, source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(module.os, "sendfile", refuse)
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    assert sent(walk, len(whole)) == whole


def test_a_file_that_grew_is_cut_at_its_announced_size(sent, source, tmp_path):
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    with open(source, "ab") as more:
        more.write(b"more")
    assert sent(walk, len(whole)) == whole


def test_a_file_that_shrank_breaks_the_transfer_off(sent, source):
    walk = Walk([str(source)])
    os.truncate(source, SIZE // 2)
    with pytest.raises(TransferError, match="shorter while it was read"):
        sent(walk, SIZE * 2)
