"""``printer``: a printer for programs of the sandbox that ask CUPS for one.

It is an IPP printer at the socket that ``CUPS_SERVER`` names (libcups), with one queue
that takes PDF files.  What becomes of a job is what ``vitrail-print`` does with a file:
the sandbox draws it, and the broker decides.
Sources: RFC 8011; the CUPS Implementation of IPP; PWG 5100.7 (sizes of paper).
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
from shims.files.printing_messages import (
    BOOLEAN,
    CHARSET,
    COLLECTION,
    ENUM,
    INTEGER,
    IPP_JOB,
    IPP_PRINTER,
    KEYWORD,
    LANGUAGE,
    MIME,
    NAME,
    NO_VALUE,
    RANGE,
    RESOLUTION,
    TEXT,
    URI,
    IppError,
    IppRequest,
    encode_answer,
)
from shims.files.protocol import COPY_BYTES, TransferError, tell

if TYPE_CHECKING:
    from typing import IO, Dict, List, Optional, Tuple

    from shims.files.printing_messages import IppRows, IppValue

    IppAnswer = Tuple[int, List[Tuple[int, IppRows]], str]

PRINTER_USAGE = "usage: vitrail_files.py printer -"
QUEUE = "Desktop"
QUEUE_WORDS = "Printer of the desktop (Vitrail)"
PDF = "application/pdf"
# As lp(1) names a file that it does not look into, and the filters of CUPS a PDF file.
PDF_TYPES = ("", PDF, "application/octet-stream", "application/vnd.cups-pdf")
DOCUMENT_BYTES = 1 << 28
HEAD_BYTES = 1 << 15
HTTP = "HTTP/1.1 {}\r\nContent-Type: application/ipp\r\nContent-Length: {}\r\n{}\r\n"
CLIENTS, CLIENT_SECONDS = 16, 300.0
JOBS_WAITING, JOBS_KEPT = 8, 64

PRINT_JOB, VALIDATE_JOB, CREATE_JOB, SEND_DOCUMENT, CANCEL_JOB = 2, 4, 5, 6, 8
GET_JOB, GET_JOBS, GET_PRINTER = 9, 10, 11
GET_DEFAULT, GET_PRINTERS, GET_CLASSES = 0x4001, 0x4002, 0x4005
OPERATIONS = (
    *(PRINT_JOB, VALIDATE_JOB, CREATE_JOB, SEND_DOCUMENT, CANCEL_JOB, GET_JOB),
    *(GET_JOBS, GET_PRINTER, GET_DEFAULT, GET_PRINTERS),
)
OK, NOT_POSSIBLE, NOT_FOUND, TOO_LARGE = 0, 0x404, 0x406, 0x408
WRONG_FORMAT, NOT_SUPPORTED, BUSY = 0x40A, 0x501, 0x507
PENDING, PROCESSING, CANCELED, ABORTED, COMPLETED = 3, 5, 7, 8, 9
IDLE, PRINTS = 3, 4  # of the printer
NO_PDF = "this printer takes PDF files"
JOB_REASONS = {
    PENDING: "job-incoming",
    PROCESSING: "job-printing",
    CANCELED: "job-canceled-by-user",
    ABORTED: "aborted-by-system",
    COMPLETED: "job-completed-successfully",
}
# Names of PWG 5101.1, and hundredths of a millimetre.
PAPER = {
    "iso_a4_210x297mm": (21000, 29700),
    "na_letter_8.5x11in": (21590, 27940),
    "na_legal_8.5x14in": (21590, 35560),
    "iso_a3_297x420mm": (29700, 42000),
    "iso_a5_148x210mm": (14800, 21000),
}
LETTER_COUNTRIES = ("_US", "_CA", "_MX", "_PH", "_CL", "_CO", "_VE")
MARGIN = 423  # a sixth of an inch
PRINTER_COLOUR = 8  # cups_ptype_t


class PrintJob:
    """A job of the queue."""

    def __init__(self, number: int, title: str, user: str) -> None:
        self.number = number
        self.title = title
        self.user = user
        self.state = PENDING
        self.words = ""
        self.begun = time.time()
        self.ended = 0.0
        self.document: Optional[IO[bytes]] = None

    @property
    def waiting(self) -> bool:
        """Return whether it has not ended."""
        return not self.ended

    def end(self, state: int, words: str = "") -> None:
        """Note the job's end, and let go of its document."""
        self.state, self.words, self.ended = state, words, time.time()
        if self.document is not None:
            self.document.close()

    def rows(self, queue: str) -> IppRows:
        """Return the job's attributes, by the URI of its queue."""
        ended = (INTEGER, [int(self.ended)]) if self.ended else (NO_VALUE, [0])
        return {
            "job-id": (INTEGER, [self.number]),
            "job-uri": (URI, [f"{queue}/{self.number}"]),
            "job-printer-uri": (URI, [queue]),
            "job-name": (NAME, [self.title]),
            "job-originating-user-name": (NAME, [self.user]),
            "job-state": (ENUM, [self.state]),
            "job-state-reasons": (KEYWORD, [JOB_REASONS[self.state]]),
            "job-state-message": (TEXT, [self.words]),
            "job-media-sheets-completed": (INTEGER, [0]),
            "time-at-creation": (INTEGER, [int(self.begun)]),
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
                job.state = PROCESSING
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
            rows = printer_rows(request, self._uri, self.busy())
            return OK, [(IPP_PRINTER, rows)], ""
        if operation == GET_JOBS:
            which = request.word("which-jobs") or "not-completed"
            some = [
                j for j in jobs if which == "all" or j.waiting == (which[:3] == "not")
            ]
            return OK, [self._described(request, job) for job in some], ""
        if operation in (PRINT_JOB, VALIDATE_JOB, CREATE_JOB):
            return self._begin(request, source)
        job = self._jobs.get(job_number(request))
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

    def _described(self, request: IppRequest, job: PrintJob) -> Tuple[int, IppRows]:
        return IPP_JOB, chosen_rows(request, job.rows(self._uri))

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
            size = copy_bounded(source, document)
            document.seek(0)
            if size > DOCUMENT_BYTES:
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


def copy_bounded(source: IO[bytes], out: IO[bytes]) -> int:
    """Copy a document up to its bound, and return its size so far.  Raises OSError."""
    size = 0
    while size <= DOCUMENT_BYTES:
        data = source.read(COPY_BYTES)
        if not data:
            break
        size += out.write(data)
    return size


def chosen_rows(request: IppRequest, rows: IppRows) -> IppRows:
    """Return the attributes that a request asks for."""
    wanted = request.words("requested-attributes")
    groups = {"all", "printer-description", "job-template", "media-col-database"}
    if not wanted or groups & set(wanted):
        return rows
    # As CUPS names all of these together.
    ends = "-default" if "printer-defaults" in wanted else "\0"
    return {
        name: row for name, row in rows.items() if name in wanted or name.endswith(ends)
    }


def job_number(request: IppRequest) -> int:
    """Return the number of the job that a request is about."""
    last = request.word("job-uri").rpartition("/")[2]
    return int(last) if last.isdecimal() else request.integer("job-id")


def printer_rows(request: IppRequest, uri: str, busy: int) -> IppRows:
    """Return the attributes of the printer that a request asks for."""
    language = os.environ.get("LC_PAPER") or os.environ.get("LANG", "")
    letter = any(country in language for country in LETTER_COUNTRIES)
    usual = list(PAPER)[letter]
    sizes: List[IppValue] = [paper_rows(name) for name in PAPER]
    margin = (INTEGER, [MARGIN])
    rows: IppRows = {
        "printer-name": (NAME, [QUEUE]),
        "printer-uri-supported": (URI, [uri]),
        "uri-authentication-supported": (KEYWORD, ["requesting-user-name"]),
        "uri-security-supported": (KEYWORD, ["none"]),
        "printer-info": (TEXT, [QUEUE_WORDS]),
        "printer-location": (TEXT, [""]),
        "printer-make-and-model": (TEXT, ["Vitrail"]),
        "printer-type": (ENUM, [PRINTER_COLOUR]),
        "printer-state": (ENUM, [PRINTS if busy else IDLE]),
        "printer-state-reasons": (KEYWORD, ["none"]),
        "printer-state-message": (TEXT, [""]),
        "printer-state-change-time": (INTEGER, [int(time.time())]),
        "printer-is-accepting-jobs": (BOOLEAN, [True]),
        "printer-is-shared": (BOOLEAN, [False]),
        "printer-is-temporary": (BOOLEAN, [False]),
        "printer-up-time": (INTEGER, [int(time.monotonic()) + 1]),
        "queued-job-count": (INTEGER, [busy]),
        "ipp-versions-supported": (KEYWORD, ["1.1", "2.0"]),
        "ipp-features-supported": (KEYWORD, ["none"]),
        "operations-supported": (
            ENUM,
            OPERATIONS,
        ),
        "charset-configured": (CHARSET, ["utf-8"]),
        "charset-supported": (CHARSET, ["utf-8"]),
        "natural-language-configured": (LANGUAGE, ["en"]),
        "generated-natural-language-supported": (LANGUAGE, ["en"]),
        "pdl-override-supported": (KEYWORD, ["attempted"]),
        "compression-supported": (KEYWORD, ["none"]),
        "multiple-document-jobs-supported": (BOOLEAN, [False]),
        "document-format-default": (MIME, [PDF]),
        "document-format-supported": (MIME, [PDF, "application/octet-stream"]),
        "job-creation-attributes-supported": (KEYWORD, ["media", "media-col"]),
        "color-supported": (BOOLEAN, [True]),
        "print-color-mode-default": (KEYWORD, ["auto"]),
        "print-color-mode-supported": (KEYWORD, ["auto"]),
        "copies-default": (INTEGER, [1]),
        "copies-supported": (RANGE, [(1, 1)]),
        "sides-default": (KEYWORD, ["one-sided"]),
        "sides-supported": (KEYWORD, ["one-sided"]),
        "printer-resolution-default": (RESOLUTION, [(300, 300, 3)]),
        "printer-resolution-supported": (RESOLUTION, [(300, 300, 3)]),
        "media-default": (KEYWORD, [usual]),
        "media-ready": (KEYWORD, list(PAPER)),
        "media-supported": (KEYWORD, list(PAPER)),
        "media-bottom-margin-supported": margin,
        "media-left-margin-supported": margin,
        "media-right-margin-supported": margin,
        "media-top-margin-supported": margin,
        "media-col-default": (COLLECTION, [paper_rows(usual)]),
        "media-col-ready": (COLLECTION, sizes),
        "media-col-database": (COLLECTION, sizes),
        "media-size-supported": (COLLECTION, [size_rows(name) for name in PAPER]),
    }
    return chosen_rows(request, rows)


def size_rows(name: str) -> IppRows:
    """Return the attributes of a size of paper."""
    width, height = PAPER[name]
    return {"x-dimension": (INTEGER, [width]), "y-dimension": (INTEGER, [height])}


def paper_rows(name: str) -> IppRows:
    """Return the attributes of a sheet of paper."""
    margin = (INTEGER, [MARGIN])
    return {
        "media-size-name": (KEYWORD, [name]),
        "media-size": (COLLECTION, [size_rows(name)]),
        "media-bottom-margin": margin,
        "media-left-margin": margin,
        "media-right-margin": margin,
        "media-top-margin": margin,
    }


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
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = HttpBody(reader, head)
    source: IO[bytes] = io.BufferedReader(body)
    request = IppRequest(source)
    answer = encode_answer(request, *queue.answer(request, source))
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
