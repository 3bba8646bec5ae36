"""The messages of a child, read while they may still come."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from broker.host.launchers.piped_stderr import stderr_so_far


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"", ""),
        (b" no such image\n", "no such image"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"first " * 10 + b"and the last line", "and the last line"),
    ],
)
def test_reads_without_waiting_for_the_pipes_other_writers(written, expected):
    """QEMU, or the shell before it, has the same standard error and may live on."""
    reading, held = os.pipe()
    os.write(held, written)
    with os.fdopen(reading, "rb") as stderr:
        ended = SimpleNamespace(popen=SimpleNamespace(stderr=stderr))
        assert stderr_so_far(ended, 17) == expected
    os.close(held)
