"""Attack: the process that reads and keeps files among the person's is taken over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shims.files.protocol import frame
from tests.kit.shims import files_program

# Runs the program's verb with a reader of entries that does what an attacker would.
TAKEN = """\
import fcntl, importlib.util, os, resource, socket, struct, sys
from functools import partial
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

def attempts():
    yield "read", lambda: open({secret!r}).read()
    yield "read through the parent", lambda: open("/proc/{parent}/root{secret}").read()
    yield "read through the broker", lambda: os.listdir("/proc/{parent}/fd")
    yield "write", lambda: open("/x", "w")
    yield "write beside its files", lambda: open({secret!r} + ".new", "w")
    yield "change what is sent", lambda: open({sent!r}, "r+")
    yield "change the mode of what is sent", lambda: os.chmod({sent!r}, 0o777)
    yield "list", lambda: os.listdir("/etc")
    def reach():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect({door!r})
    yield "reach the session", reach
    def abstract():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\\0" + {name!r})
    yield "reach the session's abstract sockets", abstract
    def mount():
        if __import__("ctypes").CDLL(None).umount2(b"/proc/self", 2) != 0:
            raise OSError
    yield "change mounts", mount
    yield "signal the session", lambda: os.kill({parent}, 0)
    yield "signal by a descriptor", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, {parent})
    yield "start processes", lambda: os.fork() or os._exit(0)
    yield "make sockets", lambda: socket.socketpair()
    def limit():
        try:
            resource.prlimit({parent}, resource.RLIMIT_CORE, (0, 0))
        except PermissionError:
            raise OSError from None
    yield "change limits of the session", limit
    def schedule():
        # sched_setattr(2): SCHED_IDLE, which the person gets nothing done with.
        number = dict(x86_64=314, aarch64=274)[os.uname().machine]
        wanted = struct.pack("=IIQiIQQQ", 48, 5, 0, 0, 0, 0, 0, 0)
        if __import__("ctypes").CDLL(None).syscall(number, {parent}, wanted, 0) != 0:
            raise OSError
    yield "schedule the session", schedule
    # Directories that are open: the person's home is above them.
    for fd in range(64):
        for above in ("..", "../..", "../../../../../.."):
            def climb(flags, name, fd=fd, above=above):
                os.close(os.open(above + "/" + name, flags, 0o600, dir_fd=fd))
            yield "read above", partial(climb, os.O_RDONLY, "secret")
            yield "write above", partial(climb, os.O_WRONLY | os.O_CREAT, ".bashrc")
            yield "read its root", partial(climb, os.O_RDONLY, "etc/passwd")
    for fd in range(64):
        def change(fd=fd):
            os.fchdir(fd)
            os.listdir("../home")
        yield "leave by its working directory", change

def attack(*_):
    done = []
    for name, attempt in attempts():
        try:
            attempt()
        except OSError:
            continue
        done += [name] if name not in done else []
    said = "done: " + ", ".join(done)
    try:
        os.execv("/bin/sh", ["sh", "-c", 'echo "$0, execute" >&2', said])
    except OSError:
        os.write(2, said.encode())
    os._exit(0)

