"""Attack: a backup that another program has replaced brings another record.

Anyone who knows the public key can encrypt an archive to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from broker.cli.sandboxes.backups import backup as backups
from broker.cli.sandboxes.backups.backup_record import reaching_keys
from broker.cli.sandboxes.state import command
from broker.core.names import SandboxName
from broker.host.homes.store import DISK, TREE, HomeStore
from policy.tools.record_files import parse_record

MAIL = SandboxName("mail")
HEAD = 'class = "persistent"\ndisplay = "allow"\n'
LABEL = '[label]\nname = "Firefox"\n'


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    (tmp_path / "gnupg").mkdir(mode=0o700)
    # gpg takes long for a passphrase otherwise, as it should.
    (tmp_path / "gnupg/gpg.conf").write_text("s2k-count 1024\n")
    (tmp_path / "gnupg/gpg-agent.conf").write_text("s2k-count 65536\n")
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "gnupg"))
    for name in ("config", "state", "data", "cache"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    (tmp_path / "passphrase").write_text("correct horse")
    yield tmp_path
    subprocess.run(["gpgconf", "--kill", "all"], check=False)


async def imported(home, record, *words, kind=DISK):
    """Import a backup with this record; the files that were made, and the output."""
    store = HomeStore(home / "theirs")
    with store.new(kind) as prepared:
        if kind == DISK:
            (prepared / DISK).write_bytes(b"letters")
        else:
            (prepared / TREE).mkdir()
        store.publish(prepared, MAIL)
    secret = home / "passphrase"
    file = home / "mail.backup"
    with backups.secret_of(secret) as opened:
        lock = backups.Lock(passphrase=opened)
        await backups.back_up(store.require(MAIL), record, file, lock, lambda _: None)
    argv = ["import", str(file), "again", "--passphrase-file", str(secret), "--json"]
    argv.append("--yes")

    def run():
        return CliRunner().invoke(command, [*argv, *words], catch_exceptions=False)

    # It runs a separate event loop, as brokerctl does.
    result = await trio.to_thread.run_sync(run)
    assert result.exit_code == 0, result.output
    assert HomeStore(home / "state/vitrail/homes").find(SandboxName("again"))
    return json.loads(result.stdout)["files"], result.output


BOX = f'{HEAD}{LABEL}[launch]\nkind = "bwrap"\n'


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (f'{BOX}bind_read_write = ["/home/ada"]\n', "launch.bind_read_write"),
        (
            f'{HEAD}{LABEL}[folders]\nread_write = ["/home/ada/docs"]\n',
            "folders.read_write",
        ),
        (
            f'{HEAD}{LABEL}[launch]\nkind = "external"\n[peer]\nlibvirt = "bank"\n',
            "peer.libvirt",
        ),
        (f'{HEAD}{LABEL}[launch]\nroot = "host"\n', "launch.root"),
        (f'{HEAD}{LABEL}[audio]\nplayback = "raw"\n', "audio.playback"),
    ],
)
async def test_a_record_that_reaches_further_is_not_written(home, record, key):
    files, output = await imported(home, record)
    assert files == []
    assert key in output
    assert not list((home / "config").rglob("*.toml"))
    assert not list((home / "data").rglob("*.desktop"))
    # One move puts it in force; the home needs no second import.
    (kept,) = (home / "config").rglob("again.toml.imported")
    assert str(kept) in output
    assert key.split(".")[-1] in kept.read_text()


async def test_a_record_of_the_sandbox_alone_is_written(home):
    files, _ = await imported(home, f'{HEAD}{LABEL}[launch]\nmemory = "2G"\n')
    assert any(file.endswith("sandboxes.d/again.toml") for file in files)


def _keys(text):
    record, problems = parse_record("again", Path("again.toml"), text.encode())
    assert problems == []
    return reaching_keys(record)


NAMED = '[label]\nname = "again"\n'


@pytest.mark.parametrize(
    ("record", "key"),
    [
        # It records the person and every application.
        (f'audio = "raw"\n{HEAD}{NAMED}', "audio.playback"),
        (
            f'{HEAD}{NAMED}[audio]\nplayback = "allow"\nmicrophone = "allow"\n',
            "audio.microphone audio.playback",
        ),
        # Rules for trusted sandboxes are rules for it.
        (f'tags = ["trusted"]\n{HEAD}{NAMED}', "tags"),
        (f'default_disposable = "bank"\n{HEAD}{NAMED}', "default_disposable"),
        # Its windows are taken for others, or have the desktop's own keys.
        (f'{HEAD}{NAMED}[window]\nfullscreen = "real"\n', "window.fullscreen"),
        (f"{HEAD}{NAMED}[window]\ntranslucent = true\n", "window.translucent"),
        (f'{HEAD}{NAMED}[window]\ntitle_prefix = "bank"\n', "window.title_prefix"),
        (
            (
                f"{HEAD}{NAMED}[window]\n"
                'allow = ["zwp_keyboard_shortcuts_inhibit_manager_v1"]\n'
            ),
            "window.allow",
        ),
        (f"{HEAD}[label]\nname = 'bank'\n", "label.name"),
        (f'{HEAD}[label]\nname  = "bank"\n', "label.name"),
        # The image of another record's sandbox is built again.
        (
            f'{HEAD}{NAMED}[launch]\nimage = "bank"\npackages = ["netcat"]\n',
            "launch.image",
        ),
        # More than a fresh record has: its rights to send, hear, take and paste.
        (f'{HEAD}{NAMED}[launch]\nnetwork = "user"\n', "launch.network"),
        (f'{HEAD}{NAMED}[launch]\nkind = "bwrap"\n', "launch.kind"),
        (f'{HEAD}{NAMED}[launch]\nkind = "firecracker"\n', "launch.kind"),
        (f'{HEAD}{NAMED}[audio]\nplayback = "allow"\n', "audio.playback"),
        (f'{HEAD}{NAMED}[clipboard]\ndrag = "rules"\n', "clipboard.drag"),
        (f'{HEAD}{NAMED}[clipboard]\nprimary = "rules"\n', "clipboard.primary"),
        (f'{HEAD}{NAMED}[clipboard]\nmax_size = "64M"\n', "clipboard.max_size"),
        (f'{HEAD}{NAMED}[clipboard]\nttl = "1d"\n', "clipboard.ttl"),
        (f'{HEAD}{NAMED}[clipboard]\ntypes = ["image/*"]\n', "clipboard.types"),
        (f'{HEAD}{NAMED}[transfer]\nday_size = "900G"\n', "transfer.day_size"),
        # QEMU without our jail; a program without a boundary.
        (f'{HEAD}{NAMED}[launch]\nkind = "libvirt-qemu"\n', "launch.kind"),
        (f'{HEAD}{NAMED}[launch]\nkind = "shared-box"\n', "launch.kind"),
    ],
)
def test_a_key_that_is_not_known_to_be_the_sandboxs_own_reaches_further(record, key):
    assert _keys(record) == key.split()


@pytest.mark.parametrize(
    "record",
    [
        f'{HEAD}{NAMED}[launch]\nmemory = "2G"\n',
        (
            f'tags = []\n{HEAD}{NAMED}[audio]\nplayback = "none"\n'
            '[launch]\nimage = "web"\nnetwork = "none"\ncommand = ["firefox-esr"]\n'
        ),
        f'{HEAD}{NAMED}[limits]\nstreams = 10\n[clipboard]\ntypes = ["text/plain"]\n',
        (
            f'{HEAD}{NAMED}[launch]\nimage = "again"\npackages = ["mpv"]\n'
            '[state]\ndisk_size = "20G"\n[clipboard]\nmax_size = "1K"\n'
        ),
    ],
)
def test_a_record_of_the_sandbox_alone_reaches_nothing(record):
    assert _keys(record) == []


async def test_the_person_may_trust_it(home):
    record = f'{BOX}bind_read_write = ["/home/ada"]\n'
    files, _ = await imported(home, record, "--trust-record", kind=TREE)
    assert any(file.endswith("sandboxes.d/again.toml") for file in files)
