"""ssh keys of the desktop in a micro VM, and a document that is read in a fresh one."""

from __future__ import annotations

import base64
import getpass
import shlex
import shutil
import subprocess

import pytest

from tests.integration.test_sanitize import PDF
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import agent, host, made_key
from tests.kit.vm.images import CALLS_IMAGE
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), requires("/usr/sbin/sshd")]
USER = getpass.getuser()
RULES = """\
vitrail.SshAgent  *         work  @adminvm  allow  key=work@desk host=git.example.test
vitrail.Call      +sshd     work  server    allow
vitrail.Call      +sanitize work  @default  allow  target=@dispvm:sanitize
"""
IMAGE = f'image = "{CALLS_IMAGE.name}"\nboot_deadline = 300'
SANITIZE = """\
[services.sanitize]
command = ["vitrail-sanitize"]
"""


async def test_keys_and_documents_in_micro_vms():
    await the_image(CALLS_IMAGE)
    records = {
        "work": record("persistent", colour="blue", launch=IMAGE),
        "sanitize": record(display="none", top=SANITIZE, launch=IMAGE),
    }
    async with world(records, start=False, image=False) as w:
        w.write_rules(RULES)
        keys = [made_key(w.base / f"keys/{name}", f"{name}@desk") for name in "ab"]
        keys[0] = made_key(w.base / "keys/work", "work@desk")
        there = host(w.base / "sshd", keys[0])
        home = w.base / "person"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh/known_hosts").write_text(f"git.example.test {there.key}\n")
        async with agent(w.base / "agent", *keys) as sock:
            w.environ |= {"SSH_AUTH_SOCK": str(sock), "HOME": str(home)}
            await w.start()
            async with plain(w, "server") as guests:
                await _keys(w, guests["server"], there)
            await _documents(w)


async def _keys(w, server, there):
    """A program of the machine finds the agent, and logs in to a real server."""
    service = server.home / ".config/vitrail-services/sshd"
    service.parent.mkdir(parents=True)
    service.write_text(f"#!/bin/sh\nexec {there.server}\n")
    service.chmod(0o755)

    async def shell(text):
        code, said = await w.output("work", "sh", "-c", f"({text}) 2>&1")
        return code, said.decode()

    code, said = await shell("ssh-add -l")
    assert (code, said.count("\n"), "work@desk" in said) == (0, 1, True), said
    ssh = there.words("ssh", "known", "alias", way="vitrail-call -t server sshd")
    known = f"echo alias {shlex.quote(there.key)} >known"
    code, said = await shell(f"{known}; {ssh} -T {USER}@there echo in")
    assert (code, said.endswith("in\n")) == (0, True), said
    (use,) = [
        made
        for made in w.events("decision", service="vitrail.SshAgent", verdict="allow")
        if made["argument"] != "+list"
    ]
    assert (use["argument"], use["object"]) == (f"+login.{USER}", "git.example.test")
    # The copies of the agent's process that have carried it end with their programs.
    left = "while grep -q vitrail-files /proc/[0-9]*/comm; do sleep 0.2; done"
    code, said = await shell(f"timeout 60 sh -c '{left}' 2>/dev/null")
    assert (code, said) == (0, ""), said

    # Programs written for Qubes call it by these names.
    code, said = await shell(
        "cd /; for d in bin lib/qubes; do /usr/$d/qrexec-client-vm; done"
    )
    assert said.count("usage: qrexec-client-vm") == 2, said


async def _documents(w):
    """By the user's command, and by a call of a sandbox: each in a fresh machine."""
    papers = w.base / "papers"
    papers.mkdir()
    (papers / "a.pdf").write_bytes(PDF)
    told = await brokerctl(
        *("sanitize", str(papers / "a.pdf")), env=w.environ, deadline=400
    )
    assert told.code == 0, told
    _is_harmless(papers / "a.safe.pdf")
    # The same, for a sandbox: the answer to it is pixels.
    given = base64.b64encode(PDF).decode()
    script = f"echo {given} | base64 -d >b.pdf; vitrail-harmless b.pdf >&2"
    code, said = await w.output("work", "sh", "-c", script)
    assert (code, said.endswith(b"b.safe.pdf\n")) == (0, True), said
    code, said = await w.output("work", "base64", "-w0", "b.safe.pdf")
    (papers / "b.safe.pdf").write_bytes(base64.b64decode(said))
    _is_harmless(papers / "b.safe.pdf")
    begun = w.events("lease.begin", record="sanitize")
    assert len({one["sandbox"] for one in begun}) == 2, "a fresh one each time"


def _is_harmless(path):
    assert b"JavaScript" not in path.read_bytes()
    words = ["pdftoppm", "-r", "72", str(path)]
    if shutil.which("pdftoppm"):
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60)
        assert 500 < sum(value < 100 for value in done.stdout[15:]) < 30_000
