"""Calls and ssh keys of sandboxes on another machine: host and viewer are two brokers.

The guests are processes, leased by the host's broker; rules and keys are the viewer's.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import agent, made_key
from tests.kit.world import record

pytestmark = requires("waypipe", "ssh-agent")
RULES = """\
vitrail.Call     +echo work vault allow
vitrail.Call     +code work @default allow target=vault
vitrail.SshAgent *     work vault allow
"""
NAMES = ("work", "vault")
SERVICES = {"echo": "cat", "code": "exit 7"}


@asynccontextmanager
async def far_sandboxes():
    async with two(dict.fromkeys(NAMES, record("persistent")), image=False) as t:
        policy = t.viewer.paths.config[0] / "policy.d"
        policy.mkdir(parents=True, exist_ok=True)
        rules = policy / "30-mine.policy"
        before = (await t.viewer.status()).policy.digest
        rules.write_text(RULES)

        async def ruled():
            return (await t.viewer.status()).policy.digest != before

        await eventually(ruled)
        async with plain(t.host, *NAMES) as guests:
            own = guests["vault"].home / ".config/vitrail-services"
            own.mkdir(parents=True)
            for name, text in SERVICES.items():
                (own / name).write_text(f"#!/bin/sh\n{text}\n")
                (own / name).chmod(0o755)
            yield t, guests["work"], guests["vault"], rules


async def test_a_call_crosses_between_sandboxes_of_the_host():
    async with far_sandboxes() as (t, work, _, rules):
        call = "vitrail-call -t vault echo"
        code, said = await work.script(f"head -c 3000000 /dev/zero | {call} | wc -c")
        assert (code, said) == (0, "3000000\n")
        assert (await work.script("vitrail-call code </dev/null"))[0] == 7
        assert (await work.script("vitrail-call -t vault no </dev/null"))[0] == 125
        (first, *_) = t.viewer.events("decision", service="vitrail.Call")
        assert (first["sandbox"], first["target"]) == ("work", "vault")
        assert not t.host.events("decision", service="vitrail.Call")
        rules.write_text("vitrail.Call * work vault deny\n")

        async def denied():
            return (await work.script(f"{call} </dev/null"))[0] == 125

        await eventually(denied)


async def test_keys_of_another_sandbox_of_the_host():
    async with far_sandboxes() as (t, work, vault, _):
        key = made_key(t.host.base / "keys/one", "one@vault")
        async with agent(vault.folder / "agent", key) as sock:
            (vault.folder / "runtime/session/ssh-agent.socket").symlink_to(sock)
            path = work.home / "a.sock"
            code, said = await work.script(
                f"vitrail-ssh-agent -t vault --socket {path} ssh-add -l"
            )
            assert (code, "one@vault" in said) == (0, True), said
            (work.home / "one.pub").write_text(key.with_name("one.pub").read_text())
            sign = "ssh-keygen -q -Y sign -n file -f one.pub </dev/null"
            code, said = await work.script(
                f"vitrail-ssh-agent -t vault --socket {path} {sign}"
            )
            assert (code, "BEGIN SSH SIGNATURE" in said) == (0, True), said
        made = t.viewer.events("decision", service="vitrail.SshAgent")
        assert "+sign.file" in [one["argument"] for one in made]
