"""Host keys of ssh: not in an image, removed at a start, drawn by each machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from broker.cli.images.building.build import bootstrap_words
from broker.host.images.packages import Archive
from broker.host.images.store import ImageSpec
from shims.guest import pid1
from shims.guest.host_keys import SSH_SERVER, make_host_keys, remove_image_keys
from shims.guest.loop import Loop

ARCHIVE = Archive("http://m/d", "", ("main",), {})
KEY = "etc/ssh/ssh_host_ed25519_key"


@pytest.fixture
def root(tmp_path):
    """A root file system as openssh-server and dbus leave it."""
    for name in (
        KEY,
        f"{KEY}.pub",
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/sshd_config",
        "var/lib/dbus/machine-id",
        "etc/ssl/private/ssl-cert-snakeoil.key",
        "etc/ssl/private/own.key",
        SSH_SERVER,
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the image")
    (tmp_path / "usr/bin").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def _signals():
    """The agent's loop takes the process's signals, which trio wants after it."""
    handler = signal.getsignal(signal.SIGCHLD)
    wakeup = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, handler)


class Guest:
    """What draws a key needs no more of the agent."""

    def __init__(self):
        self.loop = Loop()

    def wait_for_children(self):
        self.loop.later(0, self._ended)
        self.loop.run()

    def _ended(self):
        if self.loop._children:
            self.loop.later(0.01, self._ended)
        else:
            self.loop.stop()


def draw(root):
    guest = Guest()
    make_host_keys(guest, str(root))
    guest.wait_for_children()
    return guest


def test_an_image_has_no_key_that_a_package_drew(root):
    words = bootstrap_words(ImageSpec(), ARCHIVE, root, root)
    hooks = [w.partition("=")[2] for w in words if w.startswith("--customize-hook=rm")]
    for hook in hooks:
        subprocess.run(["sh", "-c", hook, "hook", root], check=False)
    assert [path.name for path in (root / "etc/ssh").iterdir()] == ["sshd_config"]
    assert [path.name for path in (root / "etc/ssl/private").iterdir()] == ["own.key"]
    assert not (root / "var/lib/dbus/machine-id").exists()


def test_keys_of_the_image_are_removed_at_a_start(root):
    remove_image_keys(str(root))
    assert [path.name for path in (root / "etc/ssh").iterdir()] == ["sshd_config"]
    assert os.readlink(root / "var/lib/dbus/machine-id") == "/etc/machine-id"
    remove_image_keys(str(root))
    assert (root / "var/lib/dbus/machine-id").is_symlink()


def test_a_root_without_ssh_stays_as_it_is(tmp_path):
    remove_image_keys(str(tmp_path))
    make_host_keys(None, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_machine_removes_them_before_anything_is_started(monkeypatch):
    """Also in a parent, which must have no key in its memory."""
    done = []
    monkeypatch.setattr(pid1, "MOUNTS", ())
    monkeypatch.setattr(pid1, "LINKS", ())
    monkeypatch.setattr(pid1, "SETTINGS", ())
    monkeypatch.setattr(pid1.os, "umask", lambda _mask: 0)
    monkeypatch.setattr(pid1.os, "set_blocking", lambda _fd, _how: None)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    for name in ("remove_image_keys", "unpack_host_files"):
        monkeypatch.setattr(pid1, name, lambda name=name: done.append(name))
    monkeypatch.setattr(pid1.Machine, "_link_up", lambda _self, _name: None)
    pid1.Machine().set_up()
    assert done == ["remove_image_keys", "unpack_host_files"]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")
def test_each_machine_draws_a_key_of_its_own(root):
    (root / "usr/bin/ssh-keygen").symlink_to(shutil.which("ssh-keygen"))
    keys = set()
    for _ in range(2):
        remove_image_keys(str(root))
        draw(root)
        assert (root / KEY).stat().st_mode & 0o777 == 0o600
        keys.add((root / f"{KEY}.pub").read_text().split()[1])
    assert len(keys) == 2


def test_a_key_that_cannot_be_drawn_is_reported(root, capfd):
    for script, why in (("exit 3", "ended with code 3"), (None, "Permission denied")):
        tool = root / "usr/bin/ssh-keygen"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755 if script else 0o644)
        draw(root)
        assert why in capfd.readouterr().err


def test_without_a_server_none_is_drawn(root):
    (root / SSH_SERVER).unlink()
    (root / "usr/bin/ssh-keygen").write_text("#!/bin/sh\n")
    remove_image_keys(str(root))
    assert not draw(root).loop._children
    assert not (root / KEY).exists()
