"""Every verb of brokerctl, called in a state of the machine that a user may meet.

``results(STATE)`` runs them all on a machine of the test's own (``changing_machine``), each
with a home below /mnt, and returns what each did.  The list of verbs, and the places for
paths among their words, are read from the program itself.

All verbs are imported once, and each call is a fork: it has what a new process has but
half a second later.  What differs per call is set in the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import re
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

import broker.cli
from broker.cli.app import main as brokerctl
from broker.cli.verbs import app
from broker.core.errors import VitrailError
from tests.kit.changing_machine import SMALL_DISK, own_machine
from tests.kit.user_states import (
    BAD_PATHS,
    STATES,
    Home,
    new_home,
    unserved_socket,
)

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER, prctl(2)."""
_AT_ONCE = 4
SECONDS = 100.0
"""A verb has ended then, or has said what it waits for: a busy machine is slow."""
GRACE = 20.0
"""A verb ends so soon after Ctrl-C, s."""


# -- the words of a call ---------------------------------------------------------------

Words = tuple[str, ...]
_TEXTS = {
    "app": "org.example.App",
    "argument": "x",
    "connect": "unix:to",
    "domain": "domain",
    "grant": "1",
    "key": "file",
    "label": "first",
    "lease": "1",
    "line": "",
    "listen": "unix:at",
    "machine": "machine",
    "new": "work2",
    "not_before": "ring=2030-01-01",
    "objects": "file",
    "origin": "file",
    "port": "1-1",
    "ports": "8080",
    "ring": "ring=file",
    "service": "vitrail.Display",
    "setting": "sound",
    "sources": "file",
    "store": "postgresql://127.0.0.1:1/x",
    "url": "https://127.0.0.1:1/x",
    "values": "on",
    "words": "status",
}
"""Values of required words by their parameter's name; any other is ``work``, the record."""
_OF_VERBS = {
    "call": {"service": "echo"},
    "cp": {"target": "work:"},
    "policy eval": {"target": "@adminvm"},
    "policy explain": {"target": "@adminvm"},
}
_PATHS = {
    ("cp", "sources"),
    ("cp", "target"),
    ("guest install", "output"),
    ("image import", "kernels"),
    ("image import", "origin"),
    ("open", "objects"),
}
"""Parameters that are paths among others, and say so in their help alone."""
_METAVAR = re.compile(r"\[?(FILE|DIRECTORY|PATH|FOLDER|CHECKPOINT)")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each verb that can be called: its words, and click's command."""

    def below(
        words: Words, command: click.Command, parent: click.Context | None
    ) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            name = words[-1] if words else "brokerctl"
            context = click.Context(command, parent=parent, info_name=name)
            for word in command.list_commands(context):
                found = command.get_command(context, word)
                assert found is not None
                yield from below((*words, word), found, context)
            if not words or not command.invoke_without_command:
                return
        yield " ".join(words), command

    yield from below((), app, None)


def path_places(verb: str, command: click.Command) -> Iterator[click.Parameter]:
    """Yield the parameters of a verb that are paths."""
    for one in command.params:
        if getattr(one, "is_flag", False):
            continue
        name = one.make_metavar(click.Context(command))
        named = _METAVAR.match(name)
        if isinstance(one.type, click.Path) or named or (verb, one.name) in _PATHS:
            yield one


def _value(verb: str, command: click.Command, one: click.Parameter) -> str:
    kind = one.type
    if isinstance(kind, click.Choice):
        return str(next(iter(kind.choices)))
    if isinstance(kind, click.IntRange | click.FloatRange):
        return str(kind.min or 1)
    if isinstance(kind, click.Path):
        name = one.make_metavar(click.Context(command))
        return "folder" if "DIR" in name or "FOLDER" in name else "file"
    name = one.name or ""
    return _OF_VERBS.get(verb, {}).get(name, _TEXTS.get(name, "work"))


