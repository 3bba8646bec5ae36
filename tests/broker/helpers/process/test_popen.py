"""Whether a program is installed, and which one is asked to end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.helpers.process.popen import (
    DEVNULL,
    ask_to_end,
    require_installed,
    start_process,
)


@pytest.mark.parametrize(
    ("name", "later", "asked"),
    [("bwrap", True, True), ("bwrap", False, False), ("systemd", True, False)],
)
def test_the_program_of_a_box_is_asked_to_end_and_no_other(
    monkeypatch, name, later, asked
):
    """``later``: whether it is still the box's once we have a descriptor of it."""
    child = start_process(["sleep", "1000"], stdout=DEVNULL)
    told = iter(
        [f"{name}\n", f"{child.pid} 1\n", f"{child.pid} 1\n" if later else "1\n"]
    )
    monkeypatch.setattr(Path, "read_text", lambda _: next(told))
    own = os.pidfd_open(os.getpid())
    try:
        ask_to_end(os.getpid(), own)
        assert child.poll() is None or asked
        if not asked:
            child.kill()
        assert child.wait(60) == (-signal.SIGTERM if asked else -signal.SIGKILL)
    finally:
        os.close(own)
        child.kill()


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path):
    """As root's in the PATH of a user that root has become; it was a traceback once."""
    closed, folder = tmp_path / "closed", tmp_path / "bin"
    for one in (closed, folder):
        one.mkdir()
        (one / "tool").touch(mode=0o755)
    closed.chmod(0)
    require_installed("tool", {"PATH": f"{closed}:{folder}"})
    require_installed(str(folder / "tool"))
    (folder / "tool").chmod(0o644)
    with pytest.raises(SetupError, match="not installed"):
        require_installed("tool", {"PATH": f"{folder}"})
    closed.chmod(0o700)
