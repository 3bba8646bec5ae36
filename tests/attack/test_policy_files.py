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

from broker.cli.homes.backups.home_records import write_record
from broker.cli.sandboxes import new

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
    done = _brokerctl("policy", "fmt", "--write", str(file), room=4096)
    assert done.returncode != 0
    assert file.read_text() == rules


def _brokerctl(*words, room=resource.RLIM_INFINITY):
    """Run brokerctl where no file may be longer than ``room``."""
    run = [sys.executable, "-m", "broker.cli.app", *words]
    # A .pyc file would be cut, too.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        run, cwd=ROOT, env=env, check=False, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )  # fmt: skip


def _files(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("write", [new.write_record, write_record])
def test_a_record_is_written_whole_or_not_at_all(tmp_path, monkeypatch, write):
    """A record may deny what rules allow, in its last lines."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    place = tmp_path / "vitrail/sandboxes.d/work.toml"
    text = (
        'display = "allow"\n' + "# a line\n" * 1000 + '[audio]\nmicrophone = "deny"\n'
    )
    target = place if write is new.write_record else "work"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write(target, text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(place.parent.iterdir())