def words_of(
    verb: str, command: click.Command, place: click.Parameter | None, path: str
) -> list[str]:
    """Return the words of a call, with ``path`` at one place; a question is a yes."""
    options, arguments = [], []
    for one in command.params:
        value = path if one is place else _value(verb, command, one)
        if isinstance(one, click.Option):
            if one.is_flag and "--yes" in one.opts:
                options.append("--yes")
            elif one is place or one.required:
                options += [max(one.opts, key=len), value]
        elif one is place or one.required or place is None:
            arguments.append(value)
            if one.name == "command_words":
                arguments[-1:] = ["--", "true"]
    return [*verb.split(), *options, *arguments]


# -- the calls -------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True):
    """What a call did; ``killed``: also Ctrl-C did not end it."""

    state: str
    words: list[str]
    code: int
    out: str
    err: str
    seconds: float
    interrupted: bool = False
    killed: bool = False
    asked: bool = False
    """A false broker had its connection."""
    path: str = ""
    """The bad path, as it is in the words."""
    written: bool = False
    """A regular file or directory is at the path now."""

    @property
    def name(self) -> str:
        return f"{self.state}: {' '.join(self.words)[:300]}"


@dataclass
class _Call:
    state: str
    words: list[str]
    home: Home
    path: str = ""


@dataclass
class _Running:
    index: int
    pid: int
    out: int
    err: int
    began: float
    until: float
    interrupted: bool = False
    killed: bool = False


