"""Attack: a program of a sandbox holds up or fills the printer of the others there.

Nothing of it reaches the broker but what ``vitrail-print`` sends, which
``test_printing.py`` attacks.
"""

from __future__ import annotations

import io
import socket
import struct
import threading
from contextlib import contextmanager, suppress

import pytest

from shims.files import printing_queue
from shims.files.printing_messages import IPP_BYTES, IppError, IppRequest
from shims.files.printing_queue import (
    CANCEL_JOB,
    CANCEL_JOBS,
    CANCEL_MY_JOBS,
    CLIENT_SECONDS,
    CREATE_JOB,
    GET_JOB,
    GET_JOBS,
    GET_PRINTERS,
    HEAD_BYTES,
    JOBS_KEPT,
    JOBS_WAITING,
    PRINT_JOB,
    SEND_DOCUMENT,
    PrintQueue,
    serve_client,
)
from shims.files.protocol import TransferError

PDF = b"%PDF-1.4\nsome"
OK, NOT_POSSIBLE, TOO_LARGE, WRONG_FORMAT, BUSY = 0, 0x404, 0x408, 0x40A, 0x507


def attribute(tag, name, value):
    return (
        struct.pack(">BH", tag, len(name))
        + name
        + struct.pack(">H", len(value))
        + value
    )


BEGIN = {
    "attributes_charset": b"utf-8",
    "attributes_natural_language": b"en",
    "printer_uri": b"ipp://x/printers/Desktop",
    "last_document": b"\x01",
}


def request(operation, document=b"", begin=BEGIN, version=(2, 0), number=7, **values):
    data = struct.pack(">BBHI", *version, operation, number) + b"\x01"
    for name, value in {**begin, **values}.items():
        content = value if isinstance(value, bytes) else struct.pack(">i", value)
        tag = 0x42 if isinstance(value, bytes) else 0x21
        data += attribute(tag, name.replace("_", "-").encode(), content)
    return data + b"\x03" + document


@pytest.fixture
def queue(monkeypatch):
    """A queue whose printer waits; ``printed`` has the titles."""
    monkeypatch.setattr(printing_queue.PortalOffer, "held", lambda _: True)
    made = PrintQueue("ipp://x/printers/Desktop")
    made.printed, made.go = [], threading.Event()

    def print_document(title, source):
        made.printed.append((title, source.read()))
        made.go.wait(30)
        if title == "bad":
            raise TransferError("refused by the user")

    monkeypatch.setattr(printing_queue, "print_document", print_document)
    yield made
    made.go.set()


def ask(queue, operation, document=b"", **values):
    """Return the code of the queue's answer."""
    source = io.BytesIO(request(operation, document, **values))
    return queue.answer(IppRequest(source), source)


def until(condition):
    done = threading.Event()
    for _ in range(600):
        if condition():
            return
        done.wait(0.05)
    raise AssertionError("it did not come to that")


def test_a_job_is_printed_once_and_one_after_the_other(queue):
    assert ask(queue, PRINT_JOB, PDF, job_name=b"one")[0] == OK
    assert ask(queue, CREATE_JOB, job_name=b"bad")[0] == OK
    assert ask(queue, SEND_DOCUMENT, PDF, job_id=2)[0] == OK
    assert ask(queue, SEND_DOCUMENT, PDF, job_id=2)[0] == NOT_POSSIBLE
    until(lambda: queue.printed)
    assert queue.printed == [("one", PDF)]
    queue.go.set()
    until(lambda: not queue.busy())
    assert queue.printed == [("one", PDF), ("bad", PDF)]
    rows = ask(queue, GET_JOB, job_id=2)[1][0][1]
    assert rows["job-state"][1] == [8]
    assert rows["job-state-message"][1] == ["refused by the user"]


