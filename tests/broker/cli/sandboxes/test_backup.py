"""A backup is one encrypted file, and its content is not trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.homes.backups.backup import (
    Lock,
    Texts,
    back_up,
    bytes_of,
    secret_of,
    unpack,
)
from broker.cli.homes.home_copies import HomeCopies
from broker.cli.sandboxes.state import command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.host.homes.store import DISK, TREE
from tests.kit.gnupg_home import gnupg_home
from tests.kit.needs import NEEDS_JAIL

MAIL, AGAIN = SandboxName("mail"), SandboxName("again")
SECRET = b"the letter that nobody else may read"


@pytest.fixture(autouse=True)
def _gpg(tmp_path, monkeypatch):
    with gnupg_home(tmp_path, monkeypatch):
        yield


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Lock]:
    with secret_of(tmp_path / "passphrase") as secret:
        yield Lock(passphrase=secret)


def home(tmp_path: Path) -> HomeCopies:
    store = HomeCopies(tmp_path / "homes")
    with store.new(DISK) as prepared:
        with (prepared / DISK).open("wb") as disk:
            disk.seek(5 << 20)
            disk.write(SECRET)
            disk.truncate(64 << 20)
        store.publish(prepared, MAIL)
    return store


async def save(store: HomeCopies, lock: Lock, target: Path) -> list[int]:
    seen: list[int] = []
    where = store.require(MAIL)
    await back_up(where, Texts('class = "persistent"\n'), target, lock, seen.append)
    return seen


@pytest.fixture
def age(tmp_path: Path) -> Iterator[tuple[Lock, Lock]]:
    """A lock that closes for a key of age's, and one that opens with it."""
    if shutil.which("age-keygen") is None:
        pytest.skip("needs age")
    identity = tmp_path / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    words = ["age-keygen", "-y", identity]
    shown = subprocess.run(words, check=True, capture_output=True, text=True)
    with secret_of(identity) as key:
        yield Lock((shown.stdout.strip(),)), Lock(identity=key)


@NEEDS_JAIL
async def test_a_backup_is_restored_elsewhere(tmp_path: Path, lock: Lock):
    await saved_and_restored(tmp_path, lock, lock)


@NEEDS_JAIL
async def test_closed_directories_are_in_a_backup(tmp_path: Path, lock: Lock):
    """A box has closed them; tar(1) could not read them, and there was no backup."""
    store = HomeCopies(tmp_path / "homes")
    with store.new(TREE) as prepared:
        (prepared / TREE / "closed").mkdir(parents=True)
        (prepared / TREE / "closed/file").write_text("mine")
        (prepared / TREE / "closed/file").chmod(0)
        (prepared / TREE / "closed").chmod(0)
        store.publish(prepared, MAIL)
    await save(store, lock, tmp_path / "mail.backup")
    assert (store.require(MAIL).tree / "closed").stat().st_mode & 0o7777 == 0
    other = HomeCopies(tmp_path / "other")
    with other.new(TREE) as prepared:
        await unpack(tmp_path / "mail.backup", prepared, lock, lambda _: None)
        other.publish(prepared, AGAIN)
    closed = other.require(AGAIN).tree / "closed"
    assert closed.stat().st_mode & 0o7777 == 0
    for path in (closed, store.require(MAIL).tree / "closed"):
        path.chmod(0o700)
    (closed / "file").chmod(0o600)
    assert (closed / "file").read_text() == "mine"


@NEEDS_JAIL
async def test_a_backup_for_a_key_of_age_is_restored_elsewhere(tmp_path, age):
    await saved_and_restored(tmp_path, *age)


@NEEDS_JAIL
async def test_a_backup_of_age_needs_its_key(tmp_path, age, lock):
    file = tmp_path / "mail.backup"
    await save(home(tmp_path), age[0], file)
    other = HomeCopies(tmp_path / "other")
    refused = pytest.raises(RefusedError, match="age encrypted this backup")
    with refused, other.new(DISK) as prepared:
        await unpack(file, prepared, lock, lambda _: None)
    wrong = tmp_path / "wrong"
    subprocess.run(["age-keygen", "-o", wrong], check=True, capture_output=True)
    failed = pytest.raises(SetupError, match="does not open the backup")
    with failed, secret_of(wrong) as key, other.new(DISK) as prepared:
        await unpack(file, prepared, Lock(identity=key), lambda _: None)
    assert other.all() == []


