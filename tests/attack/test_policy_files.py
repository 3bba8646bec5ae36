"""Files of rules that are left half done: by a full disk, by signals, by two at a time."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_line_for_one_call_goes_with_the_process_that_removes_it(tmp_path, number):
    """Stopping a service ends all of its processes: this one, too, within the minute."""
    file = tmp_path / "05-once.policy"
    file.write_bytes(content := b"a * work vault allow rate=1/90s\n")
    words = [str(file), hashlib.sha256(content).hexdigest(), "60"]
    undo = subprocess.Popen([sys.executable, "-m", "broker.cli.policy.undo", *words], cwd=ROOT)  # fmt: skip
    _until_asleep(undo.pid)
    undo.send_signal(number)
    undo.wait(timeout=20)
    assert not file.exists()


def _until_asleep(pid):
    """Wait until a program sleeps on the clock."""
    wchan, deadline = Path(f"/proc/{pid}/wchan"), time.monotonic() + 20
    while "nanosleep" not in wchan.read_text():
        assert time.monotonic() < deadline
        os.sched_yield()


# -- a disk that is full ---------------------------------------------------------------


def test_rules_are_formatted_whole_or_not_at_all(tmp_path):
    """A deny that is lost leaves what a later line allows."""
    rules = "".join(f"vitrail.FileCopy * work sandbox-{n}  deny\n" for n in range(400))
    file = tmp_path / "30-user.policy"
    file.write_text(rules)
    code = _without_room("policy", "fmt", "--write", str(file))
    assert code != 0
    assert file.read_text() == rules


def _without_room(*words, room=4096):
    """Run brokerctl where no file may be longer than ``room``; returns its exit code."""
    limits = resource.RLIMIT_FSIZE, (room, room)
    run = [sys.executable, "-m", "broker.cli.app", *words]
    return subprocess.run(run, cwd=ROOT, preexec_fn=lambda: resource.setrlimit(*limits), env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'}, check=False).returncode  # fmt: skip