tool.{hook} = attack
sys.exit(tool.main({words!r}))
"""


@pytest.mark.parametrize(
    ("verb", "hook"),
    [
        ("send", "write_entries"),
        ("edit", "write_entries"),
        ("edit", "read_message"),
        *((verb, "read_message") for verb in ("store", "save", "pages")),
    ],
)
def test_it_reaches_nothing_of_the_person(tmp_path, verb, hook):
    secret, sent = tmp_path / "secret", tmp_path / "sent"
    secret.write_text("s")
    sent.write_text("t")
    kept = tmp_path / "kept"
    (kept / "Incoming").mkdir(parents=True)
    mine = kept / "mine"
    mine.write_text("m")
    name = f"vitrail-test-{os.getpid()}-{verb}"
    with (
        socket.socket(socket.AF_UNIX) as door,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        door.bind(str(tmp_path / "door"))
        door.listen()
        abstract.bind(f"\0{name}")
        abstract.listen()
        words = {
            "send": ["send", str(kept), str(sent)],
            "store": ["store", str(kept / "Incoming"), "work", "0"],
            "edit": ["edit", str(mine), "work"],
            "pages": ["pages", str(kept / "new.pdf"), "0"],
            "save": ["save", str(mine), "work", "-", "0"],
        }[verb]
        values = {
            "tool": files_program(),
            "secret": str(secret),
            "sent": str(sent),
            "hook": hook,
            "parent": os.getpid(),
            "door": str(tmp_path / "door"),
            "name": name,
            "words": words,
        }
        program = tmp_path / "taken.py"
        program.write_text(TAKEN.format(**values))
        found = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=frame({"type": "end"}),
            capture_output=True,
            timeout=60,
            check=False,
        )
    said = found.stderr.decode().splitlines()[-1:]
    assert said == ["done: "], found
    assert Path(secret).read_text() == "s"


_LINK = "os.rename({top!r}, {top!r} + '-was'); os.symlink({top!r} + '-was', {top!r})"
# Enters the jail with a directory, after something has happened.
BEFORE = """\
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
{before}
try:
    tool.confine([{path!r}], write={write})
except tool.TransferError as error:
    print(error)
else:
    print(sorted(os.listdir({path!r})), os.listdir({above!r}))
    print(*(name for name in os.listdir("/") if name not in {path!r}))
    for name in ("mine", "new"):
        try:
            open(os.path.join({path!r}, name), "a").close()
        except OSError:
            print("read-only")
"""


@pytest.mark.parametrize(
    ("before", "end", "write", "result"),
    [
        ("", "", False, "['mine'] ['Incoming']\n\nread-only\nread-only\n"),
        ("", "", True, "['mine'] ['Incoming']\nproc\n"),
        (_LINK, "", True, "is a symbolic link"),
        (_LINK, "/mine", False, "Not a directory"),
        ("kept = os.open({above!r}, os.O_RDONLY)", "", True, "a directory is open"),
        ("", "/../..", True, "the jail for files cannot contain"),
        ("", "/absent", True, "No such file or directory"),
    ],
)
def test_the_jail_has_one_directory_without_links(tmp_path, before, end, write, result):
    top = tmp_path / "Incoming"
    top.mkdir()
    (top / "mine").write_text("m")
    names = {"top": str(top), "above": str(tmp_path), "path": f"{top}{end}"}
    program = tmp_path / "before.py"
    values = {"tool": files_program(), "before": before.format(**names), **names}
    program.write_text(BEFORE.format(write=write, **values))
    found = subprocess.run(
        [sys.executable, "-I", str(program)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result in found.stdout.decode(), found


def test_files_below_a_directory_that_is_sent_are_sent_once_each(tmp_path):
    """Paths of one transfer may be below one another, and of one name."""
    for name in ("a/x", "b/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    words = [str(tmp_path / name) for name in ("a/x", "b/x", "a")]
    found = subprocess.run(
        [sys.executable, "-I", files_program(), "send", *words],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found
    assert found.stdout.count(b"a/x") == 2
    assert found.stdout.count(b"b/x") == 1


@pytest.mark.parametrize("verb", ["send", "store"])
def test_nothing_is_read_or_kept_without_user_namespaces(tmp_path, verb):
    mine = tmp_path / "mine"
    mine.write_text("content")
    (tmp_path / "Incoming").mkdir()
    words = {"send": [str(mine)], "store": [str(tmp_path / "Incoming"), "work", "0"]}
    none = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    argv = [sys.executable, "-I", files_program(), verb, *words[verb]]
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh", *argv],
        input=frame({"type": "file", "path": ["f"], "size": 1}) + b"x",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1, found
    assert b"permit Vitrail user namespaces" in found.stderr
    assert found.stdout == b""
    assert not any((tmp_path / "Incoming").glob("*"))


def test_more_files_are_sent_than_may_be_open(tmp_path):
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text("content")
    tool = [sys.executable, "-I", files_program(), "send"]
    found = subprocess.run(
        ["prlimit", "--nofile=64", *tool, *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.stdout.count(b"content") == 300, found
