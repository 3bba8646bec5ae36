"""What the manager does with homes and records: by AT-SPI, on a desktop, with real verbs."""

from __future__ import annotations

import os
import subprocess

import pytest

from broker.cli.homes.home_copies import HomeCopies
from broker.core.names import SandboxName
from broker.host.homes.store import DISK
from tests.kit.eventually import eventually
from tests.kit.manager import managed, person
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.timeout(400)]

MAIL = SandboxName("mail")
RECORD = """\
class = "persistent"
display = "allow"
[label]
name = "mail"
colour = "blue"
[launch]
memory = "512M"
network = "none"
command = ["foot"]
"""


def homes_of(w) -> HomeCopies:
    """The store of a world, with a home of 'mail' that has letters."""
    store = HomeCopies(w.paths.homes)
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"letters")
        store.publish(prepared, MAIL)
    return store


async def test_a_home_is_copied_restored_and_removed(tmp_path):
    async with world({"mail": RECORD}, image=False) as w:
        store = homes_of(w)

        def disk(name="mail"):
            return store.require(SandboxName(name)).disk

        async with managed(w, tmp_path, "mail") as env:
            await person(
                env,
                ("press", "Snapshot… mail"),
                ("sees", "Nothing is lost."),
                ("press", "Save"),
                ("sees", "Snapshot s2"),
            )
            (label,) = [str(one.name) for one in store.snapshots(MAIL)]
            disk().write_bytes(b"replies")
            # What would be lost is the verb's own word; 'Cancel' loses nothing.
            await person(
                env,
                ("press", f"Restore… {label} of mail"),
                ("sees", f"since snapshot '{label}'"),
                ("press", "Cancel"),
                ("misses", "since snapshot"),
            )
            assert disk().read_bytes() == b"replies"
            await person(env, ("press", f"Restore… {label} of mail"))
            await person(env, ("press", "Restore"), ("misses", "since snapshot"))
            await eventually(lambda: disk().read_bytes() == b"letters")
            await person(
                env, ("press", "Clone… mail"), ("press", "Clone"), ("sees", "mail-copy")
            )
            await eventually(lambda: store.find(SandboxName("mail-copy")))
            assert disk("mail-copy").read_bytes() == b"letters"
            await person(
                env,
                ("sees", "Remove… mail-copy"),
                ("press", "Remove… mail-copy"),
                ("sees", "This would be lost: the home of 'mail-copy'"),
                ("press", "Remove"),
                ("sees", "No sandbox is named 'mail-copy'"),
            )
            assert store.find(SandboxName("mail-copy")) is None
            assert not (w.paths.config[0] / "sandboxes.d/mail-copy.toml").exists()
            assert disk().read_bytes() == b"letters"


@pytest.fixture
def keyring():
    """A directory of gpg's, whose agent ends with the test; its name is short."""
    with short_directory() as place:
        place.chmod(0o700)
        yield {"GNUPGHOME": str(place)}
        env = {**os.environ, "GNUPGHOME": str(place)}
        subprocess.run(["gpgconf", "--kill", "all"], check=True, env=env)


async def test_a_home_is_backed_up_and_imported(tmp_path, keyring):
    extra = {"HOME": str(tmp_path), **keyring}
    async with world({"mail": RECORD}, image=False, extra=extra) as w:
        store = homes_of(w)
        async with managed(w, tmp_path, "backups") as env:
            await person(
                env, ("press", "Back up… mail"), ("sees", "nobody can reset it")
            )
            await w.comp.type_text("\t\tsecret\tsecret")
            await person(env, ("press", "Back up"), ("sees", "The backup is written"))
            (file,) = tmp_path.glob("mail-*.vitrail-backup")
            assert b"letters" not in file.read_bytes()
            await person(env, ("press", "Done"), ("press", "Import…"))
            await w.comp.type_text(f"{file}\t\tpost\tsecret")
            await person(env, ("press", "Import"), ("sees", "The backup is imported"))
            await person(env, ("press", "Done"), ("sees", "Back up… post"))
            post = store.require(SandboxName("post"))
            assert post.disk.read_bytes() == b"letters"
            # A verb that fails says why.
            await person(env, ("press", "Import…"))
            await w.comp.type_text(f"{file}\t\tpost\tsecret")
            await person(env, ("press", "Import"), ("sees", "This was not done"))


async def test_a_sandbox_is_made_for_a_purpose(tmp_path):
    async with (
        world({"mail": RECORD}, image=False) as w,
        managed(w, tmp_path) as env,
    ):
        await person(
            env,
            ("press", "New…"),
            ("press", "Create… offline"),
            ("sees", "Create offline?"),
            ("sees", "vitrail.Settings"),
        )
        record = w.paths.config[0] / "sandboxes.d/offline.toml"
        assert not record.exists()
        await person(
            env,
            ("press", "Create"),
            ("press", "2G: memory of offline"),
            ("sees", "offline: memory is 2G"),
            ("press", "login: autostart of offline"),
            ("sees", "offline: autostart is login"),
            ("press", "Back"),
        )
        assert 'memory = "2G"' in record.read_text()
        assert 'autostart = "login"' in record.read_text()
        assert 'class = "persistent"' in record.read_text()
        await person(env, ("sees", "Start offline"))
