"""Files, directories and contents that change while they are sent."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading

import pytest

from broker.core.transfer import entries
from shims.files import connection as module
from shims.files import sending
from shims.files.connection import BrokerConnection
from shims.files.edited import Edited
from shims.files.frames import PIECE_BYTES
from shims.files.protocol import TransferError, frame, read_message
from shims.files.sending import NOT_COPIED, Walk, send_entries, write_entries

SIZE = 3 << 20


@pytest.fixture(name="sent")
def _sent(tmp_path, monkeypatch):
    """Send a file to a broker that takes everything; returns the bytes that it has read."""
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
        made = BrokerConnection("VITRAIL_COPY")
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


@pytest.mark.parametrize("memory", [False, True])
def test_small_files_are_sent_together_and_in_order(
    sent, tmp_path, monkeypatch, memory
):
    """Among large ones; with ``memory`` all contents pass through it, as over vsock."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}").write_bytes(os.urandom(number * 20))
    for number, size in (("050x", SIZE), ("150x", 40_000)):
        (folder / number).write_bytes(os.urandom(size))
    packets = []

    class Counted(socket.socket):
        def sendall(self, data, *flags):
            packets.append(len(data))
            return super().sendall(data, *flags)

    def refused(*_):
        raise OSError(errno.ENOSYS, "no sendfile")

    walk = Walk([str(folder)])
    whole = expected(walk, tmp_path)
    monkeypatch.setattr(socket, "socket", Counted)
    if memory:
        monkeypatch.setattr(module.os, "sendfile", refused)
    assert sent(walk, len(whole)) == whole
    assert max(packets) <= PIECE_BYTES
    # Each small file would be two.
    assert len(packets) <= sum(packets) // PIECE_BYTES + 6


@pytest.mark.parametrize(
    ("kernel", "direct"), [("6.12.1-cloud", True), ("6.5.0", True), ("6.4.9", False)]
)
def test_a_vsock_gets_no_larger_piece_than_it_carries(
    sent, source, tmp_path, monkeypatch, kernel, direct
):
    """From the page cache where that makes whole packets; the rest of one is lost."""
    pieces = []
    sendfile = os.sendfile

    def counted(out, fd, offset, count):
        pieces.append(count)
        return sendfile(out, fd, offset, count)

    monkeypatch.setattr(module.os, "sendfile", counted)
    monkeypatch.setattr(
        module.os, "uname", lambda: os.uname_result(("Linux", "", kernel, "", ""))
    )
    monkeypatch.setattr(module.socket, "AF_VSOCK", socket.AF_UNIX)
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    assert sent(walk, len(whole)) == whole
    assert bool(pieces) == direct
    assert all(count <= PIECE_BYTES for count in pieces)


def test_a_sendfile_that_fails_midway_loses_no_byte(
    sent, source, tmp_path, monkeypatch
):
    """Bytes sent before it count, and the rest is read."""
    sendfile = os.sendfile
    left = [3]

    def failing(out, fd, offset, count):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EINVAL, "not this part")
        return sendfile(out, fd, offset, min(count, 50_000))

    monkeypatch.setattr(module.os, "sendfile", failing)
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    assert sent(walk, len(whole)) == whole


@pytest.mark.parametrize("memory", [False, True])
def test_a_sender_that_is_refused_stops(tmp_path, monkeypatch, memory):
    """It reads the reason while it sends, before the connection breaks."""
    film = tmp_path / "film"
    film.write_bytes(bytes(64 << 20))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "door"))
    listener.listen()
    monkeypatch.setenv("VITRAIL_COPY", f"unix:{tmp_path / 'door'}")
    heard = bytearray()

    def refuse():
        conn = listener.accept()[0]
        with conn:
            heard.extend(conn.recv(1 << 16))
            body = b'{"type":"refused","reason":"no room"}'
            conn.sendall(len(body).to_bytes(4, "little") + body)
            while data := conn.recv(1 << 16):
                heard.extend(data)

    if memory:

        def none(*_):
            raise OSError(errno.ENOSYS, "no sendfile")

        monkeypatch.setattr(module.os, "sendfile", none)
    taker = threading.Thread(target=refuse)
    taker.start()
    made = BrokerConnection("VITRAIL_COPY")
    with pytest.raises(TransferError, match="no room"):
        send_entries(made, Walk([str(film)]))
    made.reader.close()
    made.socket.close()
    taker.join()
    listener.close()
    assert len(heard) < 16 << 20


