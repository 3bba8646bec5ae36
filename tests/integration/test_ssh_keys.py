"""``vitrail.SshAgent`` with OpenSSH itself: agent, client, server, ssh-keygen and git."""

from __future__ import annotations

import getpass
import os
import pwd
import shlex
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import agent, certified, host, made_key, public
from tests.kit.world import world

pytestmark = requires("waypipe", "/usr/sbin/sshd")
USER = getpass.getuser()
RULES = f"""\
vitrail.SshAgent +sign.git    work @adminvm allow key=work@desk
vitrail.SshAgent +sign.file   work @adminvm deny
vitrail.SshAgent *            work @adminvm allow key=work@desk host=git.example.test
vitrail.SshAgent *            work vault    allow
vitrail.SshAgent +login.{USER} other @adminvm deny
vitrail.SshAgent *            other @adminvm allow key=work@desk
"""


def made_keys(base):
    return [made_key(base / name, f"{name}@desk") for name in ("work", "home")]


@asynccontextmanager
async def sandboxes(rules=RULES, extra=None, *, make=made_keys, start=agent):
    """``make`` makes keys in a directory, ``start`` an agent in another one with them."""
    async with world({}, start=False, image=False, extra=extra) as w:
        w.write_rules(rules)
        keys = make(w.base / "keys")
        there = host(w.base / "sshd", *keys)
        async with start(w.base / "agent", *keys) as sock:
            home = w.base / "person"
            (home / ".ssh").mkdir(parents=True, mode=0o700)
            (home / ".ssh/known_hosts").write_text(f"git.example.test {there.key}\n")
            w.environ |= {"SSH_AUTH_SOCK": str(sock), "HOME": str(home)}
            await w.start()
            async with plain(w, "work", "vault", "other") as guests:
                yield w, guests, there, keys


def script(guest, text, target="@adminvm"):
    """Return a script whose commands have an agent's socket."""
    inner = shlex.quote(f"export HOME={guest.home}; {text}")
    sock = guest.home / "a.sock"
    return f"vitrail-ssh-agent -t {target} --socket {sock} timeout 20 sh -c {inner}"


def login(guest, there, *options):
    """Return a command that logs in, and lists the directory."""
    known = guest.home / "known"
    known.write_text(f"alias {there.key}\n")
    # No shell, which the user of a test may lack.
    sftp = there.words("sftp", known, "alias", *options)
    return f"echo ls {there.folder} | {sftp} -b - {USER}@there"


def uses(w, verdict="allow"):
    """Uses of keys that were decided: argument, host, the key's comment, the target."""
    return [
        (
            made["argument"],
            made.get("object", ""),
            made["detail"].get("key", "").partition(" ")[2],
            made.get("target", ""),
        )
        for made in w.events("decision", verdict=verdict, service="vitrail.SshAgent")
        if made["argument"] != "+list"
    ]


HOST = "git.example.test"
ANY_KEY = "vitrail.SshAgent * work @adminvm allow\n"


async def test_a_login_uses_a_key_that_stays_on_the_desktop():
    async with sandboxes() as (w, guests, there, keys):
        work = guests["work"]
        code, said = await work.script(script(work, "ssh-add -l"))
        assert (code, said.count("\n")) == (0, 1), said
        assert "work@desk" in said
        code, said = await work.script(script(work, login(work, there)))
        assert (code, "authorized" in said) == (0, True), said
        # The host by the user's own known_hosts, whatever the sandbox calls it.
        made = (f"+login.{USER}", HOST, "work@desk", "dom0")
        assert uses(w) == [made]
        # Each use is decided: by user, by key, by host.
        shutil.copy(f"{keys[1]}.pub", work.home / "home.pub")
        only = f"IdentityFile={work.home}/home.pub", "IdentitiesOnly=yes"
        code, said = await work.script(script(work, login(work, there, *only)))
        assert code == 255, said
        (w.base / "person/.ssh/known_hosts").unlink()
        code, said = await work.script(script(work, login(work, there)))
        assert code == 255, said
        assert uses(w) == [made]
        # A denial is answered, and then written.
        (denied,) = await eventually(lambda: uses(w, "deny"))
        assert denied[1].startswith("SHA256:"), denied
        # A user that a rule denies, and a sandbox that has no rule.
        other = guests["other"]
        code, said = await other.script(script(other, "ssh-add -l"))
        assert (code, "work@desk" in said) == (0, True), said
        code, said = await other.script(script(other, login(other, there)))
        assert code == 255, said
        assert uses(w) == [made]
        code, said = await guests["vault"].script(script(guests["vault"], "ssh-add -l"))
        assert code != 0, said
        for words in ("-D", "-x", f"-d {work.home}/home.pub", f"{keys[1]}"):
            code, said = await work.script(script(work, f"ssh-add {words} </dev/null"))
            assert code != 0, (words, said)
        await _audited(w)