def test_a_cancelled_job_is_not_printed(queue):
    for name in (b"one", b"two"):
        assert ask(queue, PRINT_JOB, PDF, job_name=name)[0] == OK
    until(lambda: queue.printed)
    assert ask(queue, CANCEL_JOB, job_id=1)[0] == NOT_POSSIBLE  # it is being printed
    assert ask(queue, CANCEL_JOB, job_id=2)[0] == OK
    queue.go.set()
    until(lambda: not queue.busy())
    assert ask(queue, PRINT_JOB, PDF, job_name=b"three")[0] == OK
    until(lambda: len(queue.printed) == 2)
    assert [title for title, _ in queue.printed] == ["one", "three"]


def test_jobs_that_wait_cancelled_together(queue):
    for name, user in ((b"one", b"me"), (b"two", b"you"), (b"three", b"me")):
        ask(queue, PRINT_JOB, PDF, job_name=name, requesting_user_name=user)
    until(lambda: queue.printed)
    mine = {"requesting_user_name": b"me"}
    code, _, reason = ask(queue, CANCEL_MY_JOBS, **mine)
    assert (code, reason) == (NOT_POSSIBLE, "job 1 is being printed")
    rows = [row for _, row in ask(queue, GET_JOBS)[1]]
    assert [row["job-id"][1] for row in rows] == [[1], [2]]
    assert [list(row) for row in rows] == [["job-id", "job-uri"]] * 2
    (group,) = ask(queue, GET_JOBS, my_jobs=b"\x01", **mine)[1]
    assert group[1]["job-id"][1] == [1]
    assert len(ask(queue, GET_JOBS, limit=1)[1]) == 1
    queue.go.set()
    until(lambda: not queue.busy())
    assert [title for title, _ in queue.printed] == ["one", "two"]
    assert ask(queue, CANCEL_JOBS)[0] == OK


def test_a_job_without_a_number_cancelled(queue):
    """As lprm(1) asks: the current job."""
    assert ask(queue, CANCEL_JOB)[0] == 0x406
    ask(queue, CREATE_JOB)
    assert ask(queue, CANCEL_JOB)[0] == OK
    assert not queue.busy()


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (0x400, {"number": 0}),
        (0x400, {"begin": {}}),
        (0x400, {"begin": dict([*BEGIN.items()][:2])}),
        (0x400, {"begin": dict([*BEGIN.items()][1:])}),
        (0x400, {"begin": dict(reversed(BEGIN.items()))}),
        (0x40D, {"attributes_charset": b"utf-7"}),
        (0x503, {"version": (0, 0)}),
        (0x503, {"version": (3, 0)}),
    ],
)
def test_a_request_that_breaks_the_protocol_refused(queue, code, change):
    assert ask(queue, PRINT_JOB, PDF, **change)[0] == code
    assert not queue._jobs
    assert ask(queue, CREATE_JOB)[0] == OK
    begin = {key: value for key, value in BEGIN.items() if key != "last_document"}
    assert ask(queue, SEND_DOCUMENT, PDF, begin=begin, job_id=1)[0] == 0x400


def test_few_jobs_wait_and_one_without_a_document_gives_its_place_up(
    queue, monkeypatch
):
    for _ in range(JOBS_WAITING):
        assert ask(queue, CREATE_JOB)[0] == OK
    assert ask(queue, CREATE_JOB)[0] == BUSY
    clock = printing_queue.time.time
    monkeypatch.setattr(
        printing_queue.time, "time", lambda: clock() + CLIENT_SECONDS + 1
    )
    assert ask(queue, PRINT_JOB, PDF)[0] == OK


def test_few_jobs_are_remembered(queue):
    for _ in range(JOBS_KEPT + 20):
        assert ask(queue, PRINT_JOB, b"no PDF file")[0] == WRONG_FORMAT
    assert len(queue._jobs) <= JOBS_KEPT + 1


def test_a_document_has_a_size_and_a_form(queue, monkeypatch):
    monkeypatch.setattr(printing_queue, "DOCUMENT_BYTES", 100)
    assert ask(queue, PRINT_JOB, PDF + bytes(100))[0] == TOO_LARGE
    assert ask(queue, PRINT_JOB, PDF, document_format=b"text/plain")[0] == WRONG_FORMAT
    assert not queue.busy()
    assert not queue.printed