class _FalseBrokers:
    """Listens as the broker of each home that has one, and notes who asked it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        threading.Thread(target=self._serve, daemon=True).start()

    def listen(self, home: Home) -> None:
        home.runtime.mkdir(mode=0o700)
        listener = unserved_socket(home.runtime / "control")
        listener.listen(64)
        self._selector.register(listener, selectors.EVENT_READ, home)

    def _serve(self) -> None:
        kept = []
        while True:
            for key, _ in self._selector.select(0.2):
                home: Home = key.data
                conn, _ = key.fileobj.accept()  # type: ignore[union-attr]
                if home.silent:
                    home.asked = True
                    kept.append(conn)
                    continue
                with conn, contextlib.suppress(OSError):
                    # One that is only looked for is not asked.
                    home.asked |= bool(conn.recv(1))
                    conn.sendall(home.answer or b"")


def _fill(disk: Path) -> None:
    """Leave no byte and no block on a disk."""
    with tempfile.NamedTemporaryFile(dir=disk, delete=False) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * size)
    free = os.statvfs(disk)
    assert not free.f_bavail, free


def _child(call: _Call, out: int, err: int) -> None:
    """Become the call; the caller then runs brokerctl's main."""
    home = call.home
    os.setsid()
    os.chdir(home.place)
    if home.gone:
        Path("gone").mkdir()
        os.chdir("gone")
        Path("../gone").rmdir()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(err, 2)
    if home.output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif home.output == "left":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    else:
        os.dup2(out, 1)
    os.environ.clear()
    os.environ.update(home.env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["brokerctl", *call.words]
    if home.executed:
        code = "import sys; from broker.cli.app import main; sys.exit(main())"
        words = [sys.executable, "-c", code, *call.words]
        os.execve(sys.executable, words, home.env)
    # The streams of the interpreter remember of its files whether they can be sought.
    sys.stdin, sys.stderr = open(0), open(2, "w")  # noqa: SIM115
    if home.output == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
    else:
        sys.stdout = open(1, "w")  # noqa: SIM115


def _run(calls: list[_Call], most: int) -> list[Result] | None:
    """Run all calls; None in a fork, which is to run brokerctl."""
    running: dict[int, _Running] = {}
    done: dict[int, Result] = {}
    waiting = list(enumerate(calls))[::-1]
    while waiting or running:
        while waiting and len(running) < most:
            index, call = waiting.pop()
            if call.state == "disk-is-full":
                _fill(SMALL_DISK)
            out, err = os.memfd_create("out"), os.memfd_create("err")
            pid = os.fork()
            if pid == 0:
                _child(call, out, err)
                return None
            now = time.monotonic()
            fd = os.pidfd_open(pid)
            running[fd] = _Running(index, pid, out, err, now, now + SECONDS)
        _end_orphans(running, calls)
        poll = select.poll()
        for fd in running:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(200):
            one = running.pop(fd)
            done[one.index] = _ended(one, calls[one.index])
            os.close(fd)
        _interrupt_late(running)
    return [done[index] for index in range(len(calls))]


def _ended(one: _Running, call: _Call) -> Result:
    """Return what an ended call did."""
    _, status = os.waitpid(one.pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.pid, signal.SIGKILL)
    path = call.home.place / call.path
    try:
        written = bool(call.path) and (path.is_file() or path.is_dir())
    except OSError:
        written = False
    return Result(
        call.state,
        [os.fsencode(word).decode(errors="backslashreplace") for word in call.words],
        os.waitstatus_to_exitcode(status),
        _text(one.out),
        _text(one.err),
        time.monotonic() - one.began,
        one.interrupted,
        one.killed,
        call.home.asked,
        os.fsencode(call.path).decode(errors="backslashreplace"),
        written,
    )


def _interrupt_late(running: dict[int, _Running]) -> None:
    """Send Ctrl-C, as a user does, to what takes long; kill what does not end by that."""
    for one in running.values():
        if time.monotonic() < one.until:
            continue
        if one.interrupted:
            one.killed = True
            os.killpg(one.pid, signal.SIGKILL)
        else:
            one.interrupted = True
            os.kill(one.pid, signal.SIGINT)
        one.until = time.monotonic() + GRACE


def _end_orphans(running: dict[int, _Running], calls: list[_Call]) -> None:
    """Kill what calls that have ended left behind, as a broker."""
    alive = {one.pid for one in running.values()}
    homes = [str(calls[one.index].home.place) for one in running.values()]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if pid in alive or os.waitpid(pid, os.WNOHANG)[0]:
            continue
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        words = [
            f"{name}={home}" for home in homes for name in ("HOME", "XDG_RUNTIME_DIR")
        ]
        if not any(f"{word}\0" in environ or f"{word}/" in environ for word in words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _text(fd: int) -> str:
    text = os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="backslashreplace")
    os.close(fd)
    return text


def _plan(state: str, brokers: _FalseBrokers) -> Iterator[_Call]:
    """Yield the calls of a state, each with a home of its own."""
    change = STATES.get(state)
    bad = BAD_PATHS.get(state.removeprefix("path:"), "")
    number = 0
    for verb, command in commands():
        places: list[click.Parameter | None] = [None]
        if change is None:
            places = list(path_places(verb, command))
        for place in places:
            number += 1
            home = new_home(SMALL_DISK / str(number))
            if change is not None:
                change(home)
            elif bad == "socket":
                unserved_socket(home.place / "socket").close()
            if home.answer is not None or home.silent:
                brokers.listen(home)
            words = words_of(verb, command, place, bad)
            for _ in range(20 if state == "twenty-at-once" else 1):
                yield _Call(state, words, home, bad)


def _import_all() -> None:
    """Import what calls import late: each fork would take its time again."""
    for found in pkgutil.walk_packages(broker.cli.__path__, "broker.cli."):
        with contextlib.suppress(VitrailError, ImportError):
            importlib.import_module(found.name)
    for name in ("rich.console", "rich.table", "rich.text", "rich.markup"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main(states: list[str], results: Path) -> None:
    """Call every verb in these states; in a fork, be a call."""
    _import_all()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    brokers = _FalseBrokers()
    found: list[Result] = []
    for state in states:
        calls = list(_plan(state, brokers))
        # One that waits for a false broker takes no processor.
        most = {"broker-is-silent": 200, "twenty-at-once": 20}.get(state, _AT_ONCE)
        ended = _run(calls, most)
        if ended is None:
            sys.exit(brokerctl())
        found += ended
        _clear(SMALL_DISK)
    results.write_bytes(msgspec.json.encode(found))


def _clear(disk: Path) -> None:
    """Remove all homes."""
    for place in disk.iterdir():
        subprocess.run(
            ["chmod", "-R", "u+rwX", place], capture_output=True, check=False
        )
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def results(*states: str, seconds: float = 500) -> list[Result]:
    """Call every verb in these states, on a machine of the test's own."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        answers = Path(folder, "results")
        done = own_machine(
            *(sys.executable, "-m", __name__, *states, str(answers)), seconds=seconds
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return msgspec.json.decode(answers.read_bytes(), type=list[Result])


if __name__ == "__main__":
    main(sys.argv[1:-1], Path(sys.argv[-1]))
