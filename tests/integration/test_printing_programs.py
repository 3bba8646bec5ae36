"""Programs that ask CUPS for a printer find the desktop's in a sandbox, by rule."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_box_session_bus import CONTAINER, boxes, in_box
from tests.integration.test_printing import PRINTS_HERE, dark, printed, printing
from tests.integration.test_sanitize import PDF
from tests.kit.brokerctl import brokerctl
from tests.kit.cups import printers
from tests.kit.needs import PID_NAMESPACES
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.wayland.compositor import short_directory

pytestmark = [PID_NAMESPACES, PRINTS_HERE]
RULES = """\
vitrail.Print * work @adminvm allow printer=Office
vitrail.Print * @anyvm @adminvm deny
"""
FILE = f"cd && printf %s {base64.b64encode(PDF).decode()} | base64 -d > a.pdf"
# The box ends with its program.
ENDED = "until lpstat -W completed | grep -q Desktop-; do sleep 0.1; done"
IPP_TESTS = Path("/usr/share/cups/ipptool/ipp-1.1.test")
IPPTOOL = f"""\
cp {IPP_TESTS} . && cp a.pdf document-a4.pdf && cp a.pdf document-letter.pdf
touch color.jpg gray.jpg document-a4.ps document-letter.ps
uri=ipp://$(echo $CUPS_SERVER | sed 's,/,%2F,g')/printers/Desktop
exec ipptool -I -t -f a.pdf $uri ipp-1.1.test
"""
GTK_3 = """
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk
Gtk.init()
loop = GLib.MainLoop()
operation = Gtk.PrintOperation(n_pages=2, job_name="boxes", track_print_status=True)
settings = Gtk.PrintSettings()
settings.set_printer("Desktop")
operation.set_print_settings(settings)
def draw(_, context, number):
    cairo = context.get_cairo_context()
    cairo.rectangle(0, 0, 200, 200 + 100 * number)
    cairo.fill()
def changed(_):
    status = operation.get_status()
    if status in (Gtk.PrintStatus.FINISHED, Gtk.PrintStatus.FINISHED_ABORTED):
        print(status.value_nick, flush=True)
        loop.quit()