async def _audited(w):
    """One command of docs/calls.md names who used which key for which host."""
    page = (Path(__file__).parents[2] / "docs/calls.md").read_text()
    (line,) = [
        line for line in page.splitlines() if "vitrail.SshAgent --verdict" in line
    ]
    told = await brokerctl(*shlex.split(line)[1:], env=w.environ)
    assert told.code == 0, told
    rows = [row for row in told.out.splitlines() if "+login" in row]
    assert len(rows) == 1, told.out
    for word in ("work", f"+login.{USER}", HOST, "SHA256:", "work@desk"):
        assert word in rows[0], rows


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
async def test_git_signs_with_a_key_of_the_desktop():
    async with sandboxes() as (w, guests, _, keys):
        work = guests["work"]
        shutil.copy(f"{keys[0]}.pub", work.home / "key.pub")
        allowed = (work.home / "key.pub").read_text()
        (work.home / "allowed").write_text(f"me@example.test {allowed}")
        git = (
            "git init -q repo; cd repo; git config user.email me@example.test; "
            "git config user.name Me; git config gpg.format ssh; "
            f"git config user.signingKey {work.home}/key.pub; "
            f"git config gpg.ssh.allowedSignersFile {work.home}/allowed; "
            "git commit -q -S --allow-empty -m one && git verify-commit HEAD"
        )
        code, said = await work.script(script(work, git))
        assert (code, 'Good "git" signature' in said) == (0, True), said
        assert uses(w) == [("+sign.git", "", "work@desk", "dom0")]
        # For another purpose a rule says no.
        sign = f"echo x >x; ssh-keygen -Y sign -n file -f {work.home}/key.pub x"
        code, said = await work.script(script(work, sign))
        assert (code, "refused" in said) == (255, True), said
        assert len(uses(w)) == 1


def made_certificates(base):
    """Keys with a certificate of one authority, and this authority's key."""
    authority = made_key(base / "authority", "authority")
    keys = [certified(key, authority, USER) for key in made_keys(base)]
    return [*keys, authority]


async def test_a_key_that_is_denied_does_not_sign_by_its_certificate():
    """ssh-add adds a key and its certificate: two names of one secret."""
    rules = "vitrail.SshAgent * work @adminvm deny key={}\n" + ANY_KEY
    async with sandboxes(rules.format("home@desk"), make=made_certificates) as found:
        w, guests, there, keys = found
        work = guests["work"]
        authorized = there.folder / "authorized"
        authorized.write_text(f"cert-authority {public(keys[2])}\n")
        told = await brokerctl("policy", "check", env=w.environ)
        assert told.code == 0, told

        def fingerprint(key):
            words = ("ssh-keygen", "-l", "-f", f"{key}.pub")
            text = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
            return text.split()[1].decode()

        policy = w.paths.config[0] / "policy.d/30-mine.policy"
        policy.write_text(rules.format(fingerprint(keys[1])))

        async def listed():
            _, said = await work.script(script(work, "ssh-add -l"))
            return said

        said = await listed()
        assert (said.count("work@desk"), said.count("CERT")) == (2, 1), said
        assert fingerprint(keys[0]) in said
        assert "home@desk" not in said
        code, said = await work.script(script(work, login(work, there)))
        assert (code, "authorized" in said) == (0, True), said
        made = (f"+login.{USER}", HOST, "work@desk (certificate)", "dom0")
        assert uses(w) == [made]
        # Named by its certificate, the other one does not sign either.
        for suffix in (".pub", "-cert.pub"):
            shutil.copy(f"{keys[1]}{suffix}", work.home / f"home{suffix}")
        only = (
            f"CertificateFile={work.home}/home-cert.pub",
            f"IdentityFile={work.home}/home.pub",
            "IdentitiesOnly=yes",
        )
        code, said = await work.script(script(work, login(work, there, *only)))
        assert code == 255, said
        assert uses(w) == [made]


