"""Attack: a sandbox prints more than the user has seen, elsewhere, or for ever."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.authority.channel.request_messages import request_of
from broker.authority.decisions.put_question import texts_of
from broker.authority.permit import Permit, Request
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.question import is_page_image
from broker.core.services import CALL
from broker.ipc.guest.file_requests import PrintPages
from broker.ipc.session.file_orders import KeptPages
from broker.jail.worker.transfer import _checked
from broker.session.printing import answer_kept
from broker.viewer.authority.request_messages import asked_of
from broker.viewer.exchange.pipes import pipe
from broker.viewer.printing import (
    PAGES_PER_DAY,
    Printing,
)
from broker.viewer.transfer.meter import DECLINED_PER_MINUTE
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import Own
from policy.records.model import Transfer
from policy.rules.conditions import KEYS
from shims.files.own_files import PRINT_PIXELS
from shims.files.pages import PIXELS_MAGIC, PIXELS_PAGE, describe_preview
from shims.files.printing import (
    print_documents,
    variants,
)
from shims.files.protocol import TransferError, frame
from tests.integration.test_printing import PDF, printed, printing, running_print
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK
from tests.kit.session import starter_of_orders

NEEDED = ("waypipe", "mako", "dbus-daemon", "pdftoppm", "lp", "lpadmin", "gio")
REAL = pytest.mark.skipif(
    not all(shutil.which(one, path="/usr/bin:/usr/sbin") for one in NEEDED),
    reason=f"{', '.join(NEEDED)} are needed",
)
RAW = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["VITRAIL_CALL"].partition(":")[2])
body = b'{"type":"print","name":"x","size":100}'
sock.sendall(len(body).to_bytes(4, "little") + body)
sock.recv(1000)
sock.sendall(open(sys.argv[1], "rb").read())
while said := sock.recv(1000):
    print(said)
"""
END = PIXELS_PAGE.pack(b"E", 0, 0, 0)


def page(kind=b"G", width=2, height=2, words=0, pixels=b"\0" * 4):
    return PIXELS_PAGE.pack(kind, width, height, words) + pixels


def entries(content, *, announced=None, end=b""):
    size = len(content) if announced is None else announced
    head = {"type": "file", "path": ["pages"], "size": size}
    return frame(head) + content + (end or frame({"type": "end"}))


async def kept(session, data):
    """Have pages kept as the service does; returns their number and the document."""
    async with trio.open_nursery() as nursery:
        with pipe() as (read, write):
            fd = os.dup(write.fileno())

            async def feed():
                async with trio.lowlevel.FdStream(fd) as stream:
                    # It may have read enough.
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(data)

            write.close()
            async with Own(session).keeping_pages("work-1", read) as keeping:
                async with keeping as result:
                    nursery.start_soon(feed)
                return result.kept.pages, Path(result.kept.path).read_bytes()


@pytest.fixture(name="spool")
def _spool(tmp_path):
    """A desktop, and the directory of its documents."""
    environ = dict(os.environ, XDG_CACHE_HOME=str(tmp_path))
    with starter_of_orders(environ) as session:
        yield session, tmp_path / "vitrail-printing"


# -- pages ---------------------------------------------------------------------------------


