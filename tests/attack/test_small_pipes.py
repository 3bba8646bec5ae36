"""A sandbox, or a worker that was taken over, has used up the user's pages for pipes.

Each further pipe of the user's has 8 KiB then (pipe-user-pages-soft, pipe(7)).
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import contextmanager

import pytest

from broker.core.errors import UpstreamError
from broker.core.limits.transfer import SAVED_AT_ONCE
from broker.core.transfer.entries import End, FileEntry, entry_frame
from broker.core.transfer.file_names import saved_names
from broker.viewer.dialogs import _write_now
from broker.viewer.exchange.pipes import pipe

NAMES = tuple('"' * (255 - number) for number in range(SAVED_AT_ONCE))


@contextmanager
def small_pipe():
    with pipe() as (read, write):
        fcntl.fcntl(write.fileno(), fcntl.F_SETPIPE_SZ, 8192)
        yield read, write


@pytest.fixture
def impatient():
    """A viewer that waits in the kernel serves no sandbox."""

    def late(*_):
        raise TimeoutError("the viewer waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _entries(names):
    assert saved_names(names, "save") == names
    frames = [entry_frame(FileEntry([name], 0)) for name in names]
    return b"".join([*frames, entry_frame(End())])


@pytest.mark.usefixtures("impatient")
def test_names_of_saved_files_hold_the_viewer_up_in_no_small_pipe():
    with small_pipe() as (_, write), pytest.raises(UpstreamError, match="no room"):
        _write_now(write, _entries(NAMES))


@pytest.mark.usefixtures("impatient")
def test_names_that_fit_are_written():
    data = _entries(tuple(f"{number}.txt" for number in range(SAVED_AT_ONCE)))
    with small_pipe() as (read, write):
        _write_now(write, data)
        assert os.read(read.fileno(), 8192) == data
        assert os.read(read.fileno(), 1) == b""