def test_what_follows_an_answer_is_left_to_its_reader(tmp_path, monkeypatch):
    """The answer is there before the request is sent, and the first entry soon after."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "door"))
    listener.listen()
    monkeypatch.setenv("VITRAIL_COPY", f"unix:{tmp_path / 'door'}")
    made = BrokerConnection("VITRAIL_COPY")
    made.socket.settimeout(20)
    with listener, made.socket, made.reader, listener.accept()[0] as broker:
        broker.sendall(frame({"type": "delivery", "source": "work"}))
        made.send(frame({"type": "take", "token": "0" * 32}))
        broker.sendall(frame({"type": "dir", "path": ["s"]}))
        assert made.wait("delivery")["source"] == "work"
        assert read_message(made.reader)["path"] == ["s"]


def test_a_file_that_grew_is_cut_at_its_announced_size(sent, source, tmp_path):
    walk = Walk([str(source)])
    whole = expected(walk, tmp_path)
    with open(source, "ab") as more:
        more.write(b"more")
    assert sent(walk, len(whole)) == whole


def test_a_file_that_shrank_breaks_the_transfer_off(sent, source):
    walk = Walk([str(source)])
    os.truncate(source, SIZE // 2)
    with pytest.raises(TransferError, match="truncated during the transfer"):
        sent(walk, SIZE * 2)


@pytest.fixture(name="swapped")
def _swapped(tmp_path):
    """A tree with a directory ``d/e``, and a directory beside it that is secret."""
    (tmp_path / "d/e/f").mkdir(parents=True)
    (tmp_path / "secret/f").mkdir(parents=True)
    for folder, text in (("d/e", "mine"), ("secret", "a key")):
        (tmp_path / folder / "id").write_text(text)
        (tmp_path / folder / "f/id").write_text(text)

    def swap(what="d/e"):
        (tmp_path / what).rename(tmp_path / "was")
        (tmp_path / what).symlink_to(tmp_path / "secret")

    return swap


@pytest.mark.parametrize("what", ["d", "d/e", "d/e/f"])
def test_a_directory_that_becomes_a_link_is_not_sent_through(swapped, tmp_path, what):
    walk = Walk([str(tmp_path / "d")])
    swapped(what)
    out = io.BytesIO()
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        write_entries(walk, out)
    assert b"a key" not in out.getvalue()


@pytest.mark.parametrize("named", ["d/e/f", "d/e/f/id"])
def test_a_parent_of_the_named_file_becomes_a_link(swapped, tmp_path, named):
    walk = Walk([str(tmp_path / named)])
    swapped("d/e")
    out = io.BytesIO()
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        write_entries(walk, out)
    assert b"a key" not in out.getvalue()


def test_a_parent_of_the_edited_file_becomes_a_link(swapped, tmp_path):
    swapped("d/e")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        Edited(str(tmp_path / "d/e/f/id"))
    assert (tmp_path / "secret/f/id").read_text() == "a key"


def test_a_directory_that_may_only_be_passed_through(tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/id").write_text("mine")
    (tmp_path / "d").chmod(0o300)
    out = io.BytesIO()
    write_entries(Walk([str(tmp_path / "d/e/id")]), out)
    (tmp_path / "d").chmod(0o700)
    assert b"mine" in out.getvalue()


def test_a_directory_that_becomes_a_link_while_it_is_listed(
    swapped, tmp_path, monkeypatch
):
    """Between the look at it and its listing."""
    real = os.stat

    def stat(name, *words, **more):
        facts = real(name, *words, **more)
        if name == "e":
            monkeypatch.setattr(os, "stat", real)
            swapped()
        return facts

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        Walk([str(tmp_path / "d")])


def test_a_pipe_in_a_files_place_is_not_waited_for(source):
    walk = Walk([str(source)])
    source.unlink()
    os.mkfifo(source)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TransferError, match="is no longer a regular file"):
        write_entries(walk, io.BytesIO())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_in_the_place_of_an_edited_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(TransferError, match="not a regular file"):
        Edited(str(tmp_path / "a"))


# -- trees without an end ---------------------------------------------------------------


@pytest.mark.parametrize(("bound", "most"), [("ENTRIES", 100), ("PATH_BYTES", 20_000)])
def test_a_tree_of_too_many_entries_is_not_listed_in_memory(
    tmp_path, monkeypatch, bound, most
):
    """A sandbox may write to a directory that the person sends."""
    for number in range(100):
        (tmp_path / f"{number:03}").touch()
    assert len(Walk([str(tmp_path)]).found) == 101
    monkeypatch.setattr(sending, f"WALK_{bound}", most)
    (tmp_path / "099").unlink()
    (tmp_path / "inner").mkdir()
    for number in range(200):
        (tmp_path / "inner" / f"{number:03}").touch()
    with pytest.raises(TransferError, match="send an archive"):
        Walk([str(tmp_path)])


def test_the_bounds_hold_for_each_directory_and_for_all_named_ones(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sending, "WALK_ENTRIES", 100)
    folders = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        folders.append(str(tmp_path / folder))
        for number in range(60):
            (tmp_path / folder / str(number)).symlink_to("nowhere")
    assert Walk(folders[:1]).left_out == 60
    with pytest.raises(TransferError, match="more than 100 up to"):
        Walk(folders)


@pytest.mark.parametrize("inside", [False, True])
def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path, inside):
    """As of an old archive: JSON cannot have it, and it is not silently left out."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(odd, "w", encoding="ascii"):
        pass
    path = str(tmp_path) if inside else os.fsdecode(odd)
    with pytest.raises(TransferError, match=r"of .*txt is not UTF-8"):
        Walk([path])


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "real").touch()
    for number in range(10):
        (folder / f"link{number}").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    Walk([str(folder), str(tmp_path / "pipe")]).report()
    first, names = capsys.readouterr().err.splitlines()
    assert first == f"left out 11: {NOT_COPIED}"
    assert names.startswith("d/link0, d/link1, ")
    assert names.endswith("d/link7 and 3 more")


def test_nothing_but_a_pipe_is_no_copy(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TransferError, match=r"nothing to copy: .* are copied: pipe"):
        Walk([str(tmp_path / "pipe")]).require_files()


def test_reason_for_what_is_left_out_is_the_brokers():
    assert entries.left_out_text(11) == f"left out 11: {NOT_COPIED}"
