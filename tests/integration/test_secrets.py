"""``vitrail.Secret`` with gnome-keyring, for git, and from a sandbox that keeps secrets."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.keyring import HAS_KEYRING, keyring, store
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import world

pytestmark = [
    requires("waypipe"),
    pytest.mark.skipif(not HAS_KEYRING, reason="needs gnome-keyring, libsecret-tools"),
]
RULES = """\
vitrail.Secret +git   work @adminvm allow
vitrail.Secret +key   work vault    allow
vitrail.Secret +none  work @adminvm allow
vitrail.Secret +few   work @adminvm allow rate=1/min
"""


@asynccontextmanager
async def sandboxes():
    async with world({}, start=False, image=False) as w, keyring(w.base / "k") as env:
        w.write_rules(RULES)
        for name, secret in (("git", "s3cret\n"), ("other", "0ther"), ("few", "f3w")):
            store(env, name, secret)
        name = "DBUS_SESSION_BUS_ADDRESS"
        w.environ[name] = env[name]
        await w.start()
        async with plain(w, "work", "vault") as guests:
            yield w, guests["work"], guests["vault"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
async def test_a_secret_is_given_for_each_use_by_its_name():
    page = (Path(__file__).parents[2] / "docs/calls.md").read_text()
    begin = "git config --global credential"
    (helper,) = [x for x in page.splitlines() if x.startswith(begin)]
    async with sandboxes() as (w, work, vault):
        call = "vitrail-call -t @adminvm vitrail.Secret"
        assert await work.script(f"{call} git </dev/null") == (0, "s3cret\n")
        for name in ("other", "none", "", "../git", "-x", "git+x"):
            code, said = await work.script(f"{call} {name} </dev/null")
            assert (code, "0ther" in said) == (125, False), (name, said)
        assert (await work.script(f"{call} few </dev/null"))[0] == 0
        assert (await work.script(f"{call} few </dev/null"))[0] == 125
        code, _ = await vault.script(f"{call} git </dev/null")
        assert code == 125
        # It is logged by its name, and its content is nowhere.
        made = w.events("decision", service="vitrail.Secret", verdict="allow")
        assert [one["argument"] for one in made] == ["+git", "+none", "+few"]
        assert "s3cret" not in str(w.events())
        assert "s3cret" not in (w.paths.state / "broker.log").read_text()
        # The recipe of the page, for git.
        fill = (
            "printf 'protocol=https\\nhost=git.example.org\\n\\n' | "
            "GIT_TERMINAL_PROMPT=0 git credential fill"
        )
        code, said = await work.script(f"{helper}\n{fill}")
        assert {"username=me", "password=s3cret"} <= set(said.splitlines()), said
        (w.paths.config[0] / "policy.d/30-mine.policy").write_text(
            "vitrail.Secret * work @adminvm deny\n"
        )

        async def refused():
            code, said = await work.script(fill)
            return code != 0 and "s3cret" not in said

        await eventually(refused)


async def test_a_sandbox_keeps_secrets():
    async with sandboxes() as (_, work, vault):
        call = "vitrail-call -t vault vitrail.Secret key </dev/null"
        folder = vault.home / ".config/vitrail-services"
        folder.mkdir(parents=True)
        (folder / "vitrail.Secret").write_text("#!/bin/sh\necho secret of $1\n")
        (folder / "vitrail.Secret").chmod(0o755)
        assert await work.script(call) == (0, "secret of key\n")
        # Without a separate program: secret-tool, which finds no service there.
        (folder / "vitrail.Secret").unlink()
        code, said = await work.script(call)
        assert (code not in {0, 125, 127}, "key" in said) == (True, False), (code, said)