operation.connect("draw-page", draw)
operation.connect("status-changed", changed)
operation.set_allow_async(True)
operation.run(Gtk.PrintOperationAction.PRINT, None)
GLib.timeout_add_seconds(60, loop.quit)
loop.run()
"""
# Without a window, as its command line prints: the file is opened, and its job is sent.
LIBREOFFICE = f"""\
cd; yes 'Hello printer' | head -n 20 > letter.txt
libreoffice --headless --norestore -p letter.txt
{ENDED}
"""
QT = """
from PyQt6.QtCore import QRect
from PyQt6.QtGui import QColor, QPainter
from PyQt6.QtPrintSupport import QPrinter, QPrinterInfo
from PyQt6.QtWidgets import QApplication
app = QApplication([])
print("printers", QPrinterInfo.availablePrinterNames(), flush=True)
printer = QPrinter(QPrinterInfo.defaultPrinter(), QPrinter.PrinterMode.HighResolution)
print("prints on", printer.printerName(), flush=True)
printer.setDocName("boxes")
painter = QPainter(printer)
area = painter.viewport()
painter.fillRect(QRect(0, 0, area.width() // 2, area.height() // 4), QColor("black"))
assert printer.newPage()
painter.fillRect(QRect(0, 0, area.width() // 2, area.height() // 2), QColor("black"))
assert painter.end()
"""
# Its own process prints the page that it shows, as its dialog does.
FIREFOX = """
import json, os, socket, subprocess, time
os.mkdir("profile")
open("profile/user.js", "w").write('user_pref("marionette.port", 0);')
open("page.html", "w").write("<title>Wine list</title><h1>Hello printer</h1>")
words = ["--marionette", "--remote-allow-system-access", "--profile", "profile"]
child = subprocess.Popen(["firefox-esr", *words, f"file://{os.getcwd()}/page.html"])
port = "profile/MarionetteActivePort"
while not os.path.exists(port) or not open(port).read():
    time.sleep(0.2)
sock = socket.create_connection(("127.0.0.1", int(open(port).read())))
reader = sock.makefile("rb")
def message():
    size = b""
    while not size.endswith(b":"):
        size += reader.read(1)
    return json.loads(reader.read(int(size[:-1])))
def call(name, **parameters):
    text = json.dumps([0, 1, name, parameters]).encode()
    sock.sendall(b"%d:%b" % (len(text), text))
    _, _, error, result = message()
    assert error is None, error
    return result
message()
call("WebDriver:NewSession")
call("Marionette:SetContext", value="chrome")
script = '''
const done = arguments[arguments.length - 1];
(async () => {
  const list = Cc["@mozilla.org/gfx/printerlist;1"].createInstance(Ci.nsIPrinterList);
  await list.printers;
  while (gBrowser.selectedBrowser.contentTitle != "Wine list") {
    await new Promise(go => setTimeout(go, 100));
  }
  const service = Cc["@mozilla.org/gfx/printsettings-service;1"];
  const made = service.getService(Ci.nsIPrintSettingsService).createNewPrintSettings();
  made.printerName = list.systemDefaultPrinterName;
  made.printSilent = made.isInitializedFromPrinter = made.isInitializedFromPrefs = true;
  await gBrowser.selectedBrowser.browsingContext.print(made);
  return made.printerName;
})().then(done, error => done(`${error}`));
'''
asked = call("WebDriver:ExecuteAsyncScript", script=script, args=[], scriptTimeout=60000)
print("printed on", asked["value"], flush=True)
while b"Desktop-" not in subprocess.check_output(["lpstat", "-W", "completed"]):
    time.sleep(0.2)
child.kill()
"""


def _libcups() -> str:
    """The version of Debian's package; empty on other systems."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "libcups2"]
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, check=False).stdout.decode()


needs_gtk_printing = pytest.mark.skipif(
    _libcups() == "2.4.2-3+deb12u10",
    reason="GTK waits for ever for a real CUPS server's answer, too (libcups2 deb12u10)",
)


async def in_a_box(*scripts):
    """Run each script in a box that may print; yield its words and what was printed."""
    found = []
    with short_directory() as folder:
        async with (
            printers(folder, "Home", "Office") as cups,
            boxes(rules=RULES, extra={**cups.env, "XDG_CACHE_HOME": str(folder)}) as (
                w,
                _screen,
            ),
        ):
            for number, script in enumerate(scripts, 1):
                code, said = await in_box(w, "work", script)
                assert code == 0, said
                found.append((said, (await printed(cups, number))[-1]))
            code, said = await in_box(w, "personal", 'test -z "$CUPS_SERVER"')
            assert code == 0, said
            assert len(cups.jobs()) == len(scripts)
    return found


async def test_lp_prints_on_the_printer_of_the_rule():
    # As soon as its box has started, and what is no PDF file is refused at once.  The
    # box ends with lp(1), which waits for the end of its job.
    script = f"{FILE}; lpstat -d; echo x > a; lp a; test $? = 1 && exec lp a.pdf"
    ((said, job),) = await in_a_box(script)
    assert "system default destination: Desktop" in said
    assert "lp: this printer takes PDF files" in said
    assert (job.printer, job.title) == ("Office", "work: a.pdf")
    assert b"JavaScript" not in job.content
    pixels, width = dark(job.content)
    assert 500 < pixels < 30_000
    assert width == 300


@pytest.mark.skipif(not IPP_TESTS.exists(), reason="cups-ipp-utils is needed")
async def test_the_printer_passes_the_tests_of_cups():
    """The shipped file of ipptool(1), which cupsd passes, too."""
    with short_directory() as folder:
        env = {"XDG_CACHE_HOME": str(folder)}
        async with (
            printers(folder, "Home", "Office") as cups,
            boxes(rules=RULES, extra={**cups.env, **env}) as (w, _screen),
        ):
            code, output = await in_box(w, "work", f"{FILE}\n{IPPTOOL}")
            assert code == 0, output
            assert "Score: 100%" in output
            assert "passed, 0 failed" in output
            assert len(cups.jobs()) >= 3


@needs_gtk_printing
async def test_a_gtk_3_program_prints():
    ((said, job),) = await in_a_box(f"python3 -c '{GTK_3}'")
    assert "finished\n" in said
    assert (job.printer, job.title) == ("Office", "work: boxes")
    first, _ = dark(job.content, "-l", "1")
    second, _ = dark(job.content, "-f", "2")
    assert 1.4 < second / first < 1.6


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("libreoffice"), reason="libreoffice is needed")
async def test_libreoffice_prints():
    ((said, job),) = await in_a_box(LIBREOFFICE)
    assert (job.printer, job.title) == ("Office", "work: letter.txt"), said
    pixels, width = dark(job.content)
    assert pixels > 1000
    assert width in {595, 596, 597, 612}  # A4 or letter


@pytest.mark.long
@pytest.mark.skipif(
    not Path("/usr/lib/python3/dist-packages/PyQt6").exists(),
    reason="python3-pyqt6 is needed",
)
async def test_a_qt_program_prints():
    ((said, job),) = await in_a_box(f"python3 -c '{QT}' && {ENDED}")
    assert "prints on Desktop" in said
    assert (job.printer, job.title) == ("Office", "work: boxes")
    first, _ = dark(job.content, "-l", "1")
    second, _ = dark(job.content, "-f", "2")
    assert 1.9 < second / first < 2.1


@needs_gtk_printing
@pytest.mark.skipif(not shutil.which("firefox-esr"), reason="firefox-esr is needed")
async def test_firefox_prints():
    text = base64.b64encode(FIREFOX.encode()).decode()
    ((said, job),) = await in_a_box(f"cd && echo {text} | base64 -d | python3 -")
    assert "printed on Desktop" in said
    assert (job.printer, job.title) == ("Office", "work: Wine list")
    pixels, width = dark(job.content)
    assert pixels > 300
    assert width in {595, 596, 597, 612}  # A4 or letter


async def test_lp_prints_in_a_container_with_our_session():
    with short_directory() as folder:
        async with (
            podman_settings() as env,
            printers(folder, "Home", "Office") as cups,
            boxes(
                rules=RULES,
                extra={**env, **cups.env, "XDG_CACHE_HOME": str(folder)},
            ) as (w, _screen),
        ):
            root = root_directory(w.base)
            (root / "etc/passwd").write_text("root:x:0:0::/home/user:/bin/sh\n")
            shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
            w.write_record("work", CONTAINER.format(root=root, shared=shared))
            words = ("sh", "/run/vitrail/vitrail-session", "sh", "-c")
            script = f"{FILE}; lp a.pdf && {ENDED}"
            told = await brokerctl(
                "run", "-q", "work", "--", *words, script, env=w.environ
            )
            assert told.code == 0, told
            (job,) = await printed(cups)
            assert (job.printer, job.title) == ("Office", "work: a.pdf")


async def test_a_program_of_a_machine_prints_by_rule():
    rules = RULES.replace(" work ", " personal ")
    async with printing(rules) as (w, _screen, guests, cups):
        # The image of machines is kept there.
        env = {k: v for k, v in w.environ.items() if k != "XDG_CACHE_HOME"}

        async def run(name, script):
            words = ("run", "-q", "--no-window", name, "--", "sh", "-c", script)
            return await brokerctl(*words, env=env)

        told = await run(
            "personal", f"{FILE}; lp a.pdf && {ENDED}; lpstat -W completed"
        )
        assert (told.code, "Desktop-1" in told.out) == (0, True), told
        (job,) = await printed(cups)
        assert (job.printer, job.title) == ("Office", "personal: a.pdf")
        told = await run("work", 'test -z "$CUPS_SERVER$VITRAIL_PRINTER"')
        assert told.code == 0, told
        # A program that uses the socket all the same finds no printer.
        server = f"{guests['work'].folder}/runtime/session/vitrail-printer"
        script = f"export CUPS_SERVER={server}; lpstat -e; lp /etc/hostname"
        told = await run("work", script)
        assert told.code == 1, told
        assert "Desktop" not in told.out
        assert len(cups.jobs()) == 1
