"""Attack: a file that no key has closed, or another one, is imported as a backup.

Whoever can write where backups are kept replaces one; the user believes that only those
with the passphrase could have made it.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from broker.cli.homes.backups import backup as backups
from broker.cli.homes.backups.gpg_status import GpgStatus
from broker.cli.sandboxes.state import command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.host.homes.store import DISK, HomeStore
from tests.kit.gnupg_home import gnupg_home
from tests.kit.needs import NEEDS_JAIL

MAIL, AGAIN = SandboxName("mail"), SandboxName("again")
META = '{"kind":"disk","made":1.0,"version":1}'
GPG = ("gpg", "--quiet", "--no-tty", "--batch", "--trust-model", "always")
LOOPBACK = ("--pinentry-mode", "loopback", "--passphrase-file")


@pytest.fixture(name="room")
def _room(tmp_path, monkeypatch):
    """A user with a key of gpg's, a passphrase, and an archive of a made-up home."""
    made_up = tmp_path / "made-up"
    made_up.mkdir()
    (made_up / "meta.json").write_text(META)
    (made_up / "record.toml").write_text("")
    (made_up / DISK).write_bytes(b"hostile")
    with tarfile.open(tmp_path / "archive", "w:gz") as tar:
        for path in sorted(made_up.iterdir()):
            tar.add(path, path.name)
    with gnupg_home(tmp_path, monkeypatch):
        yield tmp_path


def closed(room: Path, *words: str) -> bytes:
    """What gpg makes of the made-up archive."""
    argv = [*GPG, "--output", "-", *words, str(room / "archive")]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def public_key(room: Path) -> list[str]:
    make = ["--passphrase", "", "--quick-gen-key", "ada@example", "future-default"]
    make = [*GPG, "--pinentry-mode", "loopback", *make]
    subprocess.run(make, check=True, capture_output=True)
    assert (room / "gnupg").is_dir()
    return ["--recipient", "ada@example"]


def passphrase(room: Path) -> list[str]:
    return [*LOOPBACK, str(room / "passphrase")]


def made_by_stranger(room: Path, case: str) -> bytes:
    """A file that who does not know the passphrase can make."""
    match case:
        case "stored":
            return closed(room, "--store")
        case "compressed":
            return closed(room, "--compress-level", "6", "--store")
        case "signed":
            public_key(room)
            return closed(room, "--sign")
        case "for the public key":
            return closed(room, *public_key(room), "--encrypt")
        case "with a passphrase behind it":
            # What the user made once follows, so that something is decrypted.
            return closed(room, "--store") + closed(
                room, *passphrase(room), "--symmetric"
            )
        case "with a passphrase before it":
            empty = room / "empty"
            empty.write_bytes(b"")
            argv = [*GPG, *passphrase(room), "--output", "-", "--symmetric", empty]
            made = subprocess.run(argv, check=True, capture_output=True).stdout
            return made + closed(room, "--store")
        case _:
            raise AssertionError(case)


CASES = (
    "stored",
    "compressed",
    "signed",
    "for the public key",
    "with a passphrase behind it",
    "with a passphrase before it",
)


@NEEDS_JAIL
@pytest.mark.parametrize("case", CASES)
async def test_file_that_the_passphrase_did_not_close_is_not_imported(room, case):
    file = room / "mail.backup"
    file.write_bytes(made_by_stranger(room, case))
    store = HomeStore(room / "homes")
    with (
        pytest.raises((RefusedError, UpstreamError)),
        backups.secret_of(room / "passphrase") as secret,
        store.new(DISK) as prepared,
    ):
        await backups.unpack(
            file, prepared, backups.Lock(passphrase=secret), lambda _: None
        )


@NEEDS_JAIL
async def test_file_without_any_encryption_is_not_imported(room):
    """Also where gpg is to ask, so that nothing says which key was meant."""
    file = room / "mail.backup"
    file.write_bytes(closed(room, "--store"))
    refused = pytest.raises(RefusedError, match="the backup is not encrypted")
    with refused, HomeStore(room / "homes").new(DISK) as prepared:
        await backups.unpack(file, prepared, backups.Lock(), lambda _: None)


async def unpacked(room, file):
    """Import a backup by its passphrase."""
    with (
        backups.secret_of(room / "passphrase") as secret,
        HomeStore(room / "homes").new(DISK) as prepared,
    ):
        await backups.unpack(
            file, prepared, backups.Lock(passphrase=secret), lambda _: None
        )


@NEEDS_JAIL
async def test_file_without_integrity_protection_is_not_imported(room):
    """Its content can be changed without the key; gpg.conf may allow it."""
    with (room / "gnupg/gpg.conf").open("a") as settings:
        settings.write("ignore-mdc-error\n")
    old = [*passphrase(room), "--cipher-algo", "3DES", "--rfc2440", "--symmetric"]
    file = room / "mail.backup"
    file.write_bytes(closed(room, *old))
    with pytest.raises(RefusedError, match="can be changed without the key"):
        await unpacked(room, file)


@NEEDS_JAIL
async def test_with_a_key_of_age_no_other_file_is_imported(room):
    file = room / "mail.backup"
    file.write_bytes(closed(room, "--store"))
    (room / "identity").write_text("AGE-SECRET-KEY-1")
    with (
        pytest.raises(RefusedError, match="age did not encrypt"),
        backups.secret_of(room / "identity") as key,
        HomeStore(room / "homes").new(DISK) as prepared,
    ):
        await backups.unpack(file, prepared, backups.Lock(identity=key), lambda _: None)


