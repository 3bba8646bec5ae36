"""``SSH_AUTH_SOCK`` of sandboxes whose rules lead to ssh keys, with OpenSSH itself."""

from __future__ import annotations

import getpass
import shlex
import shutil
from pathlib import Path

import pytest

from tests.integration.test_box_session_bus import CONTAINER
from tests.integration.test_ssh_keys import sandboxes, uses
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.ssh import agent

pytestmark = [PID_NAMESPACES, requires("waypipe", "/usr/sbin/sshd")]
USER = getpass.getuser()
RULES = """\
vitrail.SshAgent  *     work  @adminvm  allow  key=work@desk
vitrail.SshAgent  *     box   @adminvm  allow  key=work@desk
vitrail.Call      +sshd box   vault     allow
"""
BOX = """\
class = "disposable"
display = "none"
[launch]
kind = "bwrap"
"""


async def run(w, name, text):
    """Run a line of shell as a program that the broker starts; returns code and output."""
    # ssh(1) starts its ProxyCommand by the user's shell, which a test's user may lack.
    words = ("sh", "-c", f"export SHELL=/bin/sh; {text}")
    told = await brokerctl(
        "run", "-q", "--no-window", name, "--", *words, env=w.environ
    )
    return told.code, told.out + told.err


def service(guest, name, command):
    """Give a guest a service."""
    place = guest.home / ".config/vitrail-services" / name
    place.parent.mkdir(parents=True)
    place.write_text(f"#!/bin/sh\nexec {command}\n")
    place.chmod(0o755)


async def test_a_program_of_a_machine_has_it_by_rule():
    async with sandboxes(RULES) as (w, guests, there, _):
        work = guests["work"]
        known = work.home / "known"
        known.write_text(f"alias {there.key}\n")
        login = there.words("ssh", known, "alias")
        code, said = await run(
            w, "work", f"ssh-add -l; {login} -T {USER}@there echo in"
        )
        assert (code, said.count("work@desk"), "in\n" in said) == (0, 1, True), said
        assert [use[0] for use in uses(w)] == [f"+login.{USER}"]
        # Where no rule leads to a key there is none, and the session's own agent stays.
        code, said = await run(w, "other", 'echo "[$SSH_AUTH_SOCK]"')
        assert (code, said) == (0, "[]\n")
        rules = w.paths.config[0] / "policy.d/30-mine.policy"
        rules.write_text("vitrail.SshAgent * other vault ask\n")
        code, said = await run(w, "other", 'test -S "$SSH_AUTH_SOCK" && echo there')
        assert (code, said) == (0, "there\n")


async def test_it_leads_where_the_rules_lead():
    """To another sandbox's agent; and that sandbox's own one is not led on."""
    rules = (
        "vitrail.SshAgent * work @adminvm deny\n"
        "vitrail.SshAgent * work vault allow\n"
        "vitrail.SshAgent * vault @adminvm allow\n"
    )
    async with sandboxes(rules) as (w, guests, _, keys):
        code, said = await run(w, "work", "ssh-add -l")
        assert code != 0, said  # no agent runs there, and the user's is not asked
        vault = guests["vault"]
        async with agent(vault.folder / "agent", keys[1]) as sock:
            (vault.folder / "runtime/session/ssh-agent.socket").symlink_to(sock)
            code, said = await run(w, "work", "ssh-add -l")
            assert (code, "home@desk" in said) == (0, True), said
        code, said = await run(w, "vault", "ssh-add -l")
        assert (code, "work@desk" in said) == (0, True), said


async def test_a_program_of_a_box_has_it():
    """By a socket beside its others: none of our programs runs for it in there."""
    async with sandboxes(RULES) as (w, guests, there, _):
        w.write_record("box", BOX)
        w.write_record("plain", BOX)
        service(guests["vault"], "sshd", there.server)
        login = there.words("ssh", "known", "alias", way="vitrail-call -t vault sshd")
        text = f"echo alias {shlex.quote(there.key)} >known; ssh-add -l; "
        code, said = await run(w, "box", f"{text}{login} -T {USER}@there echo in")
        assert (code, said.count("work@desk"), "in\n" in said) == (0, 1, True), said
        assert [use[0] for use in uses(w)] == [f"+login.{USER}"]
        # Without a rule it leads nowhere, and ssh tries its other ways.
        code, said = await run(w, "plain", "ssh-add -l")
        assert (code, "work@desk" in said) == (1, False), said


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
async def test_git_signs_in_a_box():
    async with sandboxes(RULES) as (w, _, __, keys):
        w.write_record("box", BOX)
        key = shlex.quote(Path(f"{keys[0]}.pub").read_text().strip())
        git = (
            "git init -q repo; cd repo; git config user.email me@example.test; "
            "git config user.name Me; git config gpg.format ssh; "
            f"git config user.signingKey key::{key}; "
            f"echo me@example.test {key} >allowed; "
            "git config gpg.ssh.allowedSignersFile allowed; "
            "git commit -q -S --allow-empty -m one && git verify-commit HEAD"
        )
        code, said = await run(w, "box", git)
        assert (code, 'Good "git" signature' in said) == (0, True), said
        assert [use[0] for use in uses(w)] == ["+sign.git"]


async def test_a_program_of_a_container_has_it():
    async with podman_settings() as env, sandboxes(RULES, extra=env) as made:
        w, _, __, ___ = made
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        root = root_directory(w.base)
        (root / "etc/passwd").write_text("root:x:0:0::/home/user:/bin/sh\n")
        w.write_record("box", CONTAINER.format(root=root, shared=shared))
        code, said = await run(w, "box", "ssh-add -l")
        assert (code, said.count("work@desk")) == (0, 1), said
