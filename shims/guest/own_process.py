"""Our programs that run in a copy of the agent's process.

A start of Python takes a second where KVM is missing, and each click and each copy
would wait for one.  The agent has most of the modules already.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Tuple

from shims.guest.loop import log

if TYPE_CHECKING:
    from types import ModuleType
    from typing import IO, Callable

    from shims.guest.account import Account

FILES_PROGRAM = "vitrail-files"
_MODULE = "vitrail_files"
_loaded: Dict[str, Tuple[int, int]] = {}  # its file, as it was imported
FORKED_VERBS = ("receive", "open-here", "give", "serve", "call-here")
"""Verbs of the files tool that the broker asks for, none of which has a terminal."""


class ForkedTool(NamedTuple):
    """A run of the files tool, in a copy of the agent's process."""

    account: "Account"
    directory: str
    """Where the tool's module is."""
    argv: List[str]
    env: Dict[str, str]
    streams: Tuple[int, int, int]
    """Its standard input (-1: none), output and error."""


def is_forked(argv: List[str], *, terminal: bool) -> bool:
    """Return whether we run a program in a fork."""
    return (
        not terminal
        and argv[0] == FILES_PROGRAM
        and len(argv) > 1
        and argv[1] in FORKED_VERBS
    )


def fork_tool(tool: ForkedTool) -> int:
    """Fork a tool as its user, in a session; return its pid.  Raises OSError."""
    begun, begin = os.pipe()

    def work() -> int:
        os.setsid()
        os.close(begin)
        return _run_tool(tool)

    try:
        pid = in_child(work)
        os.close(begin)
        begin = -1
        # Until it leads its group: a signal to the group would be lost before.
        os.read(begun, 1)
        return pid
    finally:
        for fd in {begun, begin} - {-1}:
            os.close(fd)


def load_tool(directory: str) -> None:
    """Import the files program, for all forks of this process.

    In each of them it would be most of what a call costs.
    """
    try:
        state = _state_of(directory)
        # guard: the agent imports no file of a user
        if state.st_uid != os.geteuid():
            return
        _imported(directory)
        _loaded[directory] = (state.st_ino, state.st_mtime_ns)
        gc.freeze()
    except BaseException:  # the agent runs on; the copy fails as it does
        log(traceback.format_exc())


def _state_of(directory: str) -> os.stat_result:
    return os.stat(os.path.join(directory, f"{_MODULE}.py"))


def _tool(directory: str) -> ModuleType:
    """Return the tool's module: the one from before, if its file is still the same."""
    state = _state_of(directory)
    if _loaded.get(directory) == (state.st_ino, state.st_mtime_ns):
        return sys.modules[_MODULE]
    sys.modules.pop(_MODULE, None)
    return _imported(directory)


def _imported(directory: str) -> ModuleType:
    """Import the files program from a directory."""
    sys.path.insert(0, directory)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(_MODULE)
    finally:
        sys.path.remove(directory)


def in_child(work: Callable[[], int]) -> int:
    """Run ``work`` in a fork, which ends with its result; return the pid.

    Raises OSError.
    """
    pid = os.fork()
    if pid:
        return pid  # the loop reaps every child
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = work()
    except BaseException:
        log(traceback.format_exc())
    finally:
        os._exit(code & 0xFF)


def close_agent_files() -> None:
    """Close all but the standard streams: a connection ends when the agent closes it."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _run_tool(tool: ForkedTool) -> int:
    """Run a tool with its streams and user, in a fork."""
    gc.disable()  # it would only touch, and so copy, pages of the agent
    source, output, error = tool.streams
    if source < 0:
        source = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    # Above the standard ones first, so that none takes the place of another.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3) for fd in (source, output, error)]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    # guard: no file of the agent is left to a tool
    close_agent_files()
    _take_name()
    # guard: a tool runs as the user
    tool.account.become()
    os.chdir(tool.account.home if os.path.isdir(tool.account.home) else "/")
    os.environ.clear()
    os.environ.update(tool.env)
    sys.stdin, sys.stdout, sys.stderr = map(_text_stream, (0, 1, 2), "rww")
    sys.argv = list(tool.argv)
    module = _tool(tool.directory)
    gc.freeze()
    gc.enable()
    try:
        return int(module.main(tool.argv[1:]))
    except SystemExit as stopped:
        if isinstance(stopped.code, int) or stopped.code is None:
            return stopped.code or 0
        sys.stderr.write(f"{stopped.code}\n")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _text_stream(fd: int, mode: str) -> IO[str]:
    return os.fdopen(
        fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _take_name() -> None:
    """Set this process's name (``comm``) to that of the files program."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(FILES_PROGRAM)
    except OSError as error:
        log(f"cannot change the name of the process: {error.strerror}")
