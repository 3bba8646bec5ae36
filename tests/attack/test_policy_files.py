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
from broker.cli.policy.bundles.files import install
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


def _bundle(tmp_path, version, **files):
    """Sign a bundle of rules; returns its file."""
    source, signed = tmp_path / f"source-{version}", tmp_path / f"{version}.bundle"
    (source / "policy.d").mkdir(parents=True)
    for name, text in files.items():
        (source / f"policy.d/{name}.policy").write_text(text)
    if not (key := tmp_path / "key.pem").exists():
        made = _brokerctl("policy", "bundle", "key", str(key))
        (tmp_path / "key").write_text(made.stdout)
    words = ["--key", str(key), "--name", "site", "--version", str(version)]
    done = _brokerctl("policy", "bundle", "sign", str(source), *words, "-o", str(signed))  # fmt: skip
    assert done.returncode == 0, done.stderr
    return signed


def _apply(tmp_path, signed, **how):
    trust = ["--trust", (tmp_path / "key").read_text().strip()]
    to = ["--to", str(tmp_path / "etc")]
    return _brokerctl("policy", "bundle", "apply", str(signed), *trust, *to, **how)


def test_a_bundle_is_installed_whole_or_not_at_all(tmp_path):
    """The denial moves to another file, for which there is no room."""
    (tmp_path / "etc/policy.d").mkdir(parents=True)
    (tmp_path / "etc").chmod(0o755)
    (tmp_path / "etc/policy.d").chmod(0o755)
    deny, allow = "vitrail.FileCopy * work vault deny\n", "vitrail.FileCopy * @anyvm @anyvm allow\n"  # fmt: skip
    old = _bundle(tmp_path, 1, a=deny, b=allow)
    new = _bundle(tmp_path, 2, a="# moved\n", b=f"{deny}{allow}" + "# -\n" * 1500)
    assert _apply(tmp_path, old).returncode == 0
    before = _files(tmp_path / "etc")
    assert _apply(tmp_path, new, room=4096).returncode != 0
    assert _files(tmp_path / "etc") == before
    assert _apply(tmp_path, new).returncode == 0


def test_a_key_is_written_whole_or_not_at_all(tmp_path):
    """Else a part of one is in the way, and cannot be told from a key."""
    done = _brokerctl("policy", "bundle", "key", str(tmp_path / "key.pem"), room=64)
    assert (done.returncode, done.stdout) == (1, "")
    assert not list(tmp_path.iterdir())
    assert _brokerctl("policy", "bundle", "key", str(tmp_path / "key.pem")).stdout
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_bundle_that_is_installed_is_recorded(tmp_path):
    """Else the next one finds files that were 'changed here', and a key stays trusted."""
    (tmp_path / "etc/policy.d").mkdir(parents=True)
    (tmp_path / "etc").chmod(0o755)
    (tmp_path / "etc/policy.d").chmod(0o755)
    many = {f"{n:02}-{'x' * 90}": f"# {n}\n" for n in range(40)}
    new = _bundle(tmp_path, 1, **many)
    assert _apply(tmp_path, new, room=4096).returncode != 0
    assert not list((tmp_path / "etc/policy.d").iterdir())


def _files(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_an_interrupt_does_not_install_half_of_a_bundle(tmp_path, monkeypatch):
    rename = Path.replace

    def interrupted(path, target):
        if target in paths:
            signal.raise_signal(signal.SIGINT)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    paths = [tmp_path / name for name in ("10-a.policy", "20-b.policy")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            install({str(path): b"a * * * deny\n" for path in paths})
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(tmp_path.iterdir()) == paths


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
