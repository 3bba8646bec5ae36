"""``brokerctl sandbox unlock`` and ``lock``, with the keyring in the test's hands."""

from __future__ import annotations

import json

import pytest
import trio

from broker.cli.homes import unlock
from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.host.homes.store import DISK
from tests.broker.cli.test_sandbox import Stage

PASSPHRASE = "correct horse battery"
MAIL, BANK = SandboxName("mail"), SandboxName("bank")


class Keys:
    """In the place of the kernel's keyring."""

    def __init__(self):
        self.kept = {}
        self.seconds = None

    def store(self, sandbox, passphrase, seconds):
        self.kept[sandbox] = passphrase
        self.seconds = seconds

    def forget(self, sandbox):
        return self.kept.pop(sandbox, None) is not None


@pytest.fixture
def keys(monkeypatch):
    found = Keys()
    monkeypatch.setattr(unlock.keyring, "store", found.store)
    monkeypatch.setattr(unlock.keyring, "forget", found.forget)
    return found


async def opens(disk, passphrase):
    """In the place of QEMU, which takes seconds to try one."""
    await trio.lowlevel.checkpoint()
    assert disk.read_bytes() == b"LUKS"
    return passphrase == PASSPHRASE.encode()


@pytest.fixture
def s(tmp_path, monkeypatch):
    """The home of 'mail' is plain, that of 'bank' is encrypted."""
    for name in ("config", "state", "data", "cache"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setattr(unlock, "opens", opens)
    made = Stage(tmp_path)
    with made.store.new(DISK, encrypted=True) as prepared:
        (prepared / DISK).write_bytes(b"LUKS")
        made.store.publish(prepared, BANK)
    return made


def test_the_right_passphrase_is_kept(s, keys):
    said = s.run("unlock", "bank", "--for", "90", ask=f"{PASSPHRASE}\n")
    assert keys.kept == {BANK: PASSPHRASE.encode()}
    assert keys.seconds == 90 * 60
    assert PASSPHRASE not in said.output
    assert json.loads(s.run("lock", "bank", "--json").stdout) == {
        "name": "bank",
        "unlocked": False,
    }
    assert keys.kept == {}


def test_a_wrong_passphrase_is_refused(s, keys):
    with pytest.raises(RefusedError, match="wrong passphrase"):
        s.run("unlock", "bank", ask="wrong horse battery\n")
    assert keys.kept == {}


def test_a_new_home_s_passphrase_is_asked_twice(s, keys):
    s.run("unlock", "new", ask=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert keys.kept == {"new": PASSPHRASE.encode()}
    assert keys.seconds == 0


def test_a_file_has_it_in_its_first_line(s, keys, tmp_path):
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\nsecond line\n")
    s.run("unlock", "bank", "--passphrase-file", str(file))
    assert keys.kept == {BANK: PASSPHRASE.encode()}


@pytest.mark.parametrize("text", ["short", "x" * 1025])
def test_its_length_is_bounded(s, keys, text):
    with pytest.raises(RefusedError, match="8 to 1024 bytes"):
        s.run("unlock", "new", ask=f"{text}\n{text}\n")
    assert keys.kept == {}


def test_a_plain_home_has_no_passphrase(s, keys):
    with pytest.raises(RefusedError, match="is not encrypted"):
        s.run("unlock", "mail", ask=f"{PASSPHRASE}\n")
    assert keys.kept == {}


def test_a_locked_home_cannot_be_locked_again(s, keys):
    with pytest.raises(RefusedError, match="does not contain its passphrase"):
        s.run("lock", "bank")


def test_an_encrypted_home_is_not_emptied_in_the_clear(s, keys):
    with pytest.raises(
        RefusedError, match="a new home would not be encrypted"
    ) as caught:
        s.run("reset", "bank", "--yes")
    assert "--keep-record" in caught.value.hint
    assert s.home(BANK).startswith(b"LUKS")
