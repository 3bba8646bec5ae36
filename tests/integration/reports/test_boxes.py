"""Bug reports of other sandboxes, replayed in a box: see docs/reports.md."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from broker.core.files.zone_name import zone_name
from broker.host.launchers.bubblewrap.arguments import Box
from tests.kit.boxes import said, start_held
from tests.kit.brokerctl import brokerctl, lines_of, running
from tests.kit.needs import PID_NAMESPACES, needs, requires
from tests.kit.world import world
from tests.programs.places import desk
from tests.programs.table import Program

pytestmark = [needs("bwrap", "bubblewrap"), requires("/usr/bin/python3")]
ZONE = """
import json, os
lines = open("/etc/timezone").read().split() if os.path.exists("/etc/timezone") else []
print(json.dumps([os.path.realpath("/etc/localtime"), lines]))
"""
PROCESSORS = """
import json, os
folder = "/sys/devices/system/cpu/"
print(json.dumps({name: open(folder + name).read() for name in sorted(os.listdir(folder))}))
"""
BROKEN_LINKS = """
import json, os
found = []
for place, folders, files in os.walk("/usr"):
    for name in folders + files:
        path = os.path.join(place, name)
        if os.path.islink(path) and not os.path.exists(path):
            found.append(path)
print(json.dumps(found))
"""
LEFT_OUT = {
    "/etc/environment": "variables of the machine, which may have a proxy's password",
    "/etc/ssl/private": "keys",
    "/etc/maven": "settings.xml may have passwords of servers",
    "/etc/X11/rgb.txt": "of X11 programs, which have /etc/X11",
    "/etc/python3": "sitecustomize.py, which reports crashes to the machine",
    "/var/lib/libreoffice": "extensions of all users, which are empty without root",
    "/var/spool/libreoffice": "the same",
}
"""Where links of /usr lead to that a box lacks, with the reason."""
CALLS = """
import ctypes, errno, json
libc, found = ctypes.CDLL(None, use_errno=True), {}
for name, number, args in (
    ("io_uring_setup", 425, (1, 0)),
    ("openat2", 437, (-100, b"/", 0, 0)),
    ("clone3", 435, (0, 0)),
    ("a call of a later kernel", 2000, ()),
):
    ctypes.set_errno(0)
    libc.syscall(number, *args)
    found[name] = errno.errorcode[ctypes.get_errno()]
print(json.dumps(found))
"""
RESIZED = """
import fcntl, json, os, pty, signal, struct, termios
pid, terminal = pty.fork()
if not pid:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    signal.signal(signal.SIGWINCH, lambda *_: None)  # one that is ignored is not told
    print("ready", flush=True)
    signal.sigwait([signal.SIGWINCH])
    print("size", *os.get_terminal_size(), flush=True)
    signal.pause()
def until(word):
    heard = b""
    while word not in heard:
        heard += os.read(terminal, 4096)
    return heard.decode()
until(b"ready")
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
print(json.dumps(until(b"size 132 50")))
"""
JOBS = """
import json, os, pty, select, time
pid, terminal = pty.fork()
if not pid:
    os.execvp("bash", ["bash", "--norc", "--noediting", "-i"])
def until(word, typed=b""):
    heard = b""
    os.write(terminal, typed)
    while word not in heard:
        if select.select([terminal], [], [], 1)[0]:
            heard += os.read(terminal, 4096)
        else:
            # Again: bash's child ignores Ctrl-Z until just before its exec.  Not earlier:
            # Ctrl-Z throws away what the terminal has not shown yet.
            os.write(terminal, typed)
    return heard.decode()
os.write(terminal, b"echo rea''dy; sleep 1000\\n")
first = until(b"ready")
while os.tcgetpgrp(terminal) == pid:  # sleep is not the foreground job yet
    time.sleep(0.01)