async def saved_and_restored(tmp_path: Path, lock: Lock, key: Lock) -> None:
    """Save with one lock, restore into a second state directory with the other."""
    store = home(tmp_path)
    file = tmp_path / "mail.backup"
    before = time.time()
    seen = await save(store, lock, file)
    assert seen == sorted(seen)
    assert SECRET not in file.read_bytes()
    assert file.stat().st_size < 1 << 20
    assert sorted(p.name for p in store.require(MAIL).directory.iterdir()) == [
        "disk",
        "meta.json",
    ]

    other = HomeCopies(tmp_path / "other machine")
    with other.new(DISK) as prepared:
        found = await unpack(file, prepared, key, lambda _: None)
        other.publish(prepared, AGAIN)
    assert found.untrusted_record == 'class = "persistent"\n'
    assert (found.name, found.meta.kind) == (MAIL, DISK)
    assert before <= found.made <= time.time()
    disk = other.require(AGAIN).disk
    assert disk.read_bytes() == store.require(MAIL).disk.read_bytes()
    assert disk.stat().st_blocks * 512 < 1 << 20, "holes are kept"
    assert bytes_of(disk.parent) < 1 << 20


@pytest.mark.parametrize("where", ["none/mail.backup"])
async def test_a_file_that_cannot_be_written_is_named(tmp_path, lock, where):
    """Such as on a disk that is not plugged in."""
    target = tmp_path / where
    with pytest.raises(RefusedError) as caught:
        await save(home(tmp_path), lock, target)
    assert f"cannot write the backup to {target}: " in str(caught.value)


async def test_a_backup_into_a_directory_is_told_to_name_a_file(tmp_path, lock):
    with pytest.raises(RefusedError, match="is a directory") as caught:
        await save(home(tmp_path), lock, tmp_path)
    assert str(tmp_path / "mail.backup") in caught.value.hint


async def test_an_existing_file_is_kept(tmp_path: Path, lock: Lock):
    file = tmp_path / "mail.backup"
    file.write_text("mine")
    with pytest.raises(RefusedError, match="already exists"):
        await save(home(tmp_path), lock, file)
    assert file.read_text() == "mine"


@NEEDS_JAIL
async def test_a_wrong_passphrase_restores_nothing(tmp_path: Path, lock: Lock):
    file = tmp_path / "mail.backup"
    await save(home(tmp_path), lock, file)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    other = HomeCopies(tmp_path / "other")
    failed = pytest.raises(RefusedError, match="the passphrase is wrong")
    with failed, secret_of(wrong) as secret, other.new(DISK) as prepared:
        await unpack(file, prepared, Lock(passphrase=secret), lambda _: None)
    assert other.all() == []


async def test_a_backup_that_cannot_be_written_leaves_nothing(tmp_path, lock):
    store = home(tmp_path)
    folder = tmp_path / "full"
    folder.mkdir()
    with pytest.raises(SetupError, match="lacks the recipient's key"):
        await save(store, Lock(("nobody@example.org",)), folder / "b")
    assert list(folder.iterdir()) == []


