"""Compiling filters of system calls in a process that ends.

libseccomp and its Python binding take megabytes, and a process that compiles keeps them
for life.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from broker.core.errors import SetupError


def from_child(compiled: Callable[[], Sequence[bytes]]) -> list[bytes]:
    """Return what a child of this process has compiled, which ends then.

    The caller has one thread.  Raises SetupError when the child fails.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _compile(compiled, write)
    os.close(write)
    with open(read, "rb") as pipe:  # noqa: PTH123 -- a descriptor
        data = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise SetupError(
            "the system-call filters cannot be compiled",
            hint="the broker's log shows why; 'brokerctl doctor' names the packages",
        )
    return msgspec.msgpack.decode(data, type=list[bytes])


def _compile(compiled: Callable[[], Sequence[bytes]], write: int) -> NoReturn:
    code = 1
    try:
        with open(write, "wb") as pipe:
            pipe.write(msgspec.msgpack.encode(compiled()))
        code = 0
    except BrokenPipeError:
        pass  # the reader has ended, as a broker does that finds a mistake at its start
    except BaseException:  # noqa: BLE001 -- the bottom of a forked process
        traceback.print_exc()
    finally:
        os._exit(code)