def test_a_sandbox_without_a_rule_has_no_printer(queue, monkeypatch):
    monkeypatch.setattr(printing_queue.PortalOffer, "held", lambda _: False)
    code, groups, _ = ask(queue, GET_PRINTERS)
    assert (code, groups) == (OK, [])
    code, _, words = ask(queue, PRINT_JOB, PDF)
    assert (code, "no rule" in words) == (0x406, True)
    assert not queue.printed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\x00",
        request(GET_PRINTERS)[:-1],
        struct.pack(">BBHI", 2, 0, 2, 1) + b"\x01" + attribute(0x42, b"x", b"")[:-1],
        struct.pack(">BBHI", 2, 0, 2, 1)
        + b"\x01"
        + attribute(0x42, b"", b"x" * 60000) * 9,
    ],
)
def test_what_is_no_request_ends_it(data):
    assert len(data) < 2 * IPP_BYTES + 20000
    with pytest.raises(IppError):
        IppRequest(io.BytesIO(data))


@contextmanager
def client(queue):
    ours, theirs = socket.socketpair()
    failed = []

    def serve():
        with theirs:
            try:
                serve_client(queue, theirs)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    ours.settimeout(5)
    with ours:
        yield ours, failed
        with suppress(ConnectionError):  # it has left bytes of ours unread
            ours.shutdown(socket.SHUT_WR)
            while ours.recv(65536):
                pass
    thread.join(30)
    assert not thread.is_alive()


def head(data):
    return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def read_code(sock):
    """The code of an answer."""
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        data += sock.recv(65536)
    return int.from_bytes(data.partition(b"\r\n\r\n")[2][2:4])


def test_a_document_in_chunks_is_whole_and_the_next_request_is_read(queue):
    whole = request(PRINT_JOB, PDF, job_name=b"chunks")
    begin = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (whole[:9], whole[9:]))
    queue.go.set()
    with client(queue) as (sock, failed):
        sock.sendall(begin + parts + b"0\r\n\r\n")
        assert read_code(sock) == OK
        sock.sendall(b"GET /printers/Desktop.ppd HTTP/1.1\r\n\r\n")
        answer = sock.recv(65536)
        assert b"404" in answer
        assert answer.endswith(b"\n")  # GTK 3 would wait for more for ever
    until(lambda: queue.printed)
    assert queue.printed == [("chunks", PDF)]
    assert all(isinstance(error, ConnectionError) for error in failed)


def test_an_answer_when_the_job_has_ended(queue, monkeypatch):
    """A box ends with its program: what is accepted and waits would be lost."""
    monkeypatch.setattr(printing_queue, "CONTINUE_SECONDS", 0.01)
    for title, code in ((b"good", OK), (b"bad", NOT_POSSIBLE)):
        with client(queue) as (sock, _):
            sock.sendall(head(request(PRINT_JOB, PDF, job_name=title)))
            assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert queue.busy()
            queue.go.set()
            data = sock.recv(65536)
            while b"200 OK" not in data:
                data = data[-24:] + sock.recv(65536)
            assert struct.pack(">BBHI", 2, 0, code, 7) in data
            assert (b"refused by the user" in data) is (title == b"bad")
            assert not queue.busy()
        queue.go.clear()


def test_an_error_with_the_document_unread(queue):
    with client(queue) as (sock, failed):
        data = request(PRINT_JOB, bytes(1 << 20), begin={})
        sock.sendall(head(data))
        assert read_code(sock) == 0x400
        sock.sendall(head(request(CREATE_JOB)))
        assert read_code(sock) == OK
    assert all(isinstance(error, ConnectionError) for error in failed)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"POST / HTTP/1.1\r\n" + b"X: " + b"y" * HEAD_BYTES, IppError),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", ValueError),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", IppError),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ValueError),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello", IppError),
        (b"POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\nshort", OSError),
    ],
)
def test_a_bad_head_or_body_ends_one_client(queue, data, error):
    with client(queue) as (sock, failed):
        sock.sendall(data)
    assert [type(one) for one in failed if isinstance(one, error)], failed
    assert not queue.printed