async def test_keys_of_another_sandbox():
    async with sandboxes() as (w, guests, there, keys):
        work, vault = guests["work"], guests["vault"]
        code, said = await work.script(script(work, "ssh-add -l", "vault"))
        assert code != 0, said  # no agent runs there
        async with agent(vault.folder / "agent", keys[1]) as sock:
            (vault.folder / "runtime/session/ssh-agent.socket").symlink_to(sock)
            code, said = await work.script(script(work, "ssh-add -l", "vault"))
            assert (code, "home@desk" in said) == (0, True), said
            code, said = await work.script(script(work, login(work, there), "vault"))
            assert (code, "authorized" in said) == (0, True), said
            assert uses(w) == [(f"+login.{USER}", HOST, "home@desk", "vault")]
            rules = w.paths.config[0] / "policy.d/30-mine.policy"
            rules.write_text("vitrail.SshAgent * work vault deny\n")

            async def refused():
                code, _ = await work.script(script(work, "ssh-add -l", "vault"))
                return code != 0

            await eventually(refused)


async def test_a_rule_leads_to_an_agent():
    """By target=; a use that another rule would lead elsewhere is refused."""
    rules = (
        "vitrail.SshAgent * work @default allow target=vault\n"
        f"vitrail.SshAgent +login.{USER} other @default allow target=@adminvm\n"
        "vitrail.SshAgent * other @default allow target=vault\n"
    )
    async with sandboxes(rules) as (w, guests, there, keys):
        vault = guests["vault"]
        async with agent(vault.folder / "agent", keys[1]) as sock:
            (vault.folder / "runtime/session/ssh-agent.socket").symlink_to(sock)
            for name, code in (("work", 0), ("other", 255)):
                one = guests[name]
                told = await one.script(script(one, "ssh-add -l", "@default"))
                assert (told[0], "home@desk" in told[1]) == (0, True), told
                told = await one.script(script(one, login(one, there), "@default"))
                assert told[0] == code, told
        assert len(uses(w)) == 2, "both are decided; one is refused after that"


@pytest.mark.skipif(
    "nologin" in pwd.getpwuid(os.getuid()).pw_shell and shutil.which("bwrap") is None,
    reason="this user has no shell, and no bubblewrap to have one in",
)
async def test_a_forwarded_agent_and_rsync():
    """By way of a host that carries the agent on, and by ssh as another's transport."""
    async with sandboxes(ANY_KEY) as (w, guests, there, keys):
        work = guests["work"]
        second = host(w.base / "second", keys[0])
        known = work.home / "known"
        known.write_text(f"alias {there.key}\nnext {second.key}\n")
        (w.base / "person/.ssh/known_hosts").write_text(
            f"jump.example.test {there.key}\n{HOST} {second.key}\n"
        )
        first = there.words("ssh", known, "alias", "ForwardAgent=yes")
        inner = second.words("ssh", known, "next")
        inner = shlex.quote(f"{inner} {USER}@next echo $((6 * 7))")
        code, said = await work.script(script(work, f"{first} {USER}@there {inner}"))
        assert (code, said) == (0, "42\n")
        assert [use[1] for use in uses(w)] == ["jump.example.test", HOST]
        if shutil.which("rsync"):
            (work.home / "tree").mkdir()
            (work.home / "tree/file").write_text("content")
            shell = shlex.quote(there.words("ssh", known, "alias"))
            copy = f"rsync -a -e {shell} {work.home}/tree {USER}@there:{w.base}/copy"
            code, said = await work.script(script(work, copy))
            assert (code, said) == (0, "")
            assert (w.base / "copy/tree/file").read_text() == "content"


async def test_an_agent_that_ends_leaves_the_socket_of_the_next_one():
    """Both have the same path, and the first one sees its command's end later."""
    async with sandboxes(ANY_KEY) as (_, guests, __, ___):
        work = guests["work"]
        sock = work.home / "a.sock"
        agent_ = f"vitrail-ssh-agent --socket {sock}"
        wait = "i=0; while [ $i -lt 40 ] && [ -S $0 ]; do sleep 0.1; i=$((i+1)); done"
        code, said = await work.script(
            f"{agent_} true; {agent_} sh -c '{wait}; ssh-add -l' {sock}"
        )
        assert (code, "work@desk" in said) == (0, True), said