# -- the backup of another sandbox, or an old one ---------------------------------------


async def backup_of_mail(room: Path) -> Path:
    store = HomeStore(room / "theirs")
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"letters")
        store.publish(prepared, MAIL)
    file = room / "bank.backup"
    with backups.secret_of(room / "passphrase") as secret:
        lock = backups.Lock(passphrase=secret)
        await backups.back_up(
            store.require(MAIL), backups.Texts(""), file, lock, lambda _: None
        )
    return file


async def imported(room: Path, file: Path, name: str, *words: str):
    argv = ["import", str(file), name, *words]
    argv += ["--passphrase-file", str(room / "passphrase")]

    def run():
        return CliRunner().invoke(command, argv)

    # It runs a separate event loop, as brokerctl does.
    return await trio.to_thread.run_sync(run)


@NEEDS_JAIL
async def test_backup_of_another_sandbox_is_shown_and_asked_about(room):
    """Who exchanges two files cannot have mail's home started as bank."""
    file = await backup_of_mail(room)
    result = await imported(room, file, "bank")
    assert isinstance(result.exception, RefusedError)
    assert "a backup of 'mail'" in result.output
    assert "a micro VM's disk" in result.output
    homes = HomeStore(room / "state/vitrail/homes")
    assert homes.find(SandboxName("bank")) is None
    result = await imported(room, file, "bank", "--yes", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["backup"]
    assert (told["name"], told["kind"]) == ("mail", "disk")
    assert homes.require(SandboxName("bank")).disk.read_bytes() == b"letters"


@NEEDS_JAIL
async def test_backup_of_this_name_is_shown_with_its_time(room):
    file = await backup_of_mail(room)
    result = await imported(room, file, "mail")
    assert result.exit_code == 0, result.output
    assert "a backup of 'mail', written on " in result.output


@NEEDS_JAIL
@pytest.mark.parametrize(
    "label",
    [
        '{"name":"../etc","made":1.0}',
        '{"name":"mail","made":1e300}',
        '{"name":"mail","made":-1}',
        '{"name":"mail","made":1,"more":1}',
        '{"name":"mail\\u001b[2J","made":1}',
        "[]",
    ],
)
async def test_label_that_no_backup_has_is_refused(room, label):
    made_up = room / "made-up"
    (made_up / "backup.json").write_text(label)
    with tarfile.open(room / "archive", "w:gz") as tar:
        for path in sorted(made_up.iterdir()):
            tar.add(path, path.name)
    file = room / "mail.backup"
    file.write_bytes(closed(room, *passphrase(room), "--symmetric"))
    with pytest.raises((RefusedError, SetupError)):
        await unpacked(room, file)


# -- what gpg reports -------------------------------------------------------------------

HONEST = (
    "NEED_PASSPHRASE_SYM 9 3 2",
    "BEGIN_DECRYPTION",
    "DECRYPTION_INFO 2 9 0",
    "PLAINTEXT 62 1795568186 archive",
    "PLAINTEXT_LENGTH 6",
    "DECRYPTION_OKAY",
    "GOODMDC",
    "END_DECRYPTION",
)


def judged(*lines: str, piece: int = 1 << 16) -> str | None:
    status = GpgStatus()
    data = "".join(f"[GNUPG:] {line}\n" for line in lines).encode()
    for start in range(0, len(data), piece):
        status.feed(data[start : start + piece])
    return status.why_not_closed(by_passphrase=True)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_status_of_a_backup_is_read_in_pieces_of_any_size(piece):
    assert judged(*HONEST, piece=piece) is None
    assert judged(*HONEST[:-2], HONEST[-1], piece=piece) is not None


@pytest.mark.parametrize(
    "lines",
    [
        # Content before, after or beside what the key protects.
        (HONEST[3], *HONEST),
        (*HONEST, HONEST[3]),
        (*HONEST[:4], *HONEST[3:]),
        (*HONEST, *HONEST),
        (*HONEST[:2], *HONEST[1:]),
        # Each step left out.
        *(HONEST[:n] + HONEST[n + 1 :] for n in (0, 1, 3, 5, 6, 7)),
        # To a public key as well, whose owner's agent opens it unasked.
        ("ENC_TO 0000000000000000 1 0", *HONEST),
        (*HONEST, *["BEGIN_DECRYPTION"] * 100000),
    ],
)
def test_status_of_any_other_file_is_refused(lines):
    assert judged(*lines) is not None


def test_line_that_does_not_end_is_not_kept():
    status = GpgStatus()
    status.feed("".join(f"[GNUPG:] {line}\n" for line in HONEST).encode())
    for _ in range(100):
        status.feed(b"x" * 4096)
    assert len(status._rest) <= 16384 + 4096
    assert status.why_not_closed(by_passphrase=True) is not None


def test_line_that_is_not_of_gpgs_form_is_refused():
    status = GpgStatus()
    status.feed(
        b"".join(f"[GNUPG:] {line}\n".encode() for line in HONEST) + b"gpg: x\n"
    )
    assert status.why_not_closed(by_passphrase=True) is not None
