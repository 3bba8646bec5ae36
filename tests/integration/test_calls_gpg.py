"""gpg keys of another sandbox, by GnuPG's own way for them: gpg, git and pass themselves."""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import running
from tests.kit.world import world

PAGE = Path(__file__).parents[2] / "docs/calls.md"
pytestmark = requires("waypipe", "gpg", "socat", "git", "pass")
ME = "me@example.test"
KEYS = """\
%no-protection
Key-Type: eddsa
Key-Curve: ed25519
Key-Usage: sign,cert
Subkey-Type: ecdh
Subkey-Curve: cv25519
Subkey-Usage: encrypt
Name-Email: me@example.test
Expire-Date: 0
%commit
"""


def recipe(language):
    """The block of a recipe in the page: that of one end."""
    section = PAGE.read_text().partition("## gpg keys of another sandbox")[2]
    return section.partition(f"```{language}\n")[2].partition("\n```")[0]


@asynccontextmanager
async def sandboxes(rules):
    async with (
        world({}, image=False, rules=rules) as w,
        plain(w, "work", "vault") as guests,
    ):
        try:
            yield guests["work"], guests["vault"]
        finally:
            for guest in guests.values():
                gpg(guest, "gpgconf", "--kill", "all")


def gpg(guest, *words, data=b""):
    """Run a program of GnuPG as the guest's user."""
    env = {**guest.env, "HOME": str(guest.home)}
    done = subprocess.run(
        words, input=data, env=env, capture_output=True, check=False, timeout=60
    )
    return done.stdout


@asynccontextmanager
async def keys_of_another():
    """Yields a guest whose gpg uses the keys of another one, and that one."""
    async with sandboxes("vitrail.Call +gpg-agent work vault allow\n") as made:
        work, vault = made
        for guest in (work, vault):
            (guest.home / ".gnupg").mkdir(mode=0o700)
        gpg(vault, "gpg", "--batch", "--gen-key", data=KEYS.encode())
        public = gpg(vault, "gpg", "--export", ME)
        assert public
        gpg(work, "sh", "-c", recipe("conf"))
        gpg(work, "gpg", "--import", data=public)
        service = vault.home / ".config/vitrail-services/gpg-agent"
        service.parent.mkdir(parents=True)
        service.write_text(recipe("sh") + "\n")
        service.chmod(0o755)
        tools = work.folder / "runtime/bin"
        client = recipe("shell").removesuffix(" &")
        client = f"export HOME={work.home} PATH={tools}:$PATH; exec {client}"
        async with running(["sh", "-c", client], env={**os.environ, **work.env}):
            await eventually(
                lambda: takes_connections(work.home / ".gnupg/S.gpg-agent")
            )
            yield work, vault


async def test_gpg_git_and_pass_use_keys_of_another_sandbox():
    async with keys_of_another() as (work, _vault):

        async def shell(text):
            return await work.script(f"export HOME={work.home}; {text}")

        code, said = await shell("gpg -K --with-colons")
        assert code == 0, said
        always = "gpg --batch --trust-model always"
        code, said = await shell(
            f"echo text >a; {always} -u {ME} --clearsign a && gpg --verify a.asc && "
            f"{always} -r {ME} -e a && {always} -d a.gpg"
        )
        assert (code, "Good signature" in said, "text\n" in said) == (
            0,
            True,
            True,
        ), said
        git = (
            f"git init -q repo; cd repo; git config user.email {ME}; "
            f"git config user.name Me; git config user.signingKey {ME}; "
            "git commit -q -S --allow-empty -m one && git verify-commit HEAD"
        )
        code, said = await shell(git)
        assert (code, "Good signature" in said) == (0, True), said
        store = "export PASSWORD_STORE_GPG_OPTS='--trust-model always'; "
        code, said = await shell(
            f"{store}pass init {ME} && echo secret | pass insert -e web && "
            "pass show web"
        )
        assert (code, said.endswith("secret\n")) == (0, True), said
        # The key does not leave, and the restricted socket takes no settings.
        code, said = await shell(f"gpg --batch --export-secret-keys {ME}")
        assert "PRIVATE" not in said
        private = list((work.home / ".gnupg").glob("private-keys-v1.d/*"))
        assert (private, code) == ([], 2), said
