"""The last words of a program that makes a machine for a run."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from broker.cli.machines.throwaway import message_of


@pytest.mark.parametrize(
    ("written", "expected"),
    [(b"", ""), (b" no such image\n", "no such image"), (b"\x1b[2J", "\\x1b[2J")],
)
def test_a_process_that_it_left_holds_up_nothing(written, expected):
    """QEMU, or the shell before it, has the same standard error and may live on."""
    reading, held = os.pipe()
    os.write(held, written)
    with os.fdopen(reading, "rb") as stderr:
        ended = SimpleNamespace(popen=SimpleNamespace(stderr=stderr))
        assert message_of(ended) == expected
    os.close(held)