async def test_pages_become_a_document_of_pixels(spool):
    session, folder = spool
    content = PIXELS_MAGIC + page() + page(b"P", pixels=b"\xff" * 12) + END
    pages, made = await kept(session, entries(content))
    assert pages == 2
    assert list(folder.iterdir()) == []
    assert made.startswith(b"%PDF-1.4")
    assert (made.count(b"/DeviceGray"), made.count(b"/DeviceRGB")) == (1, 1)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 9000), (9000, 1), (2480, 3508), (3000, 7000)]
)
@pytest.mark.parametrize("depth", [1, 3])
def test_preview_is_small_for_each_page(width, height, depth):
    """The left half of the page is black."""
    row = bytes(width // 2 * depth) + b"\xff" * ((width - width // 2) * depth)
    columns, encoded = describe_preview((width, height, row * height, ())).split()
    pixels = base64.b64decode(encoded)
    assert is_page_image((int(columns), pixels))
    if width > 1000:
        assert (pixels[0], pixels[int(columns) - 1]) == (0, 255)


@pytest.mark.parametrize("colour", [b"\xff\x00\x00", b"\x00\xff\xff", b"\xff\xff\x00"])
def test_preview_shows_ink_of_each_colour(colour):
    """Attack: text in a colour that is white in one channel of the picture."""
    page = (300, 300, colour * 90_000, ())
    assert max(base64.b64decode(describe_preview(page).split()[1])) <= 170


def test_preview_shows_ink_between_few_samples():
    """Attack: a page that is white at the pixels that a coarse preview reads.

    The user would print a text that the question did not show.
    """
    width, height, step = 2480, 3508, 15
    offsets = {step * n // 4 for n in range(4)}
    row = bytes(255 * (x % step in offsets) for x in range(width))
    rows = (row if y % step in offsets else bytes(width) for y in range(height))
    page = (width, height, b"".join(rows), ())
    assert max(base64.b64decode(describe_preview(page).split()[1])) < 64


@pytest.mark.parametrize(
    "image", [(0, b"x"), (2, b"xxx"), (241, b"x" * 241), (1, b"x" * 241), (240, b"")]
)
async def test_picture_of_another_form_is_in_no_question(image):
    """Attack: a viewer that was taken over sends a picture that breaks the dialog."""
    assert not is_page_image(image)
    request = Request(lease=WORK, service="vitrail.Print", preview=image)
    with pytest.raises(PeerError, match="picture"):
        request_of(asked_of(request), WORK)


@pytest.mark.parametrize(
    "text", [b"0 QUFB", b"241 QUFB", b"2 QUFB", b"1 " + 500 * b"QUFB", b"1 A", b"1 AA"]
)
def test_kept_picture_of_another_form_is_refused(tmp_path, text):
    """Attack: pages that take over the program that stores them."""
    with pytest.raises(UpstreamError, match="picture"):
        answer_kept(None, tmp_path / "work-1.pdf", b"pages 1 " + text + b"\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame({"type": "end"}),
        frame({"type": "dir", "path": ["pages"]}) + frame({"type": "end"}),
        entries(b"%PDF-1.4 a real document"),
        entries(PIXELS_MAGIC + END),
        entries(PIXELS_MAGIC + page(width=1 << 20) + END),
        entries(PIXELS_MAGIC + page(width=16_000, height=16_000) + END),
        entries(
            PIXELS_MAGIC + page(words=1) + struct.pack(">HHHHB", 0, 0, 1, 1, 0) + END
        ),
        entries(PIXELS_MAGIC + page(b"X", width=3) + END),
        entries(PIXELS_MAGIC + page(width=400)),
        entries(PIXELS_MAGIC + page() + END + b"x"),
    ],
)
async def test_pages_of_another_form_are_not_printed(spool, data):
    session, folder = spool
    with pytest.raises((UpstreamError, ExceptionGroup)):
        await kept(session, data)
    assert list(folder.iterdir()) == []


def kept_apart(path, data, before, free=0):
    """Have pages kept by a process like the service's; returns its exit code and words.

    ``before`` runs in it first.  The words are those of proc_pid_status(5), or an error.
    """
    script = f"""
import sys
from shims.files import own_files, page_writers
{before}
own_files.keep_pages(sys.argv[1:])
print(open("/proc/self/status").read())
"""
    words = [sys.executable, "-c", script, str(path), str(free)]
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    return done.returncode, (done.stdout or done.stderr).decode()


def test_the_largest_pages_take_the_memory_of_one(tmp_path):
    """Their making took five times as much, outside of every budget."""
    side = int(PRINT_PIXELS**0.5)
    sent = page(b"P", side, side, pixels=bytes(3 * side * side))
    code, said = kept_apart(
        tmp_path / "a.pdf",
        entries(PIXELS_MAGIC + sent + sent + END),
        # They cannot be compressed, and take no time.
        "page_writers.PAGE_LEVEL = 0",
    )
    assert code == 0, said
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) << 10
    assert peak < 3 * PRINT_PIXELS + (48 << 20)


