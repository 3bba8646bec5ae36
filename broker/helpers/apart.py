"""Compiling filters of system calls in a process that ends.

libseccomp and its Python binding take megabytes, and a process that compiles keeps them
for life.  They also take a while to load, so one child compiles for other processes, too.

The fork server of helpers forks such a child and sends each broker its filter, which
authority and viewer read from a pipe; ``brokerctl proxy`` does both.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError

Compile: TypeAlias = Callable[[], Sequence[bytes]]


def from_child(
    compiled: Compile, others: Mapping[int, Compile] | None = None
) -> list[bytes]:
    """Compile filters in a child that ends; return their programs.

    ``others``: pipes from which other processes read theirs (``read_compiled``); they
    are closed.  The caller has one thread.  Raises SetupError when the child fails.
    """
    pipes = others or {}
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _compile({**pipes, write: compiled})
    for end in (*pipes, write):
        os.close(end)
    try:
        return read_compiled(read)
    finally:
        os.waitpid(pid, 0)


def read_compiled(pipe: int) -> list[bytes]:
    """Read what a child of another process has compiled; close the pipe.

    Raises SetupError when that child failed.
    """
    with open(pipe, "rb") as file:
        data = file.read()
    try:
        return msgspec.msgpack.decode(data, type=list[bytes])
    # guard: no process serves without its filter
    except UNREADABLE as error:  # nothing, or a part: it ended before
        raise SetupError(
            "cannot compile the system call filters",
            hint="see the broker's log; to find missing packages, run 'brokerctl doctor'",
        ) from error


def _compile(pipes: Mapping[int, Compile]) -> NoReturn:
    """Compile each filter, write it to its pipe, and exit; in a forked child."""
    code = 1
    try:
        for write, compiled in pipes.items():
            # A reader that has ended needs none.
            with contextlib.suppress(BrokenPipeError), open(write, "wb") as pipe:  # noqa: PTH123 -- a descriptor
                pipe.write(msgspec.msgpack.encode(compiled()))
        code = 0
    except BaseException:  # noqa: BLE001 -- the bottom of a forked process
        traceback.print_exc()
    finally:
        os._exit(code)