print(json.dumps([first, until(b"Stopped", b"\\x1a")]))  # Ctrl-Z
"""
READ_ALL = """
import json, sys
print(json.dumps(sys.stdin.read()))
"""
BACKGROUND = """
import json, subprocess
subprocess.Popen(["sleep", "1000"])
print(json.dumps("left"))
"""


async def test_a_program_learns_the_name_of_the_time_zone(tmp_path):
    place, lines = await said(tmp_path, ZONE)
    assert place == os.path.realpath("/etc/localtime")
    timezone = Path("/etc/timezone")
    assert lines == (timezone.read_text().split() if timezone.exists() else [])


@pytest.mark.parametrize(
    ("leads_to", "zone"),
    [
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/No/Where", None),
        ("/etc/hostname", None),
        (None, None),
    ],
)
def test_the_name_of_a_zone_is_where_localtime_leads(tmp_path, leads_to, zone):
    if zone is not None and not Path(leads_to).exists():
        pytest.skip("tzdata is missing")
    local = tmp_path / "localtime"
    if leads_to is None:
        local.write_bytes(b"TZif2")
    else:
        local.symlink_to(leads_to)
    assert zone_name(local) == zone


async def test_a_program_counts_the_processors_and_reads_nothing_that_they_do(tmp_path):
    found = await said(tmp_path, PROCESSORS)
    outside = Path("/sys/devices/system/cpu")
    assert found["possible"] == (outside / "possible").read_text()
    assert set(found) <= {"kernel_max", "offline", "online", "possible", "present"}


@pytest.mark.slow
async def test_links_of_usr_lead_somewhere_in_a_box_too(tmp_path):
    broken = await said(tmp_path, BROKEN_LINKS)
    leads = {path: os.path.realpath(path) for path in broken if Path(path).exists()}
    # What an administrator has put elsewhere is not a package's.
    ours = {path: to for path, to in leads.items() if to.startswith(("/etc/", "/var/"))}
    assert not {
        path: to for path, to in ours.items() if not to.startswith(tuple(LEFT_OUT))
    }


async def test_a_refused_system_call_is_one_that_the_kernel_lacks(tmp_path):
    found = await said(tmp_path, CALLS)
    assert set(found.values()) == {"ENOSYS"}, found


async def test_a_program_in_a_terminal_is_told_that_its_size_changed(tmp_path):
    assert "size 132 50" in await said(tmp_path, RESIZED)


@needs("bash", "bash")
async def test_a_shell_in_a_terminal_of_a_box_has_job_control(tmp_path):
    first, stopped = await said(tmp_path, JOBS)
    assert "no job control" not in first
    assert "Stopped" in stopped


async def test_a_box_ends_with_its_program_and_not_with_what_that_left_behind(tmp_path):
    sockets = tmp_path / "s"
    sockets.mkdir()
    held = await start_held(Box(("/usr/bin/python3", "-I", "-c", BACKGROUND), sockets))
    try:
        with trio.fail_after(60):
            held.release()
            assert await held.child.wait() == 0
            pipe = held.child.popen.stdout
            # Also the program that it left behind holds the pipe.
            assert b"left" in await trio.to_thread.run_sync(pipe.read)
    finally:
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            pipe.close()


async def test_a_program_without_input_reads_its_end(tmp_path):
    assert await said(tmp_path, READ_ALL) == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
async def test_the_signal_that_ends_a_program_is_told(tmp_path, how):
    sockets = tmp_path / "s"
    sockets.mkdir()
    held = await start_held(Box(("/bin/sh", "-c", f"kill -{int(how)} $$"), sockets))
    try:
        with trio.fail_after(60):
            held.release()
            assert await held.child.wait() in (-how, 128 + how)
    finally:
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            pipe.close()


async def test_a_program_does_not_run_when_its_launcher_dies(tmp_path):
    sockets = tmp_path / "s"
    sockets.mkdir()
    held = await start_held(Box(("/bin/echo", "ran"), sockets))
    try:
        with trio.fail_after(60):
            held.abandon()
            await held.child.wait()
            pipe = held.child.popen.stdout
            assert b"ran" not in await trio.to_thread.run_sync(pipe.read)
    finally:
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            pipe.close()


PROGRAMS = [
    Program("lscpu", "util-linux", "counts processors", "lscpu", r"CPU\(s\):"),
    Program("gs", "ghostscript", "finds CMaps",
            "printf '%%!PS\\n/UniJIS-UTF8-H /CMap findresource pop (found) =\\n' > a.ps;"
            " gs -q -dNODISPLAY -dBATCH a.ps </dev/null", "found"),
    Program("gdb", "gdb", "stops at a breakpoint",
            "printf 'int f(int a){return a+1;}int main(){return f(3)-4;}' > a.c;"
            " gcc -g -o a a.c; gdb -batch -ex 'break f' -ex run -ex bt ./a",
            r"#1 .*main", needs=("gdb", "gcc")),
    Program("emacs", "emacs-nox", "starts with its packages",
            "emacs --batch --eval '(message \"version %s\" emacs-version)' 2>&1",
            "^version [0-9]"),
    Program("man", "man-db", "has its macros", "MANPAGER=cat man ls 2>&1 | head -1",
            r"\ALS\(1\)"),
    Program("aplay", "alsa-utils", "plays by the default device",
            "head -c 8000 /dev/zero | aplay -q -D default -f U8 && echo played",
            "played", of_record="sound"),
]  # fmt: skip


@pytest.mark.slow
async def test_programs_of_the_reports_do_in_a_box_what_they_do_directly():
    rows = {}
    async with desk() as d:
        for program in PROGRAMS:
            rows[program.name] = await d.measured(program)
    here = {name: row for name, row in rows.items() if not row["directly"]}
    assert here, rows
    assert {name: row for name, row in here.items() if any(row.values())} == {}, rows


TIDY = "trap 'echo tidied; exit 9' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.mark.slow
@PID_NAMESPACES
@pytest.mark.parametrize(
    "how", ["Ctrl-C", "stop", pytest.param("SIGTERM", marks=pytest.mark.long)]
)
async def test_a_program_that_is_ended_may_tidy_up(how):
    async with world(image=False) as w:
        words = ("run", "-q", "--no-window", "--bwrap", "--", "sh", "-c", TIDY)
        async with (
            running(*words, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            assert await anext(lines) == "ready"
            if how == "stop":
                answer = await brokerctl("stop", "--all", env=w.environ)
                assert answer.code == 0, answer
            else:
                number = signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM
                child.popen.send_signal(number)
            assert await anext(lines) == "tidied"
            code = await child.wait()
        assert code == {"Ctrl-C": 130, "SIGTERM": 143, "stop": 9}[how]


@pytest.mark.slow
@PID_NAMESPACES
async def test_a_program_that_does_not_end_is_killed():
    async with world(image=False) as w:
        script = "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done"
        words = ("run", "-q", "--no-window", "--bwrap", "--", "sh", "-c", script)
        async with (
            running(*words, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            assert await anext(lines) == "ready"
            child.popen.send_signal(signal.SIGTERM)
            assert await anext(lines) == "no"
            assert await child.wait() == 143