def test_a_page_that_is_larger_is_refused_before_it_is_read(tmp_path):
    sent = PIXELS_PAGE.pack(b"G", PRINT_PIXELS // 3000 + 1, 3000, 0)
    code, said = kept_apart(tmp_path / "a.pdf", entries(PIXELS_MAGIC + sent), "")
    assert code
    assert "exceeds the limit" in said


def test_a_mistake_about_sizes_takes_no_memory(tmp_path):
    sent = PIXELS_PAGE.pack(b"P", 8000, 8000, 0)
    code, said = kept_apart(
        tmp_path / "a.pdf",
        entries(PIXELS_MAGIC + sent),
        "own_files.PRINT_PIXELS = 64_000_000",
    )
    assert code
    assert "MemoryError" in said


def test_pages_leave_room(tmp_path):
    sent = entries(PIXELS_MAGIC + page() + END)
    code, said = kept_apart(tmp_path / "a.pdf", sent, "", 1 << 60)
    assert code
    assert "no disk space for" in said


# -- the request -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("untrusted_name", "shown"),
    [("a\nb", "a_b"), ("-o raw", "o raw"), ("../../x", "_.._x"), ("\u202egpj", "_gpj")],
)
def test_a_name_is_one_line_and_no_option(untrusted_name, shown):
    assert _checked(PrintPages(untrusted_name, 1)).name == shown


@pytest.mark.parametrize("text", ["", "-o", "a b", "a/b", "a#b", "a,b", "x" * 128])
def test_a_rule_names_a_printer_and_no_option(text):
    assert KEYS["printer"].take(text) is None
    assert KEYS["printer"].take("HP_Office.2") == "HP_Office.2"


def test_options_of_the_program_are_its_own():
    with pytest.raises(TransferError, match="usage"):
        print_documents(["-o", "raw"])


def test_settings_of_another_form_go_nowhere():
    found = variants({"n-copies": "3", 5: "x", "list": [1], "Width": 210.0, "o": {}})
    assert found == {"n-copies": ("s", "3"), "Width": ("d", 210.0)}
    assert variants(["x"]) == {}


# -- the service -------------------------------------------------------------------------------


class Service:
    """The service with rules that a test changes; pages are one, and none is printed."""

    def __init__(self, *, says=None):
        self.answer = SimpleNamespace(
            verdict="ask", printer="Office", where="30-mine.policy:1"
        )
        self.asked, self.given, self.shown, self.waits = [], [], [], trio.Event()
        self._says, self.pages = says, 1
        decider = SimpleNamespace(
            preview=self._preview,
            permit=self._permit,
            notify=lambda *words, sandbox: self.shown.append(words),
        )
        log = SimpleNamespace(require=self._log, note=self._log)
        own = SimpleNamespace(
            keeping_pages=self._keeping,
            print_document=self._print,
        )
        parts = TransferParts(decider, log, None, own, tuple)
        self.service = Printing(parts)
        allowed = Transfer(100, 100, 1, 1 << 40, 99_999, 0)
        record = SimpleNamespace(viewer=SimpleNamespace(transfer=allowed))
        self.guest = SimpleNamespace(
            lease=WORK, valid_record=lambda: record, order=self._log
        )

    async def _print(self, *words):
        await trio.lowlevel.checkpoint()
        if self._says:
            raise UpstreamError(self._says)
        self.given.append(words)

    async def _preview(self, _requests):
        await trio.lowlevel.checkpoint()
        return (self.answer,)

    async def _log(self, *_):
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def _permit(self, request, *, on_ask):
        self.asked.append(request)
        await on_ask()
        await self.waits.wait()
        if self.answer.verdict != "ask":
            raise RefusedError("denied: the user said no")
        yield Permit(request, "dom0", "work.policy:1", None, False, None, 0.0, None)

    @asynccontextmanager
    async def _keeping(self, name, _read):
        @asynccontextmanager
        async def keeping():
            yield SimpleNamespace(
                kept=KeptPages(f"x/{name}.pdf", "", self.pages, (1, b"x"))
            )

        yield keeping()

    async def serve(self, size=9):
        exchange = SimpleNamespace(
            guest=self.guest,
            opening=Opening(WORK, CALL, 1, "vsock:3"),
            stream=1,
            wait_for_user=self._log,
            moved=self._log,
            opened_in="",
        )
        await self.service.serve(exchange, PrintPages("a", size))


async def test_ten_thousand_requests_ask_once():
    service, refused = Service(), []

    async def ask():
        try:
            await service.serve()
        except RefusedError as error:
            refused.append(error.message)

    async with trio.open_nursery() as nursery:
        for _ in range(10_000):
            nursery.start_soon(ask)
        await eventually(lambda: len(refused) == 9_999 and service.asked)
        assert len(service.asked) == 1
        service.waits.set()
    assert set(refused) == {
        "too many calls of vitrail.Print are already running in the target"
    }
    assert len(service.given) == 1