@NEEDS_JAIL
async def test_a_backup_is_written_to_no_file_that_others_can_name(tmp_path, lock):
    # The directory is one in which another user makes links while gpg runs.
    store, folder = home(tmp_path), tmp_path / "shared"
    folder.mkdir()
    file, outside = folder / "mail.backup", tmp_path / "outside"

    def plant(_: int) -> None:
        for name in (".mail.backup.part", "mail.backup.part"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(outside)

    where = store.require(MAIL)
    await back_up(where, Texts(""), file, lock, plant)
    assert not file.is_symlink()
    assert file.stat().st_size > 0
    assert not outside.exists()
    with HomeCopies(tmp_path / "other").new(DISK) as prepared:
        await unpack(file, prepared, lock, lambda _: None)


async def test_a_file_that_appears_meanwhile_is_kept(tmp_path, lock):
    store, file = home(tmp_path), tmp_path / "mail.backup"
    where = store.require(MAIL)
    with pytest.raises(RefusedError, match="already exists"):
        await back_up(
            where, Texts(""), file, lock, lambda _: file.write_text("theirs") and None
        )
    assert file.read_text() == "theirs"
    assert list(tmp_path.glob(".mail*")) == []


def _directory(name: str, mode: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.mode = tarfile.DIRTYPE, mode
    return found


@NEEDS_JAIL
@pytest.mark.parametrize(
    "case", ["link", "linked record", "closed", "more", "no record", "no archive"]
)
async def test_a_file_that_is_not_a_backup_is_refused(
    tmp_path: Path, lock: Lock, case: str
):
    room = tmp_path / "room"
    room.mkdir()
    (room / "meta.json").write_text('{"kind":"disk","made":1.0,"version":1}')
    (room / "record.toml").write_text("")
    (room / "disk").write_bytes(b"x")
    match case:
        case "link":
            (room / "disk").unlink()
            (room / "disk").symlink_to("/etc/passwd")
        case "linked record":
            (room / "record.toml").unlink()
            (room / "record.toml").symlink_to("/etc/passwd")
        case "more":
            (room / "more").write_text("")
        case "no record":
            (room / "record.toml").unlink()
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w:gz") as tar:
        if case == "closed":
            tar.addfile(_directory("./", 0))
        for path in sorted(room.iterdir()):
            tar.add(path, f"./{path.name}")
    if case == "no archive":
        archive.write_bytes(os.urandom(5000))
    file = tmp_path / "b"
    with archive.open("rb") as source, file.open("wb") as out:
        subprocess.run(
            lock.close_words(),
            stdin=source,
            stdout=out,
            pass_fds=lock.secrets,
            check=True,
        )
    store = HomeCopies(tmp_path / "homes")
    if case == "closed":
        # Its entry about our own directory is ignored, and the rest is a backup.
        with store.new(DISK) as prepared:
            await unpack(file, prepared, lock, lambda _: None)
            assert prepared.stat().st_mode & 0o777 == 0o700
        return
    with pytest.raises((RefusedError, UpstreamError)), store.new(DISK) as prepared:
        await unpack(file, prepared, lock, lambda _: None)
    assert store.all() == []


async def test_program_that_failed_is_named_and_not_those_that_fed_it(tmp_path):
    """gpg refuses the key at once; tar and gzip then write into a closed pipe."""
    store = HomeCopies(tmp_path / "homes")
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(os.urandom(4 << 20))
        store.publish(prepared, MAIL)
    with pytest.raises(SetupError, match="lacks the recipient's key"):
        await save(store, Lock(("nobody@example.org",)), tmp_path / "b")


async def test_a_backup_and_its_passphrase_may_come_from_pipes(tmp_path, lock):
    """As from process substitution: each is read once, from its beginning to its end."""
    file = tmp_path / "mail.backup"
    await save(home(tmp_path), lock, file)
    other = HomeCopies(tmp_path / "other")
    with (
        piped(b"correct horse\n") as phrase,
        piped(file.read_bytes()) as backup,
        secret_of(phrase) as secret,
        other.new(DISK) as prepared,
    ):
        await unpack(backup, prepared, Lock(passphrase=secret), lambda _: None)
        other.publish(prepared, AGAIN)
    disk = (other.require(AGAIN).directory / DISK).read_bytes()
    assert disk[5 << 20 :].startswith(SECRET)


@contextmanager
def piped(content):
    """The path of a pipe that gives this content once."""
    read, write = os.pipe()

    def give():
        with os.fdopen(write, "wb") as sink:
            sink.write(content)

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield Path(f"/proc/self/fd/{read}")
    finally:
        os.close(read)
        giver.join()


def test_paths_are_those_of_the_users_directory(tmp_path, monkeypatch):
    home(tmp_path / "state/vitrail")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("correct horse\n")
    how = ["--passphrase-file", "secret"]
    for words in (
        ["backup", "mail", "b", *how],
        ["import", "b", "again", "--yes", *how],
    ):
        done = CliRunner().invoke(command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
