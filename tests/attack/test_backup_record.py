"""Attack: a backup that another program has replaced brings another record.

Anyone who knows the public key can encrypt an archive to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from broker.cli.homes.backups import backup as backups
from broker.cli.homes.backups.backup_record import reaching_keys
from broker.cli.policy.records import EXAMPLES, hint_for_unknown
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.state import command
from broker.core.names import SandboxName
from broker.host.homes.store import DISK, TREE, HomeStore
from policy.tools.record_files import parse_record
from tests.kit.gnupg_home import gnupg_home

MAIL = SandboxName("mail")
HEAD = 'class = "persistent"\ndisplay = "allow"\n'
LABEL = '[label]\nname = "Firefox"\n'


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    with gnupg_home(tmp_path, monkeypatch):
        yield tmp_path


async def imported(
    home, record, *words, kind=DISK, name="again", answer=None, rules=""
):
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
        await backups.back_up(
            store.require(MAIL),
            backups.Texts(record, rules),
            file,
            lock,
            lambda _: None,
        )
    argv = ["import", str(file), name, "--passphrase-file", str(secret), "--json"]
    argv += [] if answer else ["--yes"]

    def run():
        whole = [*argv, *words]
        return CliRunner().invoke(command, whole, input=answer, catch_exceptions=False)

    # It runs a separate event loop, as brokerctl does.
    result = await trio.to_thread.run_sync(run)
    assert result.exit_code == 0, result.output
    assert HomeStore(home / "state/vitrail/homes").find(SandboxName(name))
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


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES.glob("*.toml")])
def test_an_example_reaches_nothing_under_its_own_name(name):
    """``brokerctl new NAME`` writes it without a question."""
    text = (EXAMPLES / f"{name}.toml").read_text()
    record, problems = parse_record(name, Path(f"{name}.toml"), text.encode())
    assert problems == []
    assert reaching_keys(record) == []


def test_an_example_under_another_name_reaches_further():
    keys = _keys((EXAMPLES / "personal.toml").read_text())
    assert {"tags", "launch.network", "audio.microphone"} <= set(keys)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('packages = ["firefox-esr"]', 'packages = ["netcat"]', "launch.image"),
        ('microphone = "ask"', 'microphone = "allow"', "audio.microphone"),
        ('tags = ["trusted", "network"]', 'tags = ["vault"]', "tags"),
    ],
)
def test_a_changed_example_reaches_further(old, new, key):
    """An image is built again of the record's packages, for each record with it."""
    text = (EXAMPLES / "personal.toml").read_text()
    assert old in text
    text = text.replace(old, new)
    record, problems = parse_record("personal", Path("personal.toml"), text.encode())
    assert problems == []
    assert reaching_keys(record) == [key]


async def test_a_backup_of_an_unchanged_example_has_its_record(home):
    text = (EXAMPLES / "personal.toml").read_text()
    files, _ = await imported(home, text, name="personal")
    assert any(file.endswith("sandboxes.d/personal.toml") for file in files)
    assert not list((home / "config").rglob("*.imported"))


@pytest.mark.parametrize("head", ['inherits = ["base"]\n', 'tags = ["trusted"]\n'])
async def test_a_record_that_is_not_used_says_how_to_use_it(home, head):
    """A record that inherits is not read alone; it was lost without a word."""
    files, output = await imported(home, head + HEAD)
    assert files == []
    (kept,) = (home / "config").rglob("again.toml.imported")
    assert ("--trust-record" in output) is head.startswith("tags")
    assert f"mv {kept} " in output
    # And so does a verb that does not find it.
    assert f"mv {kept} " in hint_for_unknown("again", (), offline_paths())
    assert "the backup has no rules" in output


ALLOWED = "vitrail.Print + mail @adminvm allow\n"


def rule_files(home):
    """The files in the folder of rules, with their text."""
    folder = home / "config/vitrail/policy.d"
    files = folder.iterdir() if folder.is_dir() else ()
    return {file.name: file.read_text() for file in files}


async def test_rules_of_a_backup_used_if_trusted(home):
    files, _ = await imported(home, HEAD, "--trust-record", rules=ALLOWED)
    assert any(file.endswith("policy.d/40-again.policy") for file in files)
    assert rule_files(home) == {"40-again.policy": ALLOWED.replace("mail", "again")}


async def test_rules_of_a_backup_set_aside_without_trust(home):
    """Anybody can encrypt to a public key, and rules give rights."""
    files, output = await imported(home, HEAD, rules=ALLOWED)
    assert not any("policy.d" in file for file in files)
    assert [*rule_files(home)] == ["40-again.policy.imported"]
    assert f"mv {home}/config/vitrail/policy.d/40-again.policy.imported " in output


@pytest.mark.parametrize(
    "rules",
    [
        "vitrail.Print + vault @adminvm allow\n",
        "* * * @adminvm allow\n",
        "!include /etc/passwd\n",
        f"{ALLOWED}vitrail.Print + @anyvm @adminvm allow\n",
        "vitrail.Print + mail @adminvm alow\n",
    ],
)
async def test_rules_of_a_backup_about_others_not_used(home, rules):
    files, output = await imported(home, HEAD, "--trust-record", rules=rules)
    assert not any("policy.d" in file for file in files)
    assert [*rule_files(home)] == ["40-again.policy.imported"]
    assert "are not used" in output


async def test_a_record_that_was_set_aside_goes_with_the_sandbox(home):
    await imported(home, f'tags = ["trusted"]\n{HEAD}')
    (kept,) = (home / "config").rglob("again.toml.imported")
    words = ["remove", "again", "--yes"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert not kept.exists()


@pytest.mark.parametrize(("answer", "written"), [("y\n", True), ("n\n", False)])
async def test_a_user_at_a_terminal_is_asked(home, monkeypatch, answer, written):
    """The sandbox of the backup: only its record is in question."""
    terminal = lambda _: True  # noqa: E731
    monkeypatch.setattr(
        "click.testing._NamedTextIOWrapper.isatty", terminal, raising=False
    )
    record = f'tags = ["trusted"]\n{HEAD}'
    files, output = await imported(home, record, name="mail", answer=answer)
    assert "it sets tags to more than a new record has" in output
    assert any(file.endswith("sandboxes.d/mail.toml") for file in files) is written
    assert bool(list((home / "config").rglob("*.imported"))) is not written