async def test_documents_that_are_refused_come_no_more():
    service = Service()
    service.waits.set()
    said = []
    for _ in range(DECLINED_PER_MINUTE + 5):
        service.answer.verdict = "ask"
        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    service.waits = trio.Event()
                    nursery.start_soon(service.serve)
                    await trio.testing.wait_all_tasks_blocked()
                    service.answer.verdict = "deny"
                    service.waits.set()
        except* RefusedError as group:
            said.append(str(group.exceptions[0]))
    assert len(service.asked) == DECLINED_PER_MINUTE
    assert "were refused in a minute" in said[-1]
    assert not service.given


async def test_documents_whose_programs_hang_up_come_no_more():
    """Each opened a window of the desktop, and none counted as refused."""
    service = Service()
    for _ in range(DECLINED_PER_MINUTE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.serve)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    shown = [texts_of(request) for request in service.asked]
    assert len(set(shown)) == len(shown) == DECLINED_PER_MINUTE
    with pytest.raises(RefusedError, match="were refused in a minute"):
        await service.serve()


async def test_paper_of_a_record_is_counted():
    """An empty page is 14 bytes, so the bytes of a day were a million sheets."""
    service = Service()
    service.waits.set()
    service.pages = PAGES_PER_DAY // 2
    for _ in range(2):
        await service.serve()
    with pytest.raises(RefusedError, match="pages in 24 hours"):
        await service.serve()
    assert len(service.given) == 2


async def test_the_printer_is_the_one_of_the_question():
    service = Service()
    async with trio.open_nursery() as nursery:

        async def ask():
            with pytest.raises(RefusedError, match="rules have changed"):
                await service.serve()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert "on Office" in texts_of(service.asked[0])[0]
        service.answer.printer = "Lobby"
        service.waits.set()
    assert not service.given


async def test_a_document_has_the_size_of_the_record():
    service = Service()
    with pytest.raises(RefusedError, match="larger than"):
        await service.serve(101)
    assert not service.asked


async def test_a_sandbox_learns_nothing_of_printers_by_a_failure():
    service = Service(says="Lobby of floor 3 is on fire")
    service.waits.set()
    with pytest.raises(RefusedError) as caught:
        await service.serve()
    assert "Lobby" not in str(caught.value)
    assert "Lobby" in service.shown[0][1]


@pytest.mark.parametrize(
    "written", [b"", b"pages \n", b"pages " + b"9" * 5000, b"pages x\n", b"pages 1_0\n"]
)
def test_a_number_of_pages_is_short_and_decimal(written):
    with pytest.raises(UpstreamError, match="invalid number of pages"):
        answer_kept(SimpleNamespace(), Path("x/y.pdf"), written)


# -- a real desktop ------------------------------------------------------------------------------


@REAL
async def test_titles_are_words_of_one_line_and_a_hung_up_question_goes():
    async with printing() as (w, _screen, guests, cups):
        work, personal = guests["work"], guests["personal"]
        for guest in (work, personal):
            (guest.home / "a.pdf").write_bytes(PDF)
        title = "-o raw -n 99\n-d Office"
        code, said = await personal.command("vitrail-print", "--title", title, "a.pdf")
        assert code == 0, said
        (job,) = await printed(cups)
        assert (job.printer, job.copies) == ("Home", "1")
        assert job.title == "personal: o raw -n 99_-d Office"
        # A program that waits and goes takes its question with it.
        async with running_print(work, "a.pdf"):
            await eventually(lambda: w.events("question.asked"))
        await eventually(lambda: w.events("question.answered"))
        assert not w.events("transfer.begin", sandbox="work")
        # Bytes that are no pages are asked nobody about.
        (work.home / "raw").write_bytes(entries(b"%PDF-1.4 x" * 10))
        (work.home / "raw.py").write_text(RAW)
        code, said = await work.script(
            f"/usr/bin/python3 {work.home}/raw.py {work.home}/raw"
        )
        assert "could not be reached" in said, said
        assert len(w.events("question.asked")) == 1
        assert len(cups.jobs()) == 1
