"""``printer``: a printer for programs of the sandbox that ask CUPS for one.

It is an IPP printer at the socket that ``CUPS_SERVER`` names (libcups), with one queue
that takes PDF files.  What becomes of a job is what ``vitrail-print`` does with a file:
the sandbox draws it, and the broker decides.
Sources: RFC 8011; the CUPS Implementation of IPP.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from typing import TYPE_CHECKING

from shims.files.bus_service import IDLE_SECONDS, PortalOffer
from shims.files.printing import TITLE_CHARS, print_document
from shims.files.printing_attributes import PDF, QUEUE, chosen_rows, printer_rows
from shims.files.printing_messages import (
    ENUM,
    INTEGER,
    IPP_JOB,
    IPP_PRINTER,
    KEYWORD,
    NAME,
    NO_VALUE,
    TEXT,
    URI,
    IppError,
    IppRequest,
    encode_answer,
)
from shims.files.protocol import COPY_BYTES, TransferError, tell

if TYPE_CHECKING:
    from typing import IO, Callable, Dict, List, Optional, Tuple

    from shims.files.printing_messages import IppRows

    IppAnswer = Tuple[int, List[Tuple[int, IppRows]], str]

PRINTER_USAGE = "usage: vitrail_files.py printer -"
# As lp(1) names a file that it does not look into, and the filters of CUPS a PDF file.
PDF_TYPES = ("", PDF, "application/octet-stream", "application/vnd.cups-pdf")
DOCUMENT_BYTES = 1 << 28
HEAD_BYTES = 1 << 15
HTTP = "HTTP/1.1 {}\r\nContent-Type: application/ipp\r\nContent-Length: {}\r\n{}\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CONTINUE_SECONDS = 20.0  # libcups waits 60 for an answer
CLIENTS, CLIENT_SECONDS = 16, 300.0
JOBS_WAITING, JOBS_KEPT = 8, 64

PRINT_JOB, VALIDATE_JOB, CREATE_JOB, SEND_DOCUMENT, CANCEL_JOB = 2, 4, 5, 6, 8
GET_JOB, GET_JOBS, GET_PRINTER = 9, 10, 11
PURGE_JOBS, CANCEL_JOBS, CANCEL_MY_JOBS = 0x12, 0x38, 0x39
GET_DEFAULT, GET_PRINTERS, GET_CLASSES = 0x4001, 0x4002, 0x4005
OPERATIONS = (
    *(PRINT_JOB, VALIDATE_JOB, CREATE_JOB, SEND_DOCUMENT, CANCEL_JOB, GET_JOB),
    *(GET_JOBS, GET_PRINTER, PURGE_JOBS, CANCEL_JOBS, CANCEL_MY_JOBS),
    *(GET_DEFAULT, GET_PRINTERS),
)
OK, BAD_REQUEST, NOT_POSSIBLE, NOT_FOUND, TOO_LARGE = 0, 0x400, 0x404, 0x406, 0x408
WRONG_FORMAT, WRONG_CHARSET, NOT_SUPPORTED, WRONG_VERSION = 0x40A, 0x40D, 0x501, 0x503
BUSY, JOB_CANCELED = 0x507, 0x508
PENDING, PROCESSING, CANCELED, ABORTED, COMPLETED = 3, 5, 7, 8, 9
NO_PDF = "this printer takes PDF files"
JOB_REASONS = {
    PENDING: "job-incoming",
    PROCESSING: "job-printing",
    CANCELED: "job-canceled-by-user",
    ABORTED: "aborted-by-system",
    COMPLETED: "job-completed-successfully",
}


class PrintJob:
    """A job of the queue."""

    def __init__(self, number: int, title: str, user: str) -> None:
        import threading

        self.number = number
        self.title = title
        self.user = user
        self.state = PENDING
        self.words = ""
        self.begun = time.time()
        self.processed = self.ended = 0.0
        self.done = threading.Event()
        self.document: Optional[IO[bytes]] = None
        self.size = 0

    @property
    def waiting(self) -> bool:
        """Return whether it has not ended."""
        return not self.ended

    def end(self, state: int, words: str = "") -> None:
        """Note the job's end, and let go of its document."""
        self.state, self.words, self.ended = state, words, time.time()
        if self.document is not None:
            self.document.close()
        self.done.set()

    def rows(self, queue: str) -> IppRows:
        """Return the job's attributes, by the URI of its queue."""
        processed, ended = (
            (INTEGER, [int(seconds)]) if seconds else (NO_VALUE, [0])
            for seconds in (self.processed, self.ended)
        )
        return {
            "job-id": (INTEGER, [self.number]),
            "job-uri": (URI, [f"{queue}/{self.number}"]),
            "job-printer-uri": (URI, [queue]),
            "job-name": (NAME, [self.title]),
            "job-originating-user-name": (NAME, [self.user]),
            "job-state": (ENUM, [self.state]),
            "job-state-reasons": (KEYWORD, [JOB_REASONS[self.state]]),
            "job-state-message": (TEXT, [self.words]),
            "job-k-octets": (INTEGER, [(self.size + 1023) // 1024]),
            "job-media-sheets-completed": (INTEGER, [0]),
            "job-printer-up-time": (INTEGER, [int(time.time())]),
            "time-at-creation": (INTEGER, [int(self.begun)]),
            "time-at-processing": processed,
            "time-at-completed": ended,
        }


class PrintQueue:
    """The queue: its jobs are printed by a thread, one after the other."""

    def __init__(self, uri: str) -> None:
        import queue
        import threading

        self._uri = uri
        self._offer = PortalOffer({"type": "print"})
        self._lock = threading.Lock()
        self._jobs: Dict[int, PrintJob] = {}
        self._last = 0
        self._ready: queue.Queue[PrintJob] = queue.Queue()
        threading.Thread(target=self._print_jobs, daemon=True).start()

    def busy(self) -> int:
        """Return how many jobs have not ended; end those whose document did not come."""
        late = time.time() - CLIENT_SECONDS
        for job in list(self._jobs.values()):
            if job.waiting and job.document is None and job.begun < late:
                job.end(ABORTED, "its document was not sent")
        return sum(job.waiting for job in list(self._jobs.values()))

    def _print_jobs(self) -> None:
        """Have waiting jobs printed by the broker, one by one; never returns."""
        while True:
            job = self._ready.get()
            with self._lock:
                if not job.waiting:
                    continue  # it was cancelled
                job.state, job.processed = PROCESSING, time.time()
            document = job.document
            assert document is not None
            document.seek(0)
            try:
                print_document(job.title, document)
            except (TransferError, OSError) as error:
                job.end(ABORTED, str(error))
                tell(f"vitrail: cannot print {job.title}: {error}")
            else:
                job.end(COMPLETED)

    def answer(self, request: IppRequest, source: IO[bytes]) -> IppAnswer:
        """Answer a request, whose document follows: code, attributes and a reason."""
        code, reason = find_fault(request)
        if code:
            return code, [], reason
        with self._lock:
            offered, jobs = self._offer.held(), list(self._jobs.values())
        operation = request.operation
        if not offered:
            # Without an error, because a program that lists printers would show it.
            code = OK if operation in (GET_PRINTERS, GET_CLASSES) else NOT_FOUND
            return code, [], "no rule for vitrail.Print allows the sandbox to print"
        if operation == GET_CLASSES:
            return OK, [], ""
        if operation in (GET_DEFAULT, GET_PRINTER, GET_PRINTERS):
            rows = printer_rows(request, self._uri, self.busy(), OPERATIONS)
            return OK, [(IPP_PRINTER, rows)], ""
        if operation in (GET_JOBS, PURGE_JOBS, CANCEL_JOBS, CANCEL_MY_JOBS):
            user = request.word("requesting-user-name")
            if operation == CANCEL_MY_JOBS or request.values.get("my-jobs") == [b"\1"]:
                jobs = [job for job in jobs if job.user == user]
            return self._answer_jobs(request, jobs)
        if operation in (PRINT_JOB, VALIDATE_JOB, CREATE_JOB):
            return self._begin(request, source)
        number = job_number(request)
        job = self._jobs.get(number)
        if operation == CANCEL_JOB and not number:  # as CUPS: the current job
            job = next((job for job in jobs if job.waiting), None)
        if operation not in (SEND_DOCUMENT, CANCEL_JOB, GET_JOB):
            return NOT_SUPPORTED, [], "this printer does not have this operation"
        if job is None:
            return NOT_FOUND, [], "no such job"
        if operation == GET_JOB:
            return OK, [self._described(request, job)], ""
        with self._lock:
            if job.state != PENDING or (job.document and operation == SEND_DOCUMENT):
                return (
                    NOT_POSSIBLE,
                    [],
                    "the job has its document already, or has ended",
                )
            if operation == CANCEL_JOB:
                job.end(CANCELED)
                return OK, [], ""
        return self._take_document(request, source, job)

    def _answer_jobs(self, request: IppRequest, jobs: List[PrintJob]) -> IppAnswer:
        """List jobs, or cancel those that wait."""
        which = request.word("which-jobs") or "not-completed"
        if request.operation == GET_JOBS:
            jobs = [
                j for j in jobs if which == "all" or j.waiting == (which[:3] == "not")
            ]
            limit = request.integer("limit")
            jobs = jobs[:limit] if limit > 0 else jobs
            request.values.setdefault("requested-attributes", [b"job-id", b"job-uri"])
            return OK, [self._described(request, job) for job in jobs], ""
        with self._lock:
            for job in jobs:
                if job.state == PENDING:
                    job.end(CANCELED)
        printing = [str(job.number) for job in jobs if job.waiting]
        reason = f"job {printing[0]} is being printed" if printing else ""
        return NOT_POSSIBLE if printing else OK, [], reason

    def _described(self, request: IppRequest, job: PrintJob) -> Tuple[int, IppRows]:
        return IPP_JOB, chosen_rows(request, job.rows(self._uri))

    def wait_for_end(self, number: int, keep_waiting: Callable[[], None]) -> IppAnswer:
        """Return the answer about a job once it has ended; tell the client to wait.

        A sandbox may end with the program that prints: a job that was accepted and
        not printed would be lost without a report.
        """
        job = self._jobs[number]
        while not job.done.wait(CONTINUE_SECONDS):
            keep_waiting()
        codes = {CANCELED: JOB_CANCELED, ABORTED: NOT_POSSIBLE}
        return codes.get(job.state, OK), [(IPP_JOB, job.rows(self._uri))], job.words

    def _begin(self, request: IppRequest, source: IO[bytes]) -> IppAnswer:
        """Begin a job, or answer whether it could begin."""
        if request.word("document-format") not in PDF_TYPES:
            return WRONG_FORMAT, [], NO_PDF
        with self._lock:
            if self.busy() >= JOBS_WAITING:
                return BUSY, [], "too many jobs are waiting"
            if request.operation == VALIDATE_JOB:
                return OK, [], ""
            self._last += 1
            title = request.word("job-name") or request.word("document-name")
            user = request.word("requesting-user-name") or "user"
            job = PrintJob(self._last, title[:TITLE_CHARS] or "document", user[:64])
            self._jobs[job.number] = job
            ended = [job for job in self._jobs.values() if not job.waiting]
            for old in ended[:-JOBS_KEPT]:
                del self._jobs[old.number]
        if request.operation == CREATE_JOB:
            return OK, [(IPP_JOB, job.rows(self._uri))], ""
        return self._take_document(request, source, job)

    def _take_document(
        self, request: IppRequest, source: IO[bytes], job: PrintJob
    ) -> IppAnswer:
        """Keep the document of a job, and have it printed."""
        import tempfile

        job.document = document = tempfile.TemporaryFile()  # noqa: SIM115 -- of the job
        code, words = WRONG_FORMAT, NO_PDF
        try:
            job.size = copy_bounded(source, document)
            document.seek(0)
            if job.size > DOCUMENT_BYTES:
                code, words = (
                    TOO_LARGE,
                    f"the document has more than {DOCUMENT_BYTES} bytes",
                )
            elif document.read(5) == b"%PDF-" and (
                request.word("document-format") in PDF_TYPES
            ):
                code, words = OK, ""
                self._ready.put(job)
        except OSError as error:
            code, words = NOT_POSSIBLE, str(error)
        finally:
            if code:
                job.end(ABORTED, words)
        return code, [] if code else [(IPP_JOB, job.rows(self._uri))], words


def find_fault(request: IppRequest) -> Tuple[int, str]:
    """Return why a request is not answered, as a code and a reason; 0: it is.

    RFC 8011, 4.1 and 4.2.
    """
    operation = request.operation
    names = [*request.values, "", ""]
    target = operation in (GET_DEFAULT, GET_PRINTERS, GET_CLASSES) or (
        request.values.keys() & {"printer-uri", "job-uri"}
    )
    if not 1 <= request.major <= 2:
        return WRONG_VERSION, f"this printer has no IPP {request.major}"
    if not request.number:
        return BAD_REQUEST, "the request-id is 0"
    if names[:2] != ["attributes-charset", "attributes-natural-language"]:
        return BAD_REQUEST, "the request does not begin with charset and language"
    if request.word("attributes-charset").lower() not in ("utf-8", "us-ascii"):
        return WRONG_CHARSET, "this printer has the charset utf-8"
    if not target:
        return BAD_REQUEST, "the request has no printer-uri"
    if operation == SEND_DOCUMENT and "last-document" not in request.values:
        return BAD_REQUEST, "the request has no last-document"
    return OK, ""


def copy_bounded(source: IO[bytes], out: IO[bytes]) -> int:
    """Copy a document up to its bound, and return its size so far.  Raises OSError."""
    size = 0
    while size <= DOCUMENT_BYTES:
        data = source.read(COPY_BYTES)
        if not data:
            break
        size += out.write(data)
    return size


def job_number(request: IppRequest) -> int:
    """Return the number of the job that a request is about."""
    last = request.word("job-uri").rpartition("/")[2]
    return int(last) if last.isdecimal() else request.integer("job-id")


def serve_printer(words: List[str]) -> int:
    """Serve the printer at standard input, a socket that listens, while it is used.

    Whoever started this listens on, and starts another one for the next client.
    """
    import threading

    if words != ["-"]:
        raise TransferError(PRINTER_USAGE)
    listener = socket.socket(fileno=os.dup(0))
    listener.settimeout(IDLE_SECONDS)
    # The socket in place of a host: libcups and GTK connect to it.
    host = listener.getsockname().replace("/", "%2F")
    queue = PrintQueue(f"ipp://{host}/printers/{QUEUE}")
    places = threading.BoundedSemaphore(CLIENTS)
    while True:
        places.acquire()
        try:
            sock, _ = listener.accept()
        except socket.timeout:
            places.release()
            if queue.busy():
                continue
            return 0
        sock.settimeout(CLIENT_SECONDS)

        def one(sock: socket.socket = sock) -> None:
            try:
                with sock, contextlib.suppress(OSError, IppError, ValueError):
                    serve_client(queue, sock)
            finally:
                places.release()

        threading.Thread(target=one, daemon=True).start()


def serve_client(queue: PrintQueue, sock: socket.socket) -> None:
    """Answer the requests of one client.  Raises OSError, IppError, ValueError."""
    with sock.makefile("rb") as reader:
        while serve_request(queue, sock, reader):
            pass


def serve_request(
    queue: PrintQueue, sock: socket.socket, reader: io.BufferedReader
) -> bool:
    """Answer one request; return whether another one may follow."""
    method, head = read_http_head(reader)
    if method in ("GET", "HEAD"):
        # The attributes say what a PPD file would.  GTK 3 waits for ever for the end of
        # an answer without a body.
        sock.sendall((HTTP.format("404 Not Found", 1, "") + "\n").encode())
        return True
    if method != "POST":
        return False
    if head.get("expect", "").lower() == "100-continue":
        sock.sendall(CONTINUE)
    body = HttpBody(reader, head)
    source: IO[bytes] = io.BufferedReader(body)
    request = IppRequest(source)
    code, groups, reason = queue.answer(request, source)
    if code:
        # Otherwise the connection would end before the client has read the answer.
        with open(os.devnull, "wb") as null:
            copy_bounded(source, null)
    elif request.operation in (PRINT_JOB, SEND_DOCUMENT):
        number = groups[0][1]["job-id"][1][0]
        assert isinstance(number, int)
        code, groups, reason = queue.wait_for_end(
            number, lambda: sock.sendall(CONTINUE)
        )
    answer = encode_answer(request, code, groups, reason)
    # What was not read would be the next request.
    whole = body.ended and not source.read(1)
    close = "" if whole else "Connection: close\r\n"
    sock.sendall(HTTP.format("200 OK", len(answer), close).encode() + answer)
    return whole


def read_http_head(reader: io.BufferedReader) -> Tuple[str, Dict[str, str]]:
    """Read the head of a request of HTTP: its method, and its fields.

    Raises IppError for a long one, ConnectionError at the end.
    """
    left, lines = HEAD_BYTES, []
    while True:
        line = reader.readline(left)
        left -= len(line)
        if not left:
            raise IppError("the head of a request is too long")
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the client disconnected")
        line = line.rstrip(b"\r\n")
        if line:
            lines.append(line.decode("latin-1"))
        elif lines:
            break
    fields = (line.partition(":") for line in lines[1:])
    return lines[0].partition(" ")[0], {
        name.strip().lower(): value.strip() for name, _, value in fields
    }


class HttpBody(io.RawIOBase):
    """The body of a request: of a length, or in chunks (RFC 9112)."""

    def __init__(self, reader: io.BufferedReader, head: Dict[str, str]) -> None:
        self._reader = reader
        self._chunked = head.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(head.get("content-length", "0"))
        self.ended = not self._chunked and self._left <= 0

    def readable(self) -> bool:  # type: ignore[explicit-override]
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[explicit-override,override]
        """See ``io.RawIOBase``.  Raises OSError, ValueError."""
        if self._chunked and not self._left and not self.ended:
            self._left = int(self._reader.readline(HEAD_BYTES).split(b";")[0], 16)
            self.ended = not self._left
            if self.ended:
                self._reader.readline(HEAD_BYTES)  # no field follows
        if self._left <= 0:
            return 0
        view = memoryview(buffer)[: self._left]
        size = self._reader.readinto1(view)
        if not size:
            raise ConnectionResetError("the client disconnected")
        self._left -= size
        if self._chunked and not self._left:
            self._reader.readline(HEAD_BYTES)
        self.ended = not self._chunked and not self._left
        return size
